"""How far rollout may run ahead of the learner, and which finished groups are worth a step.

The first rule is AReaL's (arXiv 2505.24298, section 5.1): with batches of B trajectories and a learner at version
v, `accepted + running <= (eta + v + 1) * B`. eta = 0 is synchronous training. The second is a hard bound: a
trajectory whose oldest token is more than tau versions old is dropped and counted, never trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tasks.rl.advantages import group_advantages


def admitted_groups(version: int, eta: int, groups_per_batch: int, updates: int) -> int:
    """The most groups that may be accepted or running at `version`, never more than the run can train."""
    return min(eta + version + 1, updates) * groups_per_batch


@dataclass(frozen=True)
class ReadyGroup:
    """A group whose episodes are all judged. A reward of None is an environment failure."""

    id: int
    rewards: tuple[float | None, ...]
    first_versions: tuple[int, ...]


@dataclass(frozen=True)
class Decision:
    """What becomes of the ready groups: trained in this step (empty: wait) or dropped with a reason."""

    claim: tuple[int, ...] | None = None
    drop: dict[int, str] = field(default_factory=dict)


def drop_reason(group: ReadyGroup, version: int, tau: int) -> str | None:
    """Why a group cannot be trained on at `version`; None if it can."""
    valid = [first for first, reward in zip(group.first_versions, group.rewards, strict=True) if reward is not None]
    if group_advantages(group.rewards) is None:
        return "environment" if 2 * len(valid) <= len(group.rewards) else "zero_variance"
    return "stale" if version - min(valid) > tau else None


def choose_batch(
    ready: Sequence[ReadyGroup], version: int, tau: int, groups_per_batch: int, consumed: int, oversample: int
) -> Decision:
    """Fills the batch of step `version` with the oldest usable groups.

    `consumed` groups were already dropped at this step. A batch is also closed, smaller or empty, once
    `oversample` batches' worth of groups went into it: a policy with nothing left to learn ends its run.
    """
    drops = {group.id: reason for group in ready if (reason := drop_reason(group, version, tau))}
    usable = [group.id for group in ready if group.id not in drops][:groups_per_batch]
    exhausted = consumed + len(drops) + len(usable) >= oversample * groups_per_batch
    full = len(usable) == groups_per_batch
    return Decision(claim=tuple(usable) if full or exhausted else None, drop=drops)


def staleness(version: int, first_versions: Iterable[int]) -> int:
    """`version - w0` of the oldest trajectory; 0 for none."""
    return max((version - first for first in first_versions), default=0)
