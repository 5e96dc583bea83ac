"""Reads `params.yaml`, applies the profile and the overrides, and says in one sentence what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML, YAMLError

from tasks.cli import Parser
from tasks.config.errors import ConfigError, describe
from tasks.config.sections import Config, known_keys
from tasks.machine import check_machine


def load_config(path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> Config:
    """Reads, merges and validates. Raises ConfigError with one sentence that names the file or key."""
    raw = _read(Path(path))
    merged = apply_overrides(_with_profile(raw, overrides), overrides)
    try:
        return TypeAdapter(Config).validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        raise ConfigError(describe(error, known=known_keys())) from error


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`["pretrain.steps=10"]` written into a copy of the mapping; values are read as YAML."""
    result = _merge(raw, {})
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"The override {override!r} is not of the form key.path=value.")
        result = _merge(result, _nested(key.strip().split("."), _value(override, value)))
    return result


def _value(override: str, text: str) -> Any:
    try:
        return _yaml().load(text)
    except YAMLError as error:
        raise ConfigError(f"The override {override!r} is not YAML: {' '.join(str(error).split())}.") from None


def parse_arguments(stage: str, argv: Sequence[str] | None = None) -> Config:
    """The command line every stage shares: `--params FILE` and any number of `--set key.path=value`.

    Raises MachineError where the machine would let the stage down later.
    """
    parser = Parser(prog=f"python -m tasks.{stage}")
    parser.add_argument("--params", default="params.yaml", help="the parameter file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.params, arguments.overrides)
    check_machine()
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = _yaml().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"The parameter file {path} does not exist.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The parameter file {path} cannot be read as YAML: {' '.join(str(error).split())}."
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"The parameter file {path} holds no sections.")
    return raw


def _with_profile(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    picks = [override for override in overrides if override.startswith("profile=")]
    chosen = str(apply_overrides({"profile": raw.get("profile", "laptop")}, picks)["profile"])
    profiles = raw.get("profiles") or {}
    base = {key: value for key, value in raw.items() if key != "profiles"}
    if chosen != "laptop" and chosen not in profiles:
        raise ConfigError(f"The profile {chosen!r} does not exist; choose one of {', '.join(['laptop', *profiles])}.")
    return {**_merge(base, profiles.get(chosen) or {}), "profile": chosen}


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _yaml() -> YAML:
    """YAML 1.2, the reader DVC uses: 1e-3 is a number. A new one each time: two threads cannot share one."""
    return YAML(typ="safe", pure=True)
