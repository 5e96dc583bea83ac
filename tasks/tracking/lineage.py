"""Lineage: from a score back to weights, parameters, data and commit, and forward to what was made of them.

    python -m tasks.tracking.lineage evaluate.shell.pass_at_1     # a key of a metrics file
    python -m tasks.tracking.lineage checkpoints/midtrain         # a checkpoint or data folder
    python -m tasks.tracking.lineage longhaul@champion            # a registry version or alias; longhaul/3

It reads dvc.lock (hashes of every stage's inputs, parameters and outputs), the checkpoints' longhaul.json, and the
tags of the MLflow runs and registry versions.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,  # pydantic asks for this one before Python 3.12
)

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML, YAMLError
from typing_extensions import TypedDict

from tasks.cli import Parser, one_line, program
from tasks.errors import InputError
from tasks.files import fault, read_json
from tasks.tracking import registry
from tasks.tracking.experiment import client, recorded_run
from tasks.tracking.store import shown_uri

LOCK = Path("dvc.lock")
METRICS = Path("metrics")
_CODE = ("tasks/", "model", "kernels")  # dependencies that are programs: the commit stands for them


class LineageError(InputError):
    """The thing asked for is not known, or nothing was recorded about it."""


class Hashed(TypedDict):
    """A path in dvc.lock."""

    path: str
    md5: NotRequired[str]


class Entry(TypedDict):
    """A stage in dvc.lock."""

    deps: NotRequired[list[Hashed]]
    outs: NotRequired[list[Hashed]]
    params: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.lock: hashes by path, and a hash of the parameters it read."""

    name: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    params_hash: str = ""


def read_lock(path: Path = LOCK) -> dict[str, Stage]:
    """The stages of dvc.lock, in the order of the recipe. Raises LineageError if there is no lock file."""
    if not path.is_file():
        raise LineageError(f"The file {path} does not exist: no stage has run under DVC, so nothing can be traced.")
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
        stages = TypeAdapter(dict[str, Entry]).validate_python(document.get("stages", {}))
    except ValidationError as error:
        raise LineageError(f"The file {path} is not what DVC writes: {fault(error)}.") from error
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        said = one_line(str(error)).rstrip(".")
        raise LineageError(f"The file {path} is not what DVC writes: {said}.") from error
    return {name: _stage(name, entry) for name, entry in stages.items()}


