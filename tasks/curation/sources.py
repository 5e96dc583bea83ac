"""Reads what `curate.sources` names: the machine, paths, globs, JSONL, Parquet, local or on S3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from fsspec.spec import AbstractFileSystem

from tasks.curation.documents import TEXT_SUFFIXES, RawDocument, SourceError, decode, kind_of
from tasks.curation.machine import Tally, machine_roots, read_machine

DATA_SUFFIXES = frozenset({".jsonl", ".parquet"})
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


def read_sources(
    sources: Sequence[str], max_bytes: int, tally: Tally, s3_endpoint_url: str = ""
) -> Iterator[RawDocument]:
    """Documents of all sources in order until `max_bytes` UTF-8 bytes were read; counts them in `tally`.

    Raises SourceError for a missing path, a file that is not UTF-8 and a broken record. Only the scan of the machine
    passes over files that are not UTF-8, because nobody named them.
    """
    for number, source in enumerate(sources):
        if source == "machine":
            yield from read_machine(machine_roots(), max_bytes - tally.total_bytes, tally)
            continue
        for document in _read_named(source, f"source{number}", s3_endpoint_url):
            if tally.total_bytes >= max_bytes:
                return
            tally.add(source, len(document.text.encode("utf-8", "surrogatepass")))
            yield document


def _read_named(source: str, name: str, s3_endpoint_url: str) -> Iterator[RawDocument]:
    filesystem, root = open_filesystem(source, s3_endpoint_url)
    paths = _list(filesystem, root, source)
    folder = root if filesystem.isdir(root) else os.path.dirname(root.split("*")[0])
    for path in paths:
        relative = path.removeprefix(folder).lstrip("/")
        yield from _read_file(filesystem, path, f"{name}/{relative}", source)


def open_filesystem(source: str, s3_endpoint_url: str = "") -> tuple[AbstractFileSystem, str]:
    """The file system of a source and the path in it; the S3 endpoint is the parameter, else the environment's."""
    if not source.startswith("s3://"):
        return fsspec.filesystem("file"), os.path.abspath(source)
    endpoint = s3_endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
    filesystem = fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)
    return filesystem, source.removeprefix("s3://").rstrip("/")


def _list(filesystem: AbstractFileSystem, root: str, source: str) -> list[str]:
    try:
        if "*" in root or "?" in root:
            paths = [path for path in filesystem.glob(root) if filesystem.isfile(path)]
        elif filesystem.isfile(root):
            return [root]
        else:
            paths = [path for path in filesystem.find(root) if _base_suffix(path) in TEXT_SUFFIXES | DATA_SUFFIXES]
    except (OSError, BotoCoreError) as error:
        raise SourceError(f"The source {source!r} in curate.sources cannot be listed: {error}.") from error
    if not paths:
        raise SourceError(f"The source {source!r} in curate.sources does not exist or holds no text.")
    return sorted(paths)


def _base_suffix(path: str) -> str:
    name = PurePosixPath(path)
    return (name.with_suffix("") if name.suffix in COMPRESSION else name).suffix.lower()


def _read_file(filesystem: AbstractFileSystem, path: str, identifier: str, source: str) -> Iterator[RawDocument]:
    suffix = _base_suffix(path)
    if suffix == ".parquet":
        yield from _read_parquet(filesystem, path, identifier, source)
        return
    data = _read_bytes(filesystem, path)
    if suffix == ".jsonl":
        yield from _read_jsonl(data, path, identifier, source)
    else:
        yield RawDocument(identifier, decode(data, path), kind_of(path), source)


def _read_bytes(filesystem: AbstractFileSystem, path: str) -> bytes:
    compression = COMPRESSION.get(PurePosixPath(path).suffix)
    try:
        with filesystem.open(path, "rb") as stream:
            data = stream.read()
        return bytes(pa.CompressedInputStream(pa.py_buffer(data), compression).read()) if compression else data
    except OSError as error:
        raise SourceError(f"The file {path} cannot be read: {error}.") from error


def _read_jsonl(data: bytes, path: str, identifier: str, source: str) -> Iterator[RawDocument]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"The file {path}, line {number},"
        try:
            record = json.loads(decode(line, f"{path} (line {number})"))
        except json.JSONDecodeError as error:
            raise SourceError(f"{place} is not valid JSON: {error.msg} at column {error.colno}.") from None
        yield _from_record(record, place, f"{identifier}:{number}", source)


def _read_parquet(filesystem: AbstractFileSystem, path: str, identifier: str, source: str) -> Iterator[RawDocument]:
    try:
        with filesystem.open(path, "rb") as stream:
            records: list[Any] = pq.read_table(stream).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"The Parquet file {path} cannot be read: {error}.") from error
    for number, record in enumerate(records, start=1):
        yield _from_record(record, f"The file {path}, row {number},", f"{identifier}:{number}", source)


def _from_record(record: Any, place: str, identifier: str, source: str) -> RawDocument:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise SourceError(f"{place} has no string field 'text'.")
    if not record["text"].isascii() and any("\ud800" <= character <= "\udfff" for character in record["text"]):
        raise SourceError(f"{place} holds half of a surrogate pair, which UTF-8 cannot encode.")
    kind = record.get("kind", "prose")
    if kind not in ("code", "prose"):
        raise SourceError(f"{place} has the kind {kind!r}; it must be 'code' or 'prose'.")
    return RawDocument(identifier, record["text"], kind, source)
