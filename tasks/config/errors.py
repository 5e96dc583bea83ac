"""What is wrong with `params.yaml`, in one sentence that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ValidationError

from tasks.errors import InputError


class ConfigError(InputError):
    """`params.yaml` or an override is wrong; the message names the key."""


def describe(error: Exception, prefix: str = "", known: Sequence[str] = ()) -> str:
    """One sentence for a validation error; `known` are dotted keys to suggest from."""
    if not isinstance(error, ValidationError):
        return f"The section {prefix!r} of params.yaml is wrong: {error}"
    first = error.errors()[0]
    place = ([prefix] if prefix else []) + [str(part) for part in first["loc"]]
    key = ".".join(part for part in place if part != "[key]")
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown_key(key, known)
    if first["type"] in ("missing", "missing_argument"):
        return f"The key {key!r} is missing from params.yaml."
    if first["type"] == "value_error":
        return _impossible(key, place, first["ctx"]["error"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"The key {key!r} in params.yaml is wrong: {message}, not {first['input']!r}."


def _impossible(key: str, place: Sequence[str], error: Exception) -> str:
    """The sentence for what one of our own checks refused: a name, a value, a section, or keys that contradict."""
    if not place:
        return str(error)
    if place[-1] == "[key]":
        return f"The key {key!r} in params.yaml is unknown: {error}."
    if len(place) > 1:
        return f"The key {key!r} in params.yaml is wrong: {error}."
    return f"The section {key!r} of params.yaml is wrong: {error}"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The sentence for a key that no section has, with the nearest one that exists."""
    close = difflib.get_close_matches(key, known, n=1)
    suggestion = f"; the nearest is {close[0]!r}" if close else ""
    return f"The key {key!r} in params.yaml is unknown{suggestion}."
