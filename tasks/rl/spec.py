"""The frozen description of one run, written once by the supervisor and read by every worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.config.sections import ReinforceConfig
from tasks.errors import InputError
from tasks.files import fault, read_json

SPEC = "spec.json"


class SpecError(InputError):
    """A run folder has no readable `spec.json`."""


@dataclass(frozen=True)
class RunSpec:
    """Everything a worker needs beside the run folder's own store and policies."""

    seed: int
    checkpoint: str  # folder of the policy that the run starts from
    checkpoint_sha256: str
    tokenizer: str  # the tokenizer.json of the checkpoint
    reinforce: ReinforceConfig


def write_spec(run_dir: Path, spec: RunSpec) -> None:
    """Writes `spec.json` in one step."""
    draft = run_dir / f".{SPEC}"
    draft.write_bytes(TypeAdapter(RunSpec).dump_json(spec, indent=1))
    os.replace(draft, run_dir / SPEC)


def read_spec(run_dir: Path) -> RunSpec:
    """Raises SpecError naming the file if it is missing or is no run spec."""
    path = run_dir / SPEC
    try:
        return TypeAdapter(RunSpec).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise SpecError(f"The folder {run_dir} is no reinforcement learning run: it has no {SPEC}.") from None
    except ValidationError as error:
        raise SpecError(f"The file {path} is no run spec: {fault(error)}.") from error


def store_path(run_dir: Path) -> Path:
    """The run's trajectory store."""
    return run_dir / "trajectories.sqlite"


def policies_path(run_dir: Path) -> Path:
    """The run's policy store."""
    return run_dir / "policies"


def measurement_path(run_dir: Path, when: str, family: str) -> Path:
    """The held-out result of one family, `before` or `after` the run."""
    return run_dir / f"measure-{when}-{family}.json"


def read_measurements(run_dir: Path, when: str) -> dict[str, Any]:
    """Every family measured so far: {family: {"pass_at_1": estimate, ...}}."""
    paths = {family: measurement_path(run_dir, when, family) for family in read_spec(run_dir).reinforce.evaluation}
    what = "a measurement of a run"
    return {family: read_json(path, dict[str, Any], SpecError, what) for family, path in paths.items() if path.exists()}
