"""One-token mutations of a source text, and the short `sed` command that undoes one.

The mutation operators are the usual ones of mutation testing (operator, comparison, constant, variable swap).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(r"[A-Za-z_]\w*|\d+|[-+*%<>=!]=|\S")
SWAPS = {
    "+": ("-", "*"), "-": ("+",), "*": ("+", "-"), "+=": ("-=", "*="), "*=": ("+=", "-="),
    ">": ("<", ">="), "<": (">", "<="), "==": ("!=", ">"),
}  # fmt: skip
KEYWORDS = frozenset({"def", "for", "in", "if", "return", "range", "len", "append"})
NEVER_SWAPPED = KEYWORDS | {"f", "i", "xs", "items", "row", "data"}


@dataclass(frozen=True)
class Mutation:
    """Token `token` of line `line` (both from 0) reads `new` in place of `old`."""

    line: int
    token: int
    old: str
    new: str

    @property
    def kind(self) -> str:
        """operator, comparison, constant or variable."""
        if self.old.isdigit():
            return "constant"
        if self.old[0].isalpha():
            return "variable"
        return "comparison" if self.old in (">", "<", "==") else "operator"


def mutations(source: str) -> Iterator[Mutation]:
    """Every mutation of the lines after the first (the signature stays)."""
    lines = source.splitlines()
    names = sorted({token for line in lines for token in TOKEN.findall(line) if _is_variable(token)})
    for number, line in enumerate(lines[1:], start=1):
        loops = line.lstrip().startswith("for ")
        tokens = TOKEN.findall(line)
        for place, old in enumerate(tokens):
            if place and tokens[place - 1] == "return" and old in "+-":
                continue  # a sign, not an operator: `return * 1` would not parse
            for new in _alternatives(old, [] if loops else names):
                yield Mutation(number, place, old, new)


def _is_variable(token: str) -> bool:
    return token[0].isalpha() and token not in NEVER_SWAPPED


def _alternatives(token: str, names: list[str]) -> list[str]:
    if token.isdigit():
        return [str(int(token) + 1), *([str(int(token) - 1)] if token != "0" else [])]
    if _is_variable(token):
        return [name for name in names if name != token]
    return list(SWAPS.get(token, ()))


def apply(source: str, mutation: Mutation) -> str:
    """The source with the mutation made."""
    lines = source.splitlines(keepends=True)
    start, end = _spans(lines[mutation.line])[mutation.token]
    lines[mutation.line] = lines[mutation.line][:start] + mutation.new + lines[mutation.line][end:]
    return "".join(lines)


def sed_command(source: str, mutation: Mutation, flags: str = "-i ", path: str = "fix.py") -> str:
    """`sed` that makes the mutation in `source`: the shortest run of tokens around it that is unique in the file."""
    line = source.splitlines()[mutation.line]
    spans = _spans(line)
    low = high = mutation.token
    while source.count(line[spans[low][0] : spans[high][1]]) > 1 or low == high:
        if low == 0 and high == len(spans) - 1:
            break
        low, high = max(low - 1, 0), min(high + 1, len(spans) - 1)
    start, end = spans[low][0], spans[high][1]
    old = line[start:end]
    place, stop = spans[mutation.token]
    new = line[start:place] + mutation.new + line[stop:end]
    address = f"{mutation.line + 1}" if source.count(old) > 1 else ""
    return f"sed {flags}'{address}s/{_escape_pattern(old)}/{_escape_replacement(new)}/' {path}"


def inverse(mutation: Mutation) -> Mutation:
    """The mutation that undoes this one."""
    return Mutation(mutation.line, mutation.token, mutation.new, mutation.old)


def _spans(line: str) -> list[tuple[int, int]]:
    return [match.span() for match in TOKEN.finditer(line)]


def _escape_pattern(text: str) -> str:
    return re.sub(r"([\\.\[*^$/])", r"\\\1", text)


def _escape_replacement(text: str) -> str:
    return re.sub(r"([\\&/])", r"\\\1", text)
