"""From one file to its documents: text, JSONL or Parquet, bounded in memory whatever the file holds.

Nothing is raised here: what cannot be read is handed on as `Unread` with its reason and the sentence for it.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from tasks.curation.documents import (
    BYTE_ORDER_MARK,
    Item,
    RawDocument,
    SourceError,
    Unread,
    decode,
    document,
    has_lone_surrogate,
    json_fault,
    kind_of,
    parse_json,
    printable,
    suffixes,
)
from tasks.curation.listing import Place, words_of

DECOMPRESSED: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda stream: pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"),
}
DAMAGE = (
    OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException,
    BotoCoreError, ClientError, aiohttp.ClientError,
)  # fmt: skip
OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the machine's trouble, not the file's
ROWS = 64  # of Parquet, decoded at a time
BUFFER = 1 << 20  # bytes


@dataclass(frozen=True)
class Limits:
    """What bounds reading: a document's bytes, and the bytes that a packed file may go on without a document."""

    document_bytes: int
    barren_bytes: int = 1 << 30

    @property
    def line_bytes(self) -> int:
        """The longest line of JSONL: a document with every letter escaped, and some room for other fields."""
        return min(8 * self.document_bytes + BUFFER, 1 << 30)


def read_file(place: Place, limits: Limits) -> Generator[Item]:
    """The documents of one file, and what of it is not read."""
    suffix = suffixes(place.path)[0]
    reader = {".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(suffix, _read_text)
    kind = "Parquet file" if suffix == ".parquet" else "file"
    if place.size == 0 and reader is not _read_parquet:  # not opened: files of /proc say so too, and can have no end
        yield Unread("empty", place.id, place.source, is_file=reader is _read_jsonl)
        return
    try:
        with _opened(place) as stream:
            yield from reader(stream, place, limits)
    except DAMAGE as error:
        if getattr(error, "errno", None) in OUT_OF_MEANS:
            raise
        reason = "vanished" if isinstance(error, FileNotFoundError) else "damaged"
        fault = f"The {kind} {printable(place.path)} cannot be read: {words_of(error)}."
        yield Unread(reason, place.id, place.source, fault=fault, is_file=True)


@contextmanager
def _opened(place: Place) -> Iterator[Any]:
    opening = place.filesystem.open(place.path, "rb") if place.filesystem else _open_local(place.path)
    with opening as packed:
        compression = suffixes(place.path)[1]
        if not compression:
            yield packed if place.filesystem is None else io.BufferedReader(packed, BUFFER)
            return
        with DECOMPRESSED[compression](packed) as stream:
            yield io.BufferedReader(stream) if compression == ".zst" else stream  # the others buffer themselves


def _open_local(path: str) -> BinaryIO:
    # Since it was listed, a file can have become a pipe, which would wait for ever for somebody to write.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb", BUFFER)


def _read_text(stream: Any, place: Place, limits: Limits) -> Iterator[Item]:
    data = stream.read(limits.document_bytes + len(BYTE_ORDER_MARK) + 1) or b""  # None: nothing yet, and we do not wait
    if len(data.removeprefix(BYTE_ORDER_MARK)) > limits.document_bytes:
        yield Unread("form.too_long", place.id, place.source, max(len(data), place.size))
        return
    try:
        text = decode(data, printable(place.path))
    except SourceError as error:
        yield Unread("not_utf8", place.id, place.source, len(data), str(error))
        return
    yield document(text, kind_of(place.path), place.id, place.source, limits.document_bytes)


def _read_jsonl(stream: Any, place: Place, limits: Limits) -> Iterator[Item]:
    number = barren = 0
    most = max(limits.barren_bytes, place.size)
    while line := stream.readline(limits.line_bytes + 1):
        number += 1
        size = len(line)
        barren += size
        identifier = f"{place.id}:{number}"
        if size > limits.line_bytes:
            more = _skip_line(stream, line, most)
            size, barren = size + more, barren + more
            yield Unread("form.too_long", identifier, place.source, size)
        elif line.strip(b" \t\r\n"):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            item = _parse_line(line.rstrip(b"\r\n"), place, number, limits)
            barren = 0 if isinstance(item, RawDocument) else barren
            yield item
        if barren > most:
            fault = f"The file {printable(place.path)} holds no document in {barren:,} bytes up to line {number}."
            yield Unread("barren", place.id, place.source, fault=fault, is_file=True)
            return


def _skip_line(stream: Any, start: bytes, most: int) -> int:
    """Reads to the end of the line that begins with `start`, or `most` bytes; returns how many that were."""
    skipped, chunk = 0, start
    while not chunk.endswith(b"\n") and skipped <= most:
        chunk = stream.readline(BUFFER)
        if not chunk:
            break
        skipped += len(chunk)
    return skipped


def _parse_line(line: bytes, place: Place, number: int, limits: Limits) -> Item:
    path = printable(place.path)
    spot = f"The file {path}, line {number},"
    identifier = f"{place.id}:{number}"
    try:
        record = parse_json(decode(line, f"{path} (line {number})"))
    except SourceError as error:
        return Unread("not_utf8", identifier, place.source, len(line), str(error))
    except ValueError as error:
        fault = f"{spot} is not valid JSON: {json_fault(error)}."
        return Unread("not_json", identifier, place.source, len(line), fault)
    fields = record if isinstance(record, dict) else {}
    return _from_fields(fields.get("text"), fields.get("kind"), spot, identifier, place.source, len(line), limits)


def _from_fields(
    text: object, kind: object, spot: str, identifier: str, source: str, size: int, limits: Limits
) -> Item:
    """A record's document. `size`: what is counted where it has no text of a size of its own."""
    if not isinstance(text, str):
        return Unread("no_text", identifier, source, size, f"{spot} has no string field 'text'.")
    if has_lone_surrogate(text):
        fault = f"{spot} holds half of a surrogate pair, which UTF-8 cannot encode."
        return Unread("half_surrogate", identifier, source, size, fault)
    if kind not in (None, "code", "prose"):
        fault = f"{spot} has the kind {str(kind)[:80]!r}; it must be 'code' or 'prose'."
        return Unread("unknown_kind", identifier, source, size, fault)
    return document(text, str(kind or "prose"), identifier, source, limits.document_bytes)


def _read_parquet(stream: Any, place: Place, limits: Limits) -> Iterator[Item]:
    # Only these two columns are read: the others may hold dates or zones that Python does not know.
    file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER)
    columns, fault = _columns(file.schema_arrow, printable(place.path))
    if fault:
        yield Unread("no_text", place.id, place.source, fault=fault, is_file=True)
        return
    number = 0
    for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
        kinds = _values(batch.column("kind")) if "kind" in columns else [None] * len(batch)
        for text, kind in zip(_values(batch.column("text")), kinds, strict=True):
            number += 1
            yield _parse_row(text, kind, place, number, limits)


