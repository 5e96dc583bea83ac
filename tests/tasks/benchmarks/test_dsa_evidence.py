"""The whole command at a size where its figures mean nothing, but must still be the right ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import Transformer
from tasks.benchmarks import dsa_evidence
from tasks.benchmarks.dsa.arms import ARMS
from tasks.benchmarks.dsa.bench import Bench
from tasks.benchmarks.dsa.material import Material
from tasks.benchmarks.dsa.networks import Networks
from tasks.benchmarks.dsa.parts import Parts
from tasks.benchmarks.dsa.plan import Plan, Scale
from tasks.config import load_config
from tests.tasks.training.test_stages import ROOT, lay_out

LENGTH = 96
SMALL = [
    "model.vocab_size=300", "model.hidden_size=32", "model.intermediate_size=48", "model.moe_intermediate_size=32",
    "model.num_hidden_layers=2", "model.index_topk=16", "pretrain.copy_batch=2", "pretrain.batch=2",
    "pretrain.context=64",
]  # fmt: skip


def arguments(*more: str) -> list[str]:
    sets = [word for value in SMALL for word in ("--set", value)]
    lengths = ["--seeds", "1", "2", "--lengths", str(LENGTH)]
    return ["--params", str(ROOT / "params.yaml"), "--scale", "trial", *lengths, *sets, *more]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small corpus in which the command has run once."""
    folder = tmp_path_factory.mktemp("evidence")
    lay_out(folder)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert dsa_evidence.main(arguments()) == 0
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def networks(workplace: Path) -> Networks:
    """Those of the first seed, read from what the command left."""
    plan = Plan(load_config(ROOT / "params.yaml", SMALL), Scale.trial())
    return Networks(Bench(plan, Material.read(Path("data/corpus")), Parts(dsa_evidence.ROOT)), 1, LENGTH)


def state(transformer: Transformer, indexer: bool) -> dict[str, torch.Tensor]:
    return {name: value for name, value in transformer.state_dict().items() if (".indexer." in name) == indexer}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_arm_is_reported_and_the_control_is_one(workplace: Path) -> None:
    found = json.loads((workplace / "docs/dsa.json").read_text())
    assert set(found["cases"]) == {"length_96_top_12", "length_96_top_6"}
    for case in found["cases"].values():
        assert set(case["arms"]) == set(ARMS)
        assert case["seeds"] == [1, 2]
        assert case["arms"]["dense"]["loss_ratio"]["value"] == 1.0
        assert all(change["value"] == 0.0 for change in case["arms"]["dense"]["retrieval_minus_control"].values())
        assert len({case["arms"][arm]["loss_ratio"]["value"] for arm in ARMS}) >= len(ARMS) - 1
        assert list(case["captured_mass_by_warmup_step"]) == ["1", "2", "4"]
        for arm in set(ARMS) - {"dense"}:
            assert all(0 < mass <= 1 for seed in case["arms"][arm]["captured_mass"] for mass in seed)
    assert set(found["compute"]["curves"]) == {"dense", "dsa-6"}


def test_the_page_shows_every_section_and_picture(workplace: Path) -> None:
    page = (workplace / "docs/dsa.md").read_text()
    assert all(arm.title in page for arm in ARMS.values())
    assert "warmed up without the query norm" in page
    for name in ("dsa-mass.png", "dsa-loss.png", "dsa-retrieval.png", "dsa-compute.png"):
        assert f"({name})" in page
        assert (workplace / "docs" / name).stat().st_size > 5_000
    assert "of 10 are met" in page or "All 10 are met" in page


def test_warm_up_only_leaves_the_backbone_and_the_control_the_indexer(networks: Networks) -> None:
    initial = Transformer(networks.bench.model_config(LENGTH))
    initial.init_weights(1)
    long, dense, warmed = (part.network() for part in (networks.long, networks.dense, networks.warmed))
    assert equal(state(dense, indexer=True), state(initial, indexer=True))  # `untrained` is as initialised
    assert not equal(state(dense, indexer=False), state(long, indexer=False))
    assert equal(state(warmed, indexer=False), state(long, indexer=False))
    assert not equal(state(warmed, indexer=True), state(long, indexer=True))
    assert equal(state(networks.tuned.network(), indexer=False), state(dense, indexer=False))
    raw = networks.raw.network()
    assert equal(state(raw, indexer=False), state(long, indexer=False))
    assert not equal(state(raw, indexer=True), state(warmed, indexer=True))


def test_joint_moves_both_and_a_window_only_the_backbone(networks: Networks) -> None:
    long, warmed = networks.long.network(), networks.warmed.network()
    joint, window = networks.joint(12).network(), networks.window(12).network()
    assert not equal(state(joint, indexer=True), state(warmed, indexer=True))
    assert not equal(state(joint, indexer=False), state(warmed, indexer=False))
    assert equal(state(window, indexer=True), state(long, indexer=True))
    assert not equal(state(window, indexer=False), state(long, indexer=False))
    assert joint.config.index_topk == window.config.index_topk == 12


def test_sparse_curves_are_charged_for_the_warm_up(workplace: Path, networks: Networks) -> None:
    curves = json.loads((workplace / "docs/dsa.json").read_text())["compute"]["curves"]
    assert [point["step"] for point in curves["dense"]] == [0, 1, 2, 3]
    assert curves["dense"][0]["flops"] == 0
    start = curves["dsa-6"][0]
    assert start["flops"] > curves["dense"][1]["flops"]
    assert start["seconds"] == pytest.approx(networks.quick.result["seconds"])
    assert len({point["loss"] for name in curves for point in curves[name]}) == 7


def parts_of(workplace: Path) -> dict[str, int]:
    folder = workplace / dsa_evidence.ROOT
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.json") if "-" in path.stem
    }


def test_a_second_run_makes_nothing_again_and_a_changed_parameter_what_depends_on_it(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = parts_of(workplace)
    assert dsa_evidence.main(arguments()) == 0
    assert parts_of(workplace) == before
    capsys.readouterr()
    assert dsa_evidence.main([*arguments("--set", "midtrain.indexer_lr=0.02"), "--docs", "elsewhere"]) == 0
    made = {line.split()[1].rstrip(":") for line in capsys.readouterr().out.splitlines() if line.startswith("[parts]")}
    assert "seed-1/length-96/warmed" in made
    assert "seed-2/length-96/joint-12" in made
    assert "seed-1/length-96/score-warmup_only-6" in made
    untouched: Any = (
        "base",
        "long",
        "dense",
        "window",
        "score-dense",
        "score-window",
        "score-random",
        "score-untrained",
    )
    assert not [name for name in made if name.split("/")[-1].startswith(untouched)]
    assert "seed-1/length-96/curve-dense" not in made
    assert {name: parts_of(workplace)[name] for name in before} == before


def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more, words in (
        ((), "There is no curated corpus in data/corpus; `dvc repro curate` makes it."),
        (("--lengths", "40"), "The length 40 is too short"),
        (("--set", "pretrain.no_such=1"), "pretrain.no_such"),
    ):
        assert dsa_evidence.main(arguments(*more)) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
