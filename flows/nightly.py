"""The nightly evaluation: benchmarks again, whatever DVC remembers, and fails when the champion's gate would."""

from __future__ import annotations

from prefect import flow

from flows.command import stream
from flows.stage import progress_lines, publish


@flow(name="nightly-evaluation")
async def nightly_evaluation() -> None:
    """Evaluates the checkpoint in checkpoints/reinforce and records the scores; no promotion."""
    await stream(["python", "-m", "tasks.evaluate"], await progress_lines("evaluate"))
    await publish.with_options(task_run_name="publish evaluate")("evaluate")
