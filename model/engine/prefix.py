"""Sessions that begin alike compute their common beginning once.

A group of samples of one task has one prompt. The first session prefills it; the others wait and copy its cache
rows, which are the same whoever computed them (compare SGLang's RadixAttention, arXiv 2312.07104; here the live
slots themselves are searched, so nothing has to be kept in step with them).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.engine.sessions import Sessions

_WORTH_SHARING = 16  # tokens; computing fewer is quicker than waiting for another session
Int64s = npt.NDArray[np.int64]


class PrefixSharing:
    """Which slot waits for which other slot's cache rows, and how many of them."""

    def __init__(self, sessions: Sessions, copy: Callable[[int, int, int], None]) -> None:
        """`copy(source, target, length)` copies the cache of a slot's first tokens to another."""
        self.sessions, self.copy = sessions, copy
        self.waits_for: dict[int, tuple[int, int]] = {}

    def follow(self, slot: int, others: Int64s) -> None:
        """Let the slot wait for the one of the others that has, or will have, most of its first tokens.

        A chain of waiting slots must not close: others holds no slot that waits for this one.
        """
        s = self.sessions
        end = int(s.length[slot]) - 1  # the last token is computed in any case: it gives the logits
        if end < _WORTH_SHARING or not len(others):
            return
        differs = s.tokens[others, :end] != s.tokens[slot, :end]
        common = np.where(differs.any(1), differs.argmax(1), end)
        running = np.array([int(other) in s.request_of for other in others])
        useful = np.minimum(common, np.where(running, s.length[others] - 1, s.cached[others]))
        best = int(useful.argmax())
        if useful[best] >= max(_WORTH_SHARING, int(s.cached[slot]) + 1):
            self.waits_for[slot] = (int(others[best]), int(useful[best]))

    def follow_all(self) -> None:
        """After the caches were dropped: every running slot may wait for one before it."""
        self.waits_for.clear()
        running = np.fromiter(self.sessions.request_of, np.int64)
        for number, slot in enumerate(running):
            self.follow(int(slot), running[:number])

    def advance(self) -> None:
        """Copy what is there by now."""
        for slot, (source, length) in list(self.waits_for.items()):
            if self.sessions.cached[source] >= length:
                self.copy(source, slot, length)
                self.sessions.cached[slot] = length
                del self.waits_for[slot]

    def forget(self, slot: int) -> None:
        """The slot's session ends: nobody waits for it any more."""
        self.waits_for = {a: (b, n) for a, (b, n) in self.waits_for.items() if slot not in (a, b)}
