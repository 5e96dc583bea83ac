"""The slow end-to-end: the pipeline in a copy of the tree, killed half-way, run again, then run a third time."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "demonstrate.counts={shell: 60, chain: 30, repair: 30}", "demonstrate.heldout=20",
    "curate.max_bytes=2000000", "curate.tokenizer_bytes=500000",
    "pretrain.copy_steps=5", "pretrain.steps=45", "pretrain.heldout_windows=8",
    "midtrain.dense_steps=2", "midtrain.indexer_steps=2", "midtrain.sparse_steps=2", "midtrain.agent_steps=4",
    "midtrain.heldout_windows=4", "midtrain.retrieval_documents=4",
    "reinforce.updates=2", "reinforce.groups_per_batch=2", "reinforce.samples_per_group=2", "reinforce.oversample=1",
    "reinforce.evaluation={shell: 6, chain: 3, repair: 3}",
    "evaluate.tasks={shell: 4, chain: 2, repair: 2}", "evaluate.samples=2", "evaluate.humaneval_problems=2",
    "evaluate.humaneval_tokens=8", "evaluate.heldout_windows=4", "evaluate.retrieval_documents=4",
)  # fmt: skip
STAGES = ("demonstrate", "curate", "pretrain", "midtrain", "reinforce", "evaluate", "promote")


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A clone-like copy of the tracked files with ports of its own; its servers are stopped at the end."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if not name.startswith(("docs/", "metrics/")) and (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    environment = {
        **os.environ, "PYTHONPATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LONGHAUL_PREFECT_PORT": str(free_port()), "LONGHAUL_MLFLOW_PORT": str(free_port()),
    }  # fmt: skip
    yield tmp_path, environment
    subprocess.run([sys.executable, "-m", "flows.servers", "stop"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.recipe
@pytest.mark.timeout(900)
def test_killed_pipeline_ends_well_when_run_again(copy: tuple[Path, dict[str, str]]) -> None:
    folder, environment = copy
    command = [sys.executable, "-m", "flows.run"]
    first = subprocess.Popen(
        [*command, *SMALL], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert first.stdout is not None
    seen = next((line for line in first.stdout if "[pretrain] step 30/50" in line), "")
    assert seen, "the pipeline ended before it was killed"
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(12)  # the guard ends what the pipeline had started

    second = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout[-4000:] + second.stderr[-4000:]
    assert "[pretrain] goes on from the state saved after step 25" in second.stderr  # where Prefect logs
    assert "overhead" in second.stdout
    for stage in STAGES:
        assert json.loads((folder / "metrics" / f"{stage}.json").read_text())["seconds"] > 0
    reinforce = json.loads((folder / "metrics/reinforce.json").read_text())
    assert reinforce["max_staleness"] <= reinforce["staleness_bound"]
    assert (folder / "report/index.html").stat().st_size > 10_000

    status = subprocess.run(["dvc", "status"], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert "up to date" in status.stdout
    before = (folder / "metrics/pretrain.json").read_bytes()
    third = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
    assert (folder / "metrics/pretrain.json").read_bytes() == before


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
