"""Between `ModelConfig` and the `config.json` of Hugging Face's `GlmMoeDsaForCausalLM`.

What is written names every field that transformers, vLLM and SGLang read of this architecture, because their defaults
describe other ones (softmax routing, no router bias, a half-split rotation in the indexer). What is read is either
understood, known to change nothing, or refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from model.config import ModelConfig, ModelConfigError, shown

ARCHITECTURE, MODEL_TYPE = "GlmMoeDsaForCausalLM", "glm_moe_dsa"
OURS = "longhaul"  # what only this project reads: {"attention": "dense", "index_topk": ...}

# Fields with the one meaning that is built here: what is written, and the values that are read as the same.
FIXED: dict[str, tuple[Any, ...]] = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "n_group": (1, None),
    "topk_group": (1, None),
    "moe_layer_freq": (1, None),
    "rope_interleave": (True,),
    "indexer_rope_interleave": (True,),
    "index_share_for_mtp_iteration": (False, True, None),  # of drafting: what a draft costs, never what is said
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "attention_dropout": (0.0, None),
    "mlp_bias": (False, None),
    "tie_word_embeddings": (False, None),
}
# What a file may hold besides: notes of the program that wrote it, settings of training and of generation, and what is
# looked at in a place of its own.
HARMLESS = {
    "add_cross_attention", "architectures", "attn_implementation", "auto_map", "aux_loss_alpha", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "ep_size", "experts_implementation", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "head_dim", "id2label",
    "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern", "is_decoder", "is_encoder_decoder",
    "label2id", "layer_types", "length_penalty", "max_length", "min_length", "model_type", "moe_router_dtype",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_key_value_heads", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_router_logits", "output_scores", "pad_token_id",
    "partial_rotary_factor", "prefix", "pretraining_tp", "problem_type", "pruned_heads", "qk_head_dim",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "rope_parameters",
    "rope_scaling", "rope_theta", "router_aux_loss_coef", "sep_token_id", "seq_aux", "suppress_tokens",
    "task_specific_params", "temperature", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
}  # fmt: skip
# Every layer attends sparsely, by the name of whichever release wrote the file.
_LAYER_TYPES = ("indexed_attention", "deepseek_sparse_attention")
_OPTIONAL = {  # fields of ModelConfig that a file may lack, as transformers reads it then
    "first_k_dense_replace": 3, "num_nextn_predict_layers": 0, "initializer_range": 0.02, "rope_theta": 10000.0,
    "eos_token_id": (), "mlp_layer_types": (), "indexer_types": (), "attention": "sparse",
}  # fmt: skip
_TRAINING = {  # of training here; other programs neither write nor read them
    "mtp_loss_weight", "router_bias_update_rate", "indexer_loss_rows", "mtp_loss_rows", "activation_checkpointing",
}  # fmt: skip


def write_values(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json`.

    A network that attends densely selects all of its context, so that it does in every program that reads the file.
    """
    values = asdict(config)
    theta, attention, types = values.pop("rope_theta"), values.pop("attention"), config.indexer_types
    if attention == "dense":
        values[OURS] = {"attention": attention, "index_topk": config.index_topk}
        values["index_topk"] = max(config.index_topk, config.max_position_embeddings)
    eos, shared = config.eos_token_id, "shared" in types
    return values | {name: accepted[0] for name, accepted in FIXED.items()} | {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,
        "qk_head_dim": config.qk_head_dim,
        "mlp_layer_types": list(config.mlp_layer_types),
        "indexer_types": list(types),
        # The one form in which vLLM reads indexer_types
        "index_topk_pattern": "".join({"full": "F", "shared": "S"}[kind] for kind in types) if shared else None,
        "index_topk_freq": 1,
        "index_skip_topk_offset": 2,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "rope_scaling": None,
        "bos_token_id": None,
        "eos_token_id": eos if isinstance(eos, int) else list(eos) or None,
        "pad_token_id": None,  # transformers would never train the row of this token
        "dtype": "float32",
        "torch_dtype": "float32",
        "ep_size": 1,
        "moe_router_dtype": "float32",
        "pretraining_tp": 1,
        "use_cache": True,
    }  # fmt: skip


