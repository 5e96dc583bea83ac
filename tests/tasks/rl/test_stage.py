"""The whole stage with a tiny model: every output is there and agrees with the others."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from model import Transformer
from tasks import reinforce
from tasks.tracking.experiment import client, recorded_run

SETTINGS = {
    "updates": 2, "groups_per_batch": 2, "samples_per_group": 4, "concurrency": 8, "max_context": 256,
    "reward": "random", "evaluation": "{shell: 3, chain: 0, repair: 0}",
}  # fmt: skip


@pytest.mark.slow
def test_the_stage_leaves_checkpoint_results_and_metrics(tmp_path, checkpoint, monkeypatch):
    shutil.copy("params.yaml", tmp_path)
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / "midtrain")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    arguments = [part for key, value in SETTINGS.items() for part in ("--set", f"reinforce.{key}={value}")]
    assert reinforce.main(arguments) == 0

    metrics = json.loads(Path("metrics/reinforce.json").read_text())
    assert metrics["trajectories"] == 2 * 2 * 4
    assert metrics["max_staleness"] <= metrics["staleness_bound"]
    assert metrics["shell"]["pass_at_1_before"]["n"] == metrics["shell"]["pass_at_1_after"]["n"] == 3
    assert metrics["seconds"] > 0
    with open("results/reinforce/curve.csv") as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["0", "1"]
    recorded = recorded_run("reinforce")
    assert recorded["status"] == "FINISHED"
    assert [entry.step for entry in client().get_metric_history(recorded["run_id"], "reward")] == [0, 1]
    folder = Path("checkpoints/reinforce")
    Transformer.from_pretrained(folder)
    record = json.loads((folder / "longhaul.json").read_text())
    assert record["stage"] == "reinforce"
    assert record["model_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (folder / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert not list(Path(".longhaul/state").iterdir())
