"""`python -m flows.servers up|stop|status`: the Prefect and MLflow servers, and a worker for the deployments.

What was started is remembered in .longhaul/servers.json, so that `stop` ends these processes and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from flows.given import check
from flows.settings import (
    DATABASE,
    HOME,
    LOCAL,
    Address,
    AddressError,
    ServerError,
    environment,
    given,
    mlflow_address,
    mlflow_page,
    prefect_address,
    prefect_page,
    same_place,
)
from flows.started import Started
from tasks.addresses import shown
from tasks.cli import Parser, program
from tasks.tracking.store import TrackingError, check_database

START_SECONDS = 120.0
HEALTH = {"Prefect": "/api/health", "MLflow": "/health"}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own servers: through no proxy
BIN = Path(sys.executable).parent


def up(worker: bool = False) -> None:
    """Starts what does not run yet and waits until both servers answer; a failure ends what this call started.

    Raises AddressError: no such place; ServerError: a server does not start, or one that the environment names does
    not answer.
    """
    _make_home()
    started: list[str] = []
    with _started().held():
        try:
            _up(started, worker)
        except BaseException:
            for name in reversed(started):
                _started().end(name)
            raise


def stop() -> list[str]:
    """Ends every process that `up` started; returns their names."""
    if not HOME.is_dir():
        return []
    with _started().held():
        return [name for name in ("worker", "Prefect", "MLflow") if _started().end(name)]


def is_ours(address: Address) -> bool:
    """Whether the server of this name is, or would be, started here: the environment names none, or this very place.

    At this very place somebody else's may answer already, which is then the one that the environment names.
    """
    uri = given(address.name)
    return uri is None or (same_place(uri, address) and (_running(address.name) is not None or address.is_free()))


def worker_runs() -> bool:
    """Whether a worker that was started here runs."""
    return _running("worker") is not None


def _up(started: list[str], worker: bool) -> None:
    ours = [address for address in (prefect_address(), mlflow_address()) if is_ours(address)]
    if len({address.port for address in ours}) < len(ours):
        raise AddressError(
            f"LONGHAUL_PREFECT_PORT and LONGHAUL_MLFLOW_PORT are both {ours[0].port}; each server needs its own."
        )
    for name in ("Prefect", "MLflow"):  # all before any is started: a refusal leaves nothing behind
        if name not in [address.name for address in ours]:
            check(name, given(name) or "")
    for address in ours:
        _check_port(address)
    for address in ours:
        if _start_server(address, _prefect() if address.name == "Prefect" else _mlflow()):
            started.append(address.name)
    for address in ours:
        _wait(address, HEALTH[address.name])
    if worker:
        _apply()
    if worker and not _running("worker"):
        started.append("worker")
        _spawn("worker", [str(BIN / "prefect"), "worker", "start", "--pool", "local"])


def _apply(*switches: str) -> None:
    """What the Prefect server has to know of this folder; in a program of its own, since Prefect starts slowly."""
    command = [str(BIN / "python"), "-m", "flows.deploy", *switches]
    if subprocess.run(command, env={**os.environ, **environment()}).returncode:
        raise ServerError("What prefect.yaml describes could not be applied; the reason stands above.")


def _make_home() -> None:
    folder = HOME.resolve()
    if ":" in str(folder):
        raise AddressError(f"The folder {folder.parent} has a colon in its name, which no PATH can hold; rename it.")
    try:
        HOME.mkdir(exist_ok=True)
    except OSError as error:
        raise ServerError(f"The folder {folder} cannot be made or used ({error.strerror}).") from error


def _prefect() -> list[str]:
    address = prefect_address()
    return [str(BIN / "prefect"), "server", "start", "--host", address.host, "--port", str(address.port)]


def _mlflow() -> list[str]:
    """Places are below the server's own folder: an address of a database cannot hold every folder's name."""
    address = mlflow_address()
    return [
        str(BIN / "mlflow"), "server", "--host", address.host, "--port", str(address.port), "--workers", "1",
        "--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts",
        *_mlflow_visitors(address),
    ]  # fmt: skip


def _mlflow_visitors(address: Address) -> list[str]:
    """MLflow answers to the names of this machine's loopback only, unless it is told others."""
    if address.host in LOCAL or "MLFLOW_SERVER_ALLOWED_HOSTS" in os.environ:
        return []
    origins = [f"http://{place}" for place in address.places]
    return ["--allowed-hosts", ",".join(address.places), "--cors-allowed-origins", ",".join(origins)]


