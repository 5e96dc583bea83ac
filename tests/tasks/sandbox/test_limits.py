import time

import pytest

from tasks.sandbox import Box, Limits, SandboxError

LONG = 60.0  # seconds; only against a hang: a busy machine gives a box a fraction of a core


def test_a_memory_hog_is_killed_and_the_shell_lives(box: Box) -> None:
    result = box.run("python3 -c 'a = [b\"x\"]\nfor x in a: a += a'", LONG)
    assert result.exit_code != 0
    assert not result.timed_out


def test_memory_is_bounded_over_all_processes_together(box: Box) -> None:
    one = "python3 -c 'x = bytearray(20 << 20); import time; time.sleep(2); print(1)'"
    result = box.run(" & ".join([one] * 6) + " & wait", LONG)
    assert result.output.count("1\n") < 6  # six times 20 MB cannot all have been there in 64 MB


def test_a_fork_bomb_is_contained_and_killed(box: Box) -> None:
    result = box.run(":(){ :|:& };:; while :; do :; done", 1.5)
    assert result.exit_code == 137
    assert box.run("echo").exit_code == 137


def test_the_number_of_processes_is_bounded(box: Box) -> None:
    count = "python3 -c '\nimport os, time\nn = 0\ntry:\n  while n < 99:\n    if os.fork() == 0: time.sleep(60); os._exit(0)\n    n += 1\nexcept OSError: pass\nprint(n)'"  # noqa: E501
    assert int(box.run(count).output) < 16


def test_the_wall_clock_kills_everything(box: Box) -> None:
    start = time.monotonic()
    result = box.run("echo before; (sleep 300) & sleep 300", 1)
    assert result.timed_out
    assert (result.exit_code, result.output) == (137, "before\n")
    assert time.monotonic() - start < 60


def test_processor_seconds_are_bounded(box: Box) -> None:
    result = box.run("python3 -c 'while True: pass'", LONG)
    assert result.exit_code in (137, 152)
    assert not result.timed_out


def test_disk_is_bounded_in_every_writable_place(box: Box) -> None:
    for folder in ("/work", "/tmp"):
        assert box.run(f"for i in 1 2 3; do head -c 3000000 /dev/zero >{folder}/f$i; done").exit_code != 0
    assert int(box.run("du -sk /tmp | cut -f1").output) <= 4096
    assert box.run(": >/dev/x").exit_code != 0
    assert box.run("mkdir /dev/shm").exit_code != 0
    assert box.run(": >/x").exit_code != 0


def test_output_is_cut_and_a_flood_is_stopped(box: Box) -> None:
    result = box.run("yes", LONG)
    assert len(result.output) == Limits().output_bytes
    assert result.exit_code == 137
    assert not result.timed_out


def test_long_output_is_cut_and_the_shell_lives(box: Box) -> None:
    assert len(box.run("head -c 200000 /dev/zero | tr '\\0' x").output) == Limits().output_bytes
    assert box.run("echo well").output == "well\n"


def test_limits_cannot_be_raised_from_inside(box: Box) -> None:
    assert box.run("ulimit -f unlimited").exit_code != 0
    assert box.run("ulimit -t 100").exit_code != 0
    assert box.run("ulimit -c").output == "0\n"


@pytest.mark.parametrize("name", ["memory_mb", "processes", "wall_seconds"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(SandboxError, match=name):
        Limits(**{name: 0})
