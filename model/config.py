"""The shape of a GLM-5 network, with the field names of Hugging Face's `GlmMoeDsaConfig`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from model.presets import PRESETS

ATTENTION = ("dense", "sparse")
LARGEST = 2**31 - 1
LARGEST_SIZE = 2**24  # of one dimension: far beyond any network, and no product of two of them overflows
_LARGEST = {"num_hidden_layers": 1000, "n_routed_experts": 2**16, "num_nextn_predict_layers": 64} | dict.fromkeys(
    ("index_topk", "max_position_embeddings", "indexer_loss_rows", "mtp_loss_rows"), LARGEST
)
_MAY_BE_ZERO = {
    "first_k_dense_replace", "num_nextn_predict_layers", "indexer_loss_rows", "mtp_loss_rows", "mtp_loss_weight",
    "router_bias_update_rate", "initializer_range",
}  # fmt: skip


def shown(value: object) -> str:
    """A value as an error's sentence shows it: short, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not print
        return "a number too long to print"


class ModelConfigError(ValueError):
    """A model configuration that describes no possible network; the message names the field."""

    exit_status = 2  # the person's mistake, as tasks.cli reads it


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a GLM-5 network (GLM-5, arXiv 2602.15763, section 2; defaults: the laptop preset).

    `mlp_layer_types` ("dense" | "sparse") and `indexer_types` ("full" | "shared"), one entry a layer, are derived
    from `first_k_dense_replace` and "all full" where they are not given. `num_nextn_predict_layers` is the number
    of multi-token-prediction steps trained; they share the parameters of one layer. `attention` is how the weights
    attend unless a call says otherwise: "sparse" (DSA) or, for a network that was trained so, "dense".
    """

    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 384
    moe_intermediate_size: int = 96
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    num_attention_heads: int = 4
    q_lora_rank: int = 64
    kv_lora_rank: int = 48
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    n_shared_experts: int = 1
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    index_n_heads: int = 4
    index_head_dim: int = 32
    index_topk: int = 128
    num_nextn_predict_layers: int = 1
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    mtp_loss_weight: float = 0.3
    router_bias_update_rate: float = 0.005  # a short run needs more than the 0.001 of DeepSeek-V3
    indexer_loss_rows: int = 128  # query rows of a sequence that teach the indexer at each step; 0 means all
    mtp_loss_rows: int = 0  # rows of a batch that teach the MTP layer at each step; 0 means all
    activation_checkpointing: bool = False  # training keeps a layer's input and computes the rest of it twice
    eos_token_id: int | tuple[int, ...] = (0, 4)  # the ids that end a turn in the recipe's chat format
    attention: str = "sparse"
    mlp_layer_types: tuple[str, ...] = ()
    indexer_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_numbers()
        layers, dense = self.num_hidden_layers, min(self.first_k_dense_replace, self.num_hidden_layers)
        mlp_types = tuple(self.mlp_layer_types) or ("dense",) * dense + ("sparse",) * (layers - dense)
        object.__setattr__(self, "mlp_layer_types", mlp_types)
        leading = mlp_types.index("sparse") if "sparse" in mlp_types else layers  # vLLM and SGLang read no more
        object.__setattr__(self, "first_k_dense_replace", leading)
        object.__setattr__(self, "indexer_types", tuple(self.indexer_types) or ("full",) * layers)
        self._check_sizes()
        self._check_layers()

    def _check_numbers(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = _number_wanted(field.name, str(field.type), value)
            if wanted is not None:
                raise ModelConfigError(f"The model's {field.name} is {shown(value)}, but it must be {wanted}.")
        if self.attention not in ATTENTION:
            raise ModelConfigError(
                f"The model's attention is {shown(self.attention)}, but it must be 'dense' or 'sparse'."
            )
        ends = self.eos_token_ids
        if not all(isinstance(end, int) and not isinstance(end, bool) and 0 <= end <= LARGEST for end in ends):
            raise ModelConfigError(
                f"The model's eos_token_id is {shown(self.eos_token_id)}, but it must be a token id or several."
            )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a turn, as a tuple whatever `eos_token_id` is."""
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    def _check_sizes(self) -> None:
        if self.qk_rope_head_dim % 2:
            raise ModelConfigError(f"The model's qk_rope_head_dim is {self.qk_rope_head_dim}, but it must be even.")
        if self.index_head_dim < self.qk_rope_head_dim:
            raise ModelConfigError(
                f"The model's index_head_dim ({self.index_head_dim}) is smaller than its qk_rope_head_dim "
                f"({self.qk_rope_head_dim}), but the indexer rotates that many dimensions."
            )
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ModelConfigError(
                f"The model's num_experts_per_tok ({self.num_experts_per_tok}) is larger than its n_routed_experts "
                f"({self.n_routed_experts})."
            )

    def _check_layers(self) -> None:
        allowed = {"mlp_layer_types": {"dense", "sparse"}, "indexer_types": {"full", "shared"}}
        for name, values in allowed.items():
            given = getattr(self, name)
            if len(given) != self.num_hidden_layers or not all(part in sorted(values) for part in given):
                raise ModelConfigError(
                    f"The model's {name} must hold one of {sorted(values)} for each of the "
                    f"{self.num_hidden_layers} layers, but it is {shown(list(given))}."
                )
        if self.indexer_types[0] == "shared":
            raise ModelConfigError("The model's first layer has indexer type 'shared', but no layer precedes it.")

    @property
    def qk_head_dim(self) -> int:
        """Size of one head's query and key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """The named shape: laptop (2 M parameters), small, base (one GPU) or glm5 (744 B)."""
        if name not in PRESETS:
            raise ModelConfigError(f"There is no model preset '{name}'; the presets are {', '.join(PRESETS)}.")
        return cls(**PRESETS[name])

    @classmethod
    def from_hugging_face(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads a `config.json` of `GlmMoeDsaConfig`; ModelConfigError where it asks for what is not built here."""
        from model.hugging_face import read_values

        return read_values(values)

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of `config.json`, with every field that transformers, vLLM and SGLang read."""
        from model.hugging_face import write_values

        return write_values(self)


def _number_wanted(name: str, kind: str, value: Any) -> str | None:
    """What a field must be where its value is not that; None where it is, or where the field holds no number."""
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    if kind == "int":
        lowest, largest = int(name not in _MAY_BE_ZERO), _LARGEST.get(name, LARGEST_SIZE)
        fits = isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= largest
        return None if fits else f"a {'positive ' if lowest else ''}integer of at most {largest}"
    if kind == "float":
        finite = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        fits = finite and (value > 0 or (value == 0 and name in _MAY_BE_ZERO))
        return None if fits else f"a finite number {'of at least' if name in _MAY_BE_ZERO else 'above'} 0"
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
