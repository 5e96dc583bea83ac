"""A document on its way through curation, what goes no further, and the error every bad source raises."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import InputError

CODE_SUFFIXES = frozenset({".py", ".pyi", ".sh", ".c", ".h", ".cpp", ".rs", ".go", ".js", ".ts", ".pl"})
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst"}) | CODE_SUFFIXES
COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst"})  # suffixes that are read through
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SourceError(InputError):
    """A source named in `params.yaml` cannot be read; the message names the file and the place in it."""


@dataclass(frozen=True)
class RawDocument:
    """One document as read. `id` never contains the machine's folders, so a corpus does not depend on them."""

    id: str
    text: str
    kind: str  # "code" or "prose": the filters differ
    source: str

    @property
    def size(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode("utf-8", "surrogatepass"))

    def as_json(self) -> dict[str, str | int]:
        """The record that datatrove's JSONL reader takes. `bytes` is what the account of drops counts: the text as
        read, which scrubbing may change later."""
        return {"id": self.id, "text": self.text, "kind": self.kind, "source": self.source, "bytes": self.size}


@dataclass(frozen=True)
class Unread:
    """A document, or with `is_file` a file or what was left of it, that reading does not hand on, and why."""

    reason: str
    name: str  # its id
    source: str
    size: int = 0  # bytes, of a document
    fault: str = ""  # the sentence that is said where a person named the file itself; empty: nobody's fault
    is_file: bool = False


Item = RawDocument | Unread


def document(text: str, kind: str, identifier: str, source: str, longest: int) -> Item:
    """The document of a text, unless it holds no letter or more than `longest` bytes."""
    found = RawDocument(identifier, text, kind, source)
    if not text.strip():
        return Unread("empty", identifier, source, found.size)
    return found if found.size <= longest else Unread("form.too_long", identifier, source, found.size)


def kind_of(path: str) -> str:
    """Code or prose, by the suffix beneath any compression suffix."""
    return "code" if suffixes(path)[0] in CODE_SUFFIXES else "prose"


def suffixes(path: str) -> tuple[str, str]:
    """(suffix of the content, suffix of the compression or ""), in lower case."""
    stem, last = os.path.splitext(path.lower())
    return (os.path.splitext(stem)[1], last) if last in COMPRESSED else (last, "")


def printable(name: str) -> str:
    """A file's name as text that any encoding, line and terminal takes; different names stay different.

    Bytes that are not UTF-8 become `\\xe9`, letters that cannot be printed `\\u2028`, a backslash two. It goes by the
    name's bytes, because how Python decodes them depends on the machine's locale.
    """
    decoded = os.fsencode(name).decode("utf-8", "surrogateescape")
    return "".join(letter if letter.isprintable() and letter != "\\" else _escape(letter) for letter in decoded)


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how surrogateescape carries the byte 0x80 and on
        return f"\\x{code - 0xDC00:02x}"
    return "\\\\" if letter == "\\" else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def parse_json(text: str) -> Any:
    """A JSON value. Raises ValueError, also for what nests too deep to be read.

    Numbers become floats: no field that is read here is a number, and an integer of 5,000 digits is none of ours.
    """
    try:
        return json.loads(text, parse_int=float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_fault(error: ValueError) -> str:
    """Where and why a text is no JSON, in a few words."""
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def has_lone_surrogate(text: str) -> bool:
    """Whether the text holds half of a surrogate pair (JSON's `\\ud800`), which UTF-8 cannot encode."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one of our own JSONL files. Raises SourceError with the file's name and the line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SourceError(f"The file {path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(decode(line, f"{path} (line {number})"))
        except SourceError:
            raise
        except ValueError as error:
            raise SourceError(f"The file {path}, line {number}, is not valid JSON: {json_fault(error)}.") from None
        if not isinstance(record, dict) or not is_text(record.get("instruction")):
            raise SourceError(f"The file {path}, line {number}, has no text in the field 'instruction'.")
        yield record


def is_text(value: object) -> bool:
    """Whether a value of JSON is a text that UTF-8 can encode."""
    return isinstance(value, str) and not has_lone_surrogate(value)


def text_hash(text: str) -> str:
    """SHA-256 of the UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def decode(data: bytes, name: str) -> str:
    """UTF-8 bytes to text, without the mark that some editors begin a file with.

    Raises SourceError with the file's name and the offset of the first bad byte.
    """
    try:
        return data.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.object[error.start]
        offset = error.start + len(data) - len(error.object)
        raise SourceError(f"The file {name} is not UTF-8: byte 0x{bad:02x} at offset {offset}.") from None
