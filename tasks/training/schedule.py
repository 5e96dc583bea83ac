"""Learning-rate and phase schedules: pure functions of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.training.data import Mode
from tasks.training.settings import OptimizerSettings, Trained

WINDOW = 10  # steps whose mean loss may end a phase


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one attention mode, one mixture and one optimizer.

    `mixture` maps a source's name to its share of the rows, `weights` to a factor of its tokens'
    loss; `train` says which parameters move (`indexer` in a DSA warm-up, everything else). A phase
    with `until` ends once the mean loss of its last `WINDOW` steps is below it, at the latest after
    `steps`; the global step count goes on from the phase's planned end.
    """

    name: str
    mode: Mode
    steps: int
    batch: int  # rows of all ranks together
    context: int  # tokens a row
    mixture: dict[str, float]
    optimizer: OptimizerSettings
    train: Trained = "all"
    warmup: float = 0.02  # share of the phase's steps
    decay: float = 0.0
    until: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)

    def reached(self, losses: Sequence[float]) -> bool:
        """Whether the losses of this phase so far are low enough to end it."""
        recent = losses[-WINDOW:]
        return self.until > 0 and len(recent) == WINDOW and sum(recent) / WINDOW < self.until


def warmup_stable_decay(step: int, steps: int, warmup: float, decay: float) -> float:
    """Factor in (0, 1] on the learning rate: linear rise, plateau, linear fall towards 0.

    `warmup` and `decay` are shares of `steps`. Source: MiniCPM (arXiv 2404.06395), section 4.
    """
    rise = max(1, round(warmup * steps))
    fall = max(1, round(decay * steps))
    return min(1.0, (step + 1) / rise, (steps - step) / fall)


def locate(phases: Sequence[Phase], step: int) -> tuple[int, int]:
    """The phase a global step lies in, and the step inside it. Raises ValueError past the end."""
    for index, phase in enumerate(phases):
        if step < phase.steps:
            return index, step
        step -= phase.steps
    raise ValueError(f"Step {step} lies past the last phase {phases[-1].name!r}.")


def total_steps(phases: Sequence[Phase]) -> int:
    """Steps of all phases together."""
    return sum(phase.steps for phase in phases)


def tokens_seen(phases: Sequence[Phase], curve: Sequence[tuple[int, float]]) -> int:
    """Tokens of the steps that were made; a phase that ended early made fewer than planned."""
    made = [phases[locate(phases, step - 1)[0]] for step, _ in curve]
    return sum(phase.batch * phase.context for phase in made)
