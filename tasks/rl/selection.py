"""Which task each group gets and which seed each sample: pure functions of the run's seed and the indices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

TASK_SEEDS = 1 << 31


def choose_task(run_seed: int, group: int, families: Mapping[str, float]) -> tuple[str, int]:
    """The (family, task seed) of a group; families come up in proportion to their shares."""
    ordered = sorted(families.items())
    point = _number(run_seed, "family", group) / 2**64 * sum(share for _, share in ordered)
    chosen = ordered[-1][0]
    for family, share in ordered:
        if point < share:
            chosen = family
            break
        point -= share
    return chosen, _number(run_seed, "task", group) % TASK_SEEDS


def sample_seed(run_seed: int, group: int, sample: int) -> int:
    """The sampling seed of an episode, the same however often it is started again."""
    return _number(run_seed, "sample", group, sample) >> 1


def random_reward(run_seed: int, group: int, sample: int) -> float:
    """A fair coin that knows nothing of the work: the reward of the control run."""
    return float(_number(run_seed, "reward", group, sample) % 2)


def _number(*parts: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
