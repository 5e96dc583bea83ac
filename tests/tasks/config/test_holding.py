"""One run a folder: the second gets one sentence, and whatever happens to the first, the next one can start."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.config import ConfigError, FolderInUse, held, holding, load_config, parse_arguments
from tasks.config.start import begin, parameters
from tasks.errors import MachineError

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from tasks.config import held
with held(sys.argv[1]) as hold:
    print("joined" if hold.joined else "holds", flush=True)
    sys.stdin.read()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(holding.TOKEN, "")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a program that holds the folder until its input ends."""
    started = []

    def program(name: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, name], env={**os.environ, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield program
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    "command",
    [["tasks.curate"], ["tasks.demonstrate", "--set", "seed=3"], ["tasks.pretrain"], ["tasks.promote"], ["flows.run"]],
)
def test_a_second_run_gets_one_sentence_and_changes_nothing(command: list[str], folder: Path, start: Start) -> None:
    first = start("make run SET=seed=1")
    assert said(first) == "holds"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    environment = {**os.environ, "LONGHAUL_SET": "seed=2"}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    holder = f"`make run SET=seed=1`, process {first.pid}"
    assert done.stderr.startswith(f"Another run holds the folder {folder}: {holder}, since ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_long_command_does_not_push_the_advice_out(start: Start) -> None:
    first = start("make run SET=" + "x" * 2000)
    assert said(first) == "holds"
    with pytest.raises(FolderInUse, match=rf"x\.\.\.`, process {first.pid}, since .* `kill {first.pid}`\.$") as caught:
        holding.take("the second")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, None])
def test_the_folder_is_free_as_soon_as_its_run_has_ended(number: int | None, start: Start) -> None:
    first = start("the first")
    assert said(first) == "holds"
    if number is None:
        first.communicate("")
    else:
        first.send_signal(number)
        first.wait()
    assert said(start("the second")) == "holds"


def test_programs_of_a_run_join_it_and_outlive_it_for_a_moment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start("the run")
    assert said(first) == "holds"
    token = Path(".longhaul/run.lock").read_text().split('"')[3]
    part = start("its stage", **{holding.TOKEN: token})
    assert said(part) == "joined"
    assert "the run" in start("a stranger", **{holding.TOKEN: "1-1"}).communicate()[1]

    first.kill()
    first.wait()
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(FolderInUse, match=r"^Programs of a run that has ended still work in the folder .*\.$"):
        holding.take("the next run")
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 30.0)
    threading.Timer(0.5, part.kill).start()
    with held("the next run") as hold:
        assert not hold.joined
        assert part.wait() == -signal.SIGKILL


def test_the_name_of_a_run_that_has_ended_opens_nothing(start: Start) -> None:
    first = start("the first")
    assert said(first) == "holds"
    token = Path(".longhaul/run.lock").read_text().split('"')[3]
    first.communicate("")
    with held("the second"):
        assert start("a leftover", **{holding.TOKEN: token}).wait(30) != 0


def test_one_process_may_hold_it_again_inside(folder: Path, start: Start) -> None:
    with held("outer") as outer:
        with held("inner") as inner:
            assert inner is outer
        assert "outer" in start("another", **{holding.TOKEN: ""}).communicate()[1]
    assert said(start("another")) == "holds"


def test_a_place_that_cannot_be_written_is_one_sentence(folder: Path) -> None:
    Path(".longhaul").write_text("a file is in the way")
    with pytest.raises(MachineError, match=r"^The folder .*\.longhaul cannot be made, so no run starts here\.$"):
        holding.take("a run")


def test_another_folder_is_not_held(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(start("the first")) == "holds"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with held("elsewhere") as hold:
        assert not hold.joined


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', "\0", '{"id": "1", "pid": "x"}'])
def test_a_lock_file_that_says_nothing_still_locks(text: str, start: Start) -> None:
    first = start("the first")
    assert said(first) == "holds"
    Path(".longhaul/run.lock").write_text(text)
    with pytest.raises(FolderInUse, match=r"^Another run holds the folder .*\.$"):
        holding.take("the second")
    first.communicate("")
    with held("the second"):
        pass


def test_a_stage_holds_the_folder_as_long_as_its_parameters_live(folder: Path, start: Start) -> None:
    config = parse_arguments("curate", [])
    assert "python -m tasks.curate" in start("another", **{holding.TOKEN: ""}).communicate()[1]
    del config
    assert said(start("another")) == "holds"


def test_a_refused_stage_does_not_hold_it(folder: Path, start: Start) -> None:
    with pytest.raises(ConfigError):
        parse_arguments("curate", ["--set", "seed=-1"])
    assert said(start("another")) == "holds"


def test_what_writes_nothing_of_a_stage_and_other_ranks_need_no_hold(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(start("a run")) == "holds"
    assert parse_arguments("evaluate", ["--set", "seed=5"], holds=False).seed == 5  # the nightly evaluation
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert parse_arguments("pretrain", []).seed == 1


def test_a_run_works_from_its_own_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "params.yaml"
    with held("make run") as hold:
        config = begin(hold, ["seed=2"])
        assert (config.seed, load_config(file).seed) == (2, 2)
        file.write_text(file.read_text().replace("seed: 2", "seed: 3"))
        assert parameters(hold).seed == 2
        code = "from tasks.config import parse_arguments; print(parse_arguments('curate', []).seed)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "2\n"
        assert not os.stat(hold.frozen(file)).st_mode & 0o222
    assert parse_arguments("curate", []).seed == 3


def test_a_run_that_is_refused_wrote_nothing(folder: Path) -> None:
    with held("make run") as hold, pytest.raises(ConfigError, match="hidden_sizes"):
        begin(hold, ["seed=2", "model.hidden_sizes=3"])
    assert (folder / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_a_run_that_ends_leaves_no_file_of_its_own(folder: Path) -> None:
    for _ in range(2):
        with held("make run") as hold:
            begin(hold)
        assert [path.name for path in folder.iterdir()] == ["params.yaml"]
    with pytest.raises(ConfigError):
        parse_arguments("curate", ["--set", "seed=-1"])
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_many_that_come_and_go_are_never_there_together(folder: Path) -> None:
    program = """
import os, sys
from tasks.config import FolderInUse, held
done = 0
while done < 40:
    try:
        with held("one of many"):
            os.close(os.open("alone", os.O_CREAT | os.O_EXCL))  # fails where another is inside
            os.unlink("alone")
            done += 1
    except FolderInUse:
        pass
"""
    together = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in together] == [(b"", 0)] * 4


def test_copies_of_ended_runs_go_away(folder: Path) -> None:
    with held("make run") as hold:
        old = folder / ".longhaul/run/1-999.yaml"
        old.parent.mkdir()
        old.write_text("seed: 1\n")
        begin(hold)
        assert [path.stem for path in old.parent.iterdir()] == [hold.run]
