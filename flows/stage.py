"""One stage of the recipe as Prefect sees it: run its DVC stage, show progress, record hashes, post tables."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    acreate_link_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.logging import get_run_logger

from flows.accelerator import accelerator
from flows.command import CommandError, LineHandler, stream
from flows.owners import record_owner
from tasks.config import held

ADVICE = re.compile(  # of DVC, to somebody who runs it by hand
    r"To track the changes with git|To enable auto staging|Use `dvc push`|\s*(git add|dvc config core\.autostage)|"
    r"(Generating|Updating) lock file"
)
DVC = ("python", "-m", "flows.reproduce")
STEP = re.compile(r"step (\d+)/(\d+)")
PROGRESS_SECONDS = 2.0


async def run_stage(stage: str) -> None:
    """Everything a stage flow does: reproduce, then publish what came out."""
    await record_owner()
    with held(f"the flow {stage}"):
        async with accelerator():
            await reproduce.with_options(task_run_name=f"dvc repro {stage}")(stage)
        await publish.with_options(task_run_name=f"publish {stage}")(stage)


def _lock_is_taken(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, CommandError) and any("Unable to acquire lock" in line for line in state.data.lines)


@task(retries=3, retry_delay_seconds=5, retry_jitter_factor=0.5, retry_condition_fn=_lock_is_taken)
async def reproduce(stage: str) -> None:
    """Runs `dvc repro` for one stage; DVC skips it when nothing it depends on changed."""
    await stream([*DVC, "repro", "--single-item", stage], await progress_lines(stage))


@task
async def up_to_date(*stages: str) -> bool:
    """Whether `dvc status` finds nothing to do for these stages (none: for the whole recipe)."""

    async def ignore(_line: str) -> None: ...

    tail = await stream([*DVC, "status", *stages], ignore)
    return bool(tail) and "up to date" in tail[-1]


async def progress_lines(stage: str) -> LineHandler:
    """A handler that logs every line and moves a progress artifact by `step i/n`."""
    logger = get_run_logger()
    shown: dict[str, Any] = {"id": None, "time": 0.0}

    async def on_line(line: str) -> None:
        if not ADVICE.match(line):
            logger.info(line)
        match = STEP.search(line)
        if match and time.monotonic() - shown["time"] > PROGRESS_SECONDS:
            shown["time"] = time.monotonic()
            shown["id"] = await _show_progress(stage, shown["id"], 100 * int(match[1]) / max(int(match[2]), 1))

    return on_line


async def _show_progress(stage: str, artifact: UUID | None, percent: float) -> UUID | None:
    if artifact is not None:
        await aupdate_progress_artifact(artifact, progress=percent)
        return artifact
    created = await acreate_progress_artifact(progress=percent, description=f"steps of {stage} done")
    return created if isinstance(created, UUID) else None


@task
async def publish(stage: str) -> None:
    """Records the stage's hashes in MLflow; posts its metrics as a table and its MLflow run as a link."""
    from tasks.tracking.lineage import record_stage

    link = record_stage(stage)
    if link:
        await acreate_link_artifact(key=f"{stage}-mlflow", link=link, link_text=f"MLflow run of {stage}")
    await post_metrics(stage, Path("metrics") / f"{stage}.json")


async def post_metrics(name: str, path: Path) -> None:
    """A metrics file as a table; nothing where there is none."""
    if path.exists():
        rows = flatten(json.loads(path.read_text(encoding="utf-8")))
        await acreate_table_artifact(
            key=f"{name}-metrics", description=str(path),
            table=[{"metric": metric, "value": value} for metric, value in rows.items()],
        )  # fmt: skip


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` as `{"a.b": "1"}`; an estimate stays one cell with its interval and n."""
    if isinstance(value, dict) and set(value) >= {"value", "ci95", "n"}:
        low, high = value["ci95"]
        return {prefix: f"{value['value']:.3f} [{low:.3f}, {high:.3f}] n={value['n']}"}
    if isinstance(value, dict):
        rows: dict[str, str] = {}
        for key, inner in value.items():
            rows.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
        return rows
    return {prefix: json.dumps(value)}
