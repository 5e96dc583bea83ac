"""The account of reading: every document is kept or dropped, every file read or skipped, always with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.cli import one_line
from tasks.curation.documents import Item, SourceError, Unread
from tasks.errors import MachineError

EXAMPLES = 3  # names that the log gives for a reason
LONGEST_NAME = 100

Drops = dict[str, tuple[int, int]]  # reason -> (documents, bytes)


class AccountError(MachineError):
    """Documents were lost without a reason, or counted twice: a fault of ours."""


@dataclass
class Tally:
    """What reading met. Documents dropped while reading are counted in `documents` and `bytes` too."""

    documents: dict[str, int] = field(default_factory=dict)  # by source
    bytes: dict[str, int] = field(default_factory=dict)
    drops: Drops = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> files that were not read, or not to their end
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first names
    spent: int = 0  # bytes handed on, which is what `curate.max_bytes` bounds

    def add(self, item: Item) -> None:
        """Counts a document or a file."""
        if isinstance(item, Unread):
            self._refuse(item)
        else:
            self.spent += item.size
            self._read(item.source, item.size)

    @property
    def total_bytes(self) -> int:
        """Bytes of all documents met; of a file too long to be read, its size on disk."""
        return sum(self.bytes.values())

    @property
    def total_documents(self) -> int:
        """Documents met, whether they were handed on or not."""
        return sum(self.documents.values())

    def _read(self, source: str, size: int) -> None:
        self.documents[source] = self.documents.get(source, 0) + 1
        self.bytes[source] = self.bytes.get(source, 0) + size

    def _refuse(self, item: Unread) -> None:
        names = self.examples.setdefault(item.reason, [])
        if len(names) < EXAMPLES:
            names.append(item.name if len(item.name) <= LONGEST_NAME else f"{item.name[:LONGEST_NAME]}...")
        if item.is_file:
            self.skipped[item.reason] = self.skipped.get(item.reason, 0) + 1
            return
        documents, size = self.drops.get(item.reason, (0, 0))
        self.drops[item.reason] = (documents + 1, size + item.size)
        self._read(item.source, item.size)

    def describe(self) -> str:
        """The reasons with their counts and first names: `2 not_utf8 (source0/a.txt, source0/b.txt)`."""
        counts = {reason: documents for reason, (documents, _) in self.drops.items()}
        for reason, files in self.skipped.items():
            counts[reason] = counts.get(reason, 0) + files
        return "; ".join(
            f"{count:,} {reason} ({self._names(reason, count)})" for reason, count in sorted(counts.items())
        )

    def _names(self, reason: str, count: int) -> str:
        names = self.examples[reason]
        return ", ".join(names) + (", ..." if count > len(names) else "")


def raise_fault(item: Item) -> None:
    """Raises SourceError for what a person named by name and that cannot be read."""
    if isinstance(item, Unread) and item.fault:
        raise SourceError(one_line(item.fault))


def merge(first: Drops, second: Drops) -> Drops:
    """The drops of both, by reason."""
    merged = dict(first)
    for reason, (documents, size) in second.items():
        before = merged.get(reason, (0, 0))
        merged[reason] = (before[0] + documents, before[1] + size)
    return dict(sorted(merged.items()))


def check_account(read: Mapping[str, int], kept: Mapping[str, int], drops: Mapping[str, Mapping[str, int]]) -> None:
    """Raises AccountError unless read = kept + dropped, in documents and in bytes."""
    for unit in ("documents", "bytes"):
        known = kept[unit] + sum(drop[unit] for drop in drops.values())
        if read[unit] != known:
            raise AccountError(
                f"The stage 'curate' lost count: {read[unit]:,} {unit} were read, {known:,} kept or dropped; "
                "this is a fault of ours."
            )
