"""Training in bfloat16 next to fp32, at sizes where losses mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.benchmarks import precision
from tasks.benchmarks.rounding import page
from tests.tasks.training.test_stages import ROOT, lay_out

SMALL = [
    "model.vocab_size=300", "model.hidden_size=32", "model.intermediate_size=48", "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2", "model.index_topk=16", "pretrain.batch=2", "pretrain.context=64",
    "midtrain.batch=2", "midtrain.context=128",
]  # fmt: skip


def result(seed: int, final: list[float]) -> dict[str, object]:
    return {"seed": seed, "final": final, "seconds": 1.0, "points": [], "gradients": {}}


def test_differences_are_paired_by_window_and_over_seeds() -> None:
    found = {
        "fp32": {1: result(1, [3.0, 5.0]), 2: result(2, [4.0, 6.0])},
        "bf16": {1: result(1, [3.1, 5.1]), 2: result(2, [4.3, 6.3])},
    }
    said = page.difference(found, "bf16")
    assert said["seeds"]["1"]["value"] == pytest.approx(0.1)
    assert said["seeds"]["1"]["ci95"] == pytest.approx([0.1, 0.1])
    assert said["mean"] == pytest.approx(0.2)
    # Two values 0.2 apart: standard error 0.1, and Student's 97.5 % point for one degree of freedom is 12.706
    assert said["over_seeds"] == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706], rel=1e-3)
    assert page.student([0.5]) is None


@pytest.mark.slow
def test_arms_start_alike_and_the_page_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sets = [word for value in SMALL for word in ("--set", value)]
    sizes = ["--dense-steps", "4", "--indexer-steps", "1", "--sparse-steps", "2", "--every", "2"]
    few = ["--look-rows", "2", "--final-rows", "3", "--seeds", "3"]
    assert precision.main(["--params", str(ROOT / "params.yaml"), *sizes, *few, *sets]) == 0
    found = json.loads((tmp_path / "metrics/bf16.json").read_text())
    curves = {name: runs["3"] for name, runs in found["curves"].items()}
    assert set(curves) == {"fp32", "bf16", "shaken"}
    assert curves["bf16"][0] == curves["fp32"][0]
    assert curves["bf16"][1]["loss"] != curves["fp32"][1]["loss"]
    assert curves["bf16"][1]["loss"] == pytest.approx(curves["fp32"][1]["loss"], rel=0.02)
    assert [point["step"] for point in curves["fp32"]] == [0, 2, 4, 6]
    for modes in found["gradients"]["3"].values():
        assert all(0 < seen["error"] < 0.2 and seen["cosine"] > 0.98 for seen in modes.values())
    said = found["difference"]["bf16"]
    assert f"{said['mean']:+.4f} with one seed" in (tmp_path / "docs/bf16.md").read_text()
    assert (tmp_path / "docs/bf16.png").stat().st_size > 5_000


def test_no_corpus_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert precision.main(["--params", str(ROOT / "params.yaml")]) == 2
    assert capsys.readouterr().err == "There is no curated corpus in data/corpus; `dvc repro curate` makes it.\n"
