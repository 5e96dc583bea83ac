"""Made-up trajectories for the tests of this folder."""

from collections.abc import Callable

import pytest

from tasks.rl.trajectory import NOT_SAMPLED, Trajectory


def _make_trajectory(group=0, sample=0, version=0, error=None, tokens=(2, 11, 3, 20, 4, 30, 3, 0)):
    mask = [0, 0, 0, 1, 1, 0, 0, 1][: len(tokens)]
    versions = [version if bit else NOT_SAMPLED for bit in mask]
    log_probs = [-0.5 if bit else 0.0 for bit in mask]
    return Trajectory(
        f"shell-train-{group}", "shell", group, "train", group, sample, list(tokens), mask, log_probs, versions,
        {"a.txt": b"one\n"}, 1, 0, "stop", error,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_trajectory() -> Callable[..., Trajectory]:
    return _make_trajectory
