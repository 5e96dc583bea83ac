"""Reads JSON that a person or another program wrote, checked against a type: a value of it, or one sentence.

Every refusal names the file, the line where there are lines, and the place inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tasks.cli import one_line
from tasks.errors import InputError

T = TypeVar("T")


def read_json(path: Path, kind: type[T], error: type[InputError], what: str) -> T:
    """The file as `kind`. Raises `error`: "The file <path> is <what> that cannot be used: ..."."""
    return parse_json(path.read_bytes(), kind, error, f"The file {path} is {what} that cannot be used")


def read_lines(path: Path, kind: type[T], error: type[InputError], what: str) -> Iterator[tuple[int, T]]:
    """(line number from 1, record) of a JSONL file. Raises `error` naming the file and the line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield number, parse_json(line, kind, error, f"Line {number} of {path} is not {what}")


def parse_json(data: bytes, kind: type[T], error: type[InputError], prefix: str) -> T:
    """The bytes as `kind`, without NaN and infinities. Raises `error` with `prefix` and the reason."""
    try:
        found = TypeAdapter(kind).validate_json(data)
    except ValidationError as cause:
        raise error(f"{prefix}: {fault(cause)}.") from cause
    place = not_finite(found)
    if place is not None:
        raise error(f"{prefix}: {place or 'it'} is not a finite number.")
    return found


def fault(error: ValidationError) -> str:
    """What is wrong first, and where, for the middle of a sentence."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    said = one_line(first["msg"]).rstrip(".")
    return one_line(f"{place}: {said}" if place else said).rstrip(".")


def not_finite(value: Any, place: str = "") -> str | None:
    """Where a number is NaN or infinite in nested dicts and lists; None where none is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    inner: Iterator[tuple[Any, Any]] | enumerate[Any]
    if isinstance(value, Mapping):
        inner = iter(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        inner = enumerate(value)
    else:
        return None
    found = (not_finite(part, f"{place}.{key}".lstrip(".")) for key, part in inner)
    return next((one for one in found if one is not None), None)
