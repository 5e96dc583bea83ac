"""A share of the fuzzer on every kind of input: no reader may show a traceback, or take what makes no sense."""

from pathlib import Path

import pytest

from tasks.errors import InputError
from tests.fuzz.__main__ import SHARE
from tests.fuzz.hunt import Hunt, Nonsense, Target, judge
from tests.fuzz.targets import TARGETS

INPUTS = {"params": 6, "set": 6}  # of the others 40


@pytest.mark.parametrize("name", sorted(SHARE))
def test_no_reader_misbehaves(name: str, tmp_path: Path) -> None:
    found = Hunt(TARGETS[name](), tmp_path / "kept").run(INPUTS.get(name, 40), 60.0, 20)
    assert found.inputs
    assert not found.violations, found.violations[0]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (KeyError("text"), "builtins.KeyError"),
        (Nonsense("it is none"), "accepted: it is none"),
        (InputError("The file data.txt is empty."), ""),
        (InputError("No names here."), "the sentence names nothing"),
        (InputError("The file data.txt\nis empty."), "no full sentence"),
    ],
)
def test_the_fuzzer_knows_a_reader_that_misbehaves(error: Exception, what: str, tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        raise error

    target = Target("broken", TARGETS["servers"]().cases, lambda *_: None, read, (r"data\.txt",))
    outcome = judge(target, tmp_path)
    assert not outcome.accepted
    assert outcome.what.startswith(what)
    assert bool(outcome.what) == bool(what)