def read_values(values: Mapping[str, Any]) -> ModelConfig:
    """The network that a `config.json` describes; ModelConfigError, with one sentence, where it is not built here."""
    _check_kind(values)
    _check_fixed(values)
    _check_unknown(values)
    kept = {field.name: _read_field(field.name, str(field.type), values) for field in fields(ModelConfig)
            if field.name not in _TRAINING or values.get(field.name) is not None}  # fmt: skip
    kept["rope_theta"] = _rope_theta(values)
    kept["eos_token_id"] = _eos(values.get("eos_token_id"))
    kept["mlp_layer_types"] = _names(values, "mlp_layer_types")
    kept["indexer_types"] = _names(values, "indexer_types") or _shared_indexers(values, kept["num_hidden_layers"])
    config = ModelConfig(**(kept | _ours(values)))
    _check_derived(values, kept, config)
    return config


def _check_kind(values: Mapping[str, Any]) -> None:
    if "model_type" not in values:
        raise ModelConfigError(f"config.json lacks model_type, which is {MODEL_TYPE!r} where it describes this model.")
    if values["model_type"] != MODEL_TYPE:
        raise _unsupported("model_type", values["model_type"], MODEL_TYPE)
    if values.get("architectures") not in (None, [ARCHITECTURE]):
        raise _unsupported("architectures", values["architectures"], [ARCHITECTURE])


def _check_fixed(values: Mapping[str, Any]) -> None:
    for name, accepted in FIXED.items():
        if name in values and not any(_same(values[name], value) for value in accepted):
            raise _unsupported(name, values[name], accepted[0])
    if values.get("partial_rotary_factor") is not None and not _same(values["partial_rotary_factor"], 1.0):
        raise _unsupported("partial_rotary_factor", values["partial_rotary_factor"], 1.0)
    kinds = values.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(kind in _LAYER_TYPES for kind in kinds)):
        raise _unsupported("layer_types", kinds, _LAYER_TYPES[0])


def _check_unknown(values: Mapping[str, Any]) -> None:
    """A field nobody here knows may change the network, unless it is switched off."""
    known = {field.name for field in fields(ModelConfig)} - {"attention"} | FIXED.keys() | HARMLESS | {OURS}
    for name, value in values.items():
        off = value is None or value is False or value in ("", [], {})
        if name not in known and not name.startswith("_") and not off:
            raise ModelConfigError(
                f"config.json sets {shown(name)} to {shown(value)}, which is not supported here; "
                f"if it does not change what the network computes, delete it from the file."
            )


def _read_field(name: str, kind: str, values: Mapping[str, Any]) -> Any:
    """A whole number may be written as a float; every other wrong kind is left for ModelConfig to name."""
    value = values.get(name)
    if name == "attention" or (value is None and name in _OPTIONAL):
        return _OPTIONAL[name]
    if value is None:
        raise ModelConfigError(f"config.json {'sets' if name in values else 'lacks'} {name}"
                               f"{' to null' if name in values else ''}, but this model needs a value.")  # fmt: skip
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _rope_theta(values: Mapping[str, Any]) -> Any:
    found = [values.get("rope_theta")]
    for name in ("rope_scaling", "rope_parameters"):
        rope = values.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ModelConfigError(f"config.json sets {name} to {shown(rope)}, but it must be an object.")
        found.append(_plain_theta(name, rope))
    given = [theta for theta in found if theta is not None]
    if any(theta != given[0] for theta in given):
        raise ModelConfigError(f"config.json gives two values of rope_theta, {shown(given[0])} and {shown(given[-1])}.")
    return given[0] if given else _OPTIONAL["rope_theta"]


