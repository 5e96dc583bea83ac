"""Where the servers are, and the switches every program of a run gets: no telemetry, no look-ups, one home folder."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

HOME = Path(".longhaul")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server is bound to: where this machine opens it
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Address:
    """One server on this machine: what it is bound to, and where it is opened."""

    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The base address that clients and a browser on this machine open."""
        return f"http://{self._at(EVERYWHERE.get(self.host, self.host))}"

    @property
    def places(self) -> list[str]:
        """Every `name:port` under which a browser may open it, from another machine too where it is bound so."""
        names = {*LOCAL, self.host} - EVERYWHERE.keys()
        if self.host in EVERYWHERE:
            own = (entry.address for entries in psutil.net_if_addrs().values() for entry in entries)
            names |= {name for name in own if ":" not in name} | {socket.gethostname(), socket.getfqdn()}
        return sorted(self._at(name) for name in names)

    def _at(self, name: str) -> str:
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


def prefect_address() -> Address:
    """127.0.0.1:4200 unless LONGHAUL_HOST or LONGHAUL_PREFECT_PORT say otherwise."""
    return Address("Prefect", _host(), _port("LONGHAUL_PREFECT_PORT", 4200))


def mlflow_address() -> Address:
    """127.0.0.1:5000 unless LONGHAUL_HOST or LONGHAUL_MLFLOW_PORT say otherwise."""
    return Address("MLflow", _host(), _port("LONGHAUL_MLFLOW_PORT", 5000))


def environment() -> dict[str, str]:
    """What a run adds to the environment of every program it starts."""
    home = HOME.resolve()
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"{prefect_address().url}/api",
        "PREFECT_SERVER_UI_API_URL": "/api",  # of whatever address the page was opened under
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "DO_NOT_TRACK": "true",
        "MLFLOW_TRACKING_URI": mlflow_address().url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu" if not Path("/dev/nvidia0").exists() else "cuda"),
        "PATH": f"{Path('.venv/bin').resolve()}:{os.environ.get('PATH', '')}",
    }


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SystemExit(f"{variable} is {text!r}, which is no port: it must be a number from 1 to 65535.")
    return int(text)


def _host() -> str:
    return os.environ.get("LONGHAUL_HOST") or "127.0.0.1"
