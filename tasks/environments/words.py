"""Word pools for file names and contents, and the rule which compositions are kept for the held-out split.

Every word occurs in both splits (a small tokeniser must have met its pieces); what the train split never
holds is the *composition*: a pair of names, a kind with a phrasing, an order of steps, a repair template.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tasks.environments.task import Split

_STEMS = (
    "rain snow wind storm cloud river lake stone sand leaf tree root seed apple pear plum bread salt milk rice "
    "door wall roof lamp desk chair book page note list map ship boat train road bridge king queen bird fish"
)
STEMS = tuple(_STEMS.split())
ENDINGS = (".txt", ".log", ".csv")
FOLDERS = ("box", "shelf", "drawer", "cellar", "attic", "barn", "vault", "crate")
_CONTENT = (
    "red blue green gold black white iron tin silk wool corn bean fox owl bear wolf frog crab moon star sun fire "
    "north south east west one two three four"
)
CONTENT = tuple(_CONTENT.split())
HELDOUT_EVERY = 5


def is_heldout_pair(first: str, second: str) -> bool:
    """One in five ordered pairs of stems is kept for the held-out split; every stem has such pairs."""
    return (STEMS.index(first) + 2 * STEMS.index(second)) % HELDOUT_EVERY == 0


def draw_pair(rng: random.Random, split: Split) -> tuple[str, str]:
    """Two different stems whose ordered pair belongs to the split."""
    while True:
        first, second = rng.sample(STEMS, 2)
        if is_heldout_pair(first, second) == (split == "heldout"):
            return first, second


def split_phrasings(heads: Sequence[str], tails: Sequence[str], split: Split) -> list[str]:
    """The phrasings (head + tail) of one split: a Latin rule, so that each head and each tail occurs in train."""
    pairs = [(i, j) for i in range(len(heads)) for j in range(len(tails))]
    period = max(3, len(tails))
    kept = [(i, j) for i, j in pairs if ((i + j) % period == 1) == (split == "heldout")]
    return [heads[i] + tails[j] for i, j in kept]
