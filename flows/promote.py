"""The `promote` stage flow."""

from __future__ import annotations

from prefect import flow

from flows.names import stage_run_name
from flows.stage import run_stage


@flow(name="promote", flow_run_name=stage_run_name("promote"))
async def promote() -> None:
    """Statistical gate, registry, model card, report."""
    await run_stage("promote")
