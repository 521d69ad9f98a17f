"""The one adapter over python-ptrace's low-level binding: what the ptrace source asks of the kernel.

Requests must come from the thread that seized the tracee. A tracee that was killed meanwhile makes any
request fail with `Vanished`; its wait status says the rest. Only ``ptrace.binding`` is used: the debugger
above it raises every event as an exception and cuts arguments to the length of its prototypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from ptrace.binding.func import PTRACE_GETEVENTMSG, PTRACE_SYSCALL, ptrace
from ptrace.ctypes_libc import libc
from ptrace.error import PtraceError

from autoprofile.errors import MachineError

__all__ = [
    "ENTRY",
    "EXIT",
    "InfoReader",
    "Vanished",
    "event_message",
    "info_reader",
    "listen",
    "machine_error",
    "resume",
]

# include/uapi/linux/ptrace.h; python-ptrace does not know these.
_PTRACE_LISTEN: Final = 0x4208
_PTRACE_GET_SYSCALL_INFO: Final = 0x420E

ENTRY: Final = 1
"""PTRACE_SYSCALL_INFO_ENTRY"""
EXIT: Final = 2
"""PTRACE_SYSCALL_INFO_EXIT"""

# struct ptrace_syscall_info: op, arch, instruction and stack pointer, then entry {nr, args[6]} or
# exit {rval, is_error}, both read by one unpack: rval in the place of nr, is_error in that of args[0].
_INFO: Final = struct.Struct("=B3xIQQQ6Q")
_INFO_BYTES: Final = 88

Info: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int]
InfoReader: TypeAlias = Callable[[int], Info]

Vanished = PtraceError
"""What a failed request raises; `errno` is ESRCH when the tracee is gone."""

# The two requests of every syscall-stop go straight to the libc that python-ptrace loaded: its own ptrace()
# boxes each result to look for -1, which is a tenth of what a stop costs.
_request = ctypes.CFUNCTYPE(
    ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long, use_errno=True
)(("ptrace", libc))


def _refused(doing: str, tid: int) -> PtraceError:
    number = ctypes.get_errno()
    return PtraceError(f"{doing} thread {tid}: {os.strerror(number)}", errno=number, pid=tid)


def resume(tid: int, signum: int) -> None:
    """Let a stopped tracee run to its next syscall-stop, delivering a signal (0: none)."""
    if _request(PTRACE_SYSCALL, tid, 0, signum) < 0:
        raise _refused("resuming", tid)


def info_reader() -> InfoReader:
    """Return ``read(tid)`` for syscall-stops: ``(op, audit_arch, ip, sp, nr, a0…a5)``.

    At an exit-stop `nr` is the return value and the low byte of `a0` is 1 for an error. One buffer serves all
    calls of one reader: two stops a call leave no time for allocating.
    """
    buffer = ctypes.create_string_buffer(_INFO_BYTES)
    address = ctypes.addressof(buffer)
    unpack, request, size = _INFO.unpack_from, _request, _INFO_BYTES

    def read(tid: int) -> Info:
        if request(_PTRACE_GET_SYSCALL_INFO, tid, size, address) < 0:
            raise _refused("asking for the syscall of", tid)
        info: Info = unpack(buffer)
        return info

    return read


def event_message(tid: int) -> int:
    """Return what an event stop tells: the new task's id, or the former id of a task that called execve."""
    # Not ptrace_geteventmsg(): it lends the kernel, which writes an unsigned long, an int.
    message = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def listen(tid: int) -> None:
    """Leave a tracee in its group-stop until SIGCONT, and be told when that comes."""
    ptrace(_PTRACE_LISTEN, tid, 0, 0)


def machine_error(error: PtraceError) -> MachineError:
    """Return the error to raise for a request the kernel refused although the tracee is there."""
    hint = "PTRACE_GET_SYSCALL_INFO needs Linux 5.3" if error.errno == errno.EIO else None
    return MachineError(f"the kernel refuses a ptrace request: {error}", hint=hint)
