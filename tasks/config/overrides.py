"""Overrides, `key.path=value`: how they are read, and the one way in which they change parameters.

Sections are merged key by key, and so are profiles: `curate={max_bytes: 5}` leaves the section's other keys alone.
The value of a key is replaced whole, maps too: `reinforce.families={repair: 1.0}` leaves no other family. One entry
of such a map is set by its own path: `reinforce.families.repair=0.5`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config.errors import ConfigError
from tasks.config.reading import read_value

START = re.compile(r"""['"]?[^\W\d][\w.]*\s*=""")  # of an override, in quotes of its own or not
CLOSING = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Override:
    """One override: the parts of its key, and its value."""

    path: tuple[str, ...]
    value: Any


def parse_overrides(overrides: Iterable[str]) -> list[Override]:
    """Reads every `key.path=value`. Raises ConfigError with one sentence that quotes the one that is wrong."""
    return [_parse(override) for override in overrides]


def _parse(override: str) -> Override:
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"The override {_quoted(override)} is not of the form key.path=value.")
    if path[0] == "profiles":
        raise ConfigError(
            f"The override {_quoted(override)} sets a profile; choose one with profile=NAME and set the key itself."
        )
    return Override(path, read_value(text, f"The override {_quoted(override)} is not YAML", "params.yaml", key))


def _quoted(override: str) -> str:
    return repr(override if len(override) <= 200 else f"{override[:200]}...")


def merged(raw: Mapping[str, Any], overrides: Sequence[Override], name: str) -> dict[str, Any]:
    """File < profile < overrides, as one mapping of sections. `name` is what sentences call the file."""
    chosen = chosen_profile(raw, overrides)
    profiles = _profiles(raw, name)
    base = {key: value for key, value in raw.items() if key != "profiles"}
    if chosen != "laptop" and chosen not in profiles:
        names = ", ".join(["laptop", *(profile for profile in profiles if profile != "laptop")])
        raise ConfigError(f"The profile {chosen!r} does not exist; choose one of {names}.")
    result = {**_merge(base, profiles.get(chosen) or {}), "profile": chosen}
    for override in overrides:
        if override.path != ("profile",):
            result = _merge(result, {override.path[0]: _inside(result, override)})
    return result


def chosen_profile(raw: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """The profile that the file or the last override of it names."""
    picks = [override.value for override in overrides if override.path == ("profile",)]
    return str([raw.get("profile", "laptop"), *picks][-1])


def _profiles(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    profiles = raw.get("profiles")
    for key, value in {"profiles": profiles, **(profiles if isinstance(profiles, Mapping) else {})}.items():
        if value is not None and not isinstance(value, Mapping):
            place = key if value is profiles else f"profiles.{key}"
            raise ConfigError(f"The key {place!r} in {name} is wrong: it must map names to values, not {value!r}.")
    return profiles or {}


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of both; where both have one, key by key."""
    result = dict(base)
    for name, section in top.items():
        below = result.get(name)
        if isinstance(below, Mapping) and isinstance(section, Mapping):
            section = {**below, **section}
        result[name] = section
    return result


def _inside(tree: Mapping[str, Any], override: Override) -> Any:
    """What the override makes of its section: the value itself, or a copy of the section with the value in it."""
    first, *rest = override.path
    if not rest:
        return override.value
    below = tree.get(first)
    mapping = below if isinstance(below, Mapping) else {}
    return {**mapping, rest[0]: _inside(mapping, Override(tuple(rest), override.value))}


def split_set(text: str) -> list[str]:
    """The overrides in `make run SET="..."`: apart where, outside quotes and brackets, the next `key=` begins.

    Quotes stay for YAML to read, so that `curate.sources=['/a, b.md'] seed=2` is two overrides and one path. An
    override may stand in quotes of its own. Raises ConfigError where a quote or bracket is never closed.
    """
    starts = sorted({0, *_starts(text)})
    pieces = (text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return [_unquoted(piece) for piece in pieces if piece]


def _starts(text: str) -> list[int]:
    """Where overrides begin."""
    found: list[int] = []
    open_brackets: list[str] = []
    position = 0
    while position < len(text):
        letter, before = text[position], text[position - 1] if position else " "
        if not open_brackets and before.isspace() and START.match(text, position):
            found.append(position)
        if letter in "'\"" and (before in "=[{,:" or before.isspace()):
            position = _end_of_quote(text, position)
        elif letter in CLOSING and (open_brackets or before in "=[{,:" or before.isspace()):
            open_brackets.append(CLOSING[letter])
        elif open_brackets and letter == open_brackets[-1]:
            open_brackets.pop()
        position += 1
    if open_brackets:
        raise ConfigError(f"SET={_quoted(text)} opens a bracket that is never closed with {open_brackets[-1]!r}.")
    return found


def _end_of_quote(text: str, start: int) -> int:
    """The position of the quote that closes the one at `start`; two single ones in a row are one character."""
    quote, position = text[start], start + 1
    while position < len(text):
        if quote == '"' and text[position] == "\\":
            position += 1
        elif text[position] == quote:
            if quote == '"' or text[position + 1 : position + 2] != quote:
                return position
            position += 1
        position += 1
    raise ConfigError(f"SET={_quoted(text)} opens a quote that is never closed with {quote}.")


def _unquoted(piece: str) -> str:
    """The override without quotes around all of it, which a shell would have taken off."""
    whole = len(piece) > 1 and piece[0] in "'\"" and piece[-1] == piece[0]
    return piece[1:-1] if whole else piece
