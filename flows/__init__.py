"""The DAG as Prefect flows: order, concurrency, retries and artifacts; no maths."""
