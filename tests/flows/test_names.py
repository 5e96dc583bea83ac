"""Names of runs."""

import re
import shutil
from pathlib import Path

import pytest

from flows.names import pipeline_run_name, run_name, stage_run_name
from flows.pipeline import STAGES, pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_called_after_profile_seed_commit_and_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.names.git_commit", lambda: "1a2b3c4d5e6f-dirty")
    found = run_name(["seed=7", "profile=gpu"])
    assert re.fullmatch(r"gpu-seed7-1a2b3c4-dirty-\d{4}-\d{4}", found)
    assert re.fullmatch(r"curate-laptop-seed1-1a2b3c4-dirty-\d{4}-\d{4}", stage_run_name("curate")())


def test_below_a_pipeline_a_stage_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__PARENT_FLOW_RUN_ID", "0d5f")
    assert stage_run_name("curate")() == "curate"


def test_wrong_parameters_still_give_a_name(folder: Path) -> None:
    assert run_name(["pretrain.stepz=3"]).startswith("refused-")


def test_every_flow_of_the_recipe_has_such_a_name() -> None:
    assert pipeline.flow_run_name is pipeline_run_name
    assert pipeline_run_name().startswith("laptop-seed")
    for stage in STAGES:
        assert callable(stage.flow_run_name)
        assert stage.flow_run_name().startswith(f"{stage.name}-laptop-seed")
