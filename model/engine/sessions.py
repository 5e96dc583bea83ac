"""Per-slot state of the sessions, as arrays, so that a decoding step touches no Python object a sequence."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.engine.request import Completion, NotFinite, Request

Int64s = npt.NDArray[np.int64]


def spread(slots: Int64s, first: Int64s, counts: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Rows of `counts[i]` positions from first[i] on: slots [R], positions [R], and where each slot's rows end [N]."""
    ends = np.cumsum(counts)
    within = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
    return np.repeat(slots, counts), np.repeat(first, counts) + within, ends


class Sessions:
    """Which session holds which slot, its tokens, and how far its cache and its running request have come."""

    def __init__(self, slots: int, max_length: int) -> None:
        self.max_length = max_length
        self.slot_of: dict[str, int] = {}
        self.request_of: dict[int, Request] = {}  # running requests by slot
        self.free = list(range(slots - 1, -1, -1))
        self.tokens = np.zeros((slots, max_length), np.int64)
        self.log_probs = np.zeros((slots, max_length), np.float32)
        self.versions = np.zeros((slots, max_length), np.int64)
        self.length = np.zeros(slots, np.int64)  # tokens of the session
        self.cached = np.zeros(slots, np.int64)  # of these, tokens whose keys are in the cache
        self.start = np.zeros(slots, np.int64)  # length before the running request's first sampled token
        self.limit = np.zeros(slots, np.int64)  # length at which the running request ends
        self.temperature = np.zeros(slots, np.float32)
        self.seed = np.zeros(slots, np.int64)
        self.stop_ids = np.full((slots, 4), -1, np.int64)

    def open(self, session: str) -> int:
        """Give the session a free slot; the caller has made sure that there is one."""
        slot = self.free.pop()
        self.slot_of[session] = slot
        return slot

    def close(self, session: str) -> None:
        """Free the session's slot; a running request of it ends without a completion."""
        slot = self.slot_of.pop(session)
        self.request_of.pop(slot, None)
        self.length[slot] = self.cached[slot] = 0
        self.free.append(slot)

    def start_request(self, slot: int, request: Request) -> None:
        """Append the request's tokens; they are known to fit."""
        before = int(self.length[slot])
        begin = before + len(request.token_ids)
        self.tokens[slot, before:begin] = request.token_ids
        self.length[slot] = self.start[slot] = begin
        self.limit[slot] = min(begin + request.max_new_tokens, self.max_length)
        self.temperature[slot] = request.temperature
        self.seed[slot] = request.seed
        self._set_stop_ids(slot, request.stop_ids)
        self.request_of[slot] = request

    def _set_stop_ids(self, slot: int, ids: Sequence[int]) -> None:
        if len(ids) > self.stop_ids.shape[1]:
            wider = np.full((len(self.stop_ids), len(ids)), -1, np.int64)
            wider[:, : self.stop_ids.shape[1]] = self.stop_ids
            self.stop_ids = wider
        self.stop_ids[slot] = -1
        self.stop_ids[slot, : len(ids)] = ids

    def append(
        self, slots: Int64s, tokens: Int64s, log_probs: npt.NDArray[np.float32], version: int
    ) -> list[Completion]:
        """Add one sampled token to each of the slots and return the requests that end with it.

        Raises NotFinite if a log-probability is no number: a token drawn from NaN must not be given to anyone.
        """
        if not np.isfinite(log_probs).all():
            raise NotFinite(f"The weights of version {version} give log-probabilities that are not finite.")
        at = self.length[slots]
        self.tokens[slots, at] = tokens
        self.log_probs[slots, at] = log_probs
        self.versions[slots, at] = version
        self.length[slots] = at + 1
        stopped = (self.stop_ids[slots] == tokens[:, None]).any(1)
        ended = stopped | (at + 1 >= self.limit[slots])
        return [self._complete(int(slots[i]), "stop" if stopped[i] else "length") for i in ended.nonzero()[0]]

    def _complete(self, slot: int, reason: str) -> Completion:
        request = self.request_of.pop(slot)
        answer = slice(int(self.start[slot]), int(self.length[slot]))
        return Completion(
            id=request.id,
            session=request.session,
            token_ids=self.tokens[slot, answer].tolist(),
            log_probs=self.log_probs[slot, answer].tolist(),
            version_of_token=self.versions[slot, answer].tolist(),
            finish_reason=reason,
        )
