"""One MLflow run a stage: batched metrics, parameters, the tags that lineage reads, artifacts.

The server is MLFLOW_TRACKING_URI; without it a SQLite file under .longhaul/mlflow, so that no server is needed.
MLflow takes two seconds to import and is imported on first use only.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.addresses import shown
from tasks.tracking.commit import git_commit
from tasks.tracking.metrics import write_json
from tasks.tracking.provenance import provenance, stage_params
from tasks.tracking.store import STATE, TrackingError, check_database, database_file, shown_uri, tracking_uri

EXPERIMENT = "longhaul"
SERVED = "mlflow-artifacts:/"  # an address below the server's --artifacts-destination, which is STATE/artifacts
_BATCH = 500  # metrics a request; MLflow allows 1000
_SECONDS = 5.0  # a live curve lags at most this long


def artifact_place(uri: str) -> str:
    """Where artifacts are read and written: without a server, the folder in which ours keeps `mlflow-artifacts:/`."""
    if not tracking_uri().startswith("sqlite:") or not uri.startswith(SERVED):
        return uri
    return (STATE / "artifacts" / uri.removeprefix(SERVED)).resolve().as_uri()


def client() -> Any:
    """An `MlflowClient` of the tracking URI, telemetry off. Raises TrackingError if it does not answer."""
    _quieten()
    from mlflow import MlflowClient

    uri = tracking_uri()
    file = database_file(uri) if uri.startswith("sqlite:") else None
    if file is not None:
        check_database(file)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        handle = MlflowClient(uri, uri)
        handle.search_experiments(max_results=1)
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors here
        raise TrackingError(f"The tracking store {shown(uri)} cannot be reached: {_reason(error)}") from error
    return handle


def _quieten() -> None:
    """What MLflow reads of the environment when it is imported."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


@contextmanager
def _sentences() -> Iterator[None]:
    """Makes a TrackingError of what MLflow raises where nothing nearer says it better."""
    _quieten()
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"The tracking store {shown_uri()} failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The beginning of a library's message, on one line, without what nobody should read."""
    return shown(" ".join(str(error).split()))[:200]


class Tracker:
    """Logs to one run; metrics are buffered and sent in batches."""

    def __init__(self, handle: Any, run_id: str) -> None:
        self.client = handle
        self.run_id = run_id
        self._metrics: list[Any] = []
        self._sent = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Buffers scalar metrics at `step`; sends every 500 values or 5 seconds."""
        from mlflow.entities import Metric

        stamp = int(time.time() * 1000)
        self._metrics += [Metric(name, float(value), stamp, step) for name, value in metrics.items()]
        if len(self._metrics) >= _BATCH or time.monotonic() - self._sent > _SECONDS:
            self.flush()

    def summary(self, metrics: Mapping[str, Any]) -> None:
        """Logs every number of a stage's metrics file, nested keys joined with dots, intervals as .low and .high."""
        self.log(flatten(metrics))
        self.flush()

    def tag(self, key: str, value: str) -> None:
        """Sets one tag of the run."""
        self.client.set_tag(self.run_id, key, value)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Uploads a file or a whole folder below `folder`."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(artifact_place(self.artifact_uri()), tracking_uri=self.client.tracking_uri)
        upload = store.log_artifacts if Path(path).is_dir() else store.log_artifact
        try:
            upload(str(path), folder)
        except Exception as error:  # as in client()
            raise TrackingError(f"The tracking store {shown_uri()} did not take {path}: {_reason(error)}") from error

    def last_step(self, metric: str) -> int:
        """The largest step at which the run holds this metric; -1 where it holds none."""
        return max((entry.step for entry in self.client.get_metric_history(self.run_id, metric)), default=-1)

    def artifact_uri(self) -> str:
        """Where this run's artifacts lie."""
        return str(self.client.get_run(self.run_id).info.artifact_uri)

    def end(self, status: str) -> None:
        """Marks the run as ended. Raises TrackingError if the store is gone."""
        try:
            self.client.set_terminated(self.run_id, status)
        except Exception as error:  # as in client()
            raise TrackingError(f"The tracking store {shown_uri()} no longer answers: {_reason(error)}") from error

    def flush(self) -> None:
        """Sends what is buffered. Raises TrackingError if the store is gone."""
        waiting, self._metrics, self._sent = self._metrics, [], time.monotonic()
        try:
            for start in range(0, len(waiting), _BATCH):
                self.client.log_batch(self.run_id, metrics=waiting[start : start + _BATCH])
        except Exception as error:  # as in client()
            raise TrackingError(f"The tracking store {shown_uri()} no longer answers: {_reason(error)}") from error


