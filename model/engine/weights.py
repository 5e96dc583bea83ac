"""Fuse a transformer's weights for decoding.

MLA in absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1.2): the key up-projection goes into the queries and
the value up-projection into the output projection, so that attention runs on the cached latents themselves. The
gains of all RMSNorms go into the projections behind them, projections with the same input become one, and softmax
and indexer scales go into the queries. Products are formed in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.engine.request import EngineError

Weights = Mapping[str, Tensor]
_NORMS = ("model.norm.weight", "mtp.shared_head.norm.weight")  # behind the trunk, behind the MTP layer


@dataclass(frozen=True)
class FeedForward:
    """SwiGLU weights of one expert, of several (leading dimension E), or of a dense layer."""

    gate_up: Tensor  # [(E,) 2 * intermediate, hidden]
    down: Tensor  # [(E,) hidden, intermediate]


@dataclass(frozen=True)
class Routing:
    """Router and experts of a mixture-of-experts layer."""

    router: Tensor  # [E, hidden]
    bias: Tensor  # [E]
    experts: FeedForward


@dataclass(frozen=True)
class FusedLayer:
    """One decoder layer; `low` maps to q latent | kv latent | key rope | index key | index head weights."""

    low: Tensor  # [q_lora + kv_lora + rope (+ index_head_dim + index_heads), hidden]
    queries: Tensor  # [heads * (kv_lora + rope) (+ index_heads * index_head_dim), q_lora]
    output: Tensor  # [hidden, heads * kv_lora]
    key_norm: tuple[Tensor, Tensor] | None  # gain and bias of the index key's LayerNorm; None: shared indexer
    dense: FeedForward  # a dense layer's network, or the shared experts
    routing: Routing | None


@dataclass(frozen=True)
class FusedWeights:
    """Everything a decoding step needs."""

    embedding: Tensor  # [vocabulary, hidden]
    layers: list[FusedLayer]
    head: Tensor  # [vocabulary, hidden], the final norm's gain included


def fuse(weights: Weights, config: ModelConfig) -> FusedWeights:
    """Fuse a state dict with the names of transformers' `GlmMoeDsaForCausalLM`.

    The result shares no memory with `weights`, which a trainer may go on to change.

    Raises:
        EngineError: a tensor is missing.
    """
    try:
        layers = [_fuse_layer(_Layer(weights, index), config, index) for index in range(config.num_hidden_layers)]
        head = weights["lm_head.weight"].double() * weights["model.norm.weight"].double()
        embedding = weights["model.embed_tokens.weight"].to(torch.float32, copy=True)
        return FusedWeights(embedding, layers, head.float())
    except KeyError as error:
        raise EngineError(f"The weights given to the decode engine have no tensor {error}.") from None


@dataclass(frozen=True)
class Joiner:
    """What leads into the MTP layer and out of it; its layer itself is fused as any other."""

    tokens: Tensor  # [vocabulary, hidden]: what eh_proj makes of the next token, enorm included
    projection: Tensor  # [hidden, hidden]: eh_proj's half for the state, hnorm's gain included
    trunk_gain: Tensor  # [hidden], of the trunk's final norm
    own_gain: Tensor  # [hidden], of the norm behind the MTP layer
    head: Tensor  # [vocabulary, hidden], the gain of the norm behind the MTP layer included


def fuse_mtp(weights: Weights, config: ModelConfig) -> tuple[FusedWeights, Joiner]:
    """The MTP layer as a network of one layer, and what stands around it; config describes that network.

    Raises:
        EngineError: a tensor is missing.
    """
    try:
        network = {f"model.layers.0.{name[4:]}": value for name, value in weights.items() if name.startswith("mtp.")}
        network["model.norm.weight"] = weights["mtp.shared_head.norm.weight"]
        network |= {name: weights[name] for name in ("lm_head.weight", "model.embed_tokens.weight")}
        fused = fuse(network, config)
        token_half, state_half = weights["mtp.eh_proj.weight"].double().chunk(2, dim=1)
        table = weights["model.embed_tokens.weight"].double()
        table = table * torch.rsqrt(table.square().mean(-1, keepdim=True) + config.rms_norm_eps)
        tokens = table @ (token_half * weights["mtp.enorm.weight"]).T
        projection = (state_half * weights["mtp.hnorm.weight"]).float()
        trunk, own = (weights[name].to(torch.float32, copy=True) for name in _NORMS)
        return fused, Joiner(tokens.float(), projection, trunk, own, fused.head)
    except KeyError as error:
        raise EngineError(f"The weights given to the decode engine have no tensor {error}.") from None


class _Layer:
    """Reads one layer's tensors in float64."""

    def __init__(self, weights: Weights, index: int) -> None:
        self.weights, self.prefix = weights, f"model.layers.{index}."

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[self.prefix + name].double()


