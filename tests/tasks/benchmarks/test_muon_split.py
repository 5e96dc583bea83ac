"""Muon Split against whole matrices: one start, one difference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.benchmarks import muon_split
from tasks.training.data import Row
from tests.tasks.benchmarks.dsa import tiny
from tests.tasks.training.test_stages import ROOT, lay_out

SMALL = [
    "model.vocab_size=300", "model.hidden_size=32", "model.intermediate_size=48", "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2", "pretrain.batch=2", "pretrain.context=64",
]  # fmt: skip


def rows(tokens: np.ndarray) -> list[Row]:
    length = tokens.shape[1]
    return [Row(ids, np.zeros(length, dtype=np.int64), np.ones(length, dtype=np.float32)) for ids in tokens]


def test_the_largest_logit_is_that_of_a_pair_that_sees_each_other() -> None:
    network = tiny.transformer()
    tokens = np.random.default_rng(0).integers(1, 64, (1, 12))
    layer, ids = network.model.layers[0], torch.from_numpy(tokens)
    with torch.no_grad():
        context = tiny.context(ids, network)
        attention = layer.self_attn
        x = layer.input_layernorm(network.model.embed_tokens(ids))  # type: ignore[operator]
        query = attention._queries(attention.q_a_layernorm(attention.q_a_proj(x)), context.rope)  # type: ignore[union-attr, operator]
        key, _ = attention._keys_values(x, context.rope)  # type: ignore[union-attr, operator]
    expected = max(
        float(query[0, head, t] @ key[0, head, s]) * attention.scale  # type: ignore[union-attr, operator]
        for head in range(query.shape[1])
        for t in range(12)
        for s in range(t + 1)
    )
    assert muon_split.largest_logits(network, rows(tokens))[0] == pytest.approx(expected, rel=1e-5)


def test_logits_grow_with_the_queries() -> None:
    network = tiny.transformer()
    data = rows(np.random.default_rng(0).integers(1, 64, (2, 12)))
    before = muon_split.largest_logits(network, data)
    with torch.no_grad():
        network.model.layers[1].self_attn.q_b_proj.weight.mul_(3.0)  # type: ignore[union-attr, operator]
    after = muon_split.largest_logits(network, data)
    assert after[0] == before[0]
    assert after[1] == pytest.approx(3 * before[1], rel=1e-5)


def test_both_start_alike_and_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    sets = [word for value in SMALL for word in ("--set", value)]
    arguments = ["--params", str(ROOT / "params.yaml"), "--seeds", "3", "--steps", "6", "--every", "2", *sets]
    threads = torch.get_num_threads()
    assert muon_split.main(arguments) == 0
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "docs/muon-split.json").read_text())["3"]
    split, whole = found["split"], found["whole"]
    assert [point["step"] for point in split] == [point["step"] for point in whole] == [0, 2, 4, 6]
    assert split[0] == whole[0]
    assert all(a["largest"] != b["largest"] for a, b in zip(split[1:], whole[1:], strict=True))
    assert 0 < split[-1]["loss"] < 6
    page = (tmp_path / "docs/muon-split.md").read_text()
    assert f"{max(split[-1]['largest']):.1f} against {max(whole[-1]['largest']):.1f}" in page
    assert (tmp_path / "docs/muon-split.png").stat().st_size > 5_000


def test_no_corpus_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert muon_split.main(["--params", str(ROOT / "params.yaml")]) == 2
    assert capsys.readouterr().err == "There is no curated corpus in data/corpus; `dvc repro curate` makes it.\n"
