from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.training.errors import TrainingDataError
from tasks.training.trajectories import Trajectories, load_transcripts


class Letters:
    """Renders a demonstration as the numbers it holds: the model's own are odd."""

    def render_demo(self, demo: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        ids = [int(number) for number in demo["instruction"].split()]
        return ids, [float(i % 2) for i in ids]


def demonstration(task_id: str, *ids: int) -> str:
    return json.dumps({"task_id": task_id, "family": "shell", "instruction": " ".join(map(str, ids)), "turns": []})


def write(folder: Path, lines: list[str]) -> None:
    (folder / "shell.jsonl").write_text("\n".join(lines) + "\n")


def test_own_tokens_weigh_more_and_a_few_tasks_are_kept_away(tmp_path: Path) -> None:
    write(tmp_path, [demonstration(f"t{i // 2}", i + 2, 3, 4) for i in range(600)])
    (tmp_path / "heldout.jsonl").write_text("this is not read\n")
    train, kept = load_transcripts(tmp_path, Letters(), own_weight=2.0, other_weight=0.1)
    trained, away = train["shell"], kept["shell"]
    assert len(trained) + len(away) == 600
    assert 2 < len(away) < 60
    assert {int(ids[0]) // 2 for ids, _ in trained}.isdisjoint({int(ids[0]) // 2 for ids, _ in away})
    ids, weights = trained[0]
    assert weights.tolist() == pytest.approx([2.0 if i % 2 else 0.1 for i in ids])


def test_rows_are_full_and_first_tokens_carry_no_loss() -> None:
    transcripts = [(np.arange(5, 12), np.ones(7, dtype=np.float32)), (np.arange(20, 23), np.ones(3, dtype=np.float32))]
    row = Trajectories({"shell": transcripts}, {}).row(np.random.default_rng(1), 40)
    starts = np.flatnonzero(np.diff(row.documents, prepend=-1))
    assert set(row.tokens[starts]) == {5, 20}
    assert (row.weights[starts] == 0).all()
    assert (np.delete(row.weights, starts) == 1).all()


def test_broken_line_is_named(tmp_path: Path) -> None:
    for broken in ("{broken", "[" * 100_000, "{}", demonstration("a").replace('"a"', "null"), '"\\ud800"'):
        write(tmp_path, [demonstration("a", 1), broken])
        with pytest.raises(TrainingDataError, match=r"^Line 2 of .*shell\.jsonl is not a demonstration: .*[^.]\.$"):
            load_transcripts(tmp_path, Letters(), 1.0, 0.1)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="holds no demonstrations"):
        load_transcripts(tmp_path, Letters(), 1.0, 0.1)


def test_families_are_drawn_by_their_share() -> None:
    one = np.ones(4, dtype=np.float32)
    groups = {"a": [(np.full(4, 7), one)] * 50, "b": [(np.full(4, 9), one)], "c": [(np.full(4, 11), one)]}
    row = Trajectories(groups, {"a": 0.2, "b": 0.8}).row(np.random.default_rng(0), 4000)
    assert float((row.tokens == 9).mean()) == pytest.approx(0.8, abs=0.05)
    assert not (row.tokens == 11).any()
    with pytest.raises(TrainingDataError, match="no demonstrations of d"):
        Trajectories(groups, {"d": 1.0})
    Trajectories(groups, {"a": 1.0, "d": 0.0})  # none of it is asked for
