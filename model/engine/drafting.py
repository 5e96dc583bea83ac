"""Drafts of the multi-token-prediction layer (DeepSeek-V3, arXiv 2412.19437, section 2.2; GLM-5, section 2.1).

The layer is a network of one layer: from the trunk's state at token t and token t+1 it predicts token t+2. A second
draft takes its own state for the trunk's, one token on, and so on with the same parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.engine.cache import Cache
from model.engine.reference import normalise
from model.engine.request import Completion, EngineError
from model.engine.sampling import ACCEPT, DRAFT, uniforms
from model.engine.sessions import Sessions, spread
from model.engine.step import Step
from model.engine.verification import Verdict, draw, token_probabilities, verify
from model.engine.weights import FusedWeights, fuse_mtp

Int64s = npt.NDArray[np.int64]
Build = Callable[[ModelConfig, FusedWeights, Cache], Step]


class Drafter:
    """Keeps the MTP layer's cache in step with the sessions and proposes up to `steps` tokens a session.

    Drafted tokens lie in `sessions.tokens` behind the session's length, `counts[slot]` of them, and
    `proposals` [slots, steps, V] are the distributions they were drawn from. `states` [slots, max_length, hidden]
    are the trunk's, normalised, without the final norm's gain.
    """

    def __init__(self, config: ModelConfig, sessions: Sessions, steps: int, build: Build, device: torch.device) -> None:
        if not config.num_nextn_predict_layers:
            raise EngineError("The decode engine is to speculate, but the network has no MTP layer to draft with.")
        kind, slots = config.mlp_layer_types[-1:], len(sessions.tokens)
        self.config = replace(config, num_hidden_layers=1, mlp_layer_types=kind, indexer_types=("full",))
        self.sessions, self.steps, self.build = sessions, steps, build
        self.cache = Cache(self.config, slots, sessions.max_length, device)
        self.states = torch.zeros(slots, sessions.max_length, config.hidden_size, device=device)
        self.proposals = torch.zeros(slots, steps, config.vocab_size, device=device)
        self.cached, self.counts = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self.rounds = self.kept = 0  # steps that verified drafts, tokens they added

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Draft with other weights; every row of the cache is recomputed when it is needed."""
        fused, self.joiner = fuse_mtp(weights, self.config)
        self.step = self.build(self.config, fused, self.cache)
        self.cached[:] = self.counts[:] = 0

    def forget(self, slot: int) -> None:
        """The slot begins another session."""
        self.cached[slot] = self.counts[slot] = 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Take over what another slot has of the first `length` tokens; a row also depends on the token after it."""
        self.states[target, :length] = self.states[source, :length]
        rows = min(length - 1, int(self.cached[source]))
        self.cache.copy_prefix(source, target, rows)
        self.cached[target] = rows

    def settle(self, sampling: Int64s, counts: Int64s, logits: Tensor, version: int) -> list[Completion]:
        """Append to each slot the drafts that stand and the token after them; returns the requests that end.

        sampling: [N] slots. counts: [N] drafts of each. logits: [sum(1 + counts), V], of each slot those behind its
        last token and behind its drafts.
        """
        s, offsets = self.sessions, np.arange(int(counts.max(initial=0)) + 1)
        before = s.length[sampling]
        verdict = self._verify(sampling, counts, logits, offsets)
        accepted, tokens, log_probs = (part.cpu().numpy() for part in verdict)
        finished: list[Completion] = []
        for offset in offsets:
            going = (accepted >= offset) & np.array([slot in s.request_of for slot in sampling], bool)
            finished += s.append(sampling[going], tokens[going, offset], log_probs[going, offset], version)
        s.cached[sampling] = np.minimum(before + accepted, s.length[sampling] - 1)
        self.counts[sampling] = 0
        self.rounds += int((counts > 0).sum())
        self.kept += int((s.length[sampling] - before)[counts > 0].sum())
        return finished

    def _verify(self, sampling: Int64s, counts: Int64s, logits: Tensor, offsets: Int64s) -> Verdict:
        s, most = self.sessions, len(offsets) - 1
        first = np.cumsum(1 + counts) - (1 + counts)
        padded = logits[self._put(first[:, None] + np.minimum(offsets, counts[:, None]))]
        at = s.length[sampling, None] + offsets
        drafts = s.tokens[sampling[:, None], np.minimum(at[:, :most], s.max_length - 1)]
        seeds, indices = s.seed[sampling, None], at - s.start[sampling, None]
        return verify(
            padded,
            self._put(s.temperature[sampling]),
            self._put(drafts),
            self.proposals[self._put(sampling), :most],
            self._put(counts),
            self._put(uniforms(seeds, indices[:, :most], ACCEPT)),
            self._put(uniforms(seeds, indices)),
        )

    @property
    def accept_length(self) -> float:
        """Mean number of tokens that a step with drafts added to a session; 1 + steps at most."""
        return self.kept / max(1, self.rounds)

    def propose(self, slots: Int64s, drafting: Int64s) -> None:
        """Bring the cache of these slots up to date, then draft for those of them whose request goes on.

        The slots in `drafting` are among `slots`; all their tokens but the last are in the trunk's cache.
        """
        s = self.sessions
        ends = np.minimum(s.cached[slots], s.length[slots] - 1)
        needed = ends - self.cached[slots]
        slots, needed, ends = (part[needed > 0] for part in (slots, needed, ends))
        self.counts[drafting] = np.minimum(self.steps, s.limit[drafting] - s.length[drafting] - 1)
        if not len(slots):
            return
        rows, positions, behind = spread(slots, self.cached[slots], needed)
        drafts = np.isin(slots, drafting) & (self.counts[slots] > 0)
        trunk = self.states[self._put(rows), self._put(positions)]
        states = self._run(trunk, self.joiner.trunk_gain, rows, positions)
        self.cached[slots] = ends
        self._extend(states[self._put(behind[drafts] - 1)], slots[drafts])

    def _extend(self, states: Tensor, slots: Int64s) -> None:
        """Draft token after token; states [N, hidden] predict the first one of each slot."""
        s = self.sessions
        for number in range(self.steps):
            logits = F.linear(states, self.joiner.head)
            self._draw(logits, slots, number)
            going = self.counts[slots] > number + 1
            if not going.any():
                return
            slots, states = slots[going], states[self._put(going)]
            states = self._run(states, self.joiner.own_gain, slots, s.length[slots] - 1 + number)

    def _run(self, states: Tensor, gain: Tensor, slots: Int64s, positions: Int64s) -> Tensor:
        """The layer's normalised states of rows: of the state there and the token after it."""
        following = self._put(self.sessions.tokens[slots, positions + 1])
        inputs = self.joiner.tokens[following] + F.linear(
            normalise(states * gain, self.config.rms_norm_eps), self.joiner.projection
        )
        numbers = torch.arange(len(slots), device=states.device)
        return self.step.run(inputs, numbers, self._put(slots), self._put(positions), numbers[:0])[0]

    def _draw(self, logits: Tensor, slots: Int64s, number: int) -> None:
        s = self.sessions
        probabilities, _ = token_probabilities(logits, self._put(s.temperature[slots]))
        at = s.length[slots] + number
        drawn = draw(probabilities, self._put(uniforms(s.seed[slots], at - s.start[slots], DRAFT)))
        s.tokens[slots, at] = drawn.cpu().numpy()
        self.proposals[self._put(slots), number] = probabilities

    def _put(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.states.device)
