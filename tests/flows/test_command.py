"""The guard and the stream around a stage's program."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.command import CommandError, failure, stream

DVC = "ERROR: failed to reproduce 'x': failed to run: python -m tasks.x, exited with {}"
SLEEPER = "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); print('up', flush=True); time.sleep(300)"


async def _ignore(_line: str) -> None: ...


def test_stream_hands_over_every_line_and_returns_the_tail() -> None:
    seen: list[str] = []

    async def keep(line: str) -> None:
        seen.append(line)

    tail = asyncio.run(stream([sys.executable, "-c", "print('a'); print('b')"], keep))
    assert seen == tail == ["a", "b"]


def test_failing_program_raises_with_its_last_words() -> None:
    program = "import sys; print('The reason.'); print('ERROR: failed to reproduce x'); sys.exit(3)"
    with pytest.raises(CommandError, match=r"^The reason\.$") as caught:
        asyncio.run(stream([sys.executable, "-c", program], _ignore))
    assert caught.value.lines == ("The reason.", "ERROR: failed to reproduce x")
    assert pickle.loads(pickle.dumps(caught.value)).lines == caught.value.lines
    assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    ("status", "lines", "sentence", "expected"),
    [
        (2, ["The key 'x' is wrong."], "The key 'x' is wrong.", 2),
        (1, ["The disk is full."], "The disk is full.", 1),
        (130, ["It was interrupted."], "It was interrupted.", 1),
        (255, ["The key 'x' is wrong.", DVC.format(2)], "The key 'x' is wrong.", 2),
        (255, ["The disk is full.", DVC.format(1)], "The disk is full.", 1),
        (255, ["ERROR: Unable to acquire lock"], "`dvc repro` ended with status 255; its last line was", 1),
        (255, ["x", DVC.format(-9)], "`python -m tasks.x` was ended by SIGKILL, as the system does when memory", 1),
        (137, [], "`dvc repro` was ended by SIGKILL", 1),
        (143, [], "`dvc repro` was ended by SIGTERM; its last line was ''.", 1),
    ],
)
def test_the_programs_own_status_and_sentence_come_through(
    status: int, lines: list[str], sentence: str, expected: int
) -> None:
    error = failure(["dvc", "repro"], status, lines)
    assert error.exit_status == expected
    assert str(error).startswith(sentence)
    assert "\n" not in str(error)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_guard_passes_the_status_on(status: int) -> None:
    command = [sys.executable, "-m", "flows.guard", sys.executable, "-c", f"raise SystemExit({status})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        assert guard.wait(timeout=60) == status


def test_a_program_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(CommandError, match=r"^The program no-such-program cannot be started: No such file") as caught:
        asyncio.run(stream(["no-such-program"], _ignore))
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("last", ["[pretrain] step 3/9 tok/s 5.", "KeyError: 'x'", ""])
def test_what_is_no_sentence_is_put_into_one(last: str) -> None:
    found = failure(["dvc", "repro"], 255, [last] if last else [])
    assert str(found) == f"`dvc repro` ended with status 255; its last line was {last!r}."


def test_a_long_line_does_not_end_the_stream() -> None:
    tail = asyncio.run(stream([sys.executable, "-c", "print('x' * 200_000)"], _ignore))
    assert tail == ["x" * 200_000]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_program_ends_with_the_flow_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    """kill -9 of the flow's process ends the whole group it started, grandchildren included."""
    marker = f"longhaul-test-{os.getpid()}-{number}"
    program = (
        "import asyncio, sys\nfrom flows.command import stream\n"
        "async def ignore(line): print(line, flush=True)\n"
        f"asyncio.run(stream([sys.executable, '-c', {SLEEPER!r}, {marker!r}], ignore))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3
    parent.send_signal(number)
    parent.wait(timeout=60)
    assert_all_end(family)


def test_cancelled_stream_ends_its_program() -> None:
    async def cancelled() -> list[psutil.Process]:
        others = set(psutil.Process().children(recursive=True))
        started = asyncio.Event()

        async def note(_line: str) -> None:
            started.set()

        work = asyncio.create_task(stream([sys.executable, "-c", SLEEPER], note))
        await started.wait()
        family = [one for one in psutil.Process().children(recursive=True) if one not in others]
        assert len(family) >= 3
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return family

    assert_all_end(asyncio.run(cancelled()))


def assert_all_end(family: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 60  # the programs themselves would sleep for five minutes
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(filter(_runs, family))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
