"""A run in this process that Prefect's UI can cancel.

The UI offers that for runs of a deployment only. So the run is made as one of its deployment, but carried out here
and not by a worker; when somebody cancels it, or one of its subflows, everything that it started is ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Pending
from prefect.utilities.callables import parameter_schema

from flows.deploy import POOL, create_pool
from flows.owners import owner
from tasks.cli import INTERRUPTED
from tasks.errors import MachineError

POLL_SECONDS = 2.0
CANCELLED = "The run was cancelled in Prefect; the same command goes on from here."


class RunCancelled(MachineError):
    """Somebody cancelled the run in Prefect; what it had started is ended."""

    exit_status = INTERRUPTED


async def run_cancellable(flow: Flow[..., Any], deployment: str, entrypoint: str, given: Mapping[str, Any]) -> None:
    """Runs `flow` to its end as a run of its `deployment`, which is made where there is none.

    Raises what the flow raises, and RunCancelled.
    """
    run = await _create(flow, deployment, entrypoint, given)
    work = asyncio.ensure_future(_carry_out(flow, run))
    watch = asyncio.ensure_future(_until_cancelled(run.id))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        cancelled = watch.done() and not work.done()
        await _end(work, watch)
    if cancelled:
        await _mark(run.id)
        raise RunCancelled(CANCELLED)
    work.result()


async def _carry_out(flow: Flow[..., Any], run: FlowRun) -> None:
    await run_flow(flow, flow_run=run)  # type: ignore[misc]  # a coroutine, as the flow is


async def _end(work: asyncio.Future[None], watch: asyncio.Future[None]) -> None:
    """Cancels what is under way and waits until the guards have ended their programs."""
    watch.cancel()
    disabled = logging.root.manager.disable
    if not work.done():
        work.cancel()
        logging.disable()  # Prefect would call a crash what was asked for; the state says it in the end
    try:
        await asyncio.gather(work, watch, return_exceptions=True)
    finally:
        logging.disable(disabled)


async def _create(flow: Flow[..., Any], deployment: str, entrypoint: str, given: Mapping[str, Any]) -> FlowRun:
    """The run, in a state in which no worker takes it."""
    async with get_client() as client:
        identifier = await _deployment(client, flow, deployment, entrypoint)
        return await client.create_flow_run_from_deployment(
            identifier, parameters=dict(given), state=Pending(), labels=owner()
        )


async def _deployment(client: PrefectClient, flow: Flow[..., Any], name: str, entrypoint: str) -> UUID:
    """The deployment that prefect.yaml describes; before `make up` has applied that, one that does the same."""
    try:
        found = await client.read_deployment_by_name(f"{flow.name}/{name}")
        if found.global_concurrency_limit is None:  # one would be for runs that a worker starts
            return found.id
    except ObjectNotFound:
        pass
    await create_pool()
    folder = str(Path.cwd())
    return await client.create_deployment(
        await client.create_flow(flow), name, description=flow.description, entrypoint=entrypoint, path=folder,
        work_pool_name=POOL, work_queue_name="default", job_variables={"working_dir": folder},
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(), enforce_parameter_schema=True,
    )  # fmt: skip


async def _until_cancelled(run: UUID) -> None:
    """Ends when the run or one of its subflows is to be cancelled. A server that does not answer is asked again."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            async with get_client() as client:
                family = await _family(client, run)
        except (HTTPError, ObjectNotFound, OSError):
            continue
        if any(member.state and (member.state.is_cancelling() or member.state.is_cancelled()) for member in family):
            return


async def _mark(run: UUID) -> None:
    """What Prefect took for a crash, and what still seems to run, was cancelled: the run and all of its subflows."""
    async with get_client() as client:
        for member in await _family(client, run):
            if member.state is None or not (member.state.is_completed() or member.state.is_failed()):
                await client.set_flow_run_state(member.id, Cancelled(message="Cancelled in Prefect."), force=True)


async def _family(client: PrefectClient, run: UUID) -> list[FlowRun]:
    """The run and its subflows, theirs too."""
    family = level = [await client.read_flow_run(run)]
    while level:
        parents = FlowRunFilterParentFlowRunId(any_=[member.id for member in level])
        level = await client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parents))
        family = [*family, *level]
    return family
