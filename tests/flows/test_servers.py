"""Ports, and processes that only `stop` may end."""

import json
import socket
from pathlib import Path

import psutil
import pytest

from flows import servers
from flows.settings import prefect_address


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


def test_servers_bind_to_this_machine_only_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGHAUL_HOST", raising=False)
    assert "127.0.0.1" in servers._prefect()
    assert "127.0.0.1" in servers._mlflow()
