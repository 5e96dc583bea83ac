from collections.abc import Iterator

import pytest

from tasks.sandbox import Box, Limits, SandboxFactory, open_sandbox


@pytest.fixture(scope="session")
def factory() -> Iterator[SandboxFactory]:
    with open_sandbox(limits=Limits(memory_mb=64, processes=16, cpu_seconds=2, disk_mb=4)) as opened:
        yield opened


@pytest.fixture
def box(factory: SandboxFactory) -> Iterator[Box]:
    with factory.box({"a.txt": "one\ntwo\n", "deep/b.txt": "three\n"}) as opened:
        yield opened