def _plain_theta(name: str, rope: Mapping[str, Any]) -> Any:
    """The base of an unscaled rotation over the whole of its dimensions; nothing else is built."""
    for key, value in rope.items():
        plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}.get(key)
        if key != "rope_theta" and value is not None and not _same(value, plain):
            raise ModelConfigError(
                f"config.json sets {name}.{shown(key)[1:-1]} to {shown(value)}, but this model supports "
                f"unscaled rotary positions (rope_type 'default') only."
            )
    return rope.get("rope_theta")


def _eos(value: Any) -> Any:
    if isinstance(value, list):
        if not value:
            raise ModelConfigError("config.json sets eos_token_id to an empty list, but it must be an id, ids or null.")
        return tuple(value)
    return _OPTIONAL["eos_token_id"] if value is None else value


def _names(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = values.get(name)
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        raise ModelConfigError(f"config.json sets {name} to {shown(given)}, but it must list a kind a layer.")
    return tuple(given)


def _shared_indexers(values: Mapping[str, Any], layers: Any) -> tuple[str, ...]:
    """Which layers share their selection, where only its older spellings say so (transformers reads them alike)."""
    pattern = values.get("index_topk_pattern")
    if pattern is not None:
        if not isinstance(pattern, str) or set(pattern) - {"F", "S"}:
            raise _unsupported("index_topk_pattern", pattern, "a letter F or S a layer")
        return tuple("full" if letter == "F" else "shared" for letter in pattern)
    every, offset = (values.get(name) for name in ("index_topk_freq", "index_skip_topk_offset"))
    every, offset = (1 if every is None else every), (2 if offset is None else offset)
    for name, value in (("index_topk_freq", every), ("index_skip_topk_offset", offset)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelConfigError(f"config.json sets {name} to {shown(value)}, but it must be at least 1.")
    if every == 1 or not isinstance(layers, int) or not 0 < layers <= 1000:
        return ()
    return tuple("shared" if max(layer - offset + 1, 0) % every else "full" for layer in range(layers))


def _ours(values: Mapping[str, Any]) -> dict[str, Any]:
    """How the network was trained to attend, where the file says so."""
    ours = values.get(OURS)
    if ours is None:
        return {}
    if not isinstance(ours, dict) or set(ours) != {"attention", "index_topk"}:
        raise _unsupported(OURS, ours, '{"attention": ..., "index_topk": ...}')
    return dict(ours)


def _check_derived(values: Mapping[str, Any], kept: Mapping[str, Any], config: ModelConfig) -> None:
    if config.attention == "dense" and kept["index_topk"] < config.max_position_embeddings:
        raise ModelConfigError(
            f"config.json sets {OURS}.attention to 'dense', but its index_topk, {kept['index_topk']}, selects less "
            f"than its max_position_embeddings, {config.max_position_embeddings}."
        )
    heads = values.get("num_key_value_heads")
    if isinstance(heads, int) and heads < config.num_attention_heads:
        raise ModelConfigError(
            f"config.json sets num_key_value_heads to {heads}, but every one of the {config.num_attention_heads} heads "
            f"of this model has keys of its own."
        )
    wanted = values.get("qk_head_dim")
    if wanted is not None and wanted != config.qk_head_dim:
        raise ModelConfigError(
            f"config.json sets qk_head_dim to {shown(wanted)}, but its qk_nope_head_dim and qk_rope_head_dim "
            f"add up to {config.qk_head_dim}."
        )


def _same(given: Any, wanted: Any) -> bool:
    """Equal, where true is not 1; a whole number may be written as a float."""
    if isinstance(given, bool) or isinstance(wanted, bool) or given is None:
        return given is wanted
    if isinstance(given, float) and not math.isfinite(given):
        return False
    return bool(given == wanted)


def _unsupported(name: str, given: Any, supported: Any) -> ModelConfigError:
    return ModelConfigError(f"config.json sets {name} to {shown(given)}, but this model supports {supported!r} only.")