def backward(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """The stage and all it depends on, nearest first.

    A link counts only where the hash that one stage wrote is the hash that the next one read.
    """
    found, queue = [stages[name]], [stages[name]]
    while queue:
        stage = queue.pop(0)
        for other in stages.values():
            if other not in found and any(stage.inputs.get(path) == md5 for path, md5 in other.outputs.items()):
                found.append(other)
                queue.append(other)
    return found


def forward(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """Every other stage that has this one behind it."""
    return [stage for stage in stages.values() if stage.name != name and stages[name] in backward(stages, stage.name)]


def find_stage(stages: Mapping[str, Stage], what: str) -> str:
    """The stage that a metrics key, a metrics file or an output path belongs to. Raises LineageError."""
    path = what.rstrip("/")
    for stage in stages.values():
        if path in stage.outputs or any(path.startswith(f"{output}/") for output in stage.outputs):
            return stage.name
    name = path.split(".")[0]
    if name in stages and metric(what) is not None:
        return name
    raise LineageError(f"{what!r} is no output, metrics key or registry version that was recorded here.")


def metric(key: str) -> Any:
    """The value of `stage.nested.key` in metrics/<stage>.json; None if there is none."""
    stage, *keys = key.split(".")
    place = METRICS / f"{stage}.json"
    value: Any = read_json(place, dict[str, Any], LineageError, "a metrics file") if place.is_file() else None
    for part in keys:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def trace(what: str) -> list[str]:
    """The lines that the command prints. Raises LineageError, RegistryError or TrackingError."""
    match = re.fullmatch(r"([\w-]+)(?:@(\w+)|/(\d+))", what)
    if match and not Path(what).exists():
        return _trace_version(*match.groups())
    stages = read_lock()
    name = find_stage(stages, what)
    value = metric(what) if what.split(".")[0] == name else None
    head = [f"{what} = {json.dumps(value)}"] if value is not None else []
    return [*head, *_trace_stage(stages, name)]


def record_stage(stage: str) -> str | None:
    """Tags the stage's MLflow run with the hashes that dvc.lock holds; returns the run's page, if a server has one."""
    recorded, stages = recorded_run(stage), read_lock()
    if not recorded or stage not in stages:
        return None
    handle, entry = client(), stages[stage]
    tags = {f"dvc.in.{path}": md5 for path, md5 in entry.inputs.items()}
    tags |= {f"dvc.out.{path}": md5 for path, md5 in entry.outputs.items()} | {"dvc.params": entry.params_hash}
    for key, value in tags.items():
        handle.set_tag(recorded["run_id"], key, value)
    return run_page(handle, recorded["run_id"])


def run_page(handle: Any, run_id: str) -> str | None:
    """The web page of a run where the tracking server is an http one."""
    uri = shown_uri().replace("***@", "")  # a browser asks for the password itself
    if not uri.startswith("http"):
        return None
    experiment = handle.get_run(run_id).info.experiment_id
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def _stage(name: str, entry: Entry) -> Stage:
    def hashes(kind: Literal["deps", "outs"]) -> dict[str, str]:
        return {item["path"]: item.get("md5", "") for item in entry.get(kind, [])}

    params = json.dumps(entry.get("params", {}), sort_keys=True, default=str)
    return Stage(name, hashes("deps"), hashes("outs"), hashlib.md5(params.encode(), usedforsecurity=False).hexdigest())


def _trace_stage(stages: Mapping[str, Stage], name: str) -> list[str]:
    lines = ["made from, nearest first:"]
    for stage in backward(stages, name):
        lines += _describe(stage)
    later = [stage.name for stage in forward(stages, name)]
    lines.append(f"went into: {', '.join(later) or 'nothing yet'}")
    return [*lines, *_registered(stages, name)]


def _describe(stage: Stage) -> list[str]:
    recorded = recorded_run(stage.name)
    lines = [f"  {stage.name}"]
    lines += [f"    wrote {path}  {md5}" for path, md5 in stage.outputs.items()]
    lines += [f"    read  {path}  {md5}" for path, md5 in stage.inputs.items() if not path.startswith(_CODE)]
    lines += [f"    model.safetensors  sha256 {sha}" for sha in _weights(stage)]
    lines.append(f"    parameters  {stage.params_hash}")
    if recorded:
        lines.append(f"    commit {recorded['git_commit']}  run {recorded['run_id']}  data {recorded['data_hash']}")
    return lines


def _weights(stage: Stage) -> list[str]:
    cards = [Path(path) / "longhaul.json" for path in stage.outputs]
    return [json.loads(card.read_text())["model_sha256"] for card in cards if card.is_file()]


def _registered(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Registry versions of the weights that this stage, or one it went into, wrote."""
    family = [stages[name], *forward(stages, name)]
    hashes = {sha for stage in family for sha in _weights(stage)}
    handle = client()
    lines = []
    for model in handle.search_registered_models():
        best = registry.champion(handle, model.name)
        for version in registry.versions(handle, model.name):
            if version.model_sha256 in hashes:
                mark = " (champion)" if best and best.number == version.number else ""
                lines.append(f"registered as: {model.name}/{version.number}{mark}")
    return lines


def _trace_version(name: str, alias: str | None, number: str | None) -> list[str]:
    handle = client()
    found = registry.champion(handle, name) if alias == registry.CHAMPION else None
    if number is not None:
        found = registry.version(handle, name, number)
    if found is None:
        raise LineageError(f"The registry holds no {name}@{alias}.")
    lines = [f"{name}/{found.number}  model.safetensors sha256 {found.model_sha256}", f"  source {found.source}"]
    lines += [f"  {key}  {value}" for key, value in sorted(found.tags.items()) if key != "model_sha256"]
    stages = read_lock() if LOCK.is_file() else {}
    for stage in stages.values():
        if found.model_sha256 in _weights(stage):
            return [*lines, *_trace_stage(stages, stage.name)]
    return [*lines, "its checkpoint is not in this working tree; the tags above name the commit, parameters and data"]


@program("tasks.tracking.lineage")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = Parser(prog="python -m tasks.tracking.lineage")
    parser.add_argument("what", help="metrics key, checkpoint folder, NAME/VERSION or NAME@champion")
    print("\n".join(trace(parser.parse_args(argv).what)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
