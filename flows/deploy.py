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
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.accelerator import SLOT, leases
from flows.owners import FLOWS, end_orphans
from flows.servers import is_ours, worker_runs
from flows.settings import prefect_address
from tasks.cli import Parser, program
from tasks.errors import MachineError

POOL = "local"
CRASH_AUTOMATION = "Mark silent flow runs as crashed"
SILENCE = timedelta(seconds=90)
SILENT = "No heartbeat: its process is gone."


async def prepare_server() -> None:
    """What every run needs on the server: one stage at a time on the accelerator, no run that seems alive for ever.

    On a team's server nothing of theirs is changed: a limit that is there stays, and other flows' runs are theirs.
    """
    ours = is_ours(prefect_address())
    dead = await end_orphans(ours, worker_runs())
    if dead:
        print(f"Runs whose process was gone are marked as ended: {', '.join(sorted(dead))}.", flush=True)
    await _limit_accelerator(ours)
    async with get_client() as client:
        existing = await client.read_automations_by_name(CRASH_AUTOMATION)
    if not existing:
        await crash_automation().acreate()


async def _limit_accelerator(ours: bool) -> None:
    async with get_client() as client:
        try:
            found = await client.read_global_concurrency_limit_by_name(SLOT)
        except ObjectNotFound:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=SLOT, limit=1))
            return
        if ours and found.active_slots and not any(leases()):  # taken before leases were kept on disk: for ever
            await client.update_global_concurrency_limit(SLOT, GlobalConcurrencyLimitUpdate(active_slots=0))


def crash_automation() -> Automation:
    """A run of our flows that sends no heartbeat for 90 s (they come every 30 s) and did not end is marked Crashed."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=CRASH_AUTOMATION,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
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
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))
        except ObjectAlreadyExists:
            return


@program("flows.deploy")
def main(argv: Sequence[str] | None = None) -> int:
    """Applies everything; safe to repeat."""
    parser = Parser(prog="python -m flows.deploy")
    parser.add_argument("--server-only", action="store_true", help="no deployments and no pool for them")
    arguments = parser.parse_args(argv)
    asyncio.run(prepare_server())
    if arguments.server_only:
        return 0
    asyncio.run(create_pool())
    prefect = Path(sys.executable).parent / "prefect"
    if subprocess.run([str(prefect), "--no-prompt", "deploy", "--all"], check=False).returncode:
        raise MachineError("Prefect could not apply the deployments of prefect.yaml; the reason stands above.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
