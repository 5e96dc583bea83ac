"""`python -m tasks.config check|write`: validates `params.yaml`, or edits it and keeps its comments."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.cli import Parser, program
from tasks.config import load_config


@program("tasks.config")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.config check [k=v ...]` validates; `write k=v ...` edits params.yaml and keeps its comments."""
    parser = Parser(prog="python -m tasks.config")
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--params", default="params.yaml")
    arguments = parser.parse_args(argv)
    load_config(arguments.params, arguments.overrides).model_config()
    if arguments.action == "write":
        write_overrides(Path(arguments.params), arguments.overrides)
    return 0


def write_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Writes overrides into the file itself (as `dvc exp run -S` does), so that DVC sees what a run used.

    A key that the chosen profile sets is written there, where it counts.
    """
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000  # lines stay as they are
    document = editor.load(path.read_text(encoding="utf-8"))
    for override in sorted(overrides, key=lambda override: not override.startswith("profile=")):
        keys, _, value = override.partition("=")
        *sections, last = keys.strip().split(".")
        profile = (document.get("profiles") or {}).get(document.get("profile"))
        place: Any = profile if _holds(profile, [*sections, last]) else document
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = YAML(typ="safe", pure=True).load(value)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        editor.dump(document, stream)
    temporary.replace(path)


def _holds(mapping: Any, keys: Sequence[str]) -> bool:
    """Whether a nested mapping has this path of keys."""
    for key in keys:
        if not isinstance(mapping, Mapping) or key not in mapping:
            return False
        mapping = mapping[key]
    return True


if __name__ == "__main__":
    sys.exit(main())
