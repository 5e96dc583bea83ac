"""YAML as plain values: text, numbers, lists, mappings with text as keys. All else is refused with one sentence.

YAML can say more than parameters need, and each of these once passed unseen or ended in a traceback: tags, dates,
keys that are no text, keys named twice, an anchor that holds itself, numbers of thousands of digits, endless nesting.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.tokens import TagToken

from tasks.config.errors import ConfigError

MOST_BYTES = 1 << 20  # of a parameter file
MOST_VALUES = 20_000  # that it spells out: a few aliases of aliases are billions
DEEPEST = 32  # levels of lists and mappings
INTEGERS = range(-(1 << 63), 1 << 63)


def yaml_reader() -> YAML:
    """YAML 1.2, the reader DVC uses: 1e-3 is a number. A new one each time: two threads cannot share one."""
    return YAML(typ="safe", pure=True)


def read_text(path: Path) -> str:
    """The content of a parameter file. Raises ConfigError with one sentence that names it."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
            raise ConfigError(f"The parameter file {path} cannot be read: it is {kind}.")
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"The parameter file {path} does not exist.") from None
    except OSError as error:
        raise ConfigError(f"The parameter file {path} cannot be read: {error.strerror}.") from error
    return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> str:
    if len(data) > MOST_BYTES:
        raise ConfigError(f"The parameter file {path} is larger than {MOST_BYTES} bytes, so it holds no parameters.")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"The parameter file {path} begins with a byte order mark; save it as UTF-8 without one.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"The parameter file {path} is not UTF-8: line {line} has a byte that is no text.") from None


def read_mapping(text: str, name: str) -> dict[str, Any]:
    """The sections of a parameter file; `name` is what sentences call it."""
    raw = read_value(text, f"The parameter file {name} cannot be read as YAML", name)
    if not isinstance(raw, dict):
        raise ConfigError(f"The parameter file {name} holds no sections.")
    return raw


def read_value(text: str, complaint: str, name: str, key: str = "") -> Any:
    """A YAML document as plain values; `complaint` begins the sentence where it is none, `key` is where it stands."""
    try:
        _refuse_nesting(text)
        _refuse_tags(text)
        value = yaml_reader().load(text)
    except Exception as error:  # of odd texts the reader raises anything from IndexError to RecursionError
        raise ConfigError(f"{complaint}: {_reason(error)}.") from None
    _refuse_unusual(value, name, key)
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MarkedYAMLError) and error.problem:
        line = error.problem_mark or error.context_mark
        whole = f"{error.context}, {error.problem}" if error.problem.startswith("but") else error.problem
        return " ".join(whole.split()).rstrip(".") + (f" in line {line.line + 1}" if line else "")
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _refuse_nesting(text: str) -> None:
    """Raises RecursionError before the reader does, which takes minutes over ten thousand brackets."""
    depth = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if depth > 4 * DEEPEST:
            raise RecursionError


def _refuse_tags(text: str) -> None:
    if text.startswith("%") or "\n%" in text:
        raise ValueError("it has a YAML directive, a line that begins with %")
    if "!" not in text:
        return
    for token in yaml_reader().scan(text):
        if isinstance(token, TagToken):
            raise ValueError(f"line {token.start_mark.line + 1} has a tag, and parameters are plain values")


def _refuse_unusual(value: Any, name: str, key: str) -> None:
    for count, (place, inner, depth) in enumerate(_everything(value, key, 0), start=1):
        if count > MOST_VALUES:
            raise ConfigError(f"The parameters of {name} hold more than {MOST_VALUES} values, aliases written out.")
        if problem := _problem(inner, depth):
            shown = ".".join(place.split(".")[:4])[:200]
            where = f"The key {shown!r} in {name} is wrong" if place else f"The parameters of {name} are wrong"
            raise ConfigError(f"{where}: {problem}.")


def _everything(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """(dotted key, value, depth) of a value and all inside it; keys that are no text are yielded as tuples."""
    yield key, value, depth
    if depth > DEEPEST:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                yield key, (name,), depth
            yield from _everything(inner, f"{key}.{name}" if key else str(name)[:200], depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _everything(inner, key, depth + 1)


def _problem(value: Any, depth: int) -> str:
    """What keeps a value from being a parameter; nothing where it may be one."""
    if depth > DEEPEST:
        return "it is nested too deeply, or holds itself"
    if isinstance(value, tuple):
        return f"the name {str(value[0])[:80]!r} in it is no text; put it in quotes"
    if isinstance(value, str):
        return _problem_of_text(value)
    if isinstance(value, int) and value not in INTEGERS:
        return "a whole number must fit in 64 bits"
    if value is None or isinstance(value, bool | int | float | list | Mapping):
        return ""
    return f"{str(value)[:80]!r} is a {type(value).__name__}; put it in quotes where text is meant"


def _problem_of_text(text: str) -> str:
    if "\0" in text:
        return "text must hold no NUL character"
    surrogate = any("\ud800" <= letter <= "\udfff" for letter in text)
    return "it holds half a character (a lone surrogate)" if surrogate else ""
