"""The slot that lets one stage at a time use the accelerator, or this machine's cores; who waits says for whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.settings import HOME

SLOT = "accelerator"
LEASE_SECONDS = 60.0  # a killed flow holds the slot at most this long; Prefect's least, and its default is 300
SAY_AFTER, SAY_EVERY = 2.0, 60.0  # seconds


@asynccontextmanager
async def accelerator() -> AsyncIterator[None]:
    """Holds the slot. While another run has it, the log of this one says so, at once and every minute."""
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run.id)) if flow_run.id else None
    saying = asyncio.create_task(_say_waiting())
    try:
        async with concurrency(SLOT, occupy=1, lease_duration=LEASE_SECONDS, holder=holder):
            saying.cancel()
            yield
    finally:
        saying.cancel()


def leases() -> Iterator[Path]:
    """The files that our own server keeps of the slots that are taken."""
    return (HOME / "prefect" / "concurrency_leases").glob("*-*-*-*-*.json")


async def _say_waiting() -> None:
    await asyncio.sleep(SAY_AFTER)
    while True:
        name = await _holder()
        who = f"the run {name!r} has" if name else "another run has"
        get_run_logger().info(
            f"Waiting for the {SLOT}, which {who}: one stage runs at a time. The slot of a run that was killed is free "
            "again after a minute or two."
        )
        await asyncio.sleep(SAY_EVERY)


async def _holder() -> str | None:
    """The name of the run that has the slot, where our own server tells."""
    for file in leases():
        with suppress(OSError, ValueError, KeyError, TypeError, HTTPError, ObjectNotFound):
            lease = json.loads(file.read_text(encoding="utf-8"))
            if datetime.fromisoformat(lease["expiration"]) > datetime.now(UTC):
                async with get_client() as client:
                    return (await client.read_flow_run(UUID(lease["metadata"]["holder"]["id"]))).name
    return None
