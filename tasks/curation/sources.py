"""Reads what `curate.sources` names: the machine, paths, globs, JSONL, Parquet, local or on S3.

The budget is shared: every source, and every file in it, may take an equal part of what is left; what those that hold
less leave is shared by the others in a second round. So no large file starves the ones behind it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from tasks.curation.documents import Item, RawDocument, SourceError, Unread
from tasks.curation.listing import Found, Place, list_source
from tasks.curation.machine import machine_roots, read_machine
from tasks.curation.records import Limits, read_file
from tasks.curation.tally import Tally, raise_fault

SHARED_ROUNDS = 2  # then whoever comes first takes what is left
LONGEST_DOCUMENT = 1 << 27  # bytes, where the caller sets no bound


@dataclass
class Reader:
    """Documents that can be taken in parts. Between parts nothing is open: the next one reads past what was taken."""

    items: Callable[[], Generator[Item]]  # from the beginning, the same each time
    place: Place | None = None  # None: the machine
    taken: int = 0
    done: bool = False

    def take(self, tally: Tally, stop: float) -> Iterator[RawDocument]:
        """Documents until `tally.spent` reaches `stop`; counts what it meets. Looks one item ahead to know the end."""
        if self.done or tally.spent >= stop:
            return
        items = self.items()
        for item in itertools.islice(items, self.taken, None):
            if tally.spent >= stop:
                items.close()
                return
            self.taken += 1
            if self.place is not None and self.place.named:
                raise_fault(item)
            tally.add(item)
            if isinstance(item, RawDocument):
                yield item
        self.done = True


def read_sources(
    sources: Sequence[str],
    max_bytes: int,
    tally: Tally,
    s3_endpoint_url: str = "",
    max_document_bytes: int = LONGEST_DOCUMENT,
) -> Iterator[RawDocument]:
    """Documents of all sources until `max_bytes` UTF-8 bytes were handed on; counts all it meets in `tally`.

    A longer document than `max_document_bytes` is counted and costs nothing of the budget. Raises SourceError for a
    source that does not exist or holds no text, and for whatever is wrong with a file that a source names itself;
    what is wrong with files that a folder or a pattern holds is counted with its reason.
    """
    if not sources:
        raise SourceError("The list curate.sources is empty; name 'machine', a path, a pattern or s3://bucket/prefix.")
    limits = Limits(max_document_bytes)
    groups = _readers(sources, max_bytes, limits, tally, s3_endpoint_url)
    for _ in range(SHARED_ROUNDS):
        yield from _share(groups, max_bytes, tally)
    for reader in itertools.chain.from_iterable(groups):
        yield from reader.take(tally, max_bytes)
    _count_the_rest(groups, tally)


def _share(groups: Sequence[Sequence[Reader]], max_bytes: int, tally: Tally) -> Iterator[RawDocument]:
    """One round: each source may take an equal part of what is left of the budget, and so may each file of it."""
    open_groups = [group for readers in groups if (group := [reader for reader in readers if not reader.done])]
    for number, readers in enumerate(open_groups):
        end = tally.spent + (max_bytes - tally.spent) / (len(open_groups) - number)
        for place, reader in enumerate(readers):
            yield from reader.take(tally, tally.spent + (end - tally.spent) / (len(readers) - place))


def _readers(
    sources: Sequence[str], max_bytes: int, limits: Limits, tally: Tally, s3_endpoint_url: str
) -> list[list[Reader]]:
    """The readers of each source; what two sources name is read in the first of them."""
    groups: list[list[Reader]] = []
    seen: set[object] = set()
    for number, source in enumerate(sources):
        if source == "machine":
            share = max_bytes // len(sources)
            read = functools.partial(read_machine, machine_roots(), share, limits.document_bytes)
            groups.append([] if source in seen else [Reader(read)])
            seen.add(source)
            continue
        found = list_source(source, f"source{number}", s3_endpoint_url)
        groups.append([reader for entry in found if (reader := _reader(entry, limits, seen, tally))])
    return groups


def _reader(entry: Found, limits: Limits, seen: set[object], tally: Tally) -> Reader | None:
    if isinstance(entry, Unread):
        tally.add(entry)
        return None
    if entry.key in seen:
        tally.add(Unread("already_read", entry.id, entry.source, is_file=True))
        return None
    seen.add(entry.key)
    return Reader(functools.partial(read_file, entry, limits), entry)


def _count_the_rest(groups: Sequence[Sequence[Reader]], tally: Tally) -> None:
    for reader in itertools.chain.from_iterable(groups):
        if reader.place is not None and not reader.done:
            tally.add(Unread("over_budget", reader.place.id, reader.place.source, is_file=True))
