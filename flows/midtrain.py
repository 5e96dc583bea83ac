"""The `midtrain` stage flow."""

from __future__ import annotations

from prefect import flow

from flows.names import stage_run_name
from flows.stage import run_stage


@flow(name="midtrain", flow_run_name=stage_run_name("midtrain"))
async def midtrain() -> None:
    """Longer context, DSA warm-up, sparse training, agent trajectories."""
    await run_stage("midtrain")
