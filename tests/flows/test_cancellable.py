"""A run in a program's own process, on real servers: cancelled as the UI does, or killed while it runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import asyncio, os, sys
from pathlib import Path
from flows.settings import environment
os.environ.update(environment())
from prefect import flow
from flows.cancellable import RunCancelled, run_cancellable
from flows.command import stream
from flows.owners import record_owner

SLEEP = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)"

async def show(line):
    pass

@flow(name="pretrain")
async def inner():
    await record_owner()
    await stream([sys.executable, "-c", SLEEP], show)

@flow(name="longhaul")
async def outer():
    await record_owner()
    await inner()

try:
    asyncio.run(run_cancellable(outer, "pipeline", "run.py:outer", {}))
except RunCancelled as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""
pytestmark = pytest.mark.slow


def ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with servers of its own."""
    place = tmp_path_factory.mktemp("folder")
    prefect, mlflow = ports()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("LONGHAUL_PREFECT_PORT", str(prefect))
        patch.setenv("LONGHAUL_MLFLOW_PORT", str(mlflow))
        patch.setenv("PYTHONPATH", str(ROOT))
        (place / "run.py").write_text(RUN)
        try:
            subprocess.run([sys.executable, "-m", "flows.servers", "up"], cwd=place, check=True, timeout=240)
            yield place
        finally:
            subprocess.run([sys.executable, "-m", "flows.servers", "stop"], cwd=place, check=True, timeout=120)


def api(path: str, body: Any) -> Any:
    address = f"http://127.0.0.1:{os.environ['LONGHAUL_PREFECT_PORT']}/api{path}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def start(folder: Path) -> tuple[subprocess.Popen[str], int, str]:
    """The program, the process that its inner flow started, and the id of the outer run."""
    (folder / "pid").unlink(missing_ok=True)
    program = subprocess.Popen([sys.executable, "run.py"], cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not ((folder / "pid").exists() and (folder / "pid").read_text()):
        assert program.poll() is None, program.communicate(timeout=5)[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    newest = api("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20})
    outer = next(run for run in newest if run["parent_task_run_id"] is None and run["state_type"] == "RUNNING")
    return program, int((folder / "pid").read_text()), outer["id"]


def states() -> set[str]:
    return {run["state_type"] for run in api("/flow_runs/filter", {"limit": 20})}


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_a_run_cancelled_in_the_ui_ends_with_all_that_it_started(folder: Path) -> None:
    program, pid, run = start(folder)
    api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    said = program.communicate(timeout=120)[1]
    assert program.returncode == 130
    assert said.splitlines()[-1] == "The run was cancelled in Prefect; the same command goes on from here."
    assert gone(pid)
    assert states() == {"CANCELLED"}


def test_a_killed_run_does_not_seem_to_run_for_ever(folder: Path) -> None:
    program, pid, _ = start(folder)
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    assert gone(pid)
    assert "RUNNING" in states()
    subprocess.run([sys.executable, "-m", "flows.servers", "up"], cwd=folder, check=True, timeout=240)
    assert states() == {"CANCELLED", "CRASHED"}
