"""The deployments on a real Prefect server: with an unsuitable SQLAlchemy it looks healthy and never schedules."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import servers, settings

CRASH_AUTOMATION = "Mark silent flow runs as crashed"
SECONDS = 60.0
ROOT = Path(__file__).parents[2]
NIGHT = """
import asyncio, json, sys
from pathlib import Path
from flows import nightly

async def evaluate(command, on_line):
    target = Path(command[command.index("--metrics") + 1])
    target.parent.mkdir(parents=True)
    target.write_text(sys.argv[1])

nightly.stream = evaluate
asyncio.run(nightly.nightly_evaluation())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with a home and a port of its own, everything applied to it; its API address."""
    home = tmp_path_factory.mktemp("longhaul")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGHAUL_HOST", "127.0.0.1")
        patch.setenv("LONGHAUL_PREFECT_PORT", str(port))
        patch.setattr(settings, "HOME", home)
        patch.setattr(servers, "HOME", home)
        address = settings.prefect_address()
        try:
            servers._start_server(address, servers._prefect())
            servers._wait(address, "/api/health")
            for _ in range(2):  # safe to repeat
                program([sys.executable, "-m", "flows.deploy"], ROOT).check_returncode()
            yield f"{address.url}/api"
        finally:
            assert servers.stop() == ["Prefect"]


def program(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def scheduled(server: str, deployment: str) -> list[Any]:
    wanted = {
        "deployments": {"name": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    return list(ask(f"{server}/flow_runs/filter", wanted))


@pytest.mark.slow
def test_the_nightly_deployment_gets_scheduled_runs_and_silent_runs_crash(server: str) -> None:
    deployments = {entry["name"]: entry for entry in ask(f"{server}/deployments/filter", {})}
    assert deployments.keys() == {"pipeline", "nightly-evaluation"}
    assert deployments["nightly-evaluation"]["entrypoint"] == "flows/nightly.py:nightly_evaluation"
    assert [pool["name"] for pool in ask(f"{server}/work_pools/filter", {})] == ["local"]
    with urllib.request.urlopen(f"{server.removesuffix('/api')}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["api_url"] == "/api"  # a page opened under another name finds its server
    limits = ask(f"{server}/v2/concurrency_limits/filter", {})
    assert [limit["limit"] for limit in limits if limit["name"] == "accelerator"] == [1]
    automations = [entry for entry in ask(f"{server}/automations/filter", {}) if entry["name"] == CRASH_AUTOMATION]
    assert [entry["enabled"] for entry in automations] == [True]

    deadline = time.monotonic() + SECONDS
    while not (runs := scheduled(server, "nightly-evaluation")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert runs
    assert all("T03:00:00" in run["expected_start_time"] for run in runs)
    assert not scheduled(server, "pipeline")


def scores(value: float) -> str:
    estimate = {"value": value, "ci95": [value - 0.05, value + 0.05], "n": 100}
    return json.dumps({"shell": {"pass_at_1": estimate, "greedy": estimate}})


@pytest.mark.slow
@pytest.mark.parametrize(("after", "message"), [(0.4, "fell from 0.600 before to 0.400 after"), (0.59, None)])
def test_a_night_fails_when_the_score_fell_and_leaves_the_recipes_files_alone(
    server: str, tmp_path: Path, after: float, message: str | None
) -> None:
    recorded = tmp_path / "metrics" / "evaluate.json"
    recorded.parent.mkdir()
    recorded.write_text(scores(0.6))
    night = program([sys.executable, "-c", NIGHT, scores(after)], tmp_path)
    assert (night.returncode != 0) == (message is not None), night.stderr
    assert message is None or message in night.stderr
    assert recorded.read_text() == scores(0.6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".longhaul", "metrics"]
