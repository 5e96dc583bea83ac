"""The `evaluate` stage flow."""

from __future__ import annotations

from prefect import flow

from flows.names import stage_run_name
from flows.stage import run_stage


@flow(name="evaluate", flow_run_name=stage_run_name("evaluate"))
async def evaluate() -> None:
    """Held-out benchmarks with intervals."""
    await run_stage("evaluate")
