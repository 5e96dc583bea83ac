"""dvc.lock holds the parameters that a stage used, whatever becomes of params.yaml while it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.config import holding

ROOT = Path(__file__).parents[2]
STAGE = """
import json, sys
from pathlib import Path
from tasks.config import parse_arguments
stage = sys.argv[1]
seed = parse_arguments(stage, []).seed
old, new = json.loads(Path("edit.json").read_text()) if stage == "curate" else ("", "")
file = Path("params.yaml")
file.write_text(file.read_text().replace(old, new))
Path(stage + ".txt").write_text(str(seed))
"""
PIPELINE = """
stages:
  curate:
    cmd: python stage.py curate
    params: [profile, profiles, seed, curate, model]
    outs: [{curate.txt: {persist: true}}]
  pretrain:
    cmd: python stage.py pretrain
    deps: [curate.txt]
    params: [profile, profiles, seed, pretrain, model]
    outs: [{pretrain.txt: {persist: true}}]
"""


class Folder:
    """A project of two stages; the first edits params.yaml while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": programs, holding.TOKEN: ""}
        (path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        (path / "stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(PIPELINE)
        self.run("dvc", "init", "--no-scm", "-q")

    def edit(self, old: str, new: str) -> None:
        """What the first stage does to params.yaml."""
        (self.path / "edit.json").write_text(json.dumps([old, new]))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, text=True, check=False)

    def locked(self) -> dict[str, Any]:
        """Seed by stage, of dvc.lock."""
        file = self.path / "dvc.lock"
        stages = YAML(typ="safe").load(file)["stages"] if file.exists() else {}
        return {name: stage["params"]["params.yaml"]["seed"] for name, stage in stages.items()}

    def used(self) -> dict[str, int]:
        """Seed by stage, as the stages had it."""
        return {file.stem: int(file.read_text()) for file in self.path.glob("*.txt")}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_dvc_reads_the_copy_of_the_run(folder: Folder) -> None:
    folder.edit("seed: 1", "seed: 2")
    done = folder.run("python", "-m", "flows.reproduce", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert folder.locked() == folder.used() == {"curate": 1, "pretrain": 1}
    status = folder.run("dvc", "status").stdout
    assert "seed" in status  # the edit counts for the next run
    folder.edit("seed: 1", "seed: 1")
    assert folder.run("python", "-m", "flows.reproduce", "repro").returncode == 0
    assert folder.locked() == folder.used() == {"curate": 2, "pretrain": 2}
    assert "up to date" in folder.run("dvc", "status").stdout
    assert "up to date" in folder.run("python", "-m", "flows.reproduce", "status").stdout


def test_a_broken_edit_harms_the_next_run_alone(folder: Folder) -> None:
    folder.edit("seed: 1", "seed: [")
    done = folder.run("python", "-m", "flows.reproduce", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert folder.locked() == folder.used() == {"curate": 1, "pretrain": 1}
    done = folder.run("python", "-m", "flows.reproduce", "repro")
    assert done.returncode == 2
    assert done.stderr.startswith("The parameter file params.yaml cannot be read as YAML: ")
    assert done.stderr.count("\n") == 1


def test_under_plain_dvc_a_stage_whose_parameters_were_edited_is_not_recorded(folder: Folder) -> None:
    folder.edit("seed: 1", "seed: 2")
    done = folder.run("dvc", "repro")
    assert done.returncode != 0
    assert "The key 'seed' in params.yaml was changed while `dvc repro`, process " in done.stderr
    assert folder.locked() == {}
    folder.edit("seed: 1", "seed: 1")
    assert folder.run("dvc", "repro").returncode == 0
    assert folder.locked() == folder.used() == {"curate": 2, "pretrain": 2}


def test_under_plain_dvc_no_later_stage_uses_other_parameters(folder: Folder) -> None:
    folder.edit("  muon_lr: 0.02", "  muon_lr: 0.03")  # none of the first stage's
    done = folder.run("dvc", "repro")
    assert done.returncode != 0
    assert "The key 'pretrain.muon_lr' in params.yaml was changed while `dvc repro`" in done.stderr
    assert folder.locked() == folder.used() == {"curate": 1}


def test_a_stage_of_plain_dvc_is_refused_where_a_run_holds_the_folder(folder: Folder) -> None:
    folder.edit("seed: 1", "seed: 1")
    code = "import sys\nfrom tasks.config import held\nwith held('make run'): print(flush=True), sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder.path, env=folder.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        first.stdout.readline()
        done = folder.run("dvc", "repro")
        again = folder.run("python", "-m", "flows.reproduce", "repro")
        first.communicate()
    assert f"Another run holds the folder {folder.path}: `make run`, process {first.pid}, since " in done.stderr
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert folder.locked() == {}
