"""Ratios, accuracies and targets from scores whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.benchmarks.dsa.arms import ARMS, CONTROL, Score
from tasks.benchmarks.dsa.findings import Findings
from tasks.benchmarks.dsa.plan import Plan
from tasks.benchmarks.dsa.prose import verdict, winner
from tasks.benchmarks.dsa.results import Case, Results, beyond, mean_and_worst, targets

CASE = Case(1024, 128)
NAMES = ("1-64", "65-128", "129-256", "257-512", "513-1024")


def found(nats: float, hits: int, mass: float = 1.0) -> dict[str, Any]:
    losses = {"nats": [nats, 3 * nats], "tokens": [10, 30]}
    retrieval = {name: {"hits": [hits, hits], "scored": [100, 100]} for name in NAMES}
    return {
        "documents": losses, "text": losses, "retrieval": retrieval,
        "masses": [{"captured": mass, "oracle": 0.9}, {"captured": mass - 0.1, "oracle": 0.9}],
    }  # fmt: skip


def scores(joint: float = 10.04, window_hits: int = 30) -> list[Score]:
    values = {arm: found(12.0, 20) for arm in ARMS} | {
        CONTROL: found(10.0, 90), "joint": found(joint, 89), "window": found(12.0, window_hits)
    }  # fmt: skip
    return [
        Score(seed, 1024, 0 if arm == CONTROL else 128, arm, value)
        for seed in (11, 12)
        for arm, value in values.items()
    ]


def test_ratios_are_of_summed_nats_over_the_same_documents() -> None:
    ratio = Results(scores()).loss_ratio(CASE, "joint")
    assert ratio.value == pytest.approx(1.004)
    assert (ratio.n, ratio.clusters) == (4, 2)  # two seeds over the same two documents
    assert Results(scores()).loss_ratio(CASE, CONTROL).value == 1.0
    assert Results(scores()).loss_ratio_by_seed(CASE, "joint") == pytest.approx([1.004, 1.004])


def test_accuracy_and_its_change() -> None:
    results = Results(scores())
    assert results.accuracy(CASE, "joint")["513-1024"].value == pytest.approx(0.89)
    assert results.accuracy_change(CASE, "joint")["1-64"].value == pytest.approx(-0.01)
    assert results.seeds(1024) == [11, 12]


def test_a_window_reaches_as_far_as_it_has_keys() -> None:
    results = Results(scores())
    assert beyond(results, CASE) == ["129-256", "257-512", "513-1024"]


def test_targets_are_met_or_missed_as_measured() -> None:
    met = targets(Results(scores()), CASE, [[0.98, 0.97], [0.99, 0.95]])
    assert all(target.met for target in met)
    missed = targets(Results(scores(joint=10.2, window_hits=40)), CASE, [[0.98, 0.90], [0.99, 0.95]])
    assert [target.met for target in missed] == [False, False, False, True, False]
    assert verdict({CASE: met}) == "All 5 are met.\n"
    assert "1 of 5 are met" in verdict({CASE: missed})
    assert "1.0200 for 1.005" in verdict({CASE: missed})


def test_the_worst_layer_is_that_of_any_seed() -> None:
    assert mean_and_worst([[1.0, 0.8], [0.9, 0.9]]) == (pytest.approx(0.9), 0.8)


def test_the_shorter_selection_has_its_own_bound() -> None:
    ratio = 10.08
    values = [Score(s.seed, 1024, s.topk and 64, s.arm, s.found) for s in scores(joint=ratio)]
    found_ = targets(Results(values), Case(1024, 64), [[1.0]])
    assert next(t for t in found_ if "loss" in t.text).met
    assert not next(t for t in targets(Results(scores(joint=ratio)), CASE, [[1.0]]) if "loss" in t.text).met


def test_where_a_curve_wins_is_read_from_the_curves() -> None:
    dense = [{"step": s, "flops": 100.0 * s, "seconds": 2.0 * s, "loss": 3.0 - 0.1 * s} for s in range(5)]
    sparse = [{"step": s, "flops": 100 + 50.0 * s, "seconds": 1 + 1.0 * s, "loss": 3.0 - 0.1 * s} for s in range(5)]
    curves = {"dense": dense, "dsa-128": sparse}
    assert "at 2 of its 5 points" in winner(curves, "flops", False)
    assert "at 4 of its 5 points" in winner(curves, "flops", True)
    assert "+0.1000 nats" in winner(curves, "flops", False)


def test_findings_hold_every_arm() -> None:
    from tasks.config import load_config

    findings = Findings(Plan(load_config()), Results(scores()), {CASE: {"80": [[0.98, 0.97]]}})
    arms = findings.to_json()["cases"]["length_1024_top_128"]["arms"]
    assert set(arms) == set(ARMS)
    assert arms["joint"]["captured_mass"] == [[1.0, 0.9], [1.0, 0.9]]
