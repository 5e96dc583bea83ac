"""`make run`: starts the servers, runs the pipeline in this process, ends with the table and the links."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from flows.servers import ServerError, up
from flows.settings import environment, mlflow_address, prefect_address
from tasks.config.overrides import split_set

SET = "LONGHAUL_SET"  # the text of `make run SET="..."`, which neither make nor a shell has read


def main(overrides: Sequence[str]) -> int:
    """Exit status 0 when every stage is done, 1 when one failed, 2 where none can start, 130 when interrupted."""
    from tasks.config import ConfigError, held
    from tasks.sandbox import SandboxUnavailable

    try:
        given = os.environ.pop(SET, "")
        with held(" ".join(["make run", *([f'SET="{given}"'] if given else []), *overrides])):
            return _hold([*overrides, *split_set(given)])
    except (ConfigError, SandboxUnavailable, ServerError) as error:
        print(error, file=sys.stderr)
        return 2


def _hold(overrides: Sequence[str]) -> int:
    """Checks what can be checked, starts the servers and runs the pipeline; nothing is written before that."""
    from tasks.config import load_config
    from tasks.sandbox import open_sandbox

    started = time.monotonic()
    load_config(overrides=overrides).model_config()
    open_sandbox().close()  # now, and not when the first episode asks for it minutes later
    up()
    os.environ.update(environment())
    print(f"Prefect {prefect_address().url}   MLflow {mlflow_address().url}", flush=True)
    return _run(overrides, started)


def _run(overrides: Sequence[str], started: float) -> int:
    # Here and not above: Prefect reads its settings from the environment when it is imported.
    from flows.console import last_words, quieten
    from flows.deploy import prepare_server
    from flows.pipeline import pipeline
    from tasks.tracking.table import print_table

    log = quieten()
    try:
        asyncio.run(prepare_server())
        asyncio.run(pipeline(list(overrides)))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:  # a stage's, Prefect's or MLflow's: the log holds it whole
        print(last_words(error, log), file=sys.stderr)
        return 1
    print_table(time.monotonic() - started)
    print(
        f"Prefect  {prefect_address().url}/runs\nMLflow   {mlflow_address().url}/#/models\nReport   report/index.html"
    )
    print("`make stop` ends the servers.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
