"""Two models on the same tasks and sampling seeds: paired differences and the gate before a promotion."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.errors import InputError
from tasks.statistics import Estimate, Gate, gate, paired_difference, stratified_difference


class ComparisonError(InputError):
    """Two sets of episodes share no task and seed, so no paired comparison exists."""


class Graded(Protocol):
    """What a comparison reads of a graded episode."""

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Equal for the same task and sampling seed under two models."""

    @property
    def task_id(self) -> str:
        """The cluster."""

    @property
    def family(self) -> str:
        """The stratum."""

    @property
    def passed(self) -> bool:
        """The verdict."""


@dataclass(frozen=True)
class Paired:
    """Episodes of equal task and seed: scores under both models, cluster (task) and stratum (family) labels."""

    before: list[float]
    after: list[float]
    tasks: list[str]
    families: list[str]

    def difference(self, family: str | None = None) -> Estimate:
        """Gain in pass@1: of one family, or the mean over families, each counting equally."""
        if family is None:
            return stratified_difference(self.before, self.after, self.tasks, self.families)
        chosen = [index for index, name in enumerate(self.families) if name == family]
        before, after = [self.before[i] for i in chosen], [self.after[i] for i in chosen]
        return paired_difference(before, after, [self.tasks[i] for i in chosen])

    def gate(self, margin: float, confidence: float) -> Gate:
        """Whether the lower end of the one-sided interval of the mean gain over families exceeds `-margin`."""
        return gate(self.before, self.after, self.tasks, margin, confidence, self.families)


def pair(before: Sequence[Graded], after: Sequence[Graded]) -> Paired:
    """Matches episodes by key; those without a partner are left out.

    Raises ComparisonError if none has a partner, or if fewer than half of `after` have one.
    """
    earlier = {episode.key: episode for episode in before}
    matched = [(earlier[episode.key], episode) for episode in after if episode.key in earlier]
    if not matched or len(matched) < len(after) / 2:
        raise ComparisonError(f"Only {len(matched)} of {len(after)} episodes have a partner of equal task and seed.")
    return Paired(
        [float(first.passed) for first, _ in matched],
        [float(second.passed) for _, second in matched],
        [second.task_id for _, second in matched],
        [second.family for _, second in matched],
    )
