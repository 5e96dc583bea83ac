"""Parity with transformers' `GlmMoeDsaForCausalLM`: both directions, padded batches, cached decoding, ties.

Where two scores at the edge of a selection are equal, transformers keeps an arbitrary key and we keep the first, and
everything behind that row may differ. Logits are therefore compared in front of the first such row of a sequence, and
the selections themselves by the values of the scores they hold.
"""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import ModelConfig, Transformer
from model.engine import Engine, Request
from tests.model.peer import IndexerCalls
from tests.model.shapes import small_config, tokens

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5
LENGTHS = (40, 23, 31, 7)


def random_config(seed: int, **changes: object) -> ModelConfig:
    """Dense layers only, or mixed ones; top-k below and above the length of 40; indexers of their own and shared.

    Sixteen index heads make a tie of exact zeros at the edge of the selection rare.
    """
    rng = random.Random(seed)
    types = rng.choice([("full",) * 3, ("full", "shared", "full"), ("full", "shared", "shared")])
    values: dict[str, object] = {
        "hidden_size": rng.choice([32, 48]), "num_attention_heads": rng.choice([1, 2, 4]),
        "qk_nope_head_dim": rng.choice([6, 16]), "qk_rope_head_dim": rng.choice([4, 8]),
        "v_head_dim": rng.choice([4, 12, 24]), "first_k_dense_replace": rng.choice([0, 1, 3]),
        "num_experts_per_tok": rng.choice([1, 2, 3]), "norm_topk_prob": rng.choice([True, False]),
        "index_n_heads": 16, "index_head_dim": 16, "index_topk": rng.choice([5, 12, 64]), "indexer_types": types,
        "rope_theta": rng.choice([1e4, 1e6]), "n_shared_experts": rng.choice([1, 2]),
        "num_nextn_predict_layers": rng.choice([0, 1]),
    }  # fmt: skip
    return small_config(**(values | changes))


def pair(seed: int, folder: Path, **changes: object) -> tuple[Transformer, torch.nn.Module]:
    """Our network with random weights, and transformers' reading of the folder we save it to."""
    ours = Transformer(random_config(seed, **changes))
    ours.init_weights(seed)
    ours.update_router_bias(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)))
    ours.save_pretrained(folder / "model")
    return ours, transformers.AutoModelForCausalLM.from_pretrained(folder / "model")


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Logits [..., V] of the same tokens."""
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@torch.no_grad()
def assert_same(ours: Transformer, theirs: torch.nn.Module, ids: Tensor) -> int:
    """Compares the rows in front of the first tie of each sequence; returns the number of rows a tie decides."""
    with IndexerCalls(theirs) as calls:
        expected = theirs(ids).logits
    ties = calls.tie_rows(ours)
    clean = ties.cumsum(1) == 0
    assert_close(ours(ids, mode="sparse").logits[clean], expected[clean])
    print(f"A tie decides {int(ties.sum())} of {ties.numel()} rows; {int(clean.sum())} rows compared.")
    return int(ties.sum())


@pytest.mark.parametrize("seed", range(8))
def test_our_checkpoint_in_transformers(seed: int, tmp_path: Path) -> None:
    ours, theirs = pair(seed, tmp_path)
    assert assert_same(ours, theirs, tokens(3, 40, seed)) <= 1


@pytest.mark.parametrize("seed", range(8, 12))
def test_their_checkpoint_here(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    values = random_config(seed).to_hugging_face() | {"num_nextn_predict_layers": 0}
    theirs = transformers.GlmMoeDsaForCausalLM(transformers.GlmMoeDsaConfig(**values)).eval()
    theirs.save_pretrained(tmp_path / "model")
    ours = Transformer.from_pretrained(tmp_path / "model")
    assert ours.mtp is None
    assert assert_same(ours, theirs, tokens(3, 40, seed)) <= 1


def test_there_and_back_every_tensor_is_the_same(tmp_path: Path) -> None:
    ours, theirs = pair(1, tmp_path, num_nextn_predict_layers=0)
    theirs.save_pretrained(tmp_path / "again")
    again = Transformer.from_pretrained(tmp_path / "again")
    assert again.config.indexer_types == ours.config.indexer_types
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_few_index_heads_tie_often_and_hold_the_same_scores(tmp_path: Path) -> None:
    """With three index heads an eighth of the scores are exact zeros, and ties decide a ninth of the rows."""
    ours, theirs = pair(3, tmp_path, index_n_heads=3, index_topk=12, indexer_types=("full", "shared", "full"))
    ids = tokens(8, 40, 3)
    ties = assert_same(ours, theirs, ids)
    assert 0 < ties < ids.numel() / 6
    with IndexerCalls(theirs) as calls, torch.no_grad():
        theirs(ids)
    for theirs_held, ours_held in calls.held_scores(ours):
        assert torch.allclose(theirs_held, ours_held, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 3, 5, 6])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(seed: int, side: str, tmp_path: Path) -> None:
    """Their padded batch with an attention mask is our batch with document ids, and our packed row."""
    ours, theirs = pair(seed, tmp_path)
    ids, mask = tokens(len(LENGTHS), max(LENGTHS), seed), torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, -length:] = 1 if side == "left" else 0
        mask[row, :length] |= 1 if side == "right" else 0
    real = mask.bool()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits[real]
        padded = ours(ids, mask, mode="sparse").logits[real]
        documents = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
        packed = ours(ids[real][None], documents[None], mode="sparse").logits[0]
    assert_close(padded, expected)
    assert_close(packed, expected)


@pytest.mark.parametrize(("seed", "native"), [(0, False), (2, False), (5, False), (7, False), (2, None)])
def test_cached_greedy_decoding_is_the_engines(seed: int, native: bool | None, tmp_path: Path) -> None:
    """Their left-padded batch with a key cache, our engine's sessions: the same tokens and log-probabilities."""
    compiled = {"hidden_size": 32, "qk_rope_head_dim": 8} if native is None else {}
    ours, theirs = pair(seed, tmp_path, **compiled)
    lengths, new = (20, 9, 14), 16
    prompts = [tokens(1, length, seed + length)[0].tolist() for length in lengths]
    ids = torch.tensor([[0] * (max(lengths) - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])
    out = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    engine = Engine(ours, len(lengths), max(lengths) + new + 1, native=native)
    for row, prompt in enumerate(prompts):
        engine.submit(Request(str(row), str(row), prompt, new, temperature=0))
    while engine.has_work:
        for done in engine.step():
            row = int(done.id)
            expected = out.sequences[row, max(lengths) :]
            assert done.token_ids == expected.tolist()
            log_probs = torch.stack(out.logits)[:, row].log_softmax(-1).gather(1, expected[:, None])[:, 0]
            assert done.log_probs == pytest.approx(log_probs.tolist(), abs=TOLERANCE, rel=TOLERANCE)


def test_greedy_continuation_is_the_same(tmp_path: Path) -> None:
    ours, theirs = pair(2, tmp_path)
    ids = tokens(1, 20, 2)
    expected = theirs.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    for _ in range(12):
        ids = torch.cat([ids, ours(ids, mode="sparse").logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, expected)
