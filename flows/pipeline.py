"""The recipe: curate -> pretrain -> midtrain -> reinforce -> evaluate -> promote."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from flows.curate import curate
from flows.door import one_sentence
from flows.evaluate import evaluate
from flows.midtrain import midtrain
from flows.names import pipeline_run_name
from flows.pretrain import pretrain
from flows.promote import promote
from flows.reinforce import reinforce
from flows.stage import up_to_date
from tasks.config import load_config
from tasks.config.__main__ import write_overrides
from tasks.tracking.table import closing_table

STAGES = (curate, pretrain, midtrain, reinforce, evaluate, promote)


@flow(name="longhaul", flow_run_name=pipeline_run_name)
@one_sentence
async def pipeline(overrides: Sequence[str] = ()) -> None:
    """Runs every stage that is not up to date. `overrides` are written into params.yaml first: `["seed=2"]`."""
    started = time.monotonic()
    load_config(overrides=overrides).model_config()
    if overrides:
        write_overrides(Path("params.yaml"), overrides)
    if not await up_to_date():
        for stage in STAGES:
            await stage()
    await acreate_markdown_artifact(key="closing-table", markdown=closing_table(time.monotonic() - started))
