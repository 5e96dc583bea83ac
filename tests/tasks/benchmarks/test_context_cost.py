"""Cost against context: fits with a known answer, and the command at small lengths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kernels.sparse_attention import listed_attention, listed_mask, masked_attention
from model import ModelConfig
from tasks.benchmarks import context_cost
from tasks.benchmarks.context.fits import crossover, expected, exponent
from tasks.benchmarks.context.works import DECODE_STEPS, WORKS, spread_keys

SMALL = [
    "model.vocab_size=288", "model.hidden_size=32", "model.intermediate_size=48", "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2",
]  # fmt: skip


def test_exponents_are_those_of_the_upper_half() -> None:
    costs = {n: 1.0 if n < 2048 else 3e-6 * n**1.5 for n in (512, 1024, 2048, 4096, 8192, 16384)}
    assert exponent({n: c for n, c in costs.items() if n >= 2048}) == pytest.approx(1.5)
    assert exponent(costs) == pytest.approx(1.5)
    assert exponent({512: 1.0}) is None


def test_the_crossover_lies_where_the_powers_meet() -> None:
    lengths = (512, 1024, 2048, 4096)
    dense, sparse = {n: 1e-6 * n**2 for n in lengths}, {n: 1.5e-3 * n for n in lengths}
    assert crossover(dense, sparse) == pytest.approx(1500)
    assert crossover(sparse, dense) is None  # not faster at the longest
    assert crossover(dense, {n: 0.5 * cost for n, cost in dense.items()}) == 512


def test_a_cost_is_expected_from_the_two_lengths_below() -> None:
    assert expected({1024: 1.0, 2048: 4.0}, 4096) == pytest.approx(16.0)
    assert expected({1024: 1.0, 2048: 1.0}, 4096) == pytest.approx(2.0)  # at least linear
    assert expected({1024: 1.0}, 2048) is None


def test_spread_keys_are_distinct_visible_and_full() -> None:
    keys = spread_keys(100, 8)[0].long()
    for query, listed in enumerate(keys.tolist()):
        real = [key for key in listed if key >= 0]
        assert real == sorted(set(real))
        assert len(real) == min(query + 1, 8)
        assert real[-1] <= query
        assert listed[len(real) :] == [-1] * (8 - len(real))


def test_the_core_is_attention_over_its_keys() -> None:
    q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
    keys = spread_keys(40, 8)
    expected_ = masked_attention(q, k, v, listed_mask(keys, 40), 0.25)
    assert torch.allclose(listed_attention(q, k, v, keys, 0.25), expected_, atol=1e-5)


@pytest.mark.parametrize("mode", ["dense", "sparse"])
@pytest.mark.parametrize("what", list(WORKS))
def test_every_work_can_be_repeated(what: str, mode: str) -> None:
    config = ModelConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, index_topk=16, num_nextn_predict_layers=0)
    work = WORKS[what](config, mode, 48)
    work()
    work()
    assert DECODE_STEPS > 1


def test_the_command_measures_skips_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics" / "context_cost.json"
    sets = [word for value in SMALL for word in ("--set", value)]
    arguments = ["--lengths", "64", "128", "256", "--topk", "16", "--budget", "0", "--limit", "0", *sets]
    assert context_cost.main([*arguments, "--works", "training", "--out", str(out), "--docs", str(tmp_path)]) == 0
    found, page = json.loads(out.read_text()), (tmp_path / "context-cost.md").read_text()
    for mode in ("dense", "sparse"):
        cells = found["training"][mode]
        assert cells["64"]["seconds"] > 0
        assert cells["128"]["peak_mib"] > 0
        assert "more than 0 s" in cells["256"]["skipped"]  # expected from the two that were measured
    assert "Skipped, dense at 256" in page
    assert found["fits"]["training"]["dense"] is None  # of two lengths the upper half is one
    assert (tmp_path / "context-cost.png").stat().st_size > 5_000
    assert "step 6/6 training sparse 256" in capsys.readouterr().out


def test_a_wrong_parameter_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "x.json"), "--docs", str(tmp_path)]
    assert context_cost.main(["--set", "model.no_such=1", *out]) == 2
    message = capsys.readouterr().err
    assert "no_such" in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
