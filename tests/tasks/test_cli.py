"""The door: whatever goes wrong inside a program is one sentence on stderr and an exit status."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from model.checkpoint import CheckpointError
from tasks.cli import DEBUG, Parser, ending, one_line, program, seconds, whole
from tasks.errors import InputError, MachineError

ROOT = Path(__file__).parents[2]
HEAD = "import os, sys, warnings\nfrom tasks.cli import Parser, program\nfrom tasks.errors import InputError\n"


def run(body: str, *arguments: str, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[str]:
    """A program whose main has this body, in a process of its own."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"{HEAD}@program('probe')\ndef main(argv=None):\n{lines}\nsys.exit(main())"
    quoted = " ".join(f"'{word}'" for word in arguments)
    command = shell.format(f'"$PYTHON" -c "$CODE" {quoted}')
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "CODE": code, **environment}
    return subprocess.run(
        ["bash", "-c", command], env=given, capture_output=True, text=True, errors="replace", check=False
    )


def one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and "Traceback" not in text


def deep() -> None:
    deep()


def failing(error: BaseException) -> Callable[..., int]:
    @program("probe")
    def main(argv: Sequence[str] | None = None) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("The key 'x' is wrong."), 2, "The key 'x' is wrong."),
        (MachineError("The server is gone"), 1, "The server is gone."),
        (CheckpointError("The file a is no checkpoint.\nReally."), 2, "The file a is no checkpoint. Really."),
        (InputError(""), 2, "The program probe cannot go on (InputError)."),
        (KeyboardInterrupt(), 130, "was interrupted"),
        (MemoryError(), 1, "The program probe ran out of memory."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "ran out of memory."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), 1, "The disk is full: the stage 'probe' could not"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a"), 1, "`ulimit -n`"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 1, "could not use a/b: Permission denied."),
        (FileNotFoundError(errno.ENOENT, "No such file", b"caf\xe9"), 1, r"could not use caf\udce9: No such file."),
        (OSError("no number, no name"), 1, "refused by the operating system: no number, no name."),
        (BrokenProcessPool("A child\nterminated"), 1, "there may be too little memory."),
        (ImportError("No module named 'x'"), 1, "`make setup`"),
        (ZeroDivisionError("division by zero"), 1, "failed unexpectedly (ZeroDivisionError: division by zero)"),
        (ValueError("\x1b[31mmany\n\n\tlines\u2028\udce9" * 500), 1, "failed unexpectedly (ValueError: "),
        (RecursionError("maximum recursion depth exceeded"), 1, "RecursionError"),
    ],
)
def test_every_end_is_one_sentence(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error)([]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert one_sentence(shown.err)
    assert words in shown.err
    assert len(shown.err) < 900


def test_a_real_recursion_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert program("probe")(lambda argv: deep())([]) == 1
    assert one_sentence(capsys.readouterr().err)


def test_a_file_that_the_command_line_names_is_the_persons() -> None:
    error = IsADirectoryError(errno.EISDIR, "Is a directory", "some/place")
    assert ending(error, "probe", argv=["--out", "some/place"])[0] == 2
    assert ending(error, "probe", argv=["--out=some/place"])[0] == 2
    assert ending(error, "probe", argv=["elsewhere"])[0] == 1


def test_a_traceback_is_shown_with_debug_alone() -> None:
    body = "Parser(prog='probe').parse_args(argv)\nraise InputError('It is wrong.')"
    for arguments, environment in (((), {}), ((), {DEBUG: "0"})):
        quiet = run(body, *arguments, **environment)
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (2, "", "It is wrong.\n")
    for arguments, environment in ((("--debug",), {}), ((), {DEBUG: "1"})):
        loud = run(body, *arguments, **environment)
        assert loud.returncode == 2
        assert loud.stderr.startswith("Traceback")
        assert loud.stderr.endswith("\nIt is wrong.\n")


def test_programs_that_a_program_starts_inherit_debug() -> None:
    body = f"Parser(prog='probe').parse_args(argv)\nos.system('echo debug is ${DEBUG}')"
    assert run(body, "--debug").stdout == "debug is 1\n"


@pytest.mark.parametrize("arguments", [["--nope"], ["--set"], ["--count", "x\ny"], ["--count=0"], ["--coun=1"], ["a"]])
def test_a_wrong_command_line_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    @program("probe")
    def main(argv: Sequence[str] | None = None) -> int:
        parser = Parser(prog="probe")
        parser.add_argument("--count", type=whole(1))
        parser.add_argument("--set", action="append")
        parser.parse_args(argv)
        return 0

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert one_sentence(shown)
    assert shown.startswith("The command line of `probe` cannot be used: ")


def test_system_exit_passes() -> None:
    with pytest.raises(SystemExit, match="7"):
        failing(SystemExit(7))([])


@pytest.mark.parametrize("text", ["", "x", "1.5", "0", "-1", "2147483648", "9" * 5000, "1e3", "²", "0x10"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no whole number from 1 to"):
        whole(1)(text)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "-1", "1e999"])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number of seconds"):
        seconds(text)


def test_numbers_are_read() -> None:
    assert (whole(0)("0"), whole(1)(" 12"), seconds("1e-3")) == (0, 12, 0.001)


def test_a_reader_that_leaves_gets_no_words() -> None:
    for body in ("print('x\\n' * 100_000)", "for _ in range(10**5): print('x', flush=True)", "print('x')"):
        done = run(body, shell="set -o pipefail; {} | head -c 1 > /dev/null")
        assert done.stderr == ""


def test_a_broken_pipe_of_a_child_is_no_reader_of_ours() -> None:
    done = run("raise BrokenPipeError(32, 'Broken pipe')")
    assert done.returncode == 1
    assert one_sentence(done.stderr)


def test_output_on_a_full_disk_is_one_sentence() -> None:
    for body in ("print('x')", "print('x', flush=True)", "print('x')\nraise InputError('It is wrong.')"):
        done = run(body, shell="{} > /dev/full")
        assert done.returncode in (1, 2)
        assert one_sentence(done.stderr)


def test_closed_streams_keep_the_status() -> None:
    body = "print('x')\nraise InputError('It is wrong.')"
    assert run(body, shell="{} 2>&-").returncode == 2
    assert run(body, shell="{} >&-").returncode == 2
    assert run(body, shell="{} >&- 2>&- <&-", **{DEBUG: "1"}).returncode == 2
    assert run(body, shell="{} 2>/dev/full").returncode == 2
    assert run("print('x')", shell="{} >&-").returncode == 0


def test_any_name_can_be_printed_whatever_the_encoding() -> None:
    body = "print('caf\\udce9 ─ é')\nraise InputError('The file caf\\udce9 ─ is wrong.')"
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = run(body, PYTHONIOENCODING=encoding)
        assert done.returncode == 2
        assert one_sentence(done.stderr)
        assert done.stderr.endswith("is wrong.\n")


def test_warnings_of_libraries_are_not_shown() -> None:
    body = "Parser(prog='probe').parse_args(argv)\nwarnings.warn('a library said this')\nraise InputError('Wrong.')"
    assert run(body).stderr == "Wrong.\n"
    assert "a library said this" in run(body, "--debug").stderr
    assert "a library said this" in run(body, PYTHONWARNINGS="default").stderr


def test_that_compiled_code_cannot_be_used_is_said_in_one_sentence() -> None:
    body = (
        "from kernels.native import build; from pathlib import Path\nParser(prog='probe').parse_args(argv)\n"
        "build(Path('nothing.c'), ())\nbuild(Path('nothing.cpp'), ())"
    )
    done = run(body, CC="no-such-compiler", CXX="no-such-compiler")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "Plain PyTorch, which is slower, does the work of compiled code here because there is no"
    )
    assert done.stderr.count("\n") == 1


def test_the_door_leaves_the_filters_of_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    assert program("probe")(lambda argv: 0)([]) == 0
    assert warnings.filters == before


def test_an_interrupt_is_one_sentence_and_130() -> None:
    done = run("import signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(9)")
    assert done.returncode == 130
    assert one_sentence(done.stderr)


def test_an_interrupt_during_the_imports_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('up', flush=True)\nimport time; time.sleep(60)")
    command = [sys.executable, "-m", "tasks.pretrain"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # a shell shows both as 130
    assert one_sentence(said)


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')")
    for name in ("tasks.pretrain", "flows.reinforce"):
        done = subprocess.run(
            [sys.executable, "-m", name], env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if name == "tasks.pretrain":
            assert done.returncode == 1
        assert not done.stderr or one_sentence(done.stderr)


def test_one_line() -> None:
    assert one_line("a\nb\x00c\u2028d") == "a b c d."
    assert one_line("Done!") == "Done!"
    assert one_line("") == ""
    assert one_line("x" * 9999).endswith("x...")


def test_a_stream_without_an_encoding_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert program("probe")(lambda argv: print("x"))([]) == 0
