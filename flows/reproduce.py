"""`python -m flows.reproduce repro|status ...`: DVC's command line, reading params.yaml from the run's own copy.

DVC hashes params.yaml when a stage has ended. Somebody may have edited it for the next run by then; what it records
in dvc.lock must be what the stage used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc
from dvc.dependency import param
from dvc.utils import serialize

from flows.repository import settle
from tasks.cli import program
from tasks.config import held
from tasks.config.load import PARAMS
from tasks.config.start import begin


@program("flows.reproduce")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m flows.reproduce COMMAND...`; DVC's exit status."""
    argv = sys.argv[1:] if argv is None else argv
    with held(f"dvc {' '.join(argv)}") as hold:
        settle()
        if not hold.joined:  # a run of its own
            begin(hold)
        read_instead(Path(PARAMS).resolve(), hold.frozen(Path(PARAMS)))
        return int(dvc(list(argv)))


def read_instead(params: Path, copy: Path) -> None:
    """From here on DVC finds the content of `copy` where it looks for `params`."""
    load = serialize.load_path

    def load_path(path: str, fs: Any, **settings: Any) -> Any:
        return load(str(copy) if Path(path).resolve() == params else path, fs, **settings)

    serialize.load_path = param.load_path = load_path


if __name__ == "__main__":
    sys.exit(main())
