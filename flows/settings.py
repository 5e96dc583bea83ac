"""Where the servers are, and the switches every program of a run gets: no telemetry, no look-ups, one home folder.

PREFECT_API_URL and MLFLOW_TRACKING_URI of the environment name servers that are somebody's already: they are used, and
none of ours takes their place. What a run sets for its own programs is told from them by LONGHAUL_OWN_SERVERS.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tasks.addresses import LOOPBACK, bypass_proxies, shown
from tasks.errors import MISTAKE, MachineError

HOME = Path(".longhaul")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server is bound to: where this machine opens it
LOCAL = LOOPBACK
VARIABLES = {"Prefect": "PREFECT_API_URL", "MLflow": "MLFLOW_TRACKING_URI"}
OWN = "LONGHAUL_OWN_SERVERS"  # what a run set for the programs that it starts, with the folder it did so for
DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")  # Prefect's two names


class ServerError(MachineError):
    """A server cannot be started or used; the message says which and why."""


class AddressError(ServerError):
    """An address or a port that somebody chose cannot be used; the message names the variable."""

    exit_status = MISTAKE


@dataclass(frozen=True)
class Address:
    """One server on this machine: what it is bound to, and where it is opened."""

    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The base address that clients and a browser on this machine open."""
        return f"http://{self._at(self.opened)}"

    @property
    def opened(self) -> str:
        """The host that clients on this machine open."""
        return EVERYWHERE.get(self.host, self.host)

    @property
    def places(self) -> list[str]:
        """Every `name:port` under which a browser may open it, from another machine too where it is bound so."""
        names = {*LOCAL, self.host} - EVERYWHERE.keys()
        if self.host in EVERYWHERE:
            own = (entry.address for entries in psutil.net_if_addrs().values() for entry in entries)
            names |= {name for name in own if ":" not in name} | {socket.gethostname(), socket.getfqdn()}
        return sorted(self._at(name) for name in names)

    def take(self) -> None:
        """Takes the port for a moment. Raises OSError where it cannot be had, UnicodeError for no name of a machine."""
        family, kind, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)

    def is_free(self) -> bool:
        """Whether a server could take the place now."""
        try:
            self.take()
        except (OSError, UnicodeError):
            return False
        return True

    def _at(self, name: str) -> str:
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


def prefect_address() -> Address:
    """127.0.0.1:4200 unless LONGHAUL_HOST or LONGHAUL_PREFECT_PORT say otherwise."""
    return Address("Prefect", _host(), _port("LONGHAUL_PREFECT_PORT", 4200))


def mlflow_address() -> Address:
    """127.0.0.1:5000 unless LONGHAUL_HOST or LONGHAUL_MLFLOW_PORT say otherwise."""
    return Address("MLflow", _host(), _port("LONGHAUL_MLFLOW_PORT", 5000))


def given(name: str) -> str | None:
    """The address that the environment gives for a server, where it is not one that a run of this folder set."""
    value = os.environ.get(VARIABLES[name], "").strip()
    return value if value and value != _own().get(VARIABLES[name]) else None


def prefect_page(path: str = "") -> str:
    """What a browser opens for Prefect."""
    uri = given("Prefect")
    page = prefect_address().url if uri is None else os.environ.get("PREFECT_UI_URL") or uri
    return shown(page).rstrip("/").removesuffix("/api") + path


def mlflow_page(path: str = "") -> str:
    """What a browser opens for MLflow; a database or folder that the environment gives as it stands, without a page."""
    uri = given("MLflow") or mlflow_address().url
    return shown(uri).rstrip("/") + (path if uri.startswith("http") else "")


def environment() -> dict[str, str]:
    """What a run adds to the environment of every program it starts."""
    home = HOME.resolve()
    prefect, mlflow = f"{prefect_address().url}/api", mlflow_address().url
    own = {name: uri for name, uri in (("Prefect", prefect), ("MLflow", mlflow)) if given(name) is None}
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": given("Prefect") or prefect,
        "PREFECT_SERVER_UI_API_URL": "/api",  # of whatever address the page was opened under
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # On disk and not in the server's memory: a slot whose server stopped is free again after a minute.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "DO_NOT_TRACK": "true",
        "MLFLOW_TRACKING_URI": given("MLflow") or mlflow,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu" if not Path("/dev/nvidia0").exists() else "cuda"),
        "PATH": _path(),
        OWN: json.dumps({"home": str(home), **{VARIABLES[name]: uri for name, uri in own.items()}}),
        **bypass_proxies([prefect_address().opened]),
    }


def same_place(uri: str, address: Address) -> bool:
    """Whether an address from the environment is the one that our own server has."""
    try:
        place, own = urlsplit(uri), urlsplit(address.url)
        hosts = {place.hostname, own.hostname}
        return place.scheme == "http" and place.port == own.port and (len(hosts) == 1 or hosts <= set(LOCAL))
    except ValueError:
        return False


def _path() -> str:
    """The environment's programs first, once: a run's own programs start others."""
    ours, rest = str(Path(".venv/bin").resolve()), os.environ.get("PATH", "")
    return rest if rest.split(":")[0] == ours else f"{ours}:{rest}"


def _own() -> dict[str, str]:
    """What a run of this folder set for its programs; nothing where another folder's did."""
    try:
        own = json.loads(os.environ.get(OWN) or "{}")
    except ValueError:
        return {}
    return own if isinstance(own, dict) and own.get("home") == str(HOME.resolve()) else {}


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and 0 < int(text) < 65536):
        raise AddressError(f"{variable} is {text[:40]!r}, which is no port: it must be a number from 1 to 65535.")
    return int(text)


def _host() -> str:
    return os.environ.get("LONGHAUL_HOST") or "127.0.0.1"
