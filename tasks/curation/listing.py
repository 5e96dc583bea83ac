"""The files that one entry of `curate.sources` names: a file, a folder or a glob, on this machine or on S3."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from tasks.curation.documents import TEXT_SUFFIXES, SourceError, Unread, printable, suffixes

DATA_SUFFIXES = frozenset({".jsonl", ".parquet"})
ARCHIVES = frozenset(
    {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar", ".z", ".lz", ".lz4", ".lzma", ".br", ".snappy"}
)
OUTPUTS = ("data/corpus", "data/demonstrations", "checkpoints", "results", "report")  # of our stages
REMOTE_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, ValueError)
S3_PATIENCE = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}  # seconds
DEEPEST = 200  # folders within folders
WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """One file: where it is, what it is called in ids, and whether a person named it itself."""

    path: str
    id: str
    source: str
    key: object  # equal for two ways to the same file
    size: int  # bytes, packed where it is
    named: bool
    filesystem: AbstractFileSystem | None = None  # None: this machine's own


Found = Place | Unread


def list_source(source: str, name: str, s3_endpoint_url: str = "") -> list[Found]:
    """The source's files in the order of their ids' bytes, each to be read or with the reason why not.

    Ids are `name/` and the path below the source. Raises SourceError if there is nothing to read.
    """
    _check(source)
    found = _list_s3(source, name, s3_endpoint_url) if _is_s3(source) else _list_local(source, name)
    if not any(isinstance(entry, Place) for entry in found):
        raise SourceError(f"The source {source!r} in curate.sources {_emptiness(found)}.")
    return found


def _check(source: str) -> None:
    if not source.strip():
        raise SourceError(f"The source {source!r} in curate.sources is empty; write '.' for the current folder.")
    if "\0" in source:
        raise SourceError(f"The source {source!r} in curate.sources holds a NUL character, which no path does.")
    scheme, separator, _ = source.partition("://")
    if separator and scheme.lower() != "s3" and scheme.isalnum():
        raise SourceError(f"The source {source!r} in curate.sources cannot be read: only paths and s3:// are.")


def _is_s3(source: str) -> bool:
    return source.lower().startswith("s3://")


def _emptiness(found: list[Found]) -> str:
    if not found:
        return "does not exist or holds no text"
    reasons = sorted({entry.reason for entry in found if isinstance(entry, Unread)})
    example = next(entry.fault or entry.name for entry in found if isinstance(entry, Unread))
    return f"holds no text that can be read ({', '.join(reasons)}: {example.rstrip('.')})"


def _list_local(source: str, name: str) -> list[Found]:
    root, pattern = split_pattern(os.path.abspath(os.path.expanduser(source)), os.path.lexists)
    if not pattern and not os.path.isdir(root):
        return [_local_file(root, name, os.path.basename(root), source, named=True)] if os.path.lexists(root) else []
    if not os.path.isdir(root):
        return []
    wanted = _matcher(source, pattern) if pattern else None
    found: list[Found] = []
    for relative in _walk(root, pattern):
        if isinstance(relative, tuple):
            found.append(Unread(relative[1], f"{name}/{printable(relative[0])}", source, is_file=True))
        elif not wanted or wanted.match(relative):
            found.append(_local_file(os.path.join(root, relative), name, relative, source, bool(wanted), False))
    return sorted(found, key=_order)


def _matcher(source: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(glob_translate(pattern))
    except (ValueError, re.error) as error:
        raise SourceError(f"The source {source!r} in curate.sources is no pattern: {words_of(error)}.") from None


def _order(entry: Found) -> bytes:
    return (entry.id if isinstance(entry, Place) else entry.name).encode()


def split_pattern(path: str, exists: Callable[[str], bool]) -> tuple[str, str]:
    """(folder, pattern): the pattern begins at the first part with a wildcard that is not the name of something.

    So a folder called `a[1]` or `what?` is that folder, and ids, which begin below the folder, hold none of its path.
    """
    parts = path.split("/")
    for count, part in enumerate(parts):
        if WILDCARD.search(part) and not exists("/".join(parts[: count + 1])):
            return "/".join(parts[:count]) or "/", "/".join(parts[count:])
    return path, ""


def _walk(root: str, pattern: str) -> Iterator[str | tuple[str, str]]:
    """Paths below the root, or (path, reason) of folders that are not entered. Links to folders are such: they can
    lead in circles, or out of what the person named."""
    deepest = pattern.count("/") if pattern and "**" not in pattern else None
    hidden = bool(re.search(r"(^|/)\.", pattern))  # the pattern asks for hidden ones
    outputs = {os.path.abspath(output) for output in OUTPUTS}
    refused: list[tuple[str, str]] = []
    below = len(root.rstrip("/")) + 1
    for folder, folders, files in os.walk(root, onerror=lambda error: refused.append((error.filename, "unreadable"))):
        if folder[below - 1 :].count("/") == deepest:
            folders.clear()
        for inner in list(folders):
            deep = "too_deep" if folder[below:].count("/") >= DEEPEST else ""
            reason = deep or _reason_not_to_enter(os.path.join(folder, inner), hidden, outputs)
            if reason:
                folders.remove(inner)
                refused.append((os.path.join(folder, inner), reason))
        yield from (os.path.join(folder, name)[below:] for name in files)
    yield from ((path[below:], reason) for path, reason in refused)


def _reason_not_to_enter(folder: str, hidden: bool, outputs: set[str]) -> str:
    if os.path.islink(folder):
        return "folder_link"
    if os.path.basename(folder).startswith(".") and not hidden:
        return "hidden_folder"
    if folder in outputs:
        return "own_output"
    return "environment" if os.path.exists(os.path.join(folder, "pyvenv.cfg")) else ""


def _local_file(path: str, name: str, relative: str, source: str, matched: bool = True, named: bool = False) -> Found:
    identifier = f"{name}/{printable(relative)}"
    refusal = refuse_by_name(path, anything=matched or named)
    try:
        status = os.stat(path)
    except OSError as error:
        reason, words = ("vanished" if isinstance(error, FileNotFoundError) else "unreadable"), error.strerror
        refusal = refusal or (reason, f"cannot be read: {words}")
    else:
        if not stat.S_ISREG(status.st_mode):
            refusal = ("special", "is not a regular file")
    if refusal:
        fault = f"The file {printable(path)} {refusal[1]}."
        return Unread(refusal[0], identifier, source, fault=fault, is_file=True)
    return Place(path, identifier, source, (status.st_dev, status.st_ino), status.st_size, named)


def refuse_by_name(path: str, anything: bool) -> tuple[str, str] | None:
    """(reason, words) where a file's suffix says that it is not read; `anything`: somebody asked for this name."""
    suffix, compression = suffixes(path)
    if suffix in ARCHIVES or (suffix == ".parquet" and compression):
        return "archive", f"is packed in a way that is not read ({suffix}{compression}); unpack it"
    if not anything and suffix not in TEXT_SUFFIXES | DATA_SUFFIXES:
        return "other_suffix", "has a suffix that is not read"
    return None


