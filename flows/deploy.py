"""`python -m flows.deploy`: creates the work pool, the limit, the crash automation and prefect.yaml's deployments."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists

from tasks.cli import Parser, program
from tasks.errors import MachineError

CRASH_AUTOMATION = "Mark silent flow runs as crashed"
SILENCE = timedelta(seconds=90)
SILENT = "No heartbeat: its process is gone."


async def prepare_server() -> None:
    """What every run needs on the server: one stage at a time on the accelerator, no run that seems alive for ever."""
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name("accelerator", 1)
        existing = await client.read_automations_by_name(CRASH_AUTOMATION)
    if not existing:
        await crash_automation().acreate()


def crash_automation() -> Automation:
    """A run that sends no heartbeat for 90 s (they come every 30 s) and did not end is marked Crashed."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=CRASH_AUTOMATION,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=SILENT, force=False)],
    )


async def create_pool() -> None:
    """A pool of processes on this machine, one flow run at a time."""
    async with get_client() as client:
        try:
            await client.create_work_pool(WorkPoolCreate(name="local", type="process", concurrency_limit=1))
        except ObjectAlreadyExists:
            return


@program("flows.deploy")
def main(argv: Sequence[str] | None = None) -> int:
    """Applies everything; safe to repeat."""
    Parser(prog="python -m flows.deploy").parse_args(argv)
    asyncio.run(prepare_server())
    asyncio.run(create_pool())
    prefect = Path(sys.executable).parent / "prefect"
    if subprocess.run([str(prefect), "--no-prompt", "deploy", "--all"], check=False).returncode:
        raise MachineError("Prefect could not apply the deployments of prefect.yaml; the reason stands above.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
