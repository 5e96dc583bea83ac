"""`python -m tasks.config check|write`: validates `params.yaml`, or edits it and keeps its comments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.cli import Parser, program
from tasks.config import ConfigError, load_config
from tasks.config.processor import warnings
from tasks.config.reading import read_mapping, read_text
from tasks.config.writing import write_overrides

__all__ = ["main", "write_overrides"]


@program("tasks.config")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.config check [k=v ...]` validates; `write k=v ...` edits params.yaml and keeps its comments.

    Overrides may also be given as everywhere else, by `--set k=v`.
    """
    parser = Parser(prog="python -m tasks.config")
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("given", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--params", default="params.yaml")
    arguments = parser.parse_intermixed_args(argv)
    overrides = [*arguments.given, *arguments.overrides]
    _check(Path(arguments.params), overrides)
    if arguments.action == "write":
        write_overrides(Path(arguments.params), overrides)
    return 0


def _check(path: Path, overrides: Sequence[str]) -> None:
    """The parameters as they would be used; without overrides, under every profile of the file as well."""
    config = load_config(path, overrides)
    config.model_config()
    for warning in warnings(config):
        print(warning, file=sys.stderr)
    profiles = {} if overrides else read_mapping(read_text(path), str(path)).get("profiles") or {}
    for profile in profiles:
        try:
            load_config(path, [f"profile={profile}"]).model_config()
        except ConfigError as error:
            raise ConfigError(f"The profile {profile!r} cannot be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
