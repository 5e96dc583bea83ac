"""Parameters: the file, and what is set on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from tasks.config import Config, load_config
from tasks.config.__main__ import write_overrides
from tests.fuzz import edits
from tests.fuzz.hunt import ROOT, Nonsense, Target

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
RAW = YAML(typ="safe", pure=True).load(TEXT)
NAMES = (r"The key '", r"params\.yaml", r"The override ", r"The profile ", r"The model's \w+", r"key '")
SNIPPETS = [
    "&a [*a]", "*a", "&x 1", "!!python/object:os.system x", "!!binary x", "!!set {a}", "? [1, 2] : 3", "? {a: 1} : 2",
    "<<: *x", "<<: {seed: 2}", "- x", ".nan", ".inf", "-.inf", "1_000", "0x1F", "0o17", "1e400", "1e3", "~", "null",
    "true", "yes", "2024-01-01", "2026-01-01 10:00:00", "'", '"', "{a: 1, a: 2}", "{", "}", "[", "]", "[1, 2",
    "\t", "%YAML 1.1", "---", "...", "|", ">-", "!", "&", "*", "@", "`", "%", ",", "#", "9" * 5000, "1" * 40,
    "[" * 300, "{a: " * 300, "a: " * 300,
    "\x00", "\u2028", "\ufeff", "é", "a/b", "it's", "''", '""', "0", "-1", "1.0",
    "100000000000000", "0.5", "laptop", "gpu", "{}", "[]", "{shell: 1}", "{shell: -1, chain: .nan}", "machine", "x y",
]  # fmt: skip

DEEP = 300  # brackets; the reader of YAML takes seconds to give up on thousands


def _keys(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


KEYS = list(_keys(RAW))
texts = st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=8), edits.leaves.map(str), st.integers(0, 9).map(str))
how = st.sampled_from(("value", "insert", "append", "drop", "indent", "key"))
line_edit = st.tuples(how, st.integers(0, 300), texts)


def file() -> Target:
    """params.yaml, spoilt in its text or in what it holds; accepted, it is read and written again without a change."""
    structured = st.tuples(st.just("data"), st.lists(edits.edit, min_size=1, max_size=3), edits.raw_edits)
    textual = st.tuples(st.just("text"), st.lists(line_edit, max_size=3), edits.raw_edits)
    return Target("params", st.one_of(structured, textual), _write_file, _read_file, NAMES)


def _write_file(folder: Path, case: tuple[str, Any, Any]) -> None:
    form, changes, raw = case
    text = _dump(edits.edited(RAW, changes)) if form == "data" else _spoilt(TEXT, changes)
    (folder / "params.yaml").write_bytes(edits.mangled(text.encode("utf-8", "surrogatepass"), raw, DEEP))


def _read_file(folder: Path) -> None:
    path = folder / "params.yaml"
    config = load_config(path)
    _check(config)
    before = path.read_bytes()
    write_overrides(path, [])
    if load_config(path) != config:
        raise Nonsense("a file that is written again without a change means something else")
    path.write_bytes(before)


def overrides() -> Target:
    """What SET and --set take: what was validated must be what is written."""
    one = st.builds(lambda key, sign, value: f"{key}{sign}{value}", st.one_of(st.sampled_from(KEYS), texts),
                    st.sampled_from(("=", "=", "=", "=", "= ", " =", "==", ":", "")), texts)  # fmt: skip
    return Target("set", st.lists(one, min_size=1, max_size=3), _write_set, _read_set, NAMES)


def _write_set(folder: Path, case: list[str]) -> None:
    (folder / "overrides.json").write_text(json.dumps(case))
    (folder / "params.yaml").write_text(TEXT, encoding="utf-8")


def _read_set(folder: Path) -> None:
    path, given = folder / "params.yaml", json.loads((folder / "overrides.json").read_text())
    config = load_config(path, given)
    _check(config)
    write_overrides(path, given)
    if load_config(path) != config:
        raise Nonsense("what was validated is not what was written")


def _check(config: Config) -> None:
    config.model_config()
    wrong = [name for name, value in _numbers(asdict(config)) if not math.isfinite(value)]
    if wrong:
        raise Nonsense(f"{wrong[0]} is not finite")
    if not config.promote.name.strip() or "/" in config.promote.name or "'" in config.promote.name:
        raise Nonsense("promote.name is no name")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int | float):
        yield name, value if abs(value) < 10**300 else math.inf


def _dump(value: Any) -> str:
    """YAML in JSON's form, with YAML's names of numbers that JSON does not have."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_dump(str(key))}: {_dump(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_dump, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _spoilt(text: str, changes: list[tuple[str, int, str]]) -> str:
    lines = text.split("\n")
    for kind, where, new in changes:
        at = where % len(lines)
        head, colon, _ = lines[at].partition(":")
        made = {
            "value": [f"{head}: {new}" if colon else new], "insert": [new, lines[at]], "append": [f"{lines[at]} {new}"],
            "drop": [], "indent": [f" {lines[at]}"], "key": [lines[at].replace(head.strip(), new, 1)],
        }[kind]  # fmt: skip
        lines[at : at + 1] = made
        lines = lines or [""]
    return "\n".join(lines)
