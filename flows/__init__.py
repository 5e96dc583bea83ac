"""The DAG as Prefect flows: order, concurrency, retries and artifacts; no maths."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m flows.<program>` looks for its module, whose imports may fail too
    from tasks.cli import guard_imports

    guard_imports()
