from __future__ import annotations

from dataclasses import dataclass
from math import isclose

import pytest

from tasks.benchmarks.comparison import ComparisonError, pair


@dataclass(frozen=True)
class Graded:
    task_id: str
    family: str
    sample: int
    passed: bool

    @property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.sample


def graded(family: str, solved: int, tasks: int = 20, samples: int = 4) -> list[Graded]:
    return [Graded(f"{family}-{t}", family, s, t < solved) for t in range(tasks) for s in range(samples)]


def test_pairs_are_found_whatever_the_order() -> None:
    before, after = graded("shell", 5), graded("shell", 15)
    paired = pair(before, after[::-1])
    assert isclose(paired.difference("shell").value, 0.5)
    assert paired.gate(0.0, 0.95).passed


def test_families_count_equally() -> None:
    before = graded("shell", 0, tasks=90) + graded("repair", 0, tasks=10)
    after = graded("shell", 90, tasks=90) + graded("repair", 0, tasks=10)
    assert isclose(pair(before, after).difference().value, 0.5)


def test_a_loss_in_one_family_can_stop_a_promotion() -> None:
    before = graded("shell", 10) + graded("repair", 10)
    after = graded("shell", 12) + graded("repair", 2)
    assert not pair(before, after).gate(0.0, 0.95).passed


def test_strangers_are_not_compared() -> None:
    with pytest.raises(ComparisonError, match="0 of 80"):
        pair(graded("shell", 5), graded("chain", 5))
