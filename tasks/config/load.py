"""Reads `params.yaml`, applies the profile and the overrides, and says in one sentence what is wrong."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.cli import Parser
from tasks.config import holding
from tasks.config.errors import ConfigError, describe
from tasks.config.overrides import merged, parse_overrides
from tasks.config.processor import warnings
from tasks.config.reading import read_mapping, read_text
from tasks.config.sections import Config, known_keys
from tasks.machine import check_machine

PARAMS = "params.yaml"


def load_config(path: str | Path = PARAMS, overrides: Sequence[str] = ()) -> Config:
    """Reads, merges and validates. Raises ConfigError with one sentence that names the file or key."""
    return resolve(read_mapping(read_text(Path(path)), str(path)), overrides, str(path))


def resolve(raw: Mapping[str, Any], overrides: Sequence[str] = (), name: str = PARAMS) -> Config:
    """The same of a file's content; `name` is what sentences call it."""
    parameters = merged(raw, parse_overrides(overrides), name)
    try:
        return TypeAdapter(Config).validate_json(json.dumps(parameters))
    except ValidationError as error:
        raise ConfigError(describe(error, known=known_keys())) from error


def parse_arguments(stage: str, argv: Sequence[str] | None = None, holds: bool = True) -> Config:
    """The command line every stage shares: `--params FILE` and any number of `--set key.path=value`.

    As long as the parameters live, the program holds the working folder; raises ConfigError where another run does,
    and MachineError where the machine would let the stage down later.
    A program of a run gets the run's own parameters. holds=False: it writes nothing that a stage writes.
    """
    parser = Parser(prog=f"python -m tasks.{stage}")
    parser.add_argument("--params", default=PARAMS, help="the parameter file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    if not holds or not holding.is_first_rank():
        return load_config(arguments.params, arguments.overrides)
    check_machine()
    hold = holding.take(f"python -m tasks.{stage}")
    try:
        config = _parameters_of(stage, hold, arguments.params, arguments.overrides)
    except BaseException:
        hold.release()
        raise
    weakref.finalize(config, hold.release)
    return config


def _parameters_of(stage: str, hold: holding.Hold, path: str, overrides: Sequence[str]) -> Config:
    """The run's copy where there is a run, else the file; under DVC the copy that its first stage made of the file."""
    if path == PARAMS and not overrides:
        source = hold.parameters(Path(path), stage)
    else:
        source = Path(path)
    config = load_config(source, overrides)
    if not hold.joined:  # a run has done both at its start
        config.model_config()
        for warning in warnings(config):
            print(warning, file=sys.stderr, flush=True)
    return config
