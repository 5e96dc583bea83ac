"""Ports, and processes that only `stop` may end."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows import servers
from flows.settings import environment, mlflow_address, prefect_address


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(servers, "HOME", tmp_path)
    return tmp_path


def test_port_in_use_is_one_sentence_with_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("LONGHAUL_PREFECT_PORT", str(port))
        with pytest.raises(servers.ServerError, match=f"port {port}.*LONGHAUL_PREFECT_PORT"):
            servers._start_server(prefect_address(), ["true"])
    assert not (home / "servers.json").exists()


def test_stop_leaves_a_process_that_only_reuses_the_id(home: Path) -> None:
    own = psutil.Process()
    (home / "servers.json").write_text(json.dumps({"Prefect": {"pid": own.pid, "created": own.create_time() - 60}}))
    assert servers.stop() == []
    assert own.is_running()


def test_servers_bind_to_this_machine_only_by_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGHAUL_HOST", raising=False)
    assert "127.0.0.1" in servers._prefect()
    assert "127.0.0.1" in servers._mlflow()
    assert "--allowed-hosts" not in servers._mlflow()


@pytest.mark.parametrize(
    ("host", "opened"),
    [("0.0.0.0", "http://127.0.0.1:4200"), ("::", "http://[::1]:4200"), ("gpu.example", "http://gpu.example:4200")],
)
def test_links_and_clients_get_an_address_that_can_be_opened(
    host: str, opened: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGHAUL_HOST", host)
    monkeypatch.delenv("LONGHAUL_PREFECT_PORT", raising=False)
    assert host in servers._prefect()
    assert prefect_address().url == opened
    assert environment()["PREFECT_API_URL"] == f"{opened}/api"
    assert opened.removeprefix("http://") in prefect_address().places


def test_a_host_that_cannot_be_had_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_HOST", "203.0.113.9")  # of an example network, not of this machine
    with pytest.raises(servers.ServerError, match=r"on 203\.0\.113\.9 .*LONGHAUL_HOST\.$"):
        servers._check_port(prefect_address())


@pytest.mark.slow
def test_mlflow_answers_to_the_machines_names_where_it_is_bound_everywhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LONGHAUL_MLFLOW_PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("LONGHAUL_HOST", "0.0.0.0")
    address = mlflow_address()
    try:
        servers._start_server(address, servers._mlflow())
        servers._wait(address, "/health")
        mine = f"{socket.gethostname()}:{address.port}"
        assert answer(address.url, mine, f"http://{mine}") == 200
        assert answer(address.url, "elsewhere.example", "http://localhost") == 403
        assert answer(address.url, mine, "http://elsewhere.example") == 403
    finally:
        assert servers.stop() == ["MLflow"]


def answer(url: str, host: str, origin: str) -> int:
    """The status of a search for experiments as a browser asks it."""
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}',
        {"Content-Type": "application/json", "Host": host, "Origin": origin},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
