from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import evaluate
from tasks.benchmarks.regression import RegressionError, check_regression, mean_change


def estimate(value: float, down: float = 0.05, up: float = 0.05) -> dict[str, Any]:
    return {"value": value, "ci95": [value - down, value + up], "n": 100}


def metrics_file(path: Path, **scores: float) -> Path:
    families = {name: {"pass_at_1": estimate(value), "greedy": estimate(value)} for name, value in scores.items()}
    path.write_text(json.dumps(families | {"humaneval": {"n": 164, "pass_at_1": estimate(0.9)}, "seconds": 3}))
    return path


def test_a_fall_beyond_the_interval_names_score_before_and_after(tmp_path: Path) -> None:
    before = metrics_file(tmp_path / "before.json", shell=0.6, chain=0.4)
    after = metrics_file(tmp_path / "after.json", shell=0.5, chain=0.3)
    with pytest.raises(RegressionError, match=r"Mean pass@1 over chain, shell fell from 0\.500 before to 0\.400 after"):
        check_regression(before, after)


def test_a_fall_within_the_interval_passes_and_humaneval_is_no_family(tmp_path: Path) -> None:
    before = metrics_file(tmp_path / "before.json", shell=0.6, chain=0.4)
    after = metrics_file(tmp_path / "after.json", shell=0.56, chain=0.36)
    assert "over chain, shell went from 0.500 before to 0.460 after" in check_regression(before, after)


def test_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    after = metrics_file(tmp_path / "after.json", shell=0.5)
    with pytest.raises(RegressionError, match=r"no .*before\.json to compare with"):
        check_regression(tmp_path / "before.json", after)
    with pytest.raises(RegressionError, match="share no family"):
        check_regression(metrics_file(tmp_path / "before.json", chain=0.5), after)


def test_the_interval_is_newcombes_for_one_family() -> None:
    before, after = estimate(0.5, 0.1, 0.2), estimate(0.6, 0.3, 0.05)
    change, low, high = mean_change([before], [after])
    assert isclose(change, 0.1)
    assert isclose(low, 0.1 - sqrt(0.3**2 + 0.2**2))
    assert isclose(high, 0.1 + sqrt(0.05**2 + 0.1**2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0.001, 0.3))
def test_the_same_scores_are_never_a_regression(values: list[float], reach: float) -> None:
    scores = [estimate(value, reach, reach) for value in values]
    change, low, high = mean_change(scores, scores)
    assert change == 0
    assert isclose(high, -low)
    assert isclose(high, reach * sqrt(2 / len(values)))


def test_a_measurement_beside_the_stage_keeps_out_of_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)  # the stage holds the folder it works in
    calls: list[Any] = []
    monkeypatch.setattr(evaluate, "run", lambda name, *_: nullcontext(name))
    monkeypatch.setattr(evaluate, "evaluate", lambda config, *rest: calls.append((config.evaluate.samples, *rest)))
    places = ["--name", "nightly", "--results", str(tmp_path / "results"), "--metrics", str(tmp_path / "m.json")]
    assert evaluate.main([*places, "--set", "evaluate.samples=3"]) == 0
    assert evaluate.main(["--set", "evaluate.samples=4"]) == 0
    assert calls == [
        (3, "nightly", tmp_path / "results", tmp_path / "m.json"),
        (4, "evaluate", Path("results/evaluate"), Path("metrics/evaluate.json")),
    ]
