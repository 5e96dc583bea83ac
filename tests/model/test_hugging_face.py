"""config.json: every field that other programs read is written, and what is not built here is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import CheckpointError, ModelConfig, ModelConfigError, Transformer
from model.hugging_face import FIXED
from tests.model.shapes import small_config, small_transformer

# Who reads which field of a glm_moe_dsa config.json, as their sources say: transformers 5.23 (models/glm_moe_dsa), vLLM
# (models/deepseek_v2.py, deepseek_mtp.py, transformers_utils) and SGLang 0.5.23 (models/deepseek_v2.py,
# deepseek_nextn.py, configs/model_config.py). Those with a value in WANTED mean another network by default.
BY_ALL = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "n_routed_experts", "n_shared_experts",
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group",
    "first_k_dense_replace", "hidden_act", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim", "head_dim", "rms_norm_eps", "max_position_embeddings", "rope_parameters", "index_topk",
    "index_n_heads", "index_head_dim", "index_topk_pattern", "index_topk_freq", "index_skip_topk_offset",
    "tie_word_embeddings", "dtype", "eos_token_id", "bos_token_id", "pad_token_id",
)  # fmt: skip
READ_BY = dict.fromkeys(BY_ALL, "transformers vLLM SGLang") | {
    "topk_method": "vLLM SGLang", "scoring_func": "vLLM SGLang", "moe_layer_freq": "vLLM SGLang",
    "indexer_rope_interleave": "vLLM SGLang", "rope_interleave": "SGLang", "num_nextn_predict_layers": "vLLM SGLang",
    "index_share_for_mtp_iteration": "vLLM SGLang", "moe_router_dtype": "vLLM", "rope_theta": "vLLM SGLang (older)",
    "rope_scaling": "vLLM SGLang (older)", "torch_dtype": "vLLM SGLang (older)", "ep_size": "SGLang (older)",
    "mlp_layer_types": "transformers", "indexer_types": "transformers SGLang", "attention_bias": "transformers",
    "attention_dropout": "transformers", "mlp_bias": "transformers", "qk_head_dim": "transformers",
    "initializer_range": "transformers", "use_cache": "transformers",
}  # fmt: skip
WANTED = {
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "indexer_rope_interleave": True, "rope_interleave": True,
    "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "head_dim": 4, "qk_head_dim": 12, "num_key_value_heads": 2,
    "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "torch_dtype": "float32", "dtype": "float32", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "eos_token_id": [0, 4],
}  # fmt: skip


def written(**changes: object) -> dict[str, Any]:
    """What a reader of our config.json gets, with changes; a change to `...` leaves the field out."""
    values = json.loads(json.dumps(small_config().to_hugging_face())) | changes
    return {name: value for name, value in values.items() if value is not ...}


def test_every_field_that_others_read_is_written() -> None:
    values = written()
    assert sorted(READ_BY.keys() - values.keys()) == []
    assert {name: values[name] for name in WANTED} == WANTED


def test_vllm_and_sglang_are_told_which_layers_are_sparse_and_which_share() -> None:
    config = small_config(mlp_layer_types=("dense", "dense", "sparse"), indexer_types=("full", "shared", "full"))
    values = config.to_hugging_face()
    assert (values["first_k_dense_replace"], values["index_topk_pattern"]) == (2, "FSF")
    assert ModelConfig.from_hugging_face(values) == config


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_what_is_written_is_read_back(attention: str) -> None:
    config = small_config(attention=attention, eos_token_id=(7, 9), indexer_types=("full", "shared", "shared"))
    values = json.loads(json.dumps(config.to_hugging_face()))
    assert ModelConfig.from_hugging_face(values) == config
    assert values["index_topk"] == (128 if attention == "dense" else 6)


UNSUPPORTED: dict[str, list[object]] = {
    "model_type": ["deepseek_v3", "llama", None, 3, ...],
    "architectures": [["LlamaForCausalLM"], "GlmMoeDsaForCausalLM", [], 3],
    "scoring_func": ["softmax", None, True], "topk_method": ["greedy", "group_limited_greedy", None],
    "indexer_rope_interleave": [False, 0, "true"], "rope_interleave": [False], "n_group": [8, 0, "1", True],
    "topk_group": [4], "moe_layer_freq": [2, [0, 1, 1]], "hidden_act": ["gelu", None], "attention_bias": [True, 1],
    "mlp_bias": [True], "tie_word_embeddings": [True], "attention_dropout": [0.1, float("nan")],
    "partial_rotary_factor": [0.5], "layer_types": [["full_attention"] * 3, ["sliding_attention"] * 3, "x", 3],
    "rope_parameters": [[1], "default", 3, {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "longrope"},
                        {"type": "linear"}, {"rope_type": "dynamic"}, {"rope_type": ["default"]},
                        {"rope_theta": "x"}, {"rope_theta": 0}, {"rope_theta": True},
                        {"rope_theta": 5.0}, {"indexed_attention": {"rope_theta": 1e4}},
                        {"rope_theta": 1e4, "factor": 2.0}, {"rope_theta": 1e4, "partial_rotary_factor": 0.5}],
    "rope_scaling": [{"type": "yarn", "factor": 40}, {"rope_type": "llama3"}, [1], "yarn", {"factor": 8.0}],
    "rope_theta": [-1.0, 10, "10000", [1], True, 10**400],
    "q_lora_rank": [None, ..., 0, -4, 24.5, "24", True, 10**30, [24], {}], "kv_lora_rank": [None, ...],
    "hidden_size": [None, ..., 32.5, "32", True, float("inf"), float("nan"), -32, 0, 2**40, 1e300],
    "num_hidden_layers": [None, ..., 10**12, 0, 3.5], "n_routed_experts": [10**9, 0, None, 1],
    "qk_rope_head_dim": [3, None, 1e9], "v_head_dim": [..., 0], "index_topk": [None, ..., 0],
    "norm_topk_prob": [None, ..., 1, "true"], "routed_scaling_factor": [None, ..., -1.0, 0.0, float("nan"), "2"],
    "rms_norm_eps": [None, ..., 0.0, -1e-5, float("inf"), False], "vocab_size": [..., 61.5, 10**5000],
    "initializer_range": [-0.1, "x"], "max_position_embeddings": [..., None, 0], "n_shared_experts": [None, 0],
    "mlp_layer_types": [[], ["dense"], "dense", [1, 2, 3], [["dense"]] * 3, {}, 5],
    "indexer_types": [["shared", "full", "full"], ["full"] * 4, [None] * 3, "full", 7],
    "eos_token_id": [[], "0", -1, 1.5, True, [0, "a"], [None], {}], "num_key_value_heads": [1],
    "num_nextn_predict_layers": [-1, 0.5, 10**9], "first_k_dense_replace": [-1, "x"], "qk_head_dim": [13, "x"],
    "longhaul": [{"a": 1}, [1], "dense", {"attention": "dense"}, {"attention": "windowed", "index_topk": 6},
                 {"attention": "dense", "index_topk": 6}, {"attention": "sparse", "index_topk": "6"}],
    "quantization_config": [{"quant_method": "fp8"}], "sliding_window": [4096], "swiglu_limit": [10.0],
    "mla_use_nope": [True], "logit_scale": [2.0], "attention": ["dense"],
}  # fmt: skip
SAID_AS = {
    "rope_parameters": "rope_theta|rope_parameters", "rope_scaling": "rope_scaling", "indexer_types": "indexer.type",
    "longhaul": "longhaul|attention|index_topk",
}  # fmt: skip
CASES = [(name, value) for name, values in UNSUPPORTED.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CASES)])
def test_what_is_not_built_here_is_refused_by_name(name: str, value: object) -> None:
    fields = {"mlp_layer_types": None, "indexer_types": None} if name == "num_hidden_layers" else {}
    with pytest.raises(ModelConfigError, match=SAID_AS.get(name, name)) as caught:
        ModelConfig.from_hugging_face(written(**(fields | {name: value})))
    assert caught.value.exit_status == 2
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("values", [{}, {"model_type": "glm_moe_dsa"}])
def test_an_empty_file_is_no_preset(values: dict[str, Any]) -> None:
    with pytest.raises(ModelConfigError, match="lacks"):
        ModelConfig.from_hugging_face(values)


def test_notes_and_switched_off_fields_are_no_matter() -> None:
    notes = {
        "transformers_version": "5.23.0", "torch_dtype": "bfloat16", "dtype": "bfloat16", "use_cache": False,
        "pretraining_tp": 4, "output_attentions": True, "_name_or_path": "x/y", "id2label": {"0": "a"}, "ep_size": 8,
        "layer_types": ["deepseek_sparse_attention"] * 3, "num_key_value_heads": 64, "head_dim": 192,
        "index_share_for_mtp_iteration": True, "sliding_window": None, "quantization_config": None, "mla_nope": False,
        "architectures": None, "bos_token_id": 0, "pad_token_id": 3, "problem_type": None, "n_group": None,
    }  # fmt: skip
    assert ModelConfig.from_hugging_face(written(**notes)) == small_config()


def test_whole_numbers_may_be_written_as_floats() -> None:
    values = written(hidden_size=32.0, num_hidden_layers=3.0, n_group=1.0)
    assert ModelConfig.from_hugging_face(values) == small_config()


@pytest.mark.parametrize(
    ("spelling", "kinds"),
    [
        ({"index_topk_pattern": "FSS"}, ("full", "shared", "shared")),
        ({"index_topk_freq": 2, "index_skip_topk_offset": 1}, ("full", "shared", "full")),
        ({"index_topk_freq": 4, "index_skip_topk_offset": None}, ("full", "full", "shared")),
        ({"index_topk_pattern": None, "index_topk_freq": None}, ("full", "full", "full")),
    ],
)
def test_older_spellings_of_shared_indexers(spelling: dict[str, object], kinds: tuple[str, ...]) -> None:
    read = ModelConfig.from_hugging_face(written(indexer_types=..., **spelling))
    assert read.indexer_types == kinds
    if None not in spelling.values():
        transformers = pytest.importorskip("transformers")
        assert tuple(transformers.GlmMoeDsaConfig(**written(indexer_types=..., **spelling)).indexer_types) == kinds


def test_a_pattern_of_other_letters_or_another_length_is_refused() -> None:
    for pattern, named in (("FXF", "index_topk_pattern"), (["F"], "index_topk_pattern"), ("FS", "indexer_types")):
        with pytest.raises(ModelConfigError, match=named):
            ModelConfig.from_hugging_face(written(indexer_types=None, index_topk_pattern=pattern))
    with pytest.raises(ModelConfigError, match="index_topk_freq"):
        ModelConfig.from_hugging_face(written(indexer_types=None, index_topk_freq=0))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[1, 2]", b"3", b"null", b'"text"', b"[" * 200_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
        b'{"hidden_size": 32, "hidden_size": 64}', b"\xff\xfe{}", b'{"a": NaN}', b'{"a": -Infinity}', b"{'a': 1}",
        b'{"a": 1} x', bytes(100),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_object_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    small_transformer().save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json (is not valid JSON|does not hold)") as caught:
        Transformer.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Transformer.from_pretrained(tmp_path / "model").config == small_config()


def test_the_fixed_fields_are_those_that_are_written() -> None:
    values = written()
    assert all(values[name] == accepted[0] for name, accepted in FIXED.items())


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 32.0}, {"hidden_size": "32"}, {"rms_norm_eps": float("nan")}, {"routed_scaling_factor": -1.0},
     {"rope_theta": float("inf")}, {"norm_topk_prob": 1}, {"num_hidden_layers": 10**9}, {"attention": "windowed"},
     {"eos_token_id": -1}, {"mtp_loss_weight": -0.1}, {"index_topk": True}],
)  # fmt: skip
def test_a_configuration_built_in_code_is_checked_too(changes: dict[str, object]) -> None:
    with pytest.raises(ModelConfigError, match=next(iter(changes))):
        replace(small_config(), **changes)  # type: ignore[arg-type]
