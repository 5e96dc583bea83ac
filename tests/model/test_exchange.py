"""There and back through transformers, each side by its default call, at lengths beyond `index_topk`.

The seeds are such that no tie of two index scores decides a selection (see test_parity.py); each test checks that.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import ModelConfig, Transformer
from model.engine import Engine, Request
from tests.model.peer import IndexerCalls
from tests.model.shapes import small_config, small_transformer, tokens

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5
SHAPE = {"index_n_heads": 16, "index_head_dim": 16, "index_topk": 12, "hidden_size": 48, "qk_rope_head_dim": 8}
SHARED = ("full", "shared", "full")


def load_theirs(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model


def their_random(seed: int, **changes: object) -> torch.nn.Module:
    """A model of theirs that never was ours: the fields of their own configuration alone."""
    ours = small_config(**(SHAPE | changes))
    names = transformers.GlmMoeDsaConfig().to_dict().keys()
    values = {name: value for name, value in ours.to_hugging_face().items() if name in names}
    torch.manual_seed(seed)
    model: torch.nn.Module = transformers.GlmMoeDsaForCausalLM(transformers.GlmMoeDsaConfig(**values)).eval()
    return model


@torch.no_grad()
def assert_same_by_default(ours: Transformer, theirs: torch.nn.Module, ids: Tensor) -> None:
    with IndexerCalls(theirs) as calls:
        expected = theirs(ids).logits
    assert not calls.tie_rows(ours).any()
    found = ours(ids).logits
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("attention", ["sparse", "dense"])
@pytest.mark.parametrize("kinds", [("full",) * 3, SHARED])
def test_ours_to_transformers_and_back(tmp_path: Path, attention: str, kinds: tuple[str, ...]) -> None:
    ids = tokens(2, 48, 3)
    ours = small_transformer(3, **(SHAPE | {"indexer_types": kinds, "attention": attention}))
    ours.save_pretrained(tmp_path / "ours")
    theirs = load_theirs(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = Transformer.from_pretrained(tmp_path / "theirs")
    assert again.config.attention == attention
    assert again.config.index_topk == 12
    assert_same_by_default(ours, theirs, ids)
    assert_same_by_default(again, theirs, ids)
    assert torch.equal(again(ids).logits, Transformer.from_pretrained(tmp_path / "ours")(ids).logits)
    other = "dense" if attention == "sparse" else "sparse"
    assert (again(ids, mode=other).logits - again(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("shard", ["50GB", "20KB"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_random_model_of_theirs(tmp_path: Path, seed: int, shard: str) -> None:
    theirs = their_random(seed, indexer_types=SHARED if seed else ("full",) * 3)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or shard == "50GB"
    ours = Transformer.from_pretrained(tmp_path)
    assert (ours.mtp, ours.config.attention) == (None, "sparse")
    assert_same_by_default(ours, theirs, tokens(2, 48, seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_their_sixteen_bits_are_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    their_random(0).to(dtype).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same_by_default(Transformer.from_pretrained(tmp_path), theirs, tokens(2, 48))


def test_their_defaults_written_out_are_ours(tmp_path: Path) -> None:
    """A configuration of theirs that says little: what it leaves out is what they make of it, and no preset of ours."""
    theirs = transformers.GlmMoeDsaConfig(
        vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, n_routed_experts=4,
        q_lora_rank=24, kv_lora_rank=16, moe_intermediate_size=16, intermediate_size=32, index_n_heads=16,
        index_head_dim=64, index_topk=12, mlp_layer_types=["dense", "sparse"], num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GlmMoeDsaForCausalLM(theirs).eval()
    model.save_pretrained(tmp_path)
    ours = Transformer.from_pretrained(tmp_path)
    assert (ours.config.qk_nope_head_dim, ours.config.v_head_dim) == (192, 256)
    assert_same_by_default(ours, model, tokens(2, 40))


def test_the_engine_decodes_a_folder_of_theirs_as_they_do(tmp_path: Path) -> None:
    theirs = their_random(0)
    theirs.save_pretrained(tmp_path)
    engine = Engine(Transformer.from_pretrained(tmp_path), 1, 64, native=False)
    prompt = tokens(1, 20, 5)
    assert engine.mode == "sparse"
    engine.submit(Request("r", "s", prompt[0].tolist(), 12, temperature=0))
    done = [completion for _ in range(40) for completion in engine.step()]
    expected = theirs.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert done[0].token_ids == expected[0, 20:].tolist()


def test_the_engine_attends_as_the_checkpoint_says() -> None:
    assert Engine(small_transformer(attention="dense"), 1, 8, native=False).mode == "dense"


@pytest.mark.parametrize("attention", ["sparse", "dense"])
def test_the_default_is_what_the_configuration_says(attention: str) -> None:
    ids, other = tokens(2, 40), "dense" if attention == "sparse" else "sparse"
    network = small_transformer(attention=attention)
    assert torch.equal(network(ids).logits, network(ids, mode=attention).logits)
    assert torch.equal(network.log_probs(ids), network.log_probs(ids, mode=attention))
    assert not torch.equal(network(ids).logits, network(ids, mode=other).logits)
    torch.manual_seed(0)
    default = network.loss(ids, torch.ones(2, 40)).total
    torch.manual_seed(0)
    assert torch.equal(default, network.loss(ids, torch.ones(2, 40), mode=attention).total)


def test_a_fresh_network_has_weights_and_trains() -> None:
    ids = tokens(2, 40)
    filled = torch.full((1000, 1000), float("nan"))  # so that memory which is taken and not written shows
    del filled
    network, drawn = Transformer(small_config()), small_transformer(0)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in drawn.state_dict().items())
    losses = network.loss(ids, torch.ones(2, 40))
    losses.total.backward()
    assert math.isfinite(losses.total.item())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    other = Transformer(small_config(), seed=5)
    assert torch.equal(other.lm_head.weight, small_transformer(5).lm_head.weight)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Transformer(small_config())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = Transformer(small_config())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with torch.device("meta"):
        assert {value.device.type for value in Transformer(small_config()).state_dict().values()} == {"meta"}


def test_generation_stops_in_transformers_where_the_engine_stops(tmp_path: Path) -> None:
    """A network that writes token 9 three times and then ends its turn with 4, whatever else it sees."""
    network = small_transformer()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                parameter.zero_()  # the state is the token's own embedding
        network.model.embed_tokens.weight.zero_()
        network.model.embed_tokens.weight[range(4), range(4)] = 1.0
        network.lm_head.weight.zero_()
        for token, following in ((1, 2), (2, 3), (3, 4)):
            network.lm_head.weight[following, token] = 10.0
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == ([0, 4], 0)
    written = load_theirs(tmp_path).generate(torch.tensor([[1]]), max_new_tokens=20)
    assert written[0].tolist() == [1, 2, 3, 4]
    engine = Engine(Transformer.from_pretrained(tmp_path), 1, 64, native=False)
    stops = ModelConfig().eos_token_ids
    engine.submit(Request("r", "s", [1], 20, temperature=0, stop_ids=stops))
    done = [completion for _ in range(20) for completion in engine.step()]
    assert done[0].token_ids == [2, 3, 4]


def test_ids_of_the_end_survive_and_none_is_none(tmp_path: Path) -> None:
    for given, listed in (((7, 9, 11), [7, 9, 11]), (5, [5]), ((), None)):
        small_transformer(eos_token_id=given).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == listed
        assert Transformer.from_pretrained(tmp_path).config.eos_token_ids == tuple(listed or ())
        load_theirs(tmp_path)
