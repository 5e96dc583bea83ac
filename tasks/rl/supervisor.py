"""Starts, watches and restarts the worker programs of a run.

`tasks.reinforce` runs all kinds side by side without a server; the Prefect flow calls `run_worker` in one subflow a
kind. Both go through the same run folder, so one can continue what the other began.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import TypeAdapter

from tasks.config import Config
from tasks.errors import MISTAKE, MachineError
from tasks.rl.spec import SPEC, RunSpec, measurement_path, policies_path, read_spec, store_path, write_spec
from tasks.rl.store import TrajectoryStore
from tasks.rl.worker import PARENT

KINDS = ("rollout", "judge", "learner")
PROGRAMS = {
    "rollout": "tasks.rl.rollout", "judge": "tasks.rl.judging", "learner": "tasks.rl.learner",
    "measure": "tasks.benchmarks.measure",  # a program only: this package imports nothing of the benchmarks
}  # fmt: skip
BAD_INPUT = 2  # a worker's exit code where another start would end the same way
MAX_RESTARTS = 20
RESTART_SECONDS = 0.5
STATE = Path(".longhaul/state")

OnLine = Callable[[str], None]


class WorkerFailed(MachineError):
    """A worker program ended for good before the run did."""


class NoCheckpoint(WorkerFailed):
    """The stage before was not run."""

    exit_status = MISTAKE


def print_line(line: str) -> None:
    """The default destination of the workers' lines."""
    print(line, flush=True)


def prepare(config: Config, checkpoint: Path = Path("checkpoints/midtrain"), state: Path = STATE) -> Path:
    """The run folder for these parameters and this checkpoint, made if it is not there yet.

    An interrupted run of the same parameters and inputs has the same folder and goes on. Leases of workers that are
    gone return at once, so call it before any worker of the run starts.
    """
    spec = RunSpec(
        config.seed, str(checkpoint.resolve()), _weights_hash(checkpoint),
        str((checkpoint / "tokenizer.json").resolve()), config.reinforce,
    )  # fmt: skip
    run_dir = state / f"reinforce-{_spec_hash(spec)}"
    if not (run_dir / SPEC).exists():
        _first_policy(run_dir, checkpoint, spec)
    store = TrajectoryStore(store_path(run_dir))
    store.release_all()
    store.close()
    return run_dir


def _first_policy(run_dir: Path, checkpoint: Path, spec: RunSpec) -> None:
    from model import Transformer
    from tasks.rl.policy import PolicyStore  # torch is needed for the first start only

    model = Transformer.from_pretrained(checkpoint)
    policies = PolicyStore(policies_path(run_dir), spec.reinforce.keep_policies)
    if not policies.versions():
        policies.publish(model, 0)
    write_spec(run_dir, spec)


def _weights_hash(checkpoint: Path) -> str:
    path = checkpoint / "model.safetensors"
    if not path.is_file():
        raise NoCheckpoint(f"There is no checkpoint to reinforce: the file {path} does not exist; run midtrain first.")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _spec_hash(spec: RunSpec) -> str:
    return hashlib.sha256(TypeAdapter(RunSpec).dump_json(spec)).hexdigest()[:12]


def run_worker(kind: str, run_dir: Path, on_line: OnLine = print_line, stop: threading.Event | None = None) -> int:
    """Runs the workers of one kind until the run's last step is trained; how often one was restarted.

    Raises WorkerFailed if a worker refuses its input or dies again and again. `stop` ends them early.
    """
    stop = stop or threading.Event()
    settings = read_spec(run_dir).reinforce
    count = {"rollout": settings.rollout_workers, "judge": settings.judge_workers}.get(kind, 1)
    arguments = ["--run-dir", str(run_dir)]
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(_keep_running, kind, arguments, run_dir, on_line, stop) for _ in range(count)]
        try:
            return sum(worker.result() for worker in running)
        except BaseException:
            stop.set()
            raise


def run_all(run_dir: Path, on_line: OnLine = print_line, extra: Sequence[Callable[[], object]] = ()) -> int:
    """All kinds side by side (and the `extra` calls) until the run has ended; the number of restarts."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(KINDS) + len(extra)) as pool:
        others = [pool.submit(call) for call in extra]
        workers = [pool.submit(run_worker, kind, run_dir, on_line, stop) for kind in KINDS]
        try:
            restarts = sum(worker.result() for worker in workers)
            for other in others:
                other.result()
        except BaseException:
            stop.set()
            raise
    return restarts


def measure(run_dir: Path, when: str, on_line: OnLine = print_line) -> None:
    """Held-out families of the first ("before") or the last ("after") policy: a process a family, as many as cores.

    The results lie in the run folder; families measured before an interruption are not measured again.
    Raises WorkerFailed when a measurement ended early; the same call then does the rest.
    """
    tasks = read_spec(run_dir).reinforce.evaluation
    waiting = [family for family in tasks if tasks[family] and not measurement_path(run_dir, when, family).exists()]
    families = sorted(waiting, key=lambda family: -tasks[family])  # the longest first
    stop = threading.Event()
    calls = [["--run-dir", str(run_dir), "--when", when, "--family", family] for family in families]
    with ThreadPoolExecutor(max(1, min(len(calls), os.cpu_count() or 1))) as pool:
        running = [pool.submit(_run_once, "measure", call, run_dir, on_line, stop) for call in calls]
        try:
            codes = [process.result() for process in running]
        except BaseException:
            stop.set()
            raise
    for family, code in zip(families, codes, strict=True):
        if code:
            raise WorkerFailed(f"The measurement of {family} {when} the run ended with code {code}; see the log above.")


def finished(run_dir: Path) -> bool:
    """Whether the run's last step is trained."""
    store = TrajectoryStore(store_path(run_dir))
    try:
        return store.version() >= read_spec(run_dir).reinforce.updates
    finally:
        store.close()


def _keep_running(kind: str, arguments: Sequence[str], run_dir: Path, on_line: OnLine, stop: threading.Event) -> int:
    for restarts in range(MAX_RESTARTS + 1):
        code = _run_once(kind, arguments, run_dir, on_line, stop)
        if stop.is_set() or finished(run_dir):
            return restarts
        on_line(f"[reinforce] the {kind} worker ended with code {code}; starting it again")
        time.sleep(RESTART_SECONDS)
    raise WorkerFailed(f"The {kind} worker of {run_dir} died {MAX_RESTARTS + 1} times; see the log above.")


def _run_once(kind: str, arguments: Sequence[str], run_dir: Path, on_line: OnLine, stop: threading.Event) -> int:
    """One life of a worker program; its lines go to `on_line`. Returns its exit code."""
    threads = str(read_spec(run_dir).reinforce.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    environment[PARENT] = str(os.getpid())
    command = [sys.executable, "-m", PROGRAMS[kind], *arguments]
    last: deque[str] = deque(maxlen=1)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        watcher = threading.Thread(target=_terminate_on, args=(stop, process), daemon=True)
        watcher.start()
        (run_dir / f"{kind}.pid").write_text(str(process.pid), encoding="utf-8")
        for line in process.stdout or ():
            last.append(line.rstrip("\n"))
            on_line(last[-1])
        code = process.wait()
    if code == BAD_INPUT and not stop.is_set():
        raise WorkerFailed(last[-1] if last else f"The {kind} worker of {run_dir} refused its input.")
    return code


def _terminate_on(stop: threading.Event, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if stop.wait(0.2):
            process.terminate()
            return
