"""`python -m tasks.config check|write`: validates `params.yaml`, or edits it and keeps its comments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from tasks.config import ConfigError, load_config


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.config check [k=v ...]` validates; `write k=v ...` edits params.yaml and keeps its comments."""
    parser = argparse.ArgumentParser(prog="python -m tasks.config")
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--params", default="params.yaml")
    arguments = parser.parse_args(argv)
    try:
        load_config(arguments.params, arguments.overrides).model_config()
        if arguments.action == "write":
            write_overrides(Path(arguments.params), arguments.overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def write_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Writes overrides into the file itself (as `dvc exp run -S` does), so that DVC sees what a run used."""
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 200
    document = editor.load(path.read_text(encoding="utf-8"))
    for override in overrides:
        keys, _, value = override.partition("=")
        *sections, last = keys.strip().split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = YAML(typ="safe", pure=True).load(value)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        editor.dump(document, stream)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
