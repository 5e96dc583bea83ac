"""A document on its way through curation, and the error every bad source raises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import InputError

CODE_SUFFIXES = frozenset({".py", ".pyi", ".sh", ".c", ".h", ".cpp", ".rs", ".go", ".js", ".ts", ".pl"})
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst"}) | CODE_SUFFIXES


class SourceError(InputError):
    """A source named in `params.yaml` cannot be read; the message names the file and the place in it."""


@dataclass(frozen=True)
class RawDocument:
    """One document as read. `id` never contains the machine's folders, so a corpus does not depend on them."""

    id: str
    text: str
    kind: str  # "code" or "prose": the filters differ
    source: str

    def as_json(self) -> dict[str, str]:
        """The record that datatrove's JSONL reader takes."""
        return {"id": self.id, "text": self.text, "kind": self.kind, "source": self.source}


def kind_of(path: str) -> str:
    """Code or prose, by the suffix beneath any compression suffix."""
    name = PurePosixPath(path)
    suffix = name.with_suffix("").suffix if name.suffix in (".gz", ".zst") else name.suffix
    return "code" if suffix.lower() in CODE_SUFFIXES else "prose"


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one of our own JSONL files. Raises SourceError with the file's name and the line."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(decode(line, f"{path} (line {number})"))
        except json.JSONDecodeError as error:
            raise SourceError(f"The file {path}, line {number}, is not valid JSON: {error.msg}.") from None
        if not isinstance(record, dict) or "instruction" not in record:
            raise SourceError(f"The file {path}, line {number}, has no field 'instruction'.")
        yield record


def text_hash(text: str) -> str:
    """SHA-256 of the UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def decode(data: bytes, name: str) -> str:
    """UTF-8 bytes to text. Raises SourceError with the file's name and the offset of the first bad byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise SourceError(f"The file {name} is not UTF-8: byte 0x{bad:02x} at offset {error.start}.") from None
