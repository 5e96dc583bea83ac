"""The `reinforce` stage flow: rollout, judge and learner as three concurrent subflows over separate processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import flow, task

from flows.accelerator import accelerator
from flows.command import LineHandler, stream
from flows.names import stage_run_name
from flows.owners import record_owner
from flows.stage import progress_lines, publish, reproduce, up_to_date
from tasks.config import held
from tasks.config.start import parameters
from tasks.reinforce import INPUTS
from tasks.rl import curve
from tasks.tracking import Tracker, run


@flow(name="reinforce", flow_run_name=stage_run_name("reinforce"))
async def reinforce() -> None:
    """Asynchronous reinforcement learning; skipped when DVC finds nothing changed.

    The subflows train every step; DVC's own stage command then finds the run complete, measures the last policy,
    writes the outs and locks their hashes.
    """
    await record_owner()
    with held("the flow reinforce"):
        if not await up_to_date("reinforce"):
            async with accelerator():
                run_dir = await prepare()
                await asyncio.gather(rollout(run_dir), judge(run_dir), learner(run_dir), measure_before(run_dir))
                await reproduce.with_options(task_run_name="dvc repro reinforce")("reinforce")
        await publish.with_options(task_run_name="publish reinforce")("reinforce")


@flow(name="rollout", flow_run_name="rollout", retries=2)
async def rollout(run_dir: str) -> None:
    """Samples episodes with the newest policy until the last step is trained."""
    await run_part("rollout", run_dir)


@flow(name="judge", flow_run_name="judge", retries=2)
async def judge(run_dir: str) -> None:
    """Turns finished episodes into rewards."""
    await run_part("judge", run_dir)


@flow(name="learner", flow_run_name="learner", retries=2)
async def learner(run_dir: str) -> None:
    """Trains and publishes policies; its curve grows in the tracking run that the stage's own program ends."""
    with held("the flow learner") as hold, run("reinforce", parameters(hold), INPUTS, leave_open=True) as tracker:
        await run_part("learner", run_dir, await _curve_lines(tracker, Path(run_dir)))


@task
async def prepare() -> str:
    """The run folder: that of an interrupted run of the same parameters and inputs, or one made for this run."""
    lines = await stream(["python", "-m", "tasks.rl", "prepare"], await progress_lines("reinforce"))
    return lines[-1]


@task
async def measure_before(run_dir: str) -> None:
    """The held-out families with the policy the run starts from."""
    await run_part("before", run_dir)


async def run_part(part: str, run_dir: str, on_line: LineHandler | None = None) -> None:
    """One part of a run as a program; ends with the flow that started it."""
    await record_owner()
    await stream(["python", "-m", "tasks.rl", part, "--run-dir", run_dir], on_line or await progress_lines(part))


async def _curve_lines(tracker: Tracker, run_dir: Path) -> LineHandler:
    """Shows the learner's lines and sends its curve now and then, in a thread that holds nobody up."""
    show = await progress_lines("learner")

    async def on_line(line: str) -> None:
        await show(line)
        if curve.is_due(line):
            await asyncio.to_thread(curve.send_history, tracker, run_dir)

    return on_line
