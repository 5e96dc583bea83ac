"""Tests in the shell form: one `check <id> <command>` line each, over files that no program of the agent wrote live.

The box is fresh and holds the artifacts as plain files; nothing of the agent runs in it. Three accounts of the
run must agree: the report on the inherited descriptor, the log on stdout and the exit code.
"""

import re
import secrets
from collections.abc import Mapping

from tasks.judge.verdict import Findings, TestsError
from tasks.sandbox import REPORT_DESCRIPTOR, CommandResult, SandboxFactory

WALL_SECONDS = 10.0
CHECK_LINE = re.compile(r"^check[ \t]+(\S+)[ \t]+\S", re.MULTILINE)
TEST_ID = re.compile(r"[A-Za-z0-9_.-]+\Z")
SCRIPT = """\
__failed=0
check() {{
  local id=$1 code
  shift
  "$@" {report}>&-
  code=$?
  [ $code = 0 ] || __failed=1
  printf '%s %s %d\\n' {nonce} "$id" $code >&{report}
  printf '%s %s %d\\n' {nonce} "$id" $code
}}
source /tests/test.sh
[ $__failed = 0 ]"""


def test_ids(task_id: str, script: str) -> list[str]:
    """The ids of the `check` lines of a test.sh, in order; TestsError if there are none, or bad or repeated ones."""
    ids = CHECK_LINE.findall(script)
    wrong = [name for name in ids if not TEST_ID.match(name)]
    if not ids or wrong or len(set(ids)) < len(ids):
        problem = f"the id {wrong[0]!r} is not allowed" if wrong else "there is no check line or an id is repeated"
        raise TestsError(f"The tests/test.sh of task {task_id} cannot be used: {problem}.")
    return ids


def run_shell_tests(
    task_id: str, tests: Mapping[str, str], artifacts: Mapping[str, bytes], factory: SandboxFactory
) -> Findings:
    """Run test.sh in a fresh box with the artifacts in /work and the tests read-only in /tests."""
    ids = test_ids(task_id, tests["test.sh"])
    nonce = secrets.token_hex(8)
    with factory.box(artifacts, tests, report=True) as box:
        result = box.run(SCRIPT.format(report=REPORT_DESCRIPTOR, nonce=nonce), WALL_SECONDS)
    return _agree(ids, nonce, result)


def _agree(ids: list[str], nonce: str, result: CommandResult) -> Findings:
    """The findings if report, log and exit code tell one story; otherwise an error of the environment."""
    reported = _results(result.report.decode(errors="replace"), nonce)
    logged = _results(result.output, nonce)
    codes = dict(reported)
    tests = {name: codes.get(name) == "0" for name in ids}
    log = result.output.replace(f"{nonce} ", "")
    if result.timed_out:
        return Findings(tests, log, f"The tests did not end within {WALL_SECONDS:g} seconds.")
    if [name for name, _ in reported] != ids or reported != logged:
        return Findings(tests, log, "The report, the log and the tests of test.sh do not name the same results.")
    if (result.exit_code == 0) != all(tests.values()):
        return Findings(tests, log, f"The exit code {result.exit_code} contradicts the results of the tests.")
    return Findings(tests, log)


def _results(text: str, nonce: str) -> list[tuple[str, str]]:
    """(id, exit code) of every line that bears the nonce, wherever in a line an unfinished output put it."""
    return re.findall(rf"{nonce} (\S+) (\d+)$", text, re.MULTILINE)
