from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.config import load_config
from tasks.tracking import TrackingError, run
from tasks.tracking.experiment import artifact_place, client, recorded_run
from tasks.tracking.registry import (
    RegistryError,
    champion,
    download,
    history,
    main,
    move_champion,
    register,
    rollback,
    versions,
)

PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One SQLite store for the module: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


def model_folder(place: Path, weights: bytes) -> Path:
    place.mkdir(exist_ok=True)
    (place / "model.safetensors").write_bytes(weights)
    (place / "config.json").write_text("{}")
    return place


def register_two(store: Path, name: str) -> Any:
    config = load_config(PARAMS)
    with run("promote", config) as tracker:
        for weights in (b"one", b"two"):
            register(tracker, model_folder(store / weights.decode(), weights), name, {"git_commit": "abc"})
        return tracker.client


def test_round_trip_and_rollback(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handle = register_two(store, "walker")
    assert champion(handle, "walker") is None
    move_champion(handle, "walker", "1", "first")
    move_champion(handle, "walker", "2", "better")
    best = champion(handle, "walker")
    assert best is not None
    assert best.number == "2"
    got = download(handle, "walker", "champion", store / "got")
    assert got == store / "got"
    assert (got / "model.safetensors").read_bytes() == b"two"
    with pytest.raises(RegistryError, match="something is there already"):
        download(handle, "walker", "champion", got)
    assert main(["rollback", "--name", "walker"]) == 0
    assert "version 1 again" in capsys.readouterr().out
    assert download(handle, "walker", "champion", store / "back").joinpath("model.safetensors").read_bytes() == b"one"
    assert [entry["reason"] for entry in history(handle, "walker")] == ["first"]
    with pytest.raises(RegistryError, match="no earlier champion"):
        rollback(handle, "walker")


def test_the_registered_copy_outlives_the_folder(store: Path) -> None:
    handle = register_two(store, "keeper")
    move_champion(handle, "keeper", "1", "first")
    (store / "one" / "model.safetensors").write_bytes(b"overwritten")
    assert (download(handle, "keeper", "1", store / "kept") / "model.safetensors").read_bytes() == b"one"


def test_moving_to_a_missing_version_changes_nothing(store: Path) -> None:
    handle = register_two(store, "strict")
    move_champion(handle, "strict", "1", "first")
    with pytest.raises(RegistryError, match="no version 9"):
        move_champion(handle, "strict", "9", "typo")
    best = champion(handle, "strict")
    assert best is not None
    assert best.number == "1"
    assert len(versions(handle, "strict")) == 2


def test_command_line_says_what_is_missing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "--name", "nobody"]) == 2
    assert "no earlier champion of nobody" in capsys.readouterr().err


def test_a_folder_without_weights_is_refused(store: Path) -> None:
    (store / "empty").mkdir()
    with run("promote", load_config(PARAMS)) as tracker, pytest.raises(RegistryError, match=r"no model\.safetensors"):
        register(tracker, store / "empty", "walker", {})


def test_a_killed_run_is_continued_and_a_finished_one_is_not(store: Path) -> None:
    config = load_config(PARAMS)
    with pytest.raises(KeyboardInterrupt), run("pretrain", config):
        raise KeyboardInterrupt
    killed = recorded_run("pretrain")
    assert killed["status"] == "KILLED"
    with run("pretrain", config) as tracker:
        assert tracker.run_id == killed["run_id"]
    with run("pretrain", config) as tracker:
        assert tracker.run_id != killed["run_id"]
    with run("pretrain", load_config(PARAMS, ["pretrain.steps=7"])) as tracker:
        assert tracker.client.get_run(tracker.run_id).data.params["pretrain.steps"] == "7"


def test_metrics_and_identity_arrive(store: Path) -> None:
    (store / "manifest.json").write_text("{}")
    with run("midtrain", load_config(PARAMS), inputs=[store / "manifest.json"]) as tracker:
        for step in range(600):
            tracker.log({"loss": float(step)}, step)
        tracker.summary({"bpb": {"value": 2.0, "ci95": [1.5, 2.5], "n": 3}, "shell": {"pass@1": 0.5}})
    data = tracker.client.get_run(tracker.run_id).data
    assert data.metrics["loss"] == 599.0
    assert (data.metrics["bpb.low"], data.metrics["shell.pass_at_1"]) == (1.5, 0.5)
    assert len(tracker.client.get_metric_history(tracker.run_id, "loss")) == 600
    assert data.tags["data_hash"] == recorded_run("midtrain")["data_hash"]
    assert set(data.tags) >= {"stage", "params_hash", "git_commit"}


def test_an_unreachable_server_is_one_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        client()


def test_what_the_server_stored_is_read_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    served = "mlflow-artifacts:/1/run/artifacts/model"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert artifact_place(served) == f"file://{tmp_path}/.longhaul/mlflow/artifacts/1/run/artifacts/model"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert artifact_place(served) == served
