"""The compiled decoding step: builds step.cpp for a model's shape on first use and calls it through ctypes."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import native
from model.config import ModelConfig
from model.engine.cache import Cache
from model.engine.reference import INDEX_NORM_EPS, LATENT_NORM_EPS
from model.engine.request import EngineError
from model.engine.weights import FeedForward, FusedLayer, FusedWeights

_SOURCE = Path(__file__).with_name("step.cpp")
_HEADER = Path(__file__).with_name("lanes.h")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno")
_FEWEST_ROWS = 8  # below this a thread of its own costs more than it saves
_COLUMNS = 16  # of a packed panel; step.cpp's tile


class NativeStep:
    """Same call as `ReferenceStep`; keeps the packed weights and the table of pointers that step.cpp reads."""

    def __init__(
        self, config: ModelConfig, weights: FusedWeights, cache: Cache, topk: int | None, threads: int = 1
    ) -> None:
        self.cache, self.topk = cache, min(topk or cache.max_length, cache.max_length)
        self.config, self.vocabulary = config, config.vocab_size
        self.library = _library_for(config)
        self.threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self.parts = threads
        self.embedding, self.head = weights.embedding.contiguous(), _pack(weights.head)
        self.angles = _angles(config, cache.max_length)
        self._kept: list[Tensor] = []  # the table's pointers stay valid as long as these live
        self.table = torch.tensor([self._entry(layer, index) for index, layer in enumerate(weights.layers)])

    @staticmethod
    def available(config: ModelConfig, device: torch.device) -> bool:
        """Whether it can be built, the model is on the CPU, and its sizes are multiples of the vector width."""
        vectors: tuple[int, ...] = (config.q_lora_rank, config.kv_lora_rank, config.index_head_dim)
        vectors += (config.intermediate_size, config.moe_intermediate_size, config.qk_rope_head_dim)
        whole = not any(size % 8 for size in vectors) and not config.hidden_size % 16
        return device.type == "cpu" and whole and _library(_macros(config)) is not None

    def _entry(self, layer: FusedLayer, index: int) -> list[int]:
        """One row of the table, in the order of step.cpp's `Layer`."""
        gain, bias = layer.key_norm or (None, None)
        routing = layer.routing
        c = self.config
        low = c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim + c.index_head_dim + c.index_n_heads
        queries = c.num_attention_heads * (c.kv_lora_rank + c.qk_rope_head_dim) + c.index_n_heads * c.index_head_dim
        fields = [_pack(layer.low, low), _pack(layer.queries, queries), _pack(layer.output)]
        fields += [gain, bias, *_packed(layer.dense)]
        fields += [_pack(routing.router), routing.bias, *_packed(routing.experts)] if routing else [None] * 4
        fields += [self.cache.latent[index], self.cache.index_keys[index]]
        self._kept += [field for field in fields if field is not None]
        return [0 if field is None else field.data_ptr() for field in fields] + [layer.dense.down.shape[-1]]

    def __call__(self, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """tokens, slots, positions: [R]; wanted: [W] ascending row numbers. Returns their logits, [W, V]."""
        return self._divided(self.embedding, tokens, slots, positions, wanted, None)

    def run(
        self, inputs: Tensor, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceStep.run`."""
        states = torch.empty(len(tokens), self.config.hidden_size)
        return states, self._divided(inputs.contiguous(), tokens, slots, positions, wanted, states)

    def _divided(
        self, inputs: Tensor, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor, states: Tensor | None
    ) -> Tensor:
        """The logits of the wanted rows; the rows are shared out among the threads."""
        logits = torch.empty(len(wanted), -(-self.vocabulary // _COLUMNS) * _COLUMNS)
        ends = _divide(slots, self.parts)
        split = torch.searchsorted(wanted, torch.tensor(ends)).tolist()
        jobs = [
            (
                inputs, tokens[first:last], slots[first:last], positions[first:last], wanted[a:b] - first, logits[a:b],
                None if states is None else states[first:last],
            )
            for first, last, a, b in zip([0, *ends], ends, [0, *split], split, strict=False)
        ]  # fmt: skip
        if self.threads is None or len(jobs) == 1:
            for job in jobs:
                self._run(*job)
        else:
            list(self.threads.map(lambda job: self._run(*job), jobs))
        return logits[:, : self.vocabulary]

    def _run(
        self, inputs: Tensor, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor, logits: Tensor,
        states: Tensor | None,
    ) -> None:  # fmt: skip
        """Rows of whole sessions; ctypes gives up the interpreter's lock, so several calls run at once."""
        self.library.decode_rows(
            self.table.data_ptr(), len(self.table), inputs.data_ptr(), self.head.data_ptr(),
            self.angles.data_ptr(), self.cache.max_length, self.topk, len(tokens), tokens.data_ptr(),
            slots.data_ptr(), positions.data_ptr(), len(wanted), wanted.data_ptr(), logits.data_ptr(),
            0 if states is None else states.data_ptr(),
        )  # fmt: skip

    def sample(self, logits: Tensor, temperatures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """What `sampling.sample` does, for float32 logits of rows that are one stride apart."""
        rows = len(logits)
        tokens, log_probs = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        self.library.sample_rows(
            logits.data_ptr(), logits.stride(0), rows, temperatures.data_ptr(), numbers.data_ptr(),
            tokens.data_ptr(), log_probs.data_ptr(),
        )  # fmt: skip
        return tokens, log_probs


def _divide(slots: Tensor, parts: int) -> list[int]:
    """Where up to `parts` runs of rows end, of about equal length and none inside a session."""
    rows = len(slots)
    if parts == 1 or rows < 2 * _FEWEST_ROWS:
        return [rows]
    begins = (slots[1:] != slots[:-1]).nonzero()[:, 0] + 1
    if not len(begins):
        return [rows]
    aims = torch.arange(1, parts) * rows // parts
    nearest = begins[torch.searchsorted(begins, aims).clamp(max=len(begins) - 1)]
    return [*sorted(set(nearest.tolist())), rows]


def _pack(matrix: Tensor, columns: int = 0) -> Tensor:
    """[..., out, in] -> [..., panels, in, 16]: room for `columns` outputs, filled up with zeros."""
    outputs = matrix.shape[-2]
    short = -(-max(columns, outputs) // _COLUMNS) * _COLUMNS - outputs
    return torch.nn.functional.pad(matrix, (0, 0, 0, short)).unflatten(-2, (-1, _COLUMNS)).mT.contiguous()


def _packed(weights: FeedForward) -> list[Tensor]:
    return [_pack(weights.gate_up), _pack(weights.down)]


def _angles(config: ModelConfig, max_length: int) -> Tensor:
    """cos and sin of each position and pair, [max_length, rope / 2, 2]."""
    frequency = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float64) / config.qk_rope_head_dim
    angles = torch.arange(max_length)[:, None] * config.rope_theta**-frequency
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _macros(config: ModelConfig) -> tuple[str, ...]:
    sizes = {
        "HIDDEN": config.hidden_size,
        "VOCABULARY": config.vocab_size,
        "HEADS": config.num_attention_heads,
        "Q_LORA": config.q_lora_rank,
        "KV_LORA": config.kv_lora_rank,
        "ROPE": config.qk_rope_head_dim,
        "INDEX_HEADS": config.index_n_heads,
        "INDEX_DIM": config.index_head_dim,
        "DENSE": config.intermediate_size,
        "SHARED": config.moe_intermediate_size * config.n_shared_experts,
        "EXPERT": config.moe_intermediate_size,
        "EXPERTS": config.n_routed_experts,
        "PER_TOKEN": config.num_experts_per_tok,
        "NORMALISE": int(config.norm_topk_prob),
    }
    reals = {
        "ROUTED_SCALE": config.routed_scaling_factor,
        "NORM_EPS": config.rms_norm_eps,
        "LATENT_NORM_EPS": LATENT_NORM_EPS,
        "INDEX_NORM_EPS": INDEX_NORM_EPS,
    }
    values = {name: str(value) for name, value in sizes.items()}
    values |= {name: f"{float(value)!r}f" for name, value in reals.items()}
    return tuple(f"-D{name}={value}" for name, value in values.items())


def _library_for(config: ModelConfig) -> ctypes.CDLL:
    found = _library(_macros(config))
    if found is None:
        raise EngineError("The compiled decoding step was asked for, but it cannot be built or is switched off here.")
    return found


@cache
def _library(macros: tuple[str, ...]) -> ctypes.CDLL | None:
    """The functions compiled for these sizes; None where that is impossible."""
    loaded = native.build(_SOURCE, _FLAGS, macros, (_HEADER,))
    if loaded is None:
        return None
    kinds: dict[str, Any] = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
    loaded.decode_rows.argtypes = [kinds[letter] for letter in "pnpppnnnpppnppp"]
    loaded.sample_rows.argtypes = [kinds[letter] for letter in "pnnpppp"]
    loaded.decode_rows.restype = loaded.sample_rows.restype = None
    return loaded
