"""How a run begins: its parameters are resolved, validated and written once; all its programs read the same copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.config.holding import Hold
from tasks.config.load import PARAMS, load_config
from tasks.config.sections import Config
from tasks.config.writing import write_overrides


def begin(hold: Hold, overrides: Sequence[str] = ()) -> Config:
    """Writes the overrides into params.yaml and makes the run's copy of it. Raises ConfigError before it writes."""
    load_config(PARAMS, overrides).model_config()
    write_overrides(Path(PARAMS), overrides)
    return load_config(hold.freeze(Path(PARAMS)))


def parameters(hold: Hold) -> Config:
    """Those of the run that holds the folder."""
    return load_config(hold.frozen(Path(PARAMS)))
