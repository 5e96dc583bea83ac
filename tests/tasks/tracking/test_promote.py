from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import promote
from tasks.config import load_config
from tasks.tracking import experiment, registry
from tasks.tracking.experiment import client
from tasks.tracking.table import closing_table
from tests.tasks.small_disk import contents, leave

PARAMS = Path(__file__).parents[3] / "params.yaml"
TASKS = 30
IDENTITY = {"stage": "reinforce", "params_hash": "p" * 32, "data_hash": "d" * 32}


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "ci95": [value - 0.05, value + 0.05], "n": 100}


def scores(value: float) -> dict[str, Any]:
    return {
        "pass_at_1": estimate(value),
        "pass_at_8": estimate(value),
        "greedy": estimate(value),
        "by_horizon": {"1": estimate(value)},
        "recovery_rate": estimate(value),
    }


def write_checkpoint(folder: Path, weights: bytes, baseline: int, candidate: int) -> None:
    """A candidate that solves `candidate` of 30 tasks, the checkpoint before RL `baseline` of them."""
    sha = hashlib.sha256(weights).hexdigest()
    checkpoint = folder / "checkpoints/reinforce"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "model.safetensors").write_bytes(weights)
    (checkpoint / "longhaul.json").write_text(json.dumps({"model_sha256": sha, **IDENTITY}))
    for name in ("metrics", "results/evaluate"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    evaluation = {
        "shell": scores(0.6) | {"baseline": scores(0.3)},
        "humaneval": {"n": 164, "pass_at_1": estimate(0.0)},
        "heldout_bits_per_byte": estimate(2.3),
        "retrieval": {"all": estimate(0.7)},
        "baseline": {"heldout_bits_per_byte": estimate(2.3)},
        "model_sha256": sha,
        "seconds": 60.0,
    }
    (folder / "metrics/evaluate.json").write_text(json.dumps(evaluation))
    records = [*episodes("baseline", baseline), *episodes("candidate", candidate)]
    (folder / "results/evaluate/samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def episodes(model: str, solved: int) -> list[dict[str, Any]]:
    return [
        {
            "model": model, "task_id": f"shell-heldout-{index}", "task_hash": f"h{index}", "family": "shell",
            "horizon": 1, "sample": 0, "temperature": 1.0, "passed": index < solved, "error": None, "turns": 1,
            "failed_commands": index % 2, "finish_reason": "stop",
            "text": "<|user|>say <b>hi</b><|assistant|>echo hi<|observation|>hi<|assistant|><|endoftext|>",
        }
        for index in range(TASKS)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("promote")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "params.yaml").write_text(PARAMS.read_text())
        yield folder


def run_promote(name: str, *arguments: str) -> dict[str, Any]:
    assert promote.main(["--set", f"promote.name={name}", *arguments]) == 0
    found: dict[str, Any] = json.loads(Path("metrics/promote.json").read_text())
    return found


def test_first_promotion_needs_a_gain_over_the_checkpoint_before_rl(house: Path) -> None:
    write_checkpoint(house, b"no better", baseline=10, candidate=10)
    refused = run_promote("first")
    assert not refused["passed"]
    assert refused["champion"] is None
    assert refused["version"] == "first/1"
    write_checkpoint(house, b"better", baseline=10, candidate=22)
    promoted = run_promote("first")
    assert promoted["passed"]
    assert promoted["champion"] == "2"
    assert promoted["lower"] > 0


def test_a_champion_is_replaced_by_an_equal_and_kept_against_a_worse(house: Path) -> None:
    for weights, solved, champion in ((b"a", 20, "1"), (b"b", 20, "2"), (b"c", 12, "2")):
        write_checkpoint(house, weights, baseline=5, candidate=solved)
        found = run_promote("second")
        assert found["champion"] == champion
    assert "champion version 2" in found["opponent"]
    assert not found["passed"]
    assert registry.main(["rollback", "--name", "second"]) == 0
    best = registry.champion(client(), "second")
    assert best is not None
    assert best.number == "1"


def test_champions_that_are_each_a_little_worse_are_stopped(house: Path) -> None:
    """Every step passes against the last champion; the third would fall behind the best one by more than the margin."""
    margin = ("--set", "promote.margin=0.2")
    for weights, solved, champion in ((b"p", 20, "1"), (b"q", 18, "2"), (b"r", 16, "2"), (b"s", 30, "4")):
        write_checkpoint(house, weights, baseline=5, candidate=solved)
        found = run_promote("downhill", *margin)
        assert found["champion"] == champion
        if solved == 16:
            assert found["opponent"] == "version 1 (the best champion so far)"
            assert -0.2 < found["difference"] < 0
        assert found["best_champion"] == ("4" if solved == 30 else "1")
    assert registry.main(["rollback", "--name", "downhill"]) == 0
    best = registry.best_champion(client(), "downhill")
    assert best is not None
    assert best.number == "1"


def test_promoting_the_same_weights_twice_registers_once(house: Path) -> None:
    write_checkpoint(house, b"same", baseline=5, candidate=20)
    run_promote("third")
    again = run_promote("third")
    assert again["unchanged"]
    assert len(registry.versions(client(), "third")) == 1


def test_the_registered_folder_has_a_card_with_scores_and_gate(house: Path, tmp_path: Path) -> None:
    write_checkpoint(house, b"card", baseline=5, candidate=20)
    run_promote("fourth")
    folder = registry.download(client(), "fourth", "champion", tmp_path / "got")
    card = (folder / "README.md").read_text()
    assert "| shell pass@1 | 0.300 | 0.600 | [0.550, 0.650] | 100 |" in card
    assert "promoted." in card
    assert len((folder / "evaluation.jsonl").read_text().splitlines()) == TASKS


def test_a_version_is_labelled_with_the_commit_that_made_its_checkpoint(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(house, b"commit", baseline=5, candidate=20)
    for commit, status in (("old", None), ("made", None), ("failed", ValueError)):
        monkeypatch.setattr(experiment, "provenance", lambda *_: dict(IDENTITY))
        monkeypatch.setattr(experiment, "git_commit", lambda commit=commit: commit)
        with contextlib.suppress(ValueError), experiment.run("reinforce", load_config(PARAMS)):
            if status:
                raise status
    monkeypatch.undo()
    monkeypatch.chdir(house)
    run_promote("labelled")
    (version,) = registry.versions(client(), "labelled")
    assert version.tags["git_commit"] == "made"
    assert ">made<" in (house / "report/index.html").read_text()


def test_the_report_loads_nothing_and_escapes_transcripts(house: Path) -> None:
    write_checkpoint(house, b"page", baseline=5, candidate=20)
    run_promote("fifth")
    page = (house / "report/index.html").read_text()
    assert not re.search(r"https?:|//\w|src=|@import|<script|<link", page)
    assert "say <b>hi</b>" not in page
    assert "say &lt;b&gt;hi&lt;/b&gt;" in page
    assert page.count("<svg") >= 2
    assert "Gate passed." in page


def test_scores_of_other_weights_are_refused(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(house, b"one", baseline=5, candidate=20)
    (house / "checkpoints/reinforce/model.safetensors").write_bytes(b"two")
    assert promote.main(["--set", "promote.name=sixth"]) == 2
    assert "measured on other weights" in capsys.readouterr().err
    assert registry.versions(client(), "sixth") == []


def test_a_broken_results_line_is_named(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(house, b"broken", baseline=5, candidate=20)
    path = house / "results/evaluate/samples.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "{", *lines[3:]]))
    assert promote.main(["--set", "promote.name=seventh"]) == 2
    assert "Line 4 of results/evaluate/samples.jsonl" in capsys.readouterr().err


def test_the_closing_table_states_the_overhead(house: Path) -> None:
    write_checkpoint(house, b"table", baseline=5, candidate=20)
    (house / "metrics/promote.json").unlink(missing_ok=True)
    table = closing_table(75.0)
    first, greedy = (line for line in table.splitlines() if "shell: pass@1" in line or "shell: greedy pass@1" in line)
    assert first.endswith("| 60 |")
    assert "| 0.300 | 0.600 | [0.550, 0.650] | 100 |" in greedy
    assert "15 s = 20.0%" in table
    assert "skipped" in closing_table(5.0)
    os.utime(house / "metrics/evaluate.json", (0, 0))
    assert "skipped" in closing_table(75.0)


def test_a_full_disk_is_one_sentence_and_moves_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (small / "params.yaml").write_text(PARAMS.read_text())
    write_checkpoint(small, b"first", baseline=5, candidate=20)
    run_promote("small")
    before = contents(small / "report") | contents(small / "metrics")
    write_checkpoint(small, bytes(400_000), baseline=5, candidate=28)
    before |= {"evaluate.json": (small / "metrics/evaluate.json").read_bytes()}
    for free in (0, 20_000, 60_000, 500_000):  # for the run, its parameters, the copy, the upload
        leave(small, free)
        capsys.readouterr()
        assert promote.main(["--set", "promote.name=small"]) == 1, free
        message = capsys.readouterr().err
        assert message.startswith("The disk is full: the stage 'promote' could not write below "), free
        assert message.count("\n") == 1, free
        assert contents(small / "report") | contents(small / "metrics") == before, free
    (small / "filling").unlink()
    assert [version.number for version in registry.versions(client(), "small")] == ["1"]
    assert run_promote("small")["champion"] == "2"