def _columns(schema: pa.Schema, path: str) -> tuple[list[str], str]:
    """The columns to read, and the sentence where the file has not the one of texts."""
    for name in ("text", "kind"):
        count = schema.names.count(name)
        if count > 1 or (count == 0 and name == "text"):
            return [], f"The Parquet file {path} has {count or 'no'} column{'s' if count else ''} {name!r}."
        if count and not _holds_text(schema.field(name).type):
            return [], f"The column {name!r} of the Parquet file {path} holds no text but {schema.field(name).type}."
    return [name for name in ("text", "kind") if name in schema.names], ""


def _holds_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_string_view)
    packed = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_null)  # strings without the mark
    return any(check(kind) for check in checks + packed)


def _values(column: pa.Array) -> list[bytes | None]:
    """The column's values as bytes: Arrow does not check that a string is UTF-8."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    values: list[bytes | None] = plain.cast(pa.large_binary()).to_pylist()
    return values


def _parse_row(text: bytes | None, kind: bytes | None, place: Place, number: int, limits: Limits) -> Item:
    path = printable(place.path)
    identifier = f"{place.id}:{number}"
    size = len(text or b"")
    if size > limits.document_bytes:
        return Unread("form.too_long", identifier, place.source, size)
    try:
        decoded = None if text is None else decode(text, f"{path} (row {number})")
    except SourceError as error:
        return Unread("not_utf8", identifier, place.source, size, str(error))
    name = None if kind is None else kind.decode("utf-8", "replace")
    return _from_fields(decoded, name, f"The file {path}, row {number},", identifier, place.source, size, limits)
