"""Which keys are selected: the same ones every time, in training, prefill and decoding, and none from the future."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model import Transformer
from model.attention import Attention
from model.engine import Engine, Request
from model.engine.reference import ReferenceStep
from tests.model.engine.conftest import build
from tests.model.shapes import tokens

Sets = dict[tuple[int, int], list[int]]  # by layer and position
LAYERS = 3


@pytest.fixture
def trainer_keys(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Filled with the selection [B, T, k] of every layer that runs its indexer in `Transformer`."""
    found: list[Tensor] = []
    plain = Attention._top_keys

    def keep(self: Attention, *inputs: Any) -> Tensor | None:
        selected = plain(self, *inputs)
        assert selected is not None
        found.append(selected)
        return selected

    monkeypatch.setattr(Attention, "_top_keys", keep)
    return found


@pytest.fixture
def engine_sets(monkeypatch: pytest.MonkeyPatch) -> Sets:
    """Filled with the keys that the engine's rows select; rows within top-k select all they see."""
    found: Sets = {}
    plain = ReferenceStep._select

    def keep(self: ReferenceStep, index: int, *inputs: Any) -> Tensor | None:
        chosen = plain(self, index, *inputs)
        for row, position in enumerate(inputs[-1].tolist()):
            everything = list(range(position + 1))
            found[index, position] = everything if chosen is None else chosen[row].nonzero().flatten().tolist()
        return chosen

    monkeypatch.setattr(ReferenceStep, "_select", keep)
    return found


def tied() -> Transformer:
    """With one index head, half of all scores are exactly zero, and the sixth best often lies among them."""
    return build(4, index_n_heads=1)


def as_sets(selections: list[Tensor]) -> Sets:
    return {
        (layer, position): [key for key in keys if key >= 0]
        for layer, selected in enumerate(selections)
        for position, keys in enumerate(selected[0].tolist())
    }


def test_a_hundred_repeats_on_ties_select_the_same_sets(trainer_keys: list[Tensor]) -> None:
    transformer, ids = tied(), tokens(2, 40)
    for _ in range(100):
        with torch.no_grad():
            transformer(ids, mode="sparse")
    assert len(trainer_keys) == 100 * LAYERS
    for layer in range(LAYERS):
        assert len({selected.numpy().tobytes() for selected in trainer_keys[layer::LAYERS]}) == 1


def test_prefill_decode_and_trainer_select_the_same_sets(trainer_keys: list[Tensor], engine_sets: Sets) -> None:
    transformer, prompt = tied(), [(17 * j) % 61 for j in range(12)]
    ids = [*prompt, *_continue(transformer, prompt, 30)]
    decoded = dict(engine_sets)
    engine_sets.clear()
    _continue(transformer, ids, 1)
    with torch.no_grad():
        transformer(torch.tensor([ids]), mode="sparse")
    trained = as_sets(trainer_keys)
    assert engine_sets == trained
    assert decoded == {place: keys for place, keys in trained.items() if place[1] < len(ids) - 1}
    assert max(len(keys) for keys in trained.values()) == transformer.config.index_topk


def _continue(transformer: Transformer, prompt: list[int], new: int) -> list[int]:
    engine = Engine(transformer, 1, 64, native=False)
    engine.submit(Request("a", "a", prompt, new, seed=3))
    while True:
        for completion in engine.step():
            return completion.token_ids


@pytest.mark.parametrize("heads", [1, 3])
def test_no_key_of_the_future_or_of_another_document_is_selected(trainer_keys: list[Tensor], heads: int) -> None:
    transformer, ids = build(5, index_n_heads=heads), tokens(2, 50)
    documents = torch.tensor([[0] * 50, [0] * 9 + [1] * 25 + [2] * 16])
    with torch.no_grad():
        transformer(ids, documents, mode="sparse")
    starts = torch.tensor([[0] * 50, [0] * 9 + [9] * 25 + [34] * 16])
    query = torch.arange(50)
    for selected in trainer_keys:
        chosen = selected >= 0
        assert (selected <= query[:, None])[chosen].all()
        assert (selected >= starts[..., None])[chosen].all()
        assert torch.equal(chosen.sum(-1), (query - starts + 1).clamp(max=transformer.config.index_topk))
