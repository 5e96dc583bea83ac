"""The system-call filter of a box: a classic BPF program, assembled here, that denies what no task needs.

The layout of the instructions and of `struct seccomp_data` is that of the Linux kernel's
`Documentation/userspace-api/seccomp_filter.rst` and `include/uapi/linux/filter.h`. Everything that is
not denied is allowed: the filter stands behind the namespaces and narrows what the kernel shows to a box.
"""

import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OFFSET_NUMBER, OFFSET_ARCHITECTURE, OFFSET_FIRST_ARGUMENT, OFFSET_SECOND_ARGUMENT = 0, 4, 16, 24
KILL_PROCESS, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
X32_BIT = 0x40000000  # x86-64 kernels answer a second set of numbers, which would slip past the table below
# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
CLONE_NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
TIOCSTI = 0x5412  # types into the controlling terminal

# name: (x86-64 number, aarch64 number or None where that machine has no such call)
DENIED: Mapping[str, tuple[int, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "personality": (135, 92),
}


@dataclass(frozen=True)
class Machine:
    """The audit number of an architecture, its column in DENIED, and the numbers of calls looked at in detail."""

    audit: int
    column: int
    clone: int
    clone3: int
    ioctl: int


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(audit=0xC000003E, column=0, clone=56, clone3=435, ioctl=16),
    "aarch64": Machine(audit=0xC00000B7, column=1, clone=220, clone3=435, ioctl=29),
}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(error: int) -> bytes:
    return _instruction(RETURN, ERRNO | error)


def _argument_rule(call: int, offset: int, test: int, value: int) -> bytes:
    """EPERM when system call `call` has an argument for which `test` against `value` holds; otherwise ALLOW."""
    return b"".join(
        [
            _instruction(JUMP_EQUAL, call, 0, 4),
            _instruction(LOAD, offset),  # the low 32 bits: both machines are little-endian
            _instruction(test, value, 0, 1),
            _refuse(errno.EPERM),
            _instruction(RETURN, ALLOW),
        ]
    )


def seccomp_program(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter` for `bwrap --seccomp`.

    Raises KeyError for a machine (as `platform.machine()` names it) whose numbers are not in the table.
    """
    target = MACHINES[machine or platform.machine()]
    parts = [
        _instruction(LOAD, OFFSET_ARCHITECTURE),
        _instruction(JUMP_EQUAL, target.audit, 1, 0),
        _instruction(RETURN, KILL_PROCESS),  # a 32-bit program: its numbers mean other calls
        _instruction(LOAD, OFFSET_NUMBER),
    ]
    if target.column == 0:
        parts += [_instruction(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), _refuse(errno.EPERM)]
    for numbers in DENIED.values():
        number = numbers[target.column]
        if number is not None:
            parts += [_instruction(JUMP_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    # clone3 keeps its flags in memory, where a filter cannot look; ENOSYS makes the C library fall back to clone.
    parts += [_instruction(JUMP_EQUAL, target.clone3, 0, 1), _refuse(errno.ENOSYS)]
    parts.append(_argument_rule(target.clone, OFFSET_FIRST_ARGUMENT, JUMP_ANY_BIT, CLONE_NAMESPACES))
    parts.append(_argument_rule(target.ioctl, OFFSET_SECOND_ARGUMENT, JUMP_EQUAL, TIOCSTI))
    parts.append(_instruction(RETURN, ALLOW))
    return b"".join(parts)
