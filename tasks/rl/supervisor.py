"""Starts, watches and restarts the worker programs of a run.

`tasks.reinforce` runs all kinds side by side without a server; the Prefect flow calls `run_worker` in one subflow a
kind. Both go through the same run folder, so one can continue what the other began.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from tasks.config import Config
from tasks.errors import MISTAKE, InputError, MachineError
from tasks.rl.processes import PROGRAMS, OnLine, Patience, print_line, run_program
from tasks.rl.spec import SPEC, RunSpec, measurement_path, policies_path, read_spec, store_path, write_spec
from tasks.rl.store import TrajectoryStore

__all__ = ["KINDS", "PROGRAMS", "STATE", "OnLine", "RunRefused", "WorkerFailed", "finished", "measure", "prepare",
           "print_line", "run_all", "run_worker"]  # fmt: skip
KINDS = ("rollout", "judge", "learner")
STATE = Path(".longhaul/state")


class WorkerFailed(MachineError):
    """A worker program ended for good before the run did."""


class RunRefused(InputError):
    """What the run is to start from cannot be used; another start would end the same way."""


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
    store.start_again()
    store.close()
    return run_dir


def _first_policy(run_dir: Path, checkpoint: Path, spec: RunSpec) -> None:
    from model import Transformer
    from tasks.rl.finite import not_finite
    from tasks.rl.policy import PolicyStore  # torch is needed for the first start only

    model = Transformer.from_pretrained(checkpoint)
    if broken := not_finite(model.state_dict()):
        raise RunRefused(
            f"The checkpoint {checkpoint} cannot be reinforced: {len(broken)} of its tensors hold NaN or infinities,"
            f" {broken[0]} among them."
        )
    policies = PolicyStore(policies_path(run_dir), spec.reinforce.keep_policies)
    if not policies.versions():
        policies.publish(model, 0)
    write_spec(run_dir, spec)


def _weights_hash(checkpoint: Path) -> str:
    path = checkpoint / "model.safetensors"
    if not path.is_file():
        raise RunRefused(f"There is no checkpoint to reinforce: the file {path} does not exist; run midtrain first.")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _spec_hash(spec: RunSpec) -> str:
    return hashlib.sha256(TypeAdapter(RunSpec).dump_json(spec)).hexdigest()[:12]


def run_worker(kind: str, run_dir: Path, on_line: OnLine = print_line, stop: threading.Event | None = None) -> int:
    """Runs the workers of one kind until the run's last step is trained; how often one was restarted.

    Raises WorkerFailed if the run cannot go on or a worker dies again and again, and RunRefused if one refuses its
    input. `stop` ends them early.
    """
    stop = stop or threading.Event()
    settings = read_spec(run_dir).reinforce
    count = {"rollout": settings.rollout_workers, "judge": settings.judge_workers}.get(kind, 1)
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(_keep_running, kind, run_dir, on_line, stop) for _ in range(count)]
        return sum(_results(running, stop))


def run_all(
    run_dir: Path, on_line: OnLine = print_line, extra: Sequence[Callable[[threading.Event], object]] = ()
) -> int:
    """All kinds side by side until the run has ended; the number of restarts.

    The `extra` calls run beside them and get the event after which they must end. Whoever fails first ends all.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(len(KINDS) + len(extra)) as pool:
        workers = [pool.submit(run_worker, kind, run_dir, on_line, stop) for kind in KINDS]
        others: list[Future[Any]] = [pool.submit(call, stop) for call in extra]
        _results([*workers, *others], stop)
    return sum(worker.result() for worker in workers)


def measure(run_dir: Path, when: str, on_line: OnLine = print_line, stop: threading.Event | None = None) -> None:
    """Held-out families of the first ("before") or the last ("after") policy: a process a family, as many as cores.

    The results lie in the run folder; families measured before an interruption are not measured again.
    Raises WorkerFailed when a measurement ended early; the same call then does the rest.
    """
    stop = stop or threading.Event()
    tasks = read_spec(run_dir).reinforce.evaluation
    waiting = [family for family in tasks if tasks[family] and not measurement_path(run_dir, when, family).exists()]
    families = sorted(waiting, key=lambda family: -tasks[family])  # the longest first
    with ThreadPoolExecutor(max(1, min(len(families), os.cpu_count() or 1))) as pool:
        _results([pool.submit(_measure, family, when, run_dir, on_line, stop) for family in families], stop)


def _measure(family: str, when: str, run_dir: Path, on_line: OnLine, stop: threading.Event) -> None:
    last: deque[str] = deque(maxlen=1)
    call = ["--run-dir", str(run_dir), "--when", when, "--family", family]
    code = _run_once("measure", call, run_dir, on_line, stop, last)
    if code and not stop.is_set():
        raise WorkerFailed(f"The measurement of {family} {when} the run ended with code {code}{_words(last)}.")


def finished(run_dir: Path) -> bool:
    """Whether the run takes no further step because it is done."""
    return _with_store(run_dir, lambda store: store.finished(read_spec(run_dir).reinforce.updates))


Answer = TypeVar("Answer")


def _with_store(run_dir: Path, ask: Callable[[TrajectoryStore], Answer]) -> Answer:
    store = TrajectoryStore(store_path(run_dir))
    try:
        return ask(store)
    finally:
        store.close()


def _results(running: Sequence[Future[Answer]], stop: threading.Event) -> list[Answer]:
    """What the calls return; when one fails, or this thread is interrupted, the others are told to stop at once."""
    try:
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for call in done:
            call.result()
        return [call.result() for call in running]
    except BaseException:
        stop.set()
        raise


def _keep_running(kind: str, run_dir: Path, on_line: OnLine, stop: threading.Event) -> int:
    """One place for a worker: how often its program was started again."""
    restarts, patience, last = 0, Patience(), deque[str](maxlen=1)
    while not _is_over(run_dir):
        code = _run_once(kind, ["--run-dir", str(run_dir)], run_dir, on_line, stop, last)
        if stop.is_set() or _is_over(run_dir):
            break
        pause = patience.next_wait(_version(run_dir))
        if pause is None:
            raise WorkerFailed(
                f"The {kind} worker of {run_dir} ended {patience.deaths} times without a step trained in between, the"
                f" last time with code {code}{_words(last)}; the same command goes on from the last step."
            )
        on_line(f"[reinforce] the {kind} worker ended with code {code}; it starts again in {pause:g} s")
        stop.wait(pause)
        restarts += 1
    return restarts


def _is_over(run_dir: Path) -> bool:
    """Whether the run is done. Raises WorkerFailed if it cannot go on."""
    try:
        ending = _with_store(run_dir, lambda store: store.ending())
        if ending is not None and ending.failed:
            raise WorkerFailed(ending.sentence)
        return finished(run_dir)
    except sqlite3.OperationalError:  # busy, or on a full disk: no reason to give up before the worker does
        return False


def _version(run_dir: Path) -> int | None:
    try:
        return _with_store(run_dir, lambda store: store.version())
    except sqlite3.OperationalError:
        return None


def _words(last: deque[str]) -> str:
    return f" and the words {last[-1].rstrip('.')!r}" if last else ""


def _run_once(
    kind: str, arguments: Sequence[str], run_dir: Path, on_line: OnLine, stop: threading.Event, last: deque[str]
) -> int:
    """One life of a worker program: its exit code. Raises RunRefused where another start would end the same way."""
    code = run_program(kind, arguments, run_dir, on_line, stop, last)
    if code == MISTAKE and not stop.is_set():
        raise RunRefused(last[-1] if last else f"The {kind} worker of {run_dir} refused its input.")
    return code
