"""Which process runs a flow run: written on the run, so that one whose process is gone does not seem to run for ever.

The heartbeat automation tells as much of a run that goes silent while the server runs; of one that went silent while
the server was stopped it tells nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed
from prefect.types._datetime import now

from flows.settings import HOME
from tasks.config.processes import identity, lives

FLOWS = (
    "longhaul", "curate", "pretrain", "midtrain", "reinforce", "rollout", "judge", "learner", "evaluate", "promote",
    "nightly-evaluation",
)  # fmt: skip
FOLDER, HOST, PROCESS = "longhaul.folder", "longhaul.host", "longhaul.process"
GONE = "Its process is gone."
BEFORE_START = timedelta(seconds=60)  # a worker may still be starting a run that is younger


def owner() -> dict[str, Any]:
    """This process, as labels of a run."""
    return {FOLDER: str(HOME.resolve()), HOST: socket.gethostname(), PROCESS: identity(os.getpid())}


async def record_owner() -> None:
    """Writes this process on the flow run that is under way, if one is."""
    if flow_run.id:
        with suppress(HTTPError, ObjectNotFound):  # without the record the run goes on as well
            async with get_client() as client:
                await client.update_flow_run_labels(UUID(flow_run.id), owner())


async def end_orphans(ours: bool, worker: bool) -> list[str]:
    """Marks runs of this folder that no living process owns Crashed, or Cancelled where that was asked; their names.

    ours: the server is this folder's own, so that every run of our flows is; worker: one runs, and may start runs.
    """
    async with get_client() as client:
        dead = [run for run in await _unfinished(client) if _is_orphan(run, ours, worker)]
        for run in dead:
            asked = run.state is not None and run.state.is_cancelling()
            state: State[Any] = Cancelled(message=GONE) if asked else Crashed(message=GONE)
            await client.set_flow_run_state(run.id, state, force=True)
    return [run.name for run in dead]


async def _unfinished(client: PrefectClient) -> list[FlowRun]:
    kinds = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    found: list[FlowRun] = []
    while page := await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))),
        limit=200, offset=len(found),
    ):  # fmt: skip
        found += page
    return found


def _is_orphan(run: FlowRun, ours: bool, worker: bool) -> bool:
    labels = run.labels
    if PROCESS not in labels:  # of an older version, or no process had it yet
        young = worker or (run.created is not None and run.created > now() - BEFORE_START)
        return ours and not (run.state is not None and run.state.is_pending() and young)
    here = labels.get(HOST) == socket.gethostname() and (ours or labels.get(FOLDER) == str(HOME.resolve()))
    return here and not lives(str(labels[PROCESS]))
