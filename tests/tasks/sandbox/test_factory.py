import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.sandbox import Box, Limits, SandboxFactory, SandboxUnavailable, open_sandbox
from tasks.sandbox import factory as factory_module


def descriptors() -> int:
    gc.collect()  # what earlier tests left open must not close between two counts
    return len(os.listdir("/proc/self/fd"))


def test_boxes_leave_nothing_behind(factory: SandboxFactory) -> None:
    factory.box({}).close()
    before = descriptors()
    folders = []
    for _ in range(5):
        with factory.box({"a": "b"}, {"t": "u"}, report=True) as box:
            box.run("sleep 100 & sleep 0")
            assert box._group is not None
            folders += box._group.folders
    assert descriptors() == before
    assert not [folder for folder in folders if folder.exists()]


def test_a_box_that_does_not_start_leaves_nothing_behind(factory: SandboxFactory) -> None:
    factory.box({}).close()
    before = descriptors()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            factory.box({"big": b"x" * (5 << 20)})
    assert descriptors() == before
    assert factory._groups is not None
    assert not [box for parent in factory._groups._parents for box in parent.glob("box-*")]


def test_inherited_descriptors_stay_clear_of_the_report_descriptor() -> None:
    """In a process with few open files the pipes' own numbers are below 10, where the report would overwrite them."""
    program = (
        "from tasks.sandbox.start import open_ends; ends = [open_ends(b'', {}, True, None) for _ in range(3)];"
        "assert ends[0].ours.reply < 9; print(min(e.theirs[n] for e in ends for n in ('reply', 'report')))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 9


def test_boxes_open_in_a_process_with_many_open_files(factory: SandboxFactory) -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(400)]
    try:
        with factory.box({}, report=True) as box:
            assert [box.run("echo x; echo y >&9").report for _ in range(2)] == [b"y\n"] * 2
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_eight_threads_work_at_once(factory: SandboxFactory) -> None:
    def episode(number: int) -> str:
        with factory.box({"n.txt": f"{number}\n"}) as box:
            return "".join(box.run(f"cat n.txt; echo {step}").output for step in range(5))

    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(episode, range(32)))
    assert outputs == ["".join(f"{number}\n{step}\n" for step in range(5)) for number in range(32)]


def test_a_box_outlives_the_thread_that_opened_it(factory: SandboxFactory) -> None:
    opened: list[Box] = []
    thread = threading.Thread(target=lambda: opened.append(factory.box({})))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with opened[0] as box:
        assert box.run("echo alive").output == "alive\n"


def test_boxes_die_with_a_killed_program() -> None:
    seconds = f"{1000 + os.getpid()}.25"  # tells it from the same test in another process
    program = (
        "import os, signal; from tasks.sandbox import open_sandbox; b = open_sandbox().box({});"
        f"b.run('sleep {seconds} &'); print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    deadline = time.monotonic() + 60
    while _running(f"sleep\0{seconds}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(f"sleep\0{seconds}")


def _running(command: str) -> bool:
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found = found or path.read_text().startswith(command)
        except OSError:
            continue
    return found


def test_namespaces_level_must_be_asked_for_and_says_what_it_is() -> None:
    with open_sandbox(level="namespaces", limits=Limits(memory_mb=64)) as factory, factory.box({}) as box:
        assert "no cgroup" in box.isolation
        assert box.run("python3 -c 'x = bytearray(100 << 20)'").exit_code != 0
        assert box.run("echo well").output == "well\n"


def refuse(*_: object) -> object:
    raise SandboxUnavailable("There are no control groups.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda patch: patch.setenv("PATH", "/nowhere"), "bwrap is not installed"),
        (lambda patch: patch.setattr(factory_module, "ControlGroups", refuse), "no control groups"),
        (lambda patch: patch.setattr(factory_module.platform, "machine", lambda: "pdp11"), "no system-call filter"),
        (lambda patch: patch.setitem(factory_module.SELF_TEST, "a moat", "false"), "needs a moat"),
        (lambda patch: patch.setattr(factory_module, "seccomp_program", lambda: b"short"), "not available"),
    ],
)
def test_what_the_machine_cannot_give_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    change(monkeypatch)
    with pytest.raises(SandboxUnavailable, match=message):
        open_sandbox()


def test_unknown_kinds_and_levels_are_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="kind 'chroot' is not known"):
        open_sandbox("chroot")
    with pytest.raises(SandboxUnavailable, match="level 'none' is not known"):
        open_sandbox(level="none")


def test_the_level_of_a_machine_may_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_SANDBOX", "namespaces")
    with open_sandbox() as factory:
        assert factory.level == "namespaces"
        assert "no cgroup" in factory.isolation
    with open_sandbox(level="strict") as factory:
        assert factory.level == "strict"
    monkeypatch.setenv("LONGHAUL_SANDBOX", "none")
    with pytest.raises(SandboxUnavailable, match=r"level 'none' is not known.*LONGHAUL_SANDBOX"):
        open_sandbox()


def test_torch_is_not_imported() -> None:
    program = "import sys, tasks.judge, tasks.sandbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_box_costs_milliseconds_and_a_command_less_than_one(factory: SandboxFactory) -> None:
    """Bounds for the fastest of many, thirty times what an idle core shows, so that a busy machine still passes."""
    boxes, commands = [], []
    for _ in range(10):
        start = time.perf_counter()
        with factory.box({"a.txt": "x"}) as box:
            box.run(":")
        boxes.append(time.perf_counter() - start)
    with factory.box({}) as box:
        for _ in range(200):
            start = time.perf_counter()
            box.run(":")
            commands.append(time.perf_counter() - start)
    assert min(boxes) < 0.25
    assert min(commands) < 0.004