@contextmanager
def run(stage: str, config: object, inputs: Sequence[str | Path] = (), leave_open: bool = False) -> Iterator[Tracker]:
    """The stage's MLflow run: continued if a killed run had the same identity, ended FINISHED, FAILED or KILLED.

    leave_open: after a good end it stays RUNNING, for another program of the same stage to go on with.
    """
    identity = provenance(stage, config, inputs) | {"git_commit": git_commit()}
    with _sentences():
        tracker = _open(stage, identity, config)
        status = "KILLED"  # unless it ends by itself
        try:
            yield tracker
            tracker.flush()
            status = "RUNNING" if leave_open else "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            _remember(stage, identity, tracker.run_id, status)
            if status != "RUNNING":
                tracker.end(status)


def recorded_run(stage: str) -> dict[str, str]:
    """What .longhaul/mlflow/<stage>.run says of the last run: run_id, status and its identity; {} if none."""
    place = STATE / f"{stage}.run"
    return dict(json.loads(place.read_text())) if place.is_file() else {}


def commit_of(handle: Any, record: Mapping[str, str]) -> str:
    """The git commit at which the stage of a checkpoint's longhaul.json last finished; 'unknown' where no run tells."""
    keys = ("stage", "params_hash", "data_hash")
    if any(key not in record for key in keys):
        return "unknown"
    same = " and ".join(f"tags.{key} = '{record[key]}'" for key in keys)
    found = handle.search_runs(
        [_experiment(handle)], f"attributes.status = 'FINISHED' and {same}", 1, 1, ["attributes.start_time DESC"]
    )
    return str(found[0].data.tags.get("git_commit", "unknown")) if found else "unknown"


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping under dotted names; an estimate gives NAME, NAME.low and NAME.high."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}{key}".replace("@", "_at_")
        if isinstance(value, Mapping) and "ci95" in value:
            low, high = value["ci95"]
            flat |= {name: float(value["value"]), f"{name}.low": float(low), f"{name}.high": float(high)}
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, int | float):
            flat[name] = float(value)
    return flat


def _open(stage: str, identity: Mapping[str, str], config: object) -> Tracker:
    handle = client()
    last = recorded_run(stage)
    same = all(last.get(key) == identity[key] for key in ("params_hash", "data_hash"))
    if same and last.get("status") in ("RUNNING", "KILLED") and _exists(handle, last["run_id"]):
        handle.update_run(last["run_id"], status="RUNNING")
        return Tracker(handle, last["run_id"])
    run_id = str(handle.create_run(_experiment(handle), run_name=stage).info.run_id)
    _describe(handle, run_id, identity, flatten_params(stage_params(stage, config)))
    _remember(stage, identity, run_id, "RUNNING")
    return Tracker(handle, run_id)


def _describe(handle: Any, run_id: str, identity: Mapping[str, str], params: Mapping[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    handle.log_batch(
        run_id,
        params=[Param(key, value[:500]) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in identity.items()],
    )
    dataset = Dataset(identity["stage"] + "-inputs", identity["data_hash"], "local", json.dumps({"kind": "dvc"}))
    handle.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", identity["stage"])])])


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and text values, as MLflow stores parameters."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flatten_params(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return flat


def _experiment(handle: Any) -> str:
    found = handle.get_experiment_by_name(EXPERIMENT)
    if found:
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:")
    place = (STATE / "artifacts").resolve().as_uri() if local else None
    return str(handle.create_experiment(EXPERIMENT, artifact_location=place))


def _exists(handle: Any, run_id: str) -> bool:
    found = handle.search_runs([_experiment(handle)], f"attributes.run_id = '{run_id}'", max_results=1)
    return bool(found)


def _remember(stage: str, identity: Mapping[str, str], run_id: str, status: str) -> None:
    write_json(STATE / f"{stage}.run", {"run_id": run_id, "status": status, **identity})
