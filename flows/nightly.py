"""The nightly evaluation: the benchmarks again, beside the recipe's own results, against the last recorded scores."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.logging import get_run_logger

from flows.accelerator import accelerator
from flows.command import stream
from flows.door import one_sentence
from flows.names import stage_run_name
from flows.owners import record_owner
from flows.settings import HOME
from flows.stage import post_metrics, progress_lines
from tasks.benchmarks.regression import check_regression

RECORDED = Path("metrics/evaluate.json")
FOLDER = HOME / "nightly"


@flow(name="nightly-evaluation", flow_run_name=stage_run_name("nightly"))
@one_sentence
async def nightly_evaluation() -> None:
    """Evaluates checkpoints/reinforce into .longhaul/nightly; fails when mean pass@1 regressed. No promotion.

    DVC's outputs stay as they are, so that the recipe is still up to date in the morning.
    """
    await record_owner()
    async with accelerator():
        await evaluate()
    await post_metrics("nightly", FOLDER / "metrics.json")
    compare()


@task
async def evaluate() -> None:
    """The benchmarks as the stage runs them, into a folder and a tracking run of their own."""
    places = ["--name", "nightly", "--results", str(FOLDER / "results"), "--metrics", str(FOLDER / "metrics.json")]
    await stream(["python", "-m", "tasks.evaluate", *places], await progress_lines("nightly"))


@task
def compare() -> None:
    """Fails with one sentence when mean pass@1 fell beyond the interval."""
    get_run_logger().info(check_regression(RECORDED, FOLDER / "metrics.json"))
