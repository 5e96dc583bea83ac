"""The `reinforce` stage flow: rollout, judge and learner as three concurrent subflows, each over separate processes."""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.concurrency.asyncio import concurrency

from flows.stage import publish


@flow(name="reinforce")
async def reinforce() -> None:
    """Asynchronous reinforcement learning; skipped when DVC finds the stage up to date."""
    if await stage_is_clean("reinforce"):
        return
    async with concurrency("accelerator", occupy=1):
        run_dir = await prepare()
        await asyncio.gather(rollout(str(run_dir)), judge(str(run_dir)), learner(str(run_dir)))
        await finish(str(run_dir))
    await publish.with_options(task_run_name="publish reinforce")("reinforce")
