"""Servers that a team has already: used, never replaced, and said in one sentence where they cannot be."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows import servers, settings
from flows.given import check
from flows.settings import OWN, AddressError, ServerError, environment, given, mlflow_page, prefect_page

ROOT = Path(__file__).parents[2]


class Team(BaseHTTPRequestHandler):
    """Both of a team's servers behind one name and password."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization", ""))
        self.answer(200 if self.path == "/api/health" else 404, b"true")

    def do_POST(self) -> None:
        self.asked.append(self.headers.get("Authorization", ""))
        good = self.path == "/base/api/2.0/mlflow/experiments/search"
        self.answer(404 if not good else 200 if self.asked[-1] else 401, b'{"experiments": []}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    Team.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Team) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "LONGHAUL_HOST", "PREFECT_UI_URL", OWN):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_teams_servers_are_used_and_none_started(home: Path, team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://{team}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:secret@{team}/base")
    servers.up()
    assert Team.asked == ["", "Basic YW5uYTpzZWNyZXQ="]
    assert not (home / ".longhaul/servers.json").exists()
    assert environment()["PREFECT_API_URL"] == f"http://{team}/api"
    assert environment()["MLFLOW_TRACKING_URI"] == f"http://anna:secret@{team}/base"
    assert prefect_page("/runs") == f"http://{team}/runs"
    assert mlflow_page("/#/models") == f"http://***@{team}/base/#/models"


@pytest.mark.parametrize("action", ["up", "status", "stop"])
def test_commands_say_whose_the_servers_are(home: Path, team: str, action: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.servers", action], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": f"http://{team}/api",
             "MLFLOW_TRACKING_URI": f"http://anna:secret@{team}/base"},
    )  # fmt: skip
    assert f"Prefect  yours, at http://{team}/api" in done.stdout
    assert f"MLflow   yours, at http://***@{team}/base" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "uri", "words"),
    [
        ("Prefect", "http://127.0.0.1:9/api", "does not answer"),
        ("Prefect", "http://anna:secret@no-such-machine.invalid/api", "does not answer"),
        ("Prefect", "127.0.0.1:4200/api", "is no address"),
        ("Prefect", "http://127.0.0.1:web/api", "is no address"),
        ("Prefect", "http://[::1/api", "is no address"),
        ("Prefect", "sqlite:///prefect.db", "is no address"),
        ("Prefect", "http:///api", "is no address"),
        ("Prefect", "http://a b/api", "is no address"),
        ("Prefect", "http://TEAM", "Prefect's address ends in /api"),
        ("MLflow", "http://127.0.0.1:9", "does not answer"),
        ("MLflow", "gopher://host", "is no address"),
        ("MLflow", "http://TEAM/base", "MLFLOW_TRACKING_USERNAME"),
        ("MLflow", "http://anna:secret@TEAM", "is no MLflow server"),
        ("MLflow", "sqlite:///words.db", "cannot be read"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(
    name: str, uri: str, words: str, home: Path, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "words.db").write_text("words " * 200)
    monkeypatch.setenv(settings.VARIABLES[name], uri.replace("TEAM", team))
    monkeypatch.setenv("MLFLOW_TRACKING_URI" if name == "Prefect" else "PREFECT_API_URL", f"http://{team}/api")
    with pytest.raises(ServerError) as refused:
        servers.up()
    said = str(refused.value)
    assert words in said
    assert settings.VARIABLES[name] in said
    assert said.endswith(".")
    assert "secret" not in said
    assert not (home / ".longhaul/servers.json").exists()


@pytest.mark.parametrize(
    "uri", ["file:runs", "runs", "sqlite:///runs.db", "databricks", "postgresql+psycopg2://u:p@h/d"]
)
def test_mlflow_may_be_a_store_without_a_server(uri: str, home: Path) -> None:
    check("MLflow", uri)


def test_an_unknown_key_is_refused_by_name(team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    check("Prefect", f"http://{team}/api")
    assert Team.asked == ["Bearer pnu_secret"]
    with pytest.raises(AddressError, match=r"lets nobody in with these credentials \(401\)"):
        check("MLflow", f"http://{team}/base")


def test_what_a_run_sets_is_not_taken_for_the_persons(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team.example")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    assert given("Prefect") is None
    assert given("MLflow") == "http://team.example"
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", "4321")  # of a program further down: still ours, at its new place
    assert environment()["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


def test_what_another_folders_run_set_is_the_persons(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    other = home / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert given("Prefect") == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize("mark", ["", "[]", "5", "{", '{"home": 5}', "null"])
def test_a_foreign_mark_is_none(mark: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN, mark)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert given("Prefect") == "http://127.0.0.1:4200/api"


def test_the_address_of_our_own_server_is_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person exports it to use `prefect` and `mlflow` by hand; the servers are started all the same."""
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", "4397")
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4397/api")
    assert servers.is_ours(settings.prefect_address())
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4398/api")
    assert not servers.is_ours(settings.prefect_address())


def test_somebody_elses_server_at_our_place_is_used(home: Path, team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_PREFECT_PORT", team.partition(":")[2])
    monkeypatch.setenv("PREFECT_API_URL", f"http://{team}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    servers.up()
    assert json.loads(environment()[OWN]).keys() == {"home"}
