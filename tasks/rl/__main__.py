"""`python -m tasks.rl prepare | rollout | judge | learner | before | after`: one part of a run, for an orchestrator.

`prepare` prints the run folder; every other part takes it and returns when its part of the run is done. The stage
`python -m tasks.reinforce` then finds all of it done and only writes the results.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tasks.cli import Parser, program
from tasks.config import holding
from tasks.config.load import PARAMS, load_config
from tasks.rl import supervisor

MEASURES = ("before", "after")


def run_part(part: str, run_dir: Path | None) -> None:
    """Runs one part to its end."""
    holding.join()
    if part == "prepare" or run_dir is None:
        with holding.held("python -m tasks.rl prepare") as hold:
            print(supervisor.prepare(load_config(hold.parameters(Path(PARAMS), "reinforce"))), flush=True)
    elif part in MEASURES:
        supervisor.measure(run_dir, part)
    else:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        supervisor.run_worker(part, run_dir, stop=stop)


@program("reinforce")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.rl PART [--run-dir RUN]`."""
    parser = Parser(prog="python -m tasks.rl")
    parser.add_argument("part", choices=("prepare", *supervisor.KINDS, *MEASURES))
    parser.add_argument("--run-dir", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.part != "prepare" and arguments.run_dir is None:
        parser.error("every part but `prepare` needs --run-dir")
    run_part(arguments.part, arguments.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