def open_s3(s3_endpoint_url: str = "") -> AbstractFileSystem:
    """The file system of S3; its endpoint is the parameter, else the environment's. It gives up after seconds."""
    endpoint = s3_endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
    return fsspec.filesystem(
        "s3", endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True, config_kwargs=S3_PATIENCE
    )


def _list_s3(source: str, name: str, s3_endpoint_url: str) -> list[Found]:
    root = source[len("s3://") :].rstrip("/")
    if not root.split("/")[0]:
        raise SourceError(f"The source {source!r} in curate.sources names no bucket.")
    try:
        filesystem = open_s3(s3_endpoint_url)
        folder, pattern = split_pattern(root, lambda path: False)
        if pattern and filesystem.exists(root):
            folder, pattern = root, ""
        listing = filesystem.glob(root, detail=True) if pattern else filesystem.find(root, detail=True)
    except REMOTE_ERRORS as error:
        raise SourceError(f"The source {source!r} in curate.sources cannot be listed: {words_of(error)}.") from error
    return _s3_files(listing, filesystem, folder, name, source, bool(pattern))


def _s3_files(
    listing: dict[str, Any], filesystem: AbstractFileSystem, folder: str, name: str, source: str, matched: bool
) -> list[Found]:
    found: list[Found] = []
    for path, status in listing.items():
        named = path == folder
        relative = path.rsplit("/", 1)[-1] if named else path.removeprefix(folder).lstrip("/")
        identifier = f"{name}/{printable(relative)}"
        refusal = refuse_by_name(path, anything=matched or named)
        if status.get("type") != "file" or path.endswith("/"):
            continue
        if refusal:
            fault = f"The file {printable(path)} {refusal[1]}."
            found.append(Unread(refusal[0], identifier, source, fault=fault, is_file=True))
        else:
            found.append(Place(path, identifier, source, f"s3://{path}", int(status["size"]), named, filesystem))
    return sorted(found, key=_order)


def words_of(error: BaseException) -> str:
    """A library's message on one line, without its full stop."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".") or type(error).__name__