def _start_server(address: Address, command: Sequence[str]) -> bool:
    """Starts it below .longhaul where it does not run; whether it had to be."""
    _check_port(address)
    if _running(address.name):
        return False
    folder = HOME / address.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    own = {} if any(os.environ.get(name) for name in DATABASE) else {DATABASE[0]: "sqlite+aiosqlite:///prefect.db"}
    database = folder / f"{address.name.lower()}.db"
    if address.name == "MLflow" or own:
        try:
            check_database(database)
        except TrackingError as error:
            raise ServerError(str(error)) from error
    _spawn(address.name, command, folder, own)
    return True


def _check_port(address: Address) -> None:
    """Raises ServerError when the address cannot be had, or our own server runs on another one."""
    variable = f"LONGHAUL_{address.name.upper()}_PORT"
    running = _running(address.name)
    if running is not None:
        if not _serves(running, address):
            raise AddressError(
                f"The {address.name} server of this folder runs elsewhere than on {address.host}, port {address.port}; "
                f"end it with `make stop`, or name its place with LONGHAUL_HOST and {variable}=<port>."
            )
        return
    try:
        address.take()
    except (OSError, UnicodeError) as error:  # the second of a name that cannot be one
        raise AddressError(
            f"The {address.name} server cannot use port {address.port} on {address.host} "
            f"({getattr(error, 'strerror', None) or 'no name of a machine'}); "
            f"choose another with {variable}=<port>, or another address with LONGHAUL_HOST."
        ) from None


def _serves(process: psutil.Process, address: Address) -> bool:
    try:
        return {address.host, str(address.port)} <= set(process.cmdline())
    except psutil.Error:
        return False


def _spawn(name: str, command: Sequence[str], folder: Path | None = None, own: Mapping[str, str] | None = None) -> None:
    log = _log(name)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **environment(), **(own or {})}, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise ServerError(f"The {name} cannot be started ({error.strerror}: {error.filename}).") from error
    try:
        _started().remember(name, process.pid)
    except BaseException:  # what is not remembered nobody would end
        process.kill()
        raise


def _wait(address: Address, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and _running(address.name):
        try:
            with DIRECT.open(address.url + path, timeout=2):
                return
        except (OSError, ValueError):
            time.sleep(0.2)
    how = "did not answer" if _running(address.name) else "ended before it answered"
    raise ServerError(f"The {address.name} server {how} at {address.url}; its log is {_log(address.name)}.")


def _log(name: str) -> Path:
    return HOME / "logs" / f"{name.lower()}.log"


def _running(name: str) -> psutil.Process | None:
    return _started().running(name)


def _started() -> Started:
    return Started(HOME / "servers.json")


def _status(address: Address, page: str) -> str:
    uri = given(address.name)
    if not is_ours(address):
        return f"{address.name:8} yours, at {shown(uri or '')}"
    return f"{address.name:8} {page if _running(address.name) else 'not running'}"


@program("flows.servers")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m flows.servers up [--worker] | stop | status`."""
    parser = Parser(prog="python -m flows.servers")
    parser.add_argument("action", choices=("up", "stop", "status"))
    parser.add_argument("--worker", action="store_true", help="also start a worker that serves the deployments")
    arguments = parser.parse_args(argv)
    if arguments.action == "stop":
        print(f"stopped: {', '.join(stop()) or 'nothing was running'}")
        yours = [name for name in ("Prefect", "MLflow") if given(name)]
        with contextlib.suppress(AddressError):  # a wrong port keeps nobody from stopping
            for address in (prefect_address(), mlflow_address()):
                if address.name in yours and not is_ours(address):
                    print(f"{address.name:8} yours, at {shown(given(address.name) or '')}, goes on")
        return 0
    if arguments.action == "up":
        up(arguments.worker)
        if not arguments.worker and is_ours(prefect_address()):
            _apply("--server-only")
    print(_status(prefect_address(), prefect_page()))
    print(_status(mlflow_address(), mlflow_page()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
