"""The `curate` stage flow."""

from __future__ import annotations

from prefect import flow

from flows.names import stage_run_name
from flows.stage import run_stage


@flow(name="curate", flow_run_name=stage_run_name("curate"))
async def curate() -> None:
    """Raw text and expert demonstrations to token shards."""
    await run_stage("demonstrate")
    await run_stage("curate")
