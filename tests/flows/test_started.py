"""servers.json is written by us and read as anyone's: never a traceback, and nobody else's process ended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.settings import ServerError
from flows.started import Started

ROOT = Path(__file__).parents[2]
SAID = "is not what `make up` writes"
FOREIGN = [
    b"", b"[]", b"null", b"5", b'"Prefect"', b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"Prefect": 5}',
    b'{"Prefect": {}}',
    b'{"Prefect": {"pid": "5", "created": 1}}', b'{"Prefect": {"pid": -5, "created": 1}}',
    b'{"Prefect": {"pid": 0, "created": 1}}', b'{"Prefect": {"pid": 1e400, "created": 1}}',
    b'{"Prefect": {"pid": true, "created": 1}}', b'{"Prefect": {"pid": 99999999999999999999, "created": 1}}',
    b'{"Prefect": {"pid": 5, "created": null}}', b'{"Prefect": {"pid": 5, "created": NaN}}',
    b'{"Prefect": {"pid": 5, "created": 1' + b"0" * 400 + b"}}", b'{"MLflow": {"pid": 1' + b"0" * 5000 + b"}}",
]  # fmt: skip


def servers(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.servers", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": "", "MLFLOW_TRACKING_URI": ""},
    )  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_record_counts_as_empty_and_is_written_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "servers.json"
    path.write_bytes(content)
    record = Started(path)
    assert [record.running(name) for name in ("Prefect", "MLflow", "worker")] == [None, None, None]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert SAID in said
    record.remember("Prefect", os.getpid())
    assert json.loads(path.read_text())["Prefect"]["pid"] == os.getpid()
    assert record.running("Prefect") == psutil.Process()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
@pytest.mark.parametrize("action", ["status", "stop"])
def test_commands_say_one_sentence_of_a_broken_record(make: object, action: str, tmp_path: Path) -> None:
    (tmp_path / ".longhaul").mkdir()
    make(tmp_path / ".longhaul/servers.json")  # type: ignore[operator]
    done = servers(tmp_path, action)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert SAID in done.stderr


def test_a_folder_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.mkdir()
    with pytest.raises(ServerError, match=r"servers\.json, cannot be written"):
        Started(path).remember("Prefect", os.getpid())


def test_the_good_part_of_a_record_stays(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    Started(path).remember("Prefect", os.getpid())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"MLflow": 5}))
    assert Started(path).running("Prefect") == psutil.Process()


def test_what_was_started_is_ended_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    with subprocess.Popen(["sleep", "300"]) as child:
        Started(path).remember("Prefect", child.pid)
        assert Started(path).end("Prefect")
    assert not path.exists()
    assert not Started(path).end("Prefect")