def _fuse_layer(layer: _Layer, config: ModelConfig, index: int) -> FusedLayer:
    full = config.indexer_types[index] == "full"
    dense, routing = _feed_forward(layer, config.mlp_layer_types[index] == "sparse", config)
    indexer = "self_attn.indexer.k_norm."
    return FusedLayer(
        low=_low(layer, config, full).float(),
        queries=_queries(layer, config, full).float(),
        output=_output(layer, config).float(),
        key_norm=(layer[indexer + "weight"].float(), layer[indexer + "bias"].float()) if full else None,
        dense=dense,
        routing=routing,
    )


def _low(layer: _Layer, config: ModelConfig, full: bool) -> Tensor:
    """The projections of the normalised hidden state, stacked, with the norm's gain inside."""
    parts = [layer["self_attn.q_a_proj.weight"], layer["self_attn.kv_a_proj_with_mqa.weight"]]
    if full:
        scale = (config.index_n_heads * config.index_head_dim) ** -0.5
        parts += [layer["self_attn.indexer.wk.weight"], layer["self_attn.indexer.weights_proj.weight"] * scale]
    return torch.cat(parts) * layer["input_layernorm.weight"]


def _up_projections(layer: _Layer, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Key [H, nope, kv_lora] and value [H, v, kv_lora] up-projections, with the latent norm's gain inside."""
    heads, nope, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
    up = layer["self_attn.kv_b_proj.weight"] * layer["self_attn.kv_a_layernorm.weight"]
    key, val = up.view(heads, nope + value, config.kv_lora_rank).split([nope, value], dim=1)
    return key, val


def _queries(layer: _Layer, config: ModelConfig, full: bool) -> Tensor:
    nope, rope = config.qk_nope_head_dim, config.qk_rope_head_dim
    gain = layer["self_attn.q_a_layernorm.weight"]
    plain = (layer["self_attn.q_b_proj.weight"] * gain).view(config.num_attention_heads, nope + rope, -1)
    key_up, _ = _up_projections(layer, config)
    absorbed = torch.einsum("hnk,hnq->hkq", key_up, plain[:, :nope])
    heads = torch.cat([absorbed, plain[:, nope:]], dim=1) * (nope + rope) ** -0.5  # [H, kv_lora + rope, q_lora]
    parts = [heads.flatten(0, 1)]
    if full:
        parts.append(layer["self_attn.indexer.wq_b.weight"] * gain)
    return torch.cat(parts)


def _output(layer: _Layer, config: ModelConfig) -> Tensor:
    _, value_up = _up_projections(layer, config)
    out = layer["self_attn.o_proj.weight"].view(-1, config.num_attention_heads, config.v_head_dim)
    return torch.einsum("ohv,hvk->ohk", out, value_up).flatten(1)


def _feed_forward(layer: _Layer, routed: bool, config: ModelConfig) -> tuple[FeedForward, Routing | None]:
    gain = layer["post_attention_layernorm.weight"]
    if not routed:
        return _swiglu(layer, "mlp.", gain), None
    experts = FeedForward((layer["mlp.experts.gate_up_proj"] * gain).float(), layer["mlp.experts.down_proj"].float())
    bias = layer["mlp.gate.e_score_correction_bias"].float()
    routing = Routing((layer["mlp.gate.weight"] * gain).float(), bias, experts)
    return _swiglu(layer, "mlp.shared_experts.", gain), routing


def _swiglu(layer: _Layer, name: str, gain: Tensor) -> FeedForward:
    gate_up = torch.cat([layer[name + "gate_proj.weight"], layer[name + "up_proj.weight"]]) * gain
    return FeedForward(gate_up.float(), layer[name + "down_proj.weight"].float())
