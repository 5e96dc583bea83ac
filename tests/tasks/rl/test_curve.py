"""The curve of a run in MLflow while the run goes on."""

from pathlib import Path

import pytest

from tasks.config import load_config
from tasks.rl import curve
from tasks.tracking import run
from tasks.tracking.experiment import recorded_run

PARAMS = Path(__file__).parents[3] / "params.yaml"


def line(step: int) -> str:
    return f"[reinforce] step {step}/26 reward 0.250 staleness 1 entropy 0.100 dropped 0 tok/s 99"


def test_the_learners_lines_are_understood() -> None:
    assert [step for step in range(1, 13) if curve.is_due(line(step))] == [4, 8, 12]
    assert not curve.is_due("[judge] step 4/26 reward")


def test_the_curve_grows_before_the_run_ends_and_holds_every_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trained: list[dict[str, object]] = []
    monkeypatch.setattr(curve, "read_history", lambda _run_dir: trained)
    config, shown = load_config(PARAMS), []
    with run("reinforce", config, leave_open=True) as tracker:
        handle = curve.sending(tracker, tmp_path, shown.append)
        for step in range(10):
            trained.append({"step": step, "reward": step / 10, "note": "no number"})
            handle(line(step + 1))
        assert logged(tracker) == list(range(8))
        first = tracker.run_id
    assert recorded_run("reinforce")["status"] == "RUNNING"
    with run("reinforce", config) as tracker:
        assert tracker.run_id == first
        curve.send_history(tracker, tmp_path)
        assert logged(tracker) == list(range(10))
    assert tracker.client.get_run(first).info.status == "FINISHED"
    assert len(shown) == 10


def logged(tracker: object) -> list[int]:
    return [entry.step for entry in tracker.client.get_metric_history(tracker.run_id, "reward")]
