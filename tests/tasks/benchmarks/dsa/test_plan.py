"""The phases differ in what they are compared by and in nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.benchmarks.dsa.plan import Plan, Scale, rows, teaching_rows, topks
from tasks.benchmarks.dsa_evidence import seeds_and_lengths
from tasks.config import load_config
from tasks.training.errors import TrainingDataError

PLAN = Plan(load_config())


def test_every_arm_gets_the_same_extra_tokens_at_the_same_rates() -> None:
    dense, sparse = PLAN.extra(1024, "dense"), PLAN.extra(1024, "sparse")
    assert replace(dense, mode="sparse") == sparse
    assert {
        phase.batch * phase.context for length in (1024, 2048, 4096) for phase in [PLAN.extra(length, "dense")]
    } == {PLAN.scale.extra_tokens}


def test_warm_up_moves_the_indexer_alone_for_at_most_eighty_steps() -> None:
    phase = PLAN.warmup(1024)
    assert (phase.mode, phase.train) == ("warmup", "indexer")
    assert phase.steps <= 80


def test_the_curves_differ_in_mode_and_steps() -> None:
    dense, sparse = PLAN.curve(4096, "dense"), PLAN.curve(4096, "sparse")
    assert replace(dense, mode="sparse", steps=sparse.steps) == sparse
    assert dense.decay == 0.0


def test_sizes_follow_the_length() -> None:
    assert topks(4096) == (512, 256)
    assert [rows(8192, length) for length in (1024, 4096, 16384)] == [8, 2, 1]
    assert [teaching_rows(length) for length in (96, 1024, 4096)] == [96, 128, 256]


def test_the_trial_has_every_field_of_the_full_scale_but_less_of_it() -> None:
    full, trial = vars(Scale()), vars(Scale.trial())
    assert all(trial[name] < full[name] for name in full)


def test_every_seed_at_the_shortest_length_and_the_first_at_the_others() -> None:
    assert seeds_and_lengths([11, 12], [4096, 1024]) == [(11, 1024), (12, 1024), (11, 4096)]
    with pytest.raises(TrainingDataError, match="too short"):
        seeds_and_lengths([11], [32])
