"""Ports, and processes that only `stop` may end."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows import servers
from flows.settings import environment, mlflow_address, prefect_address

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(servers, "HOME", tmp_path)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "LONGHAUL_HOST"):
        monkeypatch.delenv(name, raising=False)
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


def command(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    return subprocess.run(
        [sys.executable, "-m", "flows.servers", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**base, "PYTHONPATH": str(ROOT), **settings},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"LONGHAUL_PREFECT_PORT": "web"}, "LONGHAUL_PREFECT_PORT is 'web'"),
        ({"LONGHAUL_PREFECT_PORT": "0"}, "LONGHAUL_PREFECT_PORT is '0'"),
        ({"LONGHAUL_MLFLOW_PORT": "70000"}, "LONGHAUL_MLFLOW_PORT is '70000'"),
        ({"LONGHAUL_MLFLOW_PORT": "-1"}, "LONGHAUL_MLFLOW_PORT is '-1'"),
        ({"LONGHAUL_PREFECT_PORT": "٣"}, "LONGHAUL_PREFECT_PORT is '٣'"),
        ({"LONGHAUL_PREFECT_PORT": "²"}, "LONGHAUL_PREFECT_PORT is '²'"),
        ({"LONGHAUL_PREFECT_PORT": "9" * 5000}, "which is no port"),
        ({"LONGHAUL_PREFECT_PORT": "4300", "LONGHAUL_MLFLOW_PORT": "4300"}, "are both 4300"),
        ({"LONGHAUL_HOST": "203.0.113.9"}, "on 203.0.113.9"),
        ({"LONGHAUL_HOST": "no-such-machine.invalid"}, "on no-such-machine.invalid"),
        ({"LONGHAUL_HOST": "a..b"}, "on a..b"),
        ({"LONGHAUL_HOST": "x" * 70}, "no name of a machine"),
        ({"LONGHAUL_HOST": "http://here"}, "on http://here"),
    ],
)
def test_a_wrong_place_is_one_sentence_and_starts_nothing(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    done = command(tmp_path, "up", **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stderr.endswith(".\n")
    assert not (tmp_path / ".longhaul/servers.json").exists()


def test_a_second_server_that_fails_ends_the_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", str(free_port()))
    monkeypatch.setenv("LONGHAUL_MLFLOW_PORT", str(free_port()))
    monkeypatch.setattr(servers, "_prefect", lambda: ["sleep", "300"])
    monkeypatch.setattr(servers, "_mlflow", lambda: ["no-such-program"])
    others = set(psutil.Process().children())
    with pytest.raises(servers.ServerError, match=r"The MLflow cannot be started"):
        servers.up()
    assert {child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE} <= others
    assert not (home / "servers.json").exists()


def test_a_server_that_was_there_stays_when_another_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", port)
    monkeypatch.setenv("LONGHAUL_MLFLOW_PORT", str(free_port()))
    waiting = [sys.executable, "-c", "import time; time.sleep(300)", "127.0.0.1", port]
    assert servers._start_server(prefect_address(), waiting)
    monkeypatch.setattr(servers, "_mlflow", lambda: ["false"])
    monkeypatch.setattr(servers, "START_SECONDS", 1.0)
    with pytest.raises(servers.ServerError, match=r"The Prefect server did not answer"):
        servers.up()
    assert servers.stop() == ["Prefect"]


@pytest.mark.parametrize(("name", "server"), [("prefect/prefect.db", "Prefect"), ("mlflow/mlflow.db", "MLflow")])
@pytest.mark.parametrize("content", [b"not a database, and long enough to be one, in words " * 40, None])
def test_a_foreign_database_is_one_sentence(
    name: str, server: str, content: bytes | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home / name
    place.parent.mkdir(parents=True)
    place.mkdir() if content is None else place.write_bytes(content)
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", str(free_port()))
    monkeypatch.setenv("LONGHAUL_MLFLOW_PORT", str(free_port()))
    monkeypatch.setattr(servers, "_prefect", lambda: ["sleep", "300"])
    with pytest.raises(servers.ServerError, match=rf"The database .*{name} cannot be read .*\.$"):
        servers.up()
    assert servers.stop() == []
    if content is not None:
        assert place.read_bytes() == content


def test_a_colon_in_the_folders_name_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    done = command(folder, "up")
    assert done.returncode == 2
    assert "a:b has a colon in its name" in done.stderr


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
