"""`make run`: starts the servers, runs the pipeline in this process, ends with the table and the links."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from flows.servers import up
from flows.settings import environment, mlflow_page, prefect_page
from tasks.cli import Parser, ending, program
from tasks.config.overrides import split_set

SET = "LONGHAUL_SET"  # the text of `make run SET="..."`, which neither make nor a shell has read


@program("run")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m flows.run [KEY=VALUE ...]`; holds the working folder to its end."""
    from tasks.config import held
    from tasks.machine import check_machine

    parser = Parser(prog="python -m flows.run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="written into params.yaml first")
    overrides = parser.parse_args(argv).overrides
    given = os.environ.pop(SET, "")
    check_machine()
    with held(" ".join(["make run", *([f'SET="{given}"'] if given else []), *overrides])):
        return _hold([*overrides, *split_set(given)])


def _hold(overrides: Sequence[str]) -> int:
    """Checks what can be checked, starts the servers and runs the pipeline; nothing is written before that."""
    from tasks.config import load_config
    from tasks.sandbox import open_sandbox
    from tasks.tracking.commit import without_commit

    started = time.monotonic()
    load_config(overrides=overrides).model_config()
    if notice := without_commit():
        print(notice, flush=True)
    open_sandbox().close()  # now, and not when the first episode asks for it minutes later
    up()
    os.environ.update(environment())
    print(f"Prefect {prefect_page()}   MLflow {mlflow_page()}", flush=True)
    return _run(overrides, started)


def _run(overrides: Sequence[str], started: float) -> int:
    # Here and not above: Prefect reads its settings from the environment when it is imported.
    from flows.cancellable import RunCancelled, run_cancellable
    from flows.console import last_words, quieten
    from flows.deploy import prepare_server
    from flows.pipeline import pipeline
    from tasks.tracking.table import print_table

    log = quieten()
    try:
        asyncio.run(prepare_server())
        asyncio.run(run_cancellable(pipeline, "pipeline", "flows/pipeline.py:pipeline", {"overrides": list(overrides)}))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    except RunCancelled as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except Exception as error:  # a stage's, Prefect's or MLflow's: the log holds it whole
        print(last_words(error, log), file=sys.stderr)
        return ending(error, "run")[0]
    print_table(time.monotonic() - started)
    print(f"Prefect  {prefect_page('/runs')}\nMLflow   {mlflow_page('/#/models')}\nReport   report/index.html")
    print("`make stop` ends the servers.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
