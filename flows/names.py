"""What a run is called, so that it is found again in a list: `laptop-seed1-1a2b3c4-0131-1405`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prefect.runtime import flow_run

from tasks.config import ConfigError, load_config
from tasks.tracking.commit import git_commit


def pipeline_run_name() -> str:
    """The name with the overrides that the run is started with."""
    return run_name(flow_run.parameters.get("overrides", ()))


def stage_run_name(stage: str) -> Callable[[], str]:
    """The stage's own name; where no pipeline stands above it, with the rest as well."""
    return lambda: stage if flow_run.parent_flow_run_id else f"{stage}-{run_name()}"


def run_name(overrides: Sequence[str] = ()) -> str:
    """Profile, seed, commit, month and day, hour and minute."""
    commit, _, dirty = git_commit().partition("-")
    parts = (*_parameters(overrides), commit[:7], dirty, time.strftime("%m%d-%H%M"))
    return "-".join(part for part in parts if part)


def _parameters(overrides: Sequence[str]) -> tuple[str, ...]:
    try:
        config = load_config(overrides=overrides)
    except ConfigError:  # the run itself ends with the sentence; a name that fails would hide it
        return ("refused",)
    return config.profile, f"seed{config.seed}"
