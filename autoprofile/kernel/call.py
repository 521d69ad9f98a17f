"""The way into the kernel: libc through ctypes, and errno turned into errors with a hint.

Everything in `autoprofile.kernel` calls through here. A failed call raises `KernelError` (its `errno` is
kept), or `KernelLacksError` when the cause is the machine or its privileges rather than the arguments.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NoReturn

from autoprofile.errors import AutoprofileError, MachineError

__all__ = ["KernelError", "KernelLacksError", "fail", "kernel_release", "libc", "syscall"]

libc = ctypes.CDLL(None, use_errno=True)
# syscall(2) is variadic: integer arguments are passed as c_long objects, so that none is cut to an int.
libc.syscall.restype = ctypes.c_long


class KernelError(AutoprofileError):
    """Report a refused kernel call; `errno` holds the number the kernel answered with."""

    def __init__(self, what: str, number: int, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: {os.strerror(number)}", hint=hint)
        self.errno = number


class KernelLacksError(KernelError, MachineError):
    """Report a kernel call that this machine or these privileges do not allow (exit status 4)."""


# What the errno of a call usually means to the person who reads it, by call.
_PTRACE_HINT = (
    "ptrace may be restricted: see /proc/sys/kernel/yama/ptrace_scope, run as the owner of the process, "
    "or allow ptrace in the container (--cap-add SYS_PTRACE)"
)
_LACKS: dict[tuple[str, int], str] = {
    ("ptrace", errno.EPERM): _PTRACE_HINT,
    ("ptrace", errno.EACCES): _PTRACE_HINT,
    ("ptrace", errno.ENOSYS): "the container's own seccomp filter refuses ptrace",
    ("ptrace", errno.EIO): "PTRACE_GET_SYSCALL_INFO needs Linux 5.3",
    (
        "PTRACE_SECCOMP_GET_FILTER",
        errno.EACCES,
    ): "reading filters needs CAP_SYS_ADMIN, and no filter on the reader",
    ("PTRACE_SECCOMP_GET_FILTER", errno.EINVAL): "the kernel was built without CONFIG_CHECKPOINT_RESTORE",
    ("PTRACE_SECCOMP_GET_FILTER", errno.EIO): "reading filters needs Linux 4.4",
    ("seccomp", errno.ENOSYS): "the kernel has no seccomp, or an outer filter hides it",
    ("seccomp", errno.EPERM): "an outer seccomp filter refuses seccomp(2)",
    ("seccomp", errno.EACCES): "installing a filter needs no_new_privs or CAP_SYS_ADMIN",
    ("pidfd_open", errno.ENOSYS): "pidfd_open(2) needs Linux 5.3",
    ("pidfd_open", errno.EMFILE): "too many processes at once for the limit of open files: raise `ulimit -n`",
    ("pidfd_getfd", errno.ENOSYS): "pidfd_getfd(2) needs Linux 5.6",
    ("pidfd_getfd", errno.EPERM): _PTRACE_HINT,
    ("process_vm_readv", errno.EPERM): _PTRACE_HINT,
    ("process_vm_writev", errno.EPERM): _PTRACE_HINT,
}


def fail(call: str, doing: str, number: int | None = None) -> NoReturn:
    """Raise the error for `call` having failed while `doing` something; `number` defaults to errno."""
    number = ctypes.get_errno() if number is None else number
    what = f"{call} failed while {doing}"
    hint = _LACKS.get((call, number))
    if hint is not None:
        raise KernelLacksError(what, number, hint=hint)
    if number == errno.ENOSYS:
        raise KernelLacksError(what, number, hint=f"this kernel ({os.uname().release}) has no {call}")
    raise KernelError(what, number)


def syscall(nr: int, *args: int | None) -> int:
    """Make one raw syscall; return its result, or -1 with errno set for `fail`."""
    return int(libc.syscall(ctypes.c_long(nr), *(ctypes.c_long(a or 0) for a in args)))


def kernel_release() -> tuple[int, int]:
    """Return the running kernel's version as (major, minor), (0, 0) when it cannot be read."""
    numbers = os.uname().release.split("-", 1)[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return 0, 0
