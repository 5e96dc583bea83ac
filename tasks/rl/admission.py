"""How far rollout may run ahead of the learner, and which finished groups are worth a step.

The first rule is AReaL's (arXiv 2505.24298, section 5.1): with batches of B trajectories and a learner at version
v, `accepted + running <= (eta + v + 1) * B`. eta = 0 is synchronous training. The second is a hard bound: a
trajectory whose oldest token is more than tau versions old is dropped and counted, never trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.rl.advantages import group_advantages, repaired
from tasks.rl.trajectory import NOT_SAMPLED

FLAT = ("zero_variance", "no_tokens")  # reasons for which a group teaches nothing, although its episodes went well


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
    """What becomes of the ready groups: trained in this step (None: wait) or dropped with a reason."""

    claim: tuple[int, ...] | None = None
    drop: dict[int, str] = field(default_factory=dict)


def drop_reason(group: ReadyGroup, version: int, tau: int) -> str | None:
    """Why a group cannot be trained on at `version`; None if it can."""
    if repaired(group.rewards) is None:
        return "environment"
    if group_advantages(group.rewards) is None:
        return "zero_variance"
    pairs = zip(group.first_versions, group.rewards, strict=True)
    sampled = [first for first, reward in pairs if reward is not None and first != NOT_SAMPLED]
    if not sampled:
        return "no_tokens"  # the model wrote nothing, as where the prompt does not fit: rewards alone train nothing
    return "stale" if version - min(sampled) > tau else None


def choose_batch(
    ready: Sequence[ReadyGroup], version: int, tau: int, groups_per_batch: int, consumed: int, oversample: int
) -> Decision:
    """Fills the batch of step `version` with the oldest usable groups.

    `consumed` groups that teach nothing (FLAT) were already dropped at this step. A batch is also closed, smaller,
    once they and the usable ones are `oversample` batches' worth. Groups that failed or are stale exhaust nothing:
    others take their place. A batch is never empty.
    """
    drops = {group.id: reason for group in ready if (reason := drop_reason(group, version, tau))}
    usable = [group.id for group in ready if group.id not in drops][:groups_per_batch]
    flat = consumed + sum(reason in FLAT for reason in drops.values())
    exhausted = flat + len(usable) >= oversample * groups_per_batch
    full = len(usable) == groups_per_batch
    return Decision(claim=tuple(usable) if usable and (full or exhausted) else None, drop=drops)


def exhausted(dropped: Mapping[str, int], groups_per_batch: int, oversample: int) -> bool:
    """Whether a step without a usable group has seen enough that teach nothing (by reason) to give up."""
    return sum(dropped.get(reason, 0) for reason in FLAT) >= oversample * groups_per_batch


def staleness(version: int, first_versions: Iterable[int]) -> int:
    """`version - w0` of the oldest trajectory in which a token was sampled; 0 for none."""
    return max((version - first for first in first_versions if first != NOT_SAMPLED), default=0)
