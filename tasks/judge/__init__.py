"""The judge: runs the hidden tests of a task over an agent's artifacts and says what happened."""

from tasks.judge.grade import grade
from tasks.judge.verdict import TestsError, Verdict

__all__ = ["TestsError", "Verdict", "grade"]
