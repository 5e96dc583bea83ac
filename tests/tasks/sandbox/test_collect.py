import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sandbox import OVERFLOW, Box, SandboxError
from tasks.sandbox.collect import MAX_FILES, glob_pattern

NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


def test_globs_choose_files_by_relative_path(box: Box) -> None:
    assert set(box.collect(["*"])) == {"a.txt"}
    assert set(box.collect(["**/*.txt"])) == {"a.txt", "deep/b.txt"}
    assert box.collect(["deep/?.txt"]) == {"deep/b.txt": b"three\n"}
    assert box.collect([]) == {}


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_double_star_matches_any_depth_and_star_one(parts: list[str]) -> None:
    path = "/".join(parts)
    assert glob_pattern(["**/*"]).match(path)
    assert bool(glob_pattern(["*"]).match(path)) == (len(parts) == 1)
    assert glob_pattern([path]).match(path)
    assert not glob_pattern([path]).match(path + "x")


def test_symbolic_links_are_never_followed(box: Box) -> None:
    box.run("ln -s /etc/passwd link; ln -s /etc folder; ln -s a.txt inner; rm -r deep; ln -s / deep")
    assert box.collect(["**/*"]) == {"a.txt": b"one\ntwo\n"}


def test_a_named_pipe_does_not_hold_collecting_up(box: Box) -> None:
    box.run("mkfifo pipe.txt")
    assert set(box.collect(["*"])) == {"a.txt"}


@pytest.mark.parametrize(
    "command",
    [
        f"for i in $(seq {MAX_FILES + 1}); do : >f$i; done",
        "truncate -s 3M s1",
        "d=.; for i in $(seq 20); do d=$d/d; done; mkdir -p $d",
    ],
)
def test_collections_beyond_the_bounds_hold_only_the_reason(box: Box, command: str) -> None:
    assert box.run(command).exit_code == 0
    assert list(box.collect(["**/*"])) == [OVERFLOW]


def test_collecting_from_a_closed_box_is_an_error(box: Box) -> None:
    box.close()
    with pytest.raises(SandboxError, match="closed"):
        box.collect(["*"])


def test_globs_cannot_leave_the_folder(box: Box) -> None:
    with pytest.raises(SandboxError, match="must be relative"):
        box.collect(["../*"])
