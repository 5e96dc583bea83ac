"""The decode engine: continuous batching over sessions that keep their cache between requests.

A step is one flat forward over rows of one token each: one row for every decoding session, and up to
`prefill_rows` rows of tokens that are not in the cache yet (prompts, observations between two turns, and whole
sessions after a change of weights). A session samples in the step in which its last row is computed, so that
nobody waits for another's prefill to end (Orca, OSDI 2022; Sarathi-Serve, arXiv 2403.02310).

With speculation a decoding session has a row for each token that the MTP layer drafted, too, and keeps as many of
them as `verification.verify` lets stand, plus one.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.config import ModelConfig
from model.engine.cache import Cache
from model.engine.drafting import Drafter
from model.engine.native import NativeStep
from model.engine.prefix import PrefixSharing
from model.engine.request import Completion, EngineError, Request
from model.engine.sampling import uniforms
from model.engine.sessions import Sessions, spread
from model.engine.step import Step, StepBuilder
from model.engine.weights import fuse
from model.transformer import Transformer

Int64s = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """The rows of a step. Each of the `sampling` slots has 1 + drafts of the `wanted` rows, its last ones."""

    slots: Int64s  # [R]
    positions: Int64s  # [R]
    sampling: Int64s  # [N]
    drafts: Int64s  # [N]
    wanted: Int64s  # [sum(1 + drafts)]


class Engine:
    """Samples from a transformer for many sessions at once.

    Guarantee: token i of a request depends on its session's tokens, the weights and `(seed, i)`. With the native
    step every row is computed in the same order of operations whatever else is in the batch, so the tokens and
    log-probabilities are bitwise the same alone and in company; with the reference step they are the same up to
    the rounding of matrix products of different sizes. With speculation they depend on nothing else either, up to
    rounding, and are distributed as without it; the tokens of one seed are others, except greedy ones.

    The trainer's log-probabilities agree to 1e-5 (fp32). It rounds in another order, so where the scores of two
    keys at the edge of the selection, or of two experts, are closer than rounding, it may take the other one.
    """

    def __init__(
        self,
        transformer: Transformer,
        max_sequences: int,
        max_length: int,
        mode: str | None = None,
        version: int = 0,
        prefill_rows: int = 512,
        native: bool | None = None,
        threads: int | None = None,
        speculate: int = 0,
    ) -> None:
        """Allocate the caches and fuse the weights.

        mode: "sparse" (keys selected by the indexer) or "dense"; None takes what the configuration says.
        prefill_rows: tokens a step that are not decoding ones. native: None takes the compiled step where it can be
        built. threads: of the compiled step; None takes torch's number. speculate: tokens that the MTP layer drafts
        for the next step; 0 is plain decoding.
        """
        mode = transformer.config.attention if mode is None else mode
        if mode not in ("sparse", "dense"):
            raise EngineError(f"The decode engine's mode is '{mode}', but it must be 'sparse' or 'dense'.")
        self.config, self.mode, self.version = transformer.config, mode, version
        self.max_sequences, self.max_length, self.prefill_rows = max_sequences, max_length, prefill_rows
        if speculate < 0:
            raise EngineError(f"The decode engine is to draft {speculate} tokens, but that must be at least 0.")
        device = transformer.lm_head.weight.device
        self.native = NativeStep.available(self.config, device) if native is None else native
        self.cache = Cache(self.config, max_sequences, max_length, device)
        self.sessions = Sessions(max_sequences, max_length)
        self.prefixes = PrefixSharing(self.sessions, self._copy_prefix)
        topk = self.config.index_topk if mode == "sparse" else None
        self._build = StepBuilder(self.native, topk, torch.get_num_threads() if threads is None else threads)
        self.drafter = Drafter(self.config, self.sessions, speculate, self._build, device) if speculate else None
        self.waiting: deque[Request] = deque()
        self._unfinished: set[str] = set()
        self._load(transformer.state_dict())

    def _load(self, state_dict: Mapping[str, Tensor]) -> None:
        with torch.inference_mode():
            self._forward: Step = self._build(self.config, fuse(state_dict, self.config), self.cache)
            if self.drafter:
                self.drafter.load(state_dict)

    def _copy_prefix(self, source: int, target: int, length: int) -> None:
        self.cache.copy_prefix(source, target, length)
        if self.drafter:
            self.drafter.copy_prefix(source, target, length)

    @property
    def has_work(self) -> bool:
        """Whether a step would advance a request."""
        return bool(self.waiting or self.sessions.request_of)

    def submit(self, request: Request) -> None:
        """Queue a request; it starts when its session has, or can get, a slot.

        Raises:
            EngineError: the session has an unfinished request, or would begin without a token, or a value is out
                of range.
        """
        _check(request, self.config)
        if request.session in self._unfinished:
            raise EngineError(f"Session '{request.session}' already has an unfinished request.")
        if not request.token_ids and request.session not in self.sessions.slot_of:
            raise EngineError(f"Request '{request.id}' begins session '{request.session}' without any token.")
        self._unfinished.add(request.session)
        self.waiting.append(request)

    def release(self, session: str) -> None:
        """Forget a session, its running or waiting request included, and free its slot; unknown ones are ignored."""
        if session in self._unfinished:
            self._unfinished.discard(session)
            self.waiting = deque(request for request in self.waiting if request.session != session)
        if session in self.sessions.slot_of:
            self.prefixes.forget(self.sessions.slot_of[session])
            self.sessions.close(session)

    def swap_weights(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        """Continue with other weights, between two steps.

        No request is dropped. The keys of every session are recomputed under the new weights before it samples
        again, those of idle sessions only if they are continued.
        """
        self._load(state_dict)
        self.version = version
        self.sessions.cached[:] = 0
        self.prefixes.follow_all()

    def step(self) -> list[Completion]:
        """Advance every running request by a token, or by a piece of its prefill; returns those that ended."""
        finished = self._admit()
        batch = self._rows()
        if len(batch.slots):
            with torch.inference_mode():
                finished += self._advance(batch)
        for completion in finished:
            self._unfinished.discard(completion.session)
        return finished

    def _admit(self) -> list[Completion]:
        """Start waiting requests in order; one without a slot does not hold up those whose session has one."""
        finished: list[Completion] = []
        kept: deque[Request] = deque()
        for request in self.waiting:
            slot = self.sessions.slot_of.get(request.session)
            used = 0 if slot is None else int(self.sessions.length[slot])
            if used + len(request.token_ids) >= self.max_length or request.max_new_tokens < 1:
                finished.append(Completion(request.id, request.session, [], [], [], "length"))
            elif slot is not None or self.sessions.free:
                self._start(request, slot)
            else:
                kept.append(request)
        self.waiting = kept
        return finished

    def _start(self, request: Request, slot: int | None) -> None:
        live = np.fromiter(self.sessions.slot_of.values(), np.int64)
        opened = self.sessions.open(request.session) if slot is None else slot
        self.sessions.start_request(opened, request)
        if slot is None:
            if self.drafter:
                self.drafter.forget(opened)
            self.prefixes.follow(opened, live)

    def _rows(self) -> Batch:
        """The rows of this step: every session's next tokens, those beyond the first within the prefill budget."""
        s = self.sessions
        self.prefixes.advance()
        waiting = self.prefixes.waits_for
        running = np.array([slot for slot in s.request_of if slot not in waiting], np.int64)
        first = s.cached[running]
        missing = s.length[running] - first
        drafts = self.drafter.counts[running] if self.drafter else np.zeros(len(running), np.int64)
        if (missing == 1).all() and not drafts.any():
            return Batch(running, first, running, drafts, np.arange(len(running)))
        before = np.cumsum(missing - 1) - (missing - 1)
        counts = np.minimum(missing, 1 + np.maximum(self.prefill_rows - before, 0))
        samples = counts == missing
        slots, positions, ends = spread(running, first, counts + drafts)
        drafts = drafts[samples]
        _, wanted, _ = spread(running[samples], ends[samples] - 1 - drafts, 1 + drafts)
        return Batch(slots, positions, running[samples], drafts, wanted)

    def _advance(self, batch: Batch) -> list[Completion]:
        s, slots, positions = self.sessions, batch.slots, batch.positions
        parts = (torch.from_numpy(part) for part in (s.tokens[slots, positions], slots, positions, batch.wanted))
        rows = [part.to(self.cache.latent[0].device) for part in parts]
        if self.drafter:
            states, logits = self._forward.run(self._forward.embedding, *rows)
            self.drafter.states[rows[1], rows[2]] = states
        else:
            logits = self._forward(*rows)
        s.cached[slots] = positions + 1  # rows of a slot ascend, the last assignment stays
        if self.drafter is None:
            return self._sample(batch.sampling, logits)
        finished = self.drafter.settle(batch.sampling, batch.drafts, logits, self.version)
        self.drafter.propose(np.unique(slots), np.array([n for n in batch.sampling if n in s.request_of], np.int64))
        return finished

    def _sample(self, sampling: Int64s, logits: Tensor) -> list[Completion]:
        s = self.sessions
        numbers = torch.from_numpy(uniforms(s.seed[sampling], s.length[sampling] - s.start[sampling]))
        temperatures = torch.from_numpy(s.temperature[sampling])
        tokens, log_probs = self._forward.sample(logits, temperatures.to(logits.device), numbers.to(logits.device))
        return s.append(sampling, tokens.cpu().numpy(), log_probs.cpu().numpy(), self.version)


def _check(request: Request, config: ModelConfig) -> None:
    """Refuses values that no session could be continued with."""
    ids = np.asarray(request.token_ids, np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= config.vocab_size):
        raise EngineError(f"Request '{request.id}' has a token id outside the vocabulary of {config.vocab_size}.")
    if not request.temperature >= 0:
        raise EngineError(f"Request '{request.id}' has temperature {request.temperature}, but it must be at least 0.")
