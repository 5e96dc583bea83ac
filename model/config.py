"""The shape of a GLM-5 network, with the field names of Hugging Face's `GlmMoeDsaConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


class ModelConfigError(ValueError):
    """A model configuration that describes no possible network; the message names the field."""

    exit_status = 2  # the person's mistake, as tasks.cli reads it


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a GLM-5 network (GLM-5, arXiv 2602.15763, section 2; defaults: the laptop preset).

    `mlp_layer_types` ("dense" | "sparse") and `indexer_types` ("full" | "shared"), one entry a layer, are derived
    from `first_k_dense_replace` and "all full" where they are not given. `num_nextn_predict_layers` is the number
    of multi-token-prediction steps trained; they share the parameters of one layer.
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
    eos_token_id: int = 0
    mlp_layer_types: tuple[str, ...] = ()
    indexer_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        layers, dense = self.num_hidden_layers, min(self.first_k_dense_replace, self.num_hidden_layers)
        mlp_types = tuple(self.mlp_layer_types) or ("dense",) * dense + ("sparse",) * (layers - dense)
        object.__setattr__(self, "mlp_layer_types", mlp_types)
        object.__setattr__(self, "indexer_types", tuple(self.indexer_types) or ("full",) * layers)
        self._check_sizes()
        self._check_layers()

    def _check_sizes(self) -> None:
        may_be_zero = {
            "first_k_dense_replace", "num_nextn_predict_layers", "indexer_loss_rows", "mtp_loss_rows", "eos_token_id",
        }  # fmt: skip
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < (0 if field.name in may_be_zero else 1):
                raise ModelConfigError(f"The model's {field.name} is {value}, but it must be a positive integer.")
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
            if len(given) != self.num_hidden_layers or not set(given) <= values:
                raise ModelConfigError(
                    f"The model's {name} must hold one of {sorted(values)} for each of the "
                    f"{self.num_hidden_layers} layers, but it is {list(given)}."
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
        _refuse_unsupported(values)
        known = {field.name for field in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known and value is not None}
        kept.setdefault("num_nextn_predict_layers", 0)
        kept["rope_theta"] = (values.get("rope_parameters") or values).get("rope_theta", 10000.0)
        if isinstance(kept.get("eos_token_id"), list):
            kept["eos_token_id"] = kept["eos_token_id"][0]
        return cls(**kept)

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of `config.json`, readable by transformers' `AutoConfig`."""
        values = asdict(self)
        values["rope_parameters"] = {"rope_theta": values.pop("rope_theta"), "rope_type": "default"}
        return values | {
            "architectures": ["GlmMoeDsaForCausalLM"],
            "model_type": "glm_moe_dsa",
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.qk_rope_head_dim,
            "qk_head_dim": self.qk_head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "n_group": 1,
            "topk_group": 1,
            "dtype": "float32",
            "bos_token_id": None,
            "pad_token_id": None,
            "mlp_layer_types": list(self.mlp_layer_types),
            "indexer_types": list(self.indexer_types),
        }


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """GLM-5 has one routing group, no biases, plain RoPE and an untied head; nothing else is read."""
    rope_type = (values.get("rope_parameters") or {}).get("rope_type", "default")
    facts = {
        "model_type": (values.get("model_type", "glm_moe_dsa"), "glm_moe_dsa"),
        "rope_type": (rope_type, "default"),
        "n_group": (values.get("n_group", 1), 1),
        "attention_bias": (values.get("attention_bias", False), False),
        "tie_word_embeddings": (values.get("tie_word_embeddings", False), False),
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
    }
    for key, (given, supported) in facts.items():
        if given != supported:
            raise ModelConfigError(f"config.json sets {key} to {given!r}, but this model supports {supported!r} only.")


_SMALL: dict[str, Any] = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "moe_intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "index_n_heads": 8,
    "index_head_dim": 64,
    "index_topk": 512,
    "max_position_embeddings": 8192,
    "rope_theta": 1e6,
    "router_bias_update_rate": 1e-3,
}
_BASE: dict[str, Any] = {
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 24,
    "first_k_dense_replace": 2,
    "num_attention_heads": 16,
    "q_lora_rank": 1024,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "index_n_heads": 16,
    "index_head_dim": 128,
    "index_topk": 2048,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "router_bias_update_rate": 1e-3,
}
_GLM5: dict[str, Any] = {
    "vocab_size": 154880,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 78,
    "first_k_dense_replace": 3,
    "num_attention_heads": 64,
    "q_lora_rank": 2048,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 2048,
    "max_position_embeddings": 202752,
    "rope_theta": 1e6,
    "router_bias_update_rate": 1e-3,
}
PRESETS: dict[str, dict[str, Any]] = {"laptop": {}, "small": _SMALL, "base": _BASE, "glm5": _GLM5}
