import os
import re
import socket
from pathlib import Path

import pytest

from tasks.sandbox import Box, SandboxFactory

SYSTEM_CALLS = {  # what a box must not reach, by x86-64 and aarch64 number and arguments
    "ptrace": (101, 117, "0, 0, 0, 0"),
    "mount": (165, 40, "0, 0, 0, 0, 0"),
    "unshare": (272, 97, "0x10000000"),
    "setns": (308, 268, "0, 0"),
    "keyctl": (250, 219, "0, 0"),
    "bpf": (321, 280, "0, 0, 0"),
    "userfaultfd": (323, 282, "1"),
    "perf_event_open": (298, 241, "0, 0, -1, -1, 0"),
    "kexec_load": (246, 104, "0, 0, 0, 0"),
    "process_vm_writev": (311, 271, "1, 0, 0, 0, 0, 0"),
    "io_uring_setup": (425, 425, "1, 0"),
    "clone with a new user namespace": (56, 220, "0x10000011, 0, 0, 0, 0"),
}


def python(box: Box, code: str) -> str:
    quoted = code.replace("'", "'\\''")
    return box.run(f"python3 -c '{quoted}'").output.strip()


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_the_filter_refuses_a_system_call(box: Box, name: str) -> None:
    x86, arm, arguments = SYSTEM_CALLS[name]
    number = arm if os.uname().machine == "aarch64" else x86
    code = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({number}, {arguments}), ctypes.get_errno())"  # noqa: E501
    assert python(box, code) == "-1 1"


def test_clone3_is_not_there_so_that_its_flags_need_no_check(box: Box) -> None:
    code = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(435, 0, 0), ctypes.get_errno())"
    assert python(box, code) == "-1 38"


def test_there_is_no_network(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert box.run(f"echo hello >/dev/tcp/127.0.0.1/{port}").exit_code != 0
    assert box.run("tail -n +3 /proc/net/dev | grep -cv 'lo:'").output == "0\n"


@pytest.mark.parametrize("path", ["/usr/x", "/etc/x", "/x", "/bin/x", "/proc/x", "/tests/x"])
def test_the_system_is_read_only(box: Box, path: str) -> None:
    assert box.run(f": >{path}").exit_code != 0


def test_the_host_is_not_visible(box: Box) -> None:
    assert not re.search(r"\b(root|home|srv|var|mnt|opt)\b", box.run("ls /").output)
    pids = [int(name) for name in box.run("ls /proc").output.split() if name.isdigit()]
    assert max(pids) < 100
    assert str(os.getpid()) not in map(str, pids) or os.getpid() < 100
    assert box.run("env | grep -ic -e token -e secret -e key -e virtual_env").output == "0\n"
    assert box.run("cat /etc/passwd").output.count("\n") == 1


def test_the_box_has_no_capabilities_and_gains_none(box: Box) -> None:
    status = box.run("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").output.split()
    fields = dict(zip(status[::2], status[1::2], strict=True))
    assert {int(value, 16) for name, value in fields.items() if name.startswith("Cap")} == {0}
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("1", "2")


@pytest.mark.skipif(os.geteuid() != 0, reason="without root a box has its caller's uid on the host")
def test_each_box_has_a_host_user_of_its_own(factory: SandboxFactory) -> None:
    with factory.box({}) as one, factory.box({}) as two:
        users = {_host_user(box) for box in (one, two)}
    assert len(users) == 2
    assert min(users) >= 1_900_000_000


def _host_user(box: Box) -> int:
    pid = Path(f"/proc/self/fdinfo/{box._shell}").read_text().split("Pid:")[1].split()[0]
    return Path("/proc", pid).stat().st_uid


def test_boxes_do_not_see_each_other(factory: SandboxFactory) -> None:
    with factory.box({}) as one, factory.box({}) as two:
        one.run("echo secret >/tmp/x; echo secret >/work/x; sleep 30 &")
        assert two.run("cat /tmp/x /work/x 2>/dev/null").output == ""
        assert "sleep" not in two.run("cat /proc/[0-9]*/comm").output


def test_python_sees_no_environment_of_ours(box: Box) -> None:
    assert ".venv" not in python(box, "import sys; print(sys.path, sys.prefix)")
    assert python(box, "import torch").endswith("No module named 'torch'")


def test_isolation_names_every_wall(box: Box) -> None:
    assert re.fullmatch(
        r"bubblewrap strict: namespaces, (own uid|caller's uid mapped), no capabilities, seccomp, cgroup v[12]",
        box.isolation,
    )
