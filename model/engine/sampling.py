"""Sampling with a counter-based random number generator.

The uniform number for token i of a request is a hash of (seed, i) (SplitMix64, Steele et al., "Fast Splittable
Pseudorandom Number Generators", 2014), so that no state has to be carried, swapped or restored, and the other
requests of a batch cannot influence it.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64s = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

SAMPLE, DRAFT, ACCEPT = range(3)  # streams of a request: its tokens; of speculation: the drafts, their acceptance
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: every input bit changes every output bit with probability about one half."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def uniforms(seeds: Int64s, indices: Int64s, stream: int = SAMPLE) -> Doubles:
    """Numbers in (0, 1) with 52 random bits, one per (seed, index) pair of a stream; shapes broadcast."""
    streams = _mix(seeds.astype(np.uint64) + _GOLDEN)
    if stream != SAMPLE:
        streams = _mix(streams + np.array([stream], np.uint64) * _SECOND)
    bits = _mix(streams + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def sample(logits: Tensor, temperatures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: [N, V]. temperatures: [N]; 0 takes the largest logit, the lowest id among equals.
        numbers: [N] uniform in (0, 1).
    Returns:
        token ids [N] (int64) and their log-probabilities [N] at the row's temperature (1 for greedy rows).
    """
    greedy = temperatures == 0
    scaled = logits / torch.where(greedy, 1.0, temperatures).to(logits.dtype)[:, None]
    log_probs = torch.log_softmax(scaled, dim=-1)  # [N, V]
    cumulative = log_probs.exp().double().cumsum(-1)
    # A target strictly below the total lands on a token whose own probability is positive.
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(numbers.double()[:, None] * total, below)
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]
