from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.config import load_config
from tasks.tracking import run
from tasks.tracking.experiment import recorded_run
from tasks.tracking.lineage import LineageError, backward, find_stage, forward, main, read_lock, record_stage
from tasks.tracking.registry import move_champion, register

PARAMS = Path(__file__).parents[3] / "params.yaml"
LOCK = """
schema: '2.0'
stages:
  curate:
    cmd: c
    outs: [{path: data/corpus, md5: corpus1.dir}]
    params: {params.yaml: {seed: 1}}
  pretrain:
    cmd: p
    deps: [{path: data/corpus, md5: corpus1.dir}, {path: model, md5: code.dir}]
    outs: [{path: checkpoints/pretrain, md5: pre1.dir}]
  evaluate:
    cmd: e
    deps: [{path: checkpoints/pretrain, md5: pre1.dir}]
    outs: [{path: metrics/evaluate.json, md5: score1}]
  stale:
    cmd: s
    deps: [{path: checkpoints/pretrain, md5: another.dir}]
    outs: [{path: results/stale, md5: st.dir}]
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lineage")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "dvc.lock").write_text(LOCK)
        (folder / "metrics").mkdir()
        (folder / "metrics/evaluate.json").write_text(json.dumps({"shell": {"pass_at_1": {"value": 0.5}}}))
        checkpoint = folder / "checkpoints/pretrain"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"w")
        sha = "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
        (checkpoint / "longhaul.json").write_text(json.dumps({"model_sha256": sha}))
        with run("pretrain", load_config(PARAMS), [checkpoint]) as tracker:
            made = register(tracker, checkpoint, "walker", {"git_commit": "abc"})
            move_champion(tracker.client, "walker", made.number, "first")
        yield folder


def test_a_link_needs_equal_hashes(house: Path) -> None:
    stages = read_lock()
    assert [stage.name for stage in backward(stages, "evaluate")] == ["evaluate", "pretrain", "curate"]
    assert [stage.name for stage in backward(stages, "stale")] == ["stale"]
    assert [stage.name for stage in forward(stages, "curate")] == ["pretrain", "evaluate"]


def test_scores_folders_and_files_are_found(house: Path) -> None:
    stages = read_lock()
    assert find_stage(stages, "evaluate.shell.pass_at_1") == "evaluate"
    assert find_stage(stages, "checkpoints/pretrain/") == "pretrain"
    assert find_stage(stages, "checkpoints/pretrain/model.safetensors") == "pretrain"
    with pytest.raises(LineageError, match="no output, metrics key or registry version"):
        find_stage(stages, "evaluate.shell.typo")


def test_a_score_leads_to_data_parameters_commit_and_registry(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate.shell.pass_at_1"]) == 0
    printed = capsys.readouterr().out
    recorded = recorded_run("pretrain")
    for expected in ("0.5", "corpus1.dir", "sha256 50e721", recorded["git_commit"], recorded["run_id"]):
        assert expected in printed


@pytest.mark.parametrize("what", ["walker@champion", "walker/1", "checkpoints/pretrain"])
def test_versions_and_checkpoints_meet(house: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([what]) == 0
    printed = capsys.readouterr().out
    assert "sha256 50e721" in printed
    assert "went into: evaluate" in printed
    assert "registered as: walker/1 (champion)" in printed


@pytest.mark.parametrize("what", ["walker/7", "nobody@champion", "nonsense"])
def test_unknown_things_are_one_sentence(house: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([what]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_record_stage_tags_the_run_with_dvc_hashes(house: Path) -> None:
    assert record_stage("pretrain") is None
    from tasks.tracking.experiment import client

    tags = client().get_run(recorded_run("pretrain")["run_id"]).data.tags
    assert tags["dvc.out.checkpoints/pretrain"] == "pre1.dir"
    assert tags["dvc.in.data/corpus"] == "corpus1.dir"
    assert record_stage("curate") is None


def test_without_dvc_lock_the_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate.seconds"]) == 2
    assert "dvc.lock does not exist" in capsys.readouterr().err
