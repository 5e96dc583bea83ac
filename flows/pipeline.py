"""The recipe: curate -> pretrain -> midtrain -> reinforce -> evaluate -> promote."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.curate import curate
from flows.door import one_sentence
from flows.evaluate import evaluate
from flows.midtrain import midtrain
from flows.names import pipeline_run_name
from flows.owners import record_owner
from flows.pretrain import pretrain
from flows.promote import promote
from flows.reinforce import reinforce
from flows.stage import up_to_date
from tasks.config import held
from tasks.config.processor import warnings
from tasks.config.start import begin
from tasks.tracking.table import closing_table

STAGES = (curate, pretrain, midtrain, reinforce, evaluate, promote)


@flow(name="longhaul", flow_run_name=pipeline_run_name)
@one_sentence
async def pipeline(overrides: Sequence[str] = ()) -> None:
    """Runs every stage that is not up to date. `overrides` are written into params.yaml first: `["seed=2"]`.

    Holds the working folder, so that no other run starts in it; every program of this one reads the same parameters.
    """
    started = time.monotonic()
    await record_owner()
    with held(f"the flow run {flow_run.name or 'longhaul'}") as hold:
        for warning in warnings(begin(hold, overrides)):
            get_run_logger().warning(warning)
        if not await up_to_date():
            for stage in STAGES:
                await stage()
    await acreate_markdown_artifact(key="closing-table", markdown=closing_table(time.monotonic() - started))
