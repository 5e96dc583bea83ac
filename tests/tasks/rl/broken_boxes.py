"""The rollout worker on a machine whose sandbox gives no box: every episode fails for the machine's sake."""

import sys
from contextlib import nullcontext

from tasks.rl import rollout
from tasks.rl.worker import worker_main
from tasks.sandbox import SandboxError


class Broken:
    """A factory that opened well and then gives nothing."""

    def box(self, files):
        raise SandboxError("the machine has no more processes")


if __name__ == "__main__":
    rollout.boxes = lambda: nullcontext(Broken())
    sys.exit(worker_main("rollout", rollout.run))
