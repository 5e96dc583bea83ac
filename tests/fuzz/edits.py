"""Edits of valid documents, as hypothesis strategies: a fault is found beside what works, not in random bytes.

A case is a list of edits; hypothesis shrinks it by leaving edits out and by making their values simpler.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1.5, -0.0, 1e-300, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**53 + 1,
    2**63, -(2**63), 2**64, 10**30, "", " ", "0", "1", "a/b", "../x", "/etc/passwd", "it's", 'a"b', "a\nb", "\x00",
    "\u2028", "\u0085", "\udce9", "é", "x" * 300, "NaN", "null", "true", "1e3", "-", "*", "[", "{}", [], {}, [[]],
    [None], [1, 2], {"a": 1}, {"": {}},
]  # fmt: skip
PIECES = [(b"[", 20_000), (b'{"a":', 20_000), (b"9", 5_000), (b"1e99999", 1), (b"-", 1), (b"\xff", 1), (b"\x00", 1),
          (b"\xef\xbb\xbf", 1), (b'"', 1), (b"\\", 1), (b"\n", 1), (b",", 1), (b"}", 1), (b"]", 1),
          (b"\xe2\x80\xa8", 1), (b"\xed\xb3\xa9", 1), (b"NaN", 1), (b"\\ud800", 1), (b"\t", 1), (b"#", 1)]  # fmt: skip
KINDS = ("set", "drop", "rename", "add", "wrap", "text", "float", "scale", "negate", "repeat", "swap", "empty")

leaves = st.one_of(st.sampled_from(ODD), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=12))
values = st.one_of(
    leaves,
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=5,
    ),
)
edit = st.tuples(st.lists(st.integers(0, 40), max_size=5), st.sampled_from(KINDS), values)
edits = st.lists(edit, max_size=3)
raw_edit = st.tuples(
    st.sampled_from(("cut", "insert", "replace", "remove", "flip", "double")),
    st.integers(0, 2**20),
    st.one_of(st.sampled_from(PIECES), st.tuples(st.binary(max_size=6), st.just(1))),
)
raw_edits = st.one_of(st.just([]), st.lists(raw_edit, max_size=2))
documents = st.tuples(edits, raw_edits)  # of a file that holds JSON


def edited(document: Any, changes: Sequence[tuple[list[int], str, Any]]) -> Any:
    """A copy of the document with these edits applied, each at the place that its path leads to."""
    root = {"": copy.deepcopy(document)}
    for path, kind, value in changes:
        holder, key = _walk(root, path)
        _apply(holder, key, kind, copy.deepcopy(value), path[-1] if path else 0)
        root.setdefault("", None)
    return root[""]


def mangled(data: bytes, changes: Sequence[tuple[str, int, tuple[bytes, int]]], most: int = 10**6) -> bytes:
    """The bytes with these edits applied; a piece is repeated `most` times at most."""
    for kind, where, (unit, count) in changes:
        piece = unit * min(count, most)
        at = where % (len(data) + 1)
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "remove":
            data = data[:at] + data[at + 1 + len(piece) :]
        elif kind == "double":
            data = data[:at] + data[at : at + 40] + data[at:]
        elif data:
            at %= len(data)
            data = data[:at] + bytes([data[at] ^ (1 << where % 8)]) + data[at + 1 :]
    return data


def as_json(document: Any, case: tuple[Any, Any]) -> bytes:
    """A document's JSON after the edits of a case."""
    return mangled(json.dumps(edited(document, case[0])).encode(), case[1])


def as_lines(records: Sequence[Any], case: tuple[Any, Any]) -> bytes:
    """Records one a line, after the edits of a case; an edit may make them fewer, or no list at all."""
    made = edited(list(records), case[0])
    lines = made if isinstance(made, list) else [made]
    return mangled(b"".join(json.dumps(line).encode() + b"\n" for line in lines), case[1])


def _walk(root: dict[Any, Any], path: Sequence[int]) -> tuple[Any, Any]:
    holder, key = root, ""
    for step in path:
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        holder, key = inner, (list(inner)[step % len(inner)] if isinstance(inner, dict) else step % len(inner))
    return holder, key


def _apply(holder: Any, key: Any, kind: str, value: Any, number: int) -> None:
    old = holder[key]
    if kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[value if isinstance(value, str) else f"{key}_"] = holder.pop(key)
    elif kind == "add" and isinstance(old, dict):
        old[value if isinstance(value, str) else f"key{number}"] = value
    elif kind == "add" and isinstance(old, list):
        old.append(value)
    elif kind == "repeat" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif kind == "swap":
        other = (list(holder) if isinstance(holder, dict) else range(len(holder)))[number % len(holder)]
        holder[key], holder[other] = holder[other], old
    else:
        holder[key] = _changed(old, kind, value)


def _changed(old: Any, kind: str, value: Any) -> Any:
    number = isinstance(old, int | float) and not isinstance(old, bool)
    changes: dict[str, Callable[[], Any]] = {
        "wrap": lambda: [old],
        "empty": lambda: type(old)() if old is not None else {},
        "text": lambda: str(old),
        "float": lambda: float(old) if number and abs(old) < 1e300 else value,
        "scale": lambda: old * 1000 if number and abs(old) < 1e12 else value,
        "negate": lambda: -old if number else value,
    }
    return changes.get(kind, lambda: value)()
