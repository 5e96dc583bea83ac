"""Loopback past any proxy, in every library that a run asks its servers with; passwords that nobody reads."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.addresses import bypass_proxies, shown

ROOT = Path(__file__).parents[2]
NAMES = [name for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (lower, lower.upper())]
ASK = """
import http.server, sys, threading, urllib.request
import tasks  # before anything else, as every program of ours does
import httpx, requests
from botocore.utils import get_environ_proxies
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): ...
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in ("127.0.0.1", "localhost"):
    url = f"http://{host}:{server.server_port}"
    assert urllib.request.urlopen(url, timeout=5).status == 200
    assert requests.get(url, timeout=5).status_code == 200
    assert httpx.get(url, timeout=5).status_code == 200
    assert get_environ_proxies(url) == {}
child = "import httpx, sys; print(httpx.get(sys.argv[1], timeout=5).text)"
import subprocess
print(subprocess.run([sys.executable, "-c", child, url], capture_output=True, text=True, check=True).stdout)
"""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "proxy", "others"),
    [
        ("http_proxy", "http://127.0.0.1:9", ""),
        ("HTTP_PROXY", "127.0.0.1:9", "example.org,[::1],fd00::/8"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", ""),
        ("all_proxy", "socks://127.0.0.1:nine", "é.example"),
    ],
)
def test_loopback_is_never_proxied(bare: pytest.MonkeyPatch, name: str, proxy: str, others: str) -> None:
    bare.setenv(name, proxy)
    if others:
        bare.setenv("NO_PROXY", others)
    asked = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout.strip()) == (0, "ok"), asked.stderr


def test_what_a_person_excepts_stays_excepted_under_both_names(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("no_proxy", "a.example, .b.example")
    bare.setenv("NO_PROXY", "c.example")
    changes = bypass_proxies(["gpu.example"])
    wanted = "a.example,.b.example,c.example,127.0.0.1,localhost,::1,gpu.example"
    assert changes == {"no_proxy": wanted, "NO_PROXY": wanted}
    assert bypass_proxies(["gpu.example"]) == changes


def test_a_proxy_that_can_be_used_stays(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("https_proxy", "http://proxy.example:3128")
    assert bypass_proxies().keys() == {"no_proxy", "NO_PROXY"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("http://anna:se:cret@host:5000/a", "http://***@host:5000/a"),
        ("https://host/a@b", "https://host/a@b"),
        ("to postgresql://u:p@x/db, see http://v:q@y", "to postgresql://***@x/db, see http://***@y"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)  # fmt: skip
def test_no_password_is_shown(text: str, read: str) -> None:
    assert shown(text) == read
