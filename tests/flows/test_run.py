"""What `make run` shows last when something is wrong."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.command import CommandError
from flows.console import _reason
from tasks.errors import MachineError

ROOT = Path(__file__).parents[2]
FAILING = """
import logging, sys
import flows.pipeline  # sets up Prefect's log
from flows import console
from tasks.errors import MachineError
log = console.quieten()
logger = logging.getLogger("prefect.engine")
try:
    raise MachineError("The store is gone.")
except MachineError as error:
    logger.exception("Encountered an exception")
    logger.error("Finished in state Failed")
    print(console.last_words(error, log), file=sys.stderr)
logger.error("too late")
"""


@pytest.mark.parametrize("override", ["pretrain.stepz=3", "profile=nope", "midtrain.context=5000", "seed"])
def test_a_wrong_parameter_is_one_sentence(override: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.run", override], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(".\n")


def test_tracebacks_go_to_the_log_and_the_sentence_comes_last(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert any("Finished in state Failed" in line for line in shown)
    assert shown[-2:] == [
        "Everything that was logged is in .longhaul/logs/run.log.",
        "The run failed: The store is gone.",
    ]
    assert (tmp_path / ".longhaul/logs/run.log").read_text().count("Traceback") == 2


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CommandError("It is wrong."), "It is wrong."),
        (KeyError("x"), "The program run failed unexpectedly (KeyError: 'x')"),
        (httpx.ConnectError("All connection attempts failed"), "the Prefect server at http://"),
        (caused(MachineError("x"), httpx.ConnectError("All connection attempts failed")), "the Prefect server at http"),
    ],
)
def test_the_last_line_says_why(error: Exception, reason: str) -> None:
    assert _reason(error).startswith(reason)
