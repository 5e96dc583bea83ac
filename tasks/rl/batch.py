"""From judged groups to padded tensors: which tokens carry loss, with which advantage."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.rl.advantages import group_advantages
from tasks.rl.store import Judged
from tasks.rl.trajectory import Trajectory

ROUND = 32  # lengths are rounded up: varying shapes are slow on CPU
PADDING = 0  # <|endoftext|>; after the last token, so that causal attention never sees it


@dataclass(frozen=True)
class Example:
    """A trajectory with the advantage of each of its sampled tokens."""

    trajectory: Trajectory
    advantage: float


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded rows, all [B, T]: token ids, 1.0 where the model wrote the token, log p at sampling, advantage."""

    token_ids: Tensor
    mask: Tensor
    rollout: Tensor
    advantages: Tensor
    versions: Tensor


def examples_of(group: Sequence[Judged]) -> list[Example]:
    """The group's samples with their advantages, a repaired place being filled by a copy of a valid sample."""
    places = group_advantages([judged.reward for judged in group]) or []
    rows = [(group[index].trajectory, advantage) for index, advantage in places]
    return [Example(trajectory, advantage) for trajectory, advantage in rows if trajectory is not None]


def split_examples(examples: Sequence[Example], parts: int, seed: int) -> list[list[Example]]:
    """Shuffled into `parts` of nearly equal size, one optimizer step each; the same for the same seed."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    return [part for part in (order[start::parts] for start in range(parts)) if part]


def micro_batches(examples: Sequence[Example], max_tokens: int) -> Iterator[MicroBatch]:
    """Rows of similar length together, at most `max_tokens` padded tokens (but always one row) at a time."""
    rows: list[Example] = []
    for example in sorted(examples, key=lambda e: -len(e.trajectory.token_ids)):
        width = _rounded(len((rows or [example])[0].trajectory.token_ids))
        if rows and (len(rows) + 1) * width > max_tokens:
            yield _pad(rows)
            rows = []
        rows.append(example)
    if rows:
        yield _pad(rows)


def _pad(rows: Sequence[Example]) -> MicroBatch:
    shape = (len(rows), _rounded(max(len(row.trajectory.token_ids) for row in rows)))
    batch = MicroBatch(
        torch.full(shape, PADDING, dtype=torch.long), torch.zeros(shape), torch.zeros(shape),
        torch.zeros(shape), torch.full(shape, -1, dtype=torch.long),
    )  # fmt: skip
    for index, row in enumerate(rows):
        trajectory, length = row.trajectory, len(row.trajectory.token_ids)
        batch.token_ids[index, :length] = torch.tensor(trajectory.token_ids)
        batch.mask[index, :length] = torch.tensor(trajectory.loss_mask, dtype=torch.float32)
        batch.rollout[index, :length] = torch.tensor(trajectory.log_probs)
        batch.versions[index, :length] = torch.tensor(trajectory.versions)
        batch.advantages[index, :length] = row.advantage
    return batch


def _rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND
