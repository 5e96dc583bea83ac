"""The `pretrain` stage flow."""

from __future__ import annotations

from prefect import flow

from flows.names import stage_run_name
from flows.stage import run_stage


@flow(name="pretrain", flow_run_name=stage_run_name("pretrain"))
async def pretrain() -> None:
    """Dense pretraining at short context."""
    await run_stage("pretrain")
