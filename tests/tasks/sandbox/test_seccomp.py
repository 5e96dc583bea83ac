import errno
import platform
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sandbox.seccomp import ALLOW, DENIED, ERRNO, KILL_PROCESS, MACHINES, seccomp_program

MACHINE = pytest.mark.parametrize("machine", MACHINES)


def evaluate(program: bytes, number: int, audit: int, arguments: tuple[int, int] = (0, 0)) -> int:
    """A second reading of the kernel's rules: interpret the program over one `struct seccomp_data`."""
    data = struct.pack("<IIQQQ", number, audit, 0, *arguments)
    instructions = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            at += if_true if tests[code] else if_false


@MACHINE
def test_every_denied_call_is_refused(machine: str) -> None:
    program, target = seccomp_program(machine), MACHINES[machine]
    for numbers in DENIED.values():
        number = numbers[target.column]
        if number is not None:
            assert evaluate(program, number, target.audit) == ERRNO | errno.EPERM


@MACHINE
@given(number=st.integers(0, 600))
def test_every_other_call_is_allowed(machine: str, number: int) -> None:
    program, target = seccomp_program(machine), MACHINES[machine]
    special = {numbers[target.column] for numbers in DENIED.values()} | {target.clone3}
    if number not in special:
        assert evaluate(program, number, target.audit) == ALLOW


@MACHINE
@given(number=st.integers(0, 600))
def test_programs_of_another_architecture_are_killed(machine: str, number: int) -> None:
    assert evaluate(seccomp_program(machine), number, 0x40000003) == KILL_PROCESS


@given(number=st.integers(0x40000000, 0xFFFFFFFF))
def test_the_second_number_set_of_x86_is_refused(number: int) -> None:
    assert evaluate(seccomp_program("x86_64"), number, MACHINES["x86_64"].audit) == ERRNO | errno.EPERM


@MACHINE
@pytest.mark.parametrize("flag", [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_with_a_namespace_flag_is_refused_and_plain_clone_is_not(machine: str, flag: int) -> None:
    program, target = seccomp_program(machine), MACHINES[machine]
    assert evaluate(program, target.clone, target.audit, (flag | 17, 0)) == ERRNO | errno.EPERM
    assert evaluate(program, target.clone, target.audit, (0x1200011, 0)) == ALLOW
    assert evaluate(program, target.clone3, target.audit) == ERRNO | errno.ENOSYS


@MACHINE
def test_typing_into_the_terminal_is_refused(machine: str) -> None:
    program, target = seccomp_program(machine), MACHINES[machine]
    assert evaluate(program, target.ioctl, target.audit, (0, 0x5412)) == ERRNO | errno.EPERM
    assert evaluate(program, target.ioctl, target.audit, (0, 0x5413)) == ALLOW


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp_program("pdp11")


def test_this_machine_is_the_default() -> None:
    assert seccomp_program() == seccomp_program(platform.machine())
