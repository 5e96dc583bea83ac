"""A corpus read from a real S3 server: rclone serving a folder on a free port."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.curation.documents import SourceError
from tasks.curation.sources import read_sources
from tasks.curation.tally import Tally

RCLONE = shutil.which("rclone") or str(Path(sys.executable).parent / "rclone")
KEY, SECRET = "longhaul-test", "longhaul-test-secret"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket" / "text" / "deep").mkdir(parents=True)
    (root / "bucket" / "text" / "a.py").write_text("x = 1")
    (root / "bucket" / "text" / "deep" / "b.jsonl").write_text(json.dumps({"text": "from the bucket"}) + "\n")
    (root / "bucket" / "broken.jsonl").write_text("{\n")
    _fill(root / "bucket" / "mixed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        RCLONE,
        "serve",
        "s3",
        str(root),
        "--addr",
        address,
        "--auth-key",
        f"{KEY},{SECRET}",
        "--config",
        "/dev/null",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(address, server)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(60)


def _fill(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    (folder / "b.TXT.GZ").write_bytes(gzip.compress(b"text"))
    (folder / "d.txt").write_bytes(b"x" * 5000)
    (folder / "e.txt").touch()
    (folder / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"text": ["row"], "date": pa.array([10**7], pa.date32())}), folder / "c.parquet")


def _wait_for(address: str, server: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, f"The S3 server for {address} ended with status {server.returncode}."
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"No S3 server on {address} after {seconds:g} seconds.")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def texts(source: str, endpoint: str = "") -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read_sources([source], 10**6, Tally(), endpoint)]


def test_prefix_is_read_in_order(endpoint: str) -> None:
    expected = [("source0/a.py", "x = 1"), ("source0/deep/b.jsonl:1", "from the bucket")]
    assert texts("s3://bucket/text/", endpoint) == expected


def test_glob_and_single_object(endpoint: str) -> None:
    assert texts("s3://bucket/text/*.py", endpoint) == [("source0/a.py", "x = 1")]
    assert texts("s3://bucket/text/deep/b.jsonl", endpoint) == [("source0/b.jsonl:1", "from the bucket")]


def test_endpoint_from_the_environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert len(texts("s3://bucket/text")) == 2


@pytest.mark.parametrize("source", ["s3://bucket/absent", "s3://nowhere/text"])
def test_missing_prefix_and_bucket_are_named(endpoint: str, source: str) -> None:
    with pytest.raises(SourceError, match=source):
        texts(source, endpoint)


def test_broken_object_names_the_line(endpoint: str) -> None:
    with pytest.raises(SourceError, match=r"broken\.jsonl, line 1, is not valid JSON"):
        texts("s3://bucket/broken.jsonl", endpoint)


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(SourceError, match=r"'s3://bucket/text' in curate\.sources cannot be listed"):
        texts("s3://bucket/text", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("source", "address", "words"),
    [
        ("s3://Bad_Bucket!/x", "http://127.0.0.1:9", "Invalid bucket name"),
        ("s3://bucket/x", "no-address", "Invalid endpoint: no-address"),
        ("S3://bucket/x", "http://127.0.0.1:9", "cannot be listed"),
    ],
)
def test_a_wrong_bucket_or_endpoint_is_one_sentence(source: str, address: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        texts(source, address)
    assert "\n" not in str(caught.value)


def test_no_credentials_is_one_sentence(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SourceError, match="cannot be listed: Unable to locate credentials"):
        texts("s3://bucket/text", endpoint)


def test_what_a_bucket_holds_beside_text_is_counted(endpoint: str) -> None:
    tally = Tally()
    documents = list(read_sources(["s3://bucket/mixed"], 10**6, tally, endpoint, 1000))
    assert [document.id for document in documents] == ["source0/b.TXT.GZ", "source0/c.parquet:1"]
    assert tally.skipped == {"other_suffix": 1, "damaged": 1}
    assert tally.drops == {"form.too_long": (1, 5000), "empty": (1, 0)}
