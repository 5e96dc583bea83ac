"""`python -m flows.servers up|stop|status`: the Prefect and MLflow servers, and a worker for the deployments.

What was started is remembered in .longhaul/servers.json as process id and start time, so that `stop` ends these
processes and never another program that got the same id.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from flows.settings import HOME, LOCAL, Address, environment, mlflow_address, prefect_address
from tasks.cli import Parser, program
from tasks.errors import MachineError

START_SECONDS = 120.0


class ServerError(MachineError):
    """A server could not be started; the message says which and why."""


def up(worker: bool = False) -> None:
    """Starts what does not run yet and waits until both servers answer."""
    HOME.mkdir(exist_ok=True)
    wanted = ((prefect_address(), _prefect()), (mlflow_address(), _mlflow()))
    for address, _ in wanted:  # before any is started: a refusal leaves nothing behind
        _check_port(address)
    for address, command in wanted:
        _start_server(address, command)
    for address, path in ((prefect_address(), "/api/health"), (mlflow_address(), "/health")):
        _wait(address, path)
    if worker and not _running("worker"):
        bin = Path(sys.executable).parent
        applied = subprocess.run([str(bin / "python"), "-m", "flows.deploy"], env={**os.environ, **environment()})
        if applied.returncode:
            raise ServerError("The deployments of prefect.yaml could not be applied; the reason stands above.")
        _spawn("worker", [str(bin / "prefect"), "worker", "start", "--pool", "local"])


def stop() -> list[str]:
    """Ends every process that `up` started; returns their names."""
    ended = []
    for name in ("worker", "Prefect", "MLflow"):
        process = _running(name)
        if process is not None:
            _end(process)
            ended.append(name)
    _record_path().unlink(missing_ok=True)
    return ended


def _prefect() -> list[str]:
    address = prefect_address()
    program = str(Path(sys.executable).parent / "prefect")
    return [program, "server", "start", "--host", address.host, "--port", str(address.port)]


def _mlflow() -> list[str]:
    address, home = mlflow_address(), (HOME / "mlflow").resolve()
    home.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).parent / "mlflow")
    return [
        program, "server", "--host", address.host, "--port", str(address.port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--artifacts-destination", str(home / "artifacts"),
        *_mlflow_visitors(address),
    ]  # fmt: skip


def _mlflow_visitors(address: Address) -> list[str]:
    """MLflow answers to the names of this machine's loopback only, unless it is told others."""
    if address.host in LOCAL or "MLFLOW_SERVER_ALLOWED_HOSTS" in os.environ:
        return []
    origins = [f"http://{place}" for place in address.places]
    return ["--allowed-hosts", ",".join(address.places), "--cors-allowed-origins", ",".join(origins)]


def _start_server(address: Address, command: Sequence[str]) -> None:
    _check_port(address)
    if not _running(address.name):
        _spawn(address.name, command)


def _check_port(address: Address) -> None:
    """Raises ServerError when the address cannot be had, or our own server runs on another one."""
    variable = f"LONGHAUL_{address.name.upper()}_PORT"
    running = _running(address.name)
    if running is not None:
        if not {address.host, str(address.port)} <= set(running.cmdline()):
            raise ServerError(
                f"The {address.name} server of this folder runs elsewhere than on {address.host}, port {address.port}; "
                f"end it with `make stop`, or name its place with LONGHAUL_HOST and {variable}=<port>."
            )
        return
    try:
        _bind(address)
    except OSError as error:
        raise ServerError(
            f"The {address.name} server cannot use port {address.port} on {address.host} ({error.strerror}); "
            f"choose another with {variable}=<port>, or another address with LONGHAUL_HOST."
        ) from None


def _bind(address: Address) -> None:
    """Takes the port for a moment. Raises OSError where it cannot be had."""
    family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)


def _spawn(name: str, command: Sequence[str]) -> None:
    log = HOME / "logs" / f"{name.lower()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, env={**os.environ, **environment()}, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    record = _record()
    record[name] = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    _record_path().write_text(json.dumps(record), encoding="utf-8")


def _wait(address: Address, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not _running(address.name):
            break
        try:
            with urllib.request.urlopen(address.url + path, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    log = HOME / "logs" / f"{address.name.lower()}.log"
    raise ServerError(f"The {address.name} server did not answer at {address.url}; its log is {log}.")


def _running(name: str) -> psutil.Process | None:
    entry = _record().get(name)
    if entry is None or not psutil.pid_exists(entry["pid"]):
        return None
    try:
        process = psutil.Process(entry["pid"])
        same = abs(process.create_time() - entry["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _end(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    for member in family:
        _signal(member, "terminate")
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        _signal(member, "kill")


def _signal(process: psutil.Process, how: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself, which is what was wanted
        getattr(process, how)()


def _record_path() -> Path:
    return HOME / "servers.json"


def _record() -> dict[str, dict[str, float]]:
    path = _record_path()
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@program("flows.servers")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m flows.servers up [--worker] | stop | status`."""
    parser = Parser(prog="python -m flows.servers")
    parser.add_argument("action", choices=("up", "stop", "status"))
    parser.add_argument("--worker", action="store_true", help="also start a worker that serves the deployments")
    arguments = parser.parse_args(argv)
    if arguments.action == "stop":
        print(f"stopped: {', '.join(stop()) or 'nothing was running'}")
        return 0
    if arguments.action == "up":
        up(arguments.worker)
    for address in (prefect_address(), mlflow_address()):
        print(f"{address.name:8} {address.url if _running(address.name) else 'not running'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
