"""ptrace(2) requests as typed functions; waiting is left to os.waitpid(pid, WALL).

Every request must come from the thread that seized the tracee. Registers travel as the raw bytes of the
kernel's NT_PRSTATUS regset, whose length tells the layout (x86_64: 216, i386: 68).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from enum import IntFlag
from typing import Final, NamedTuple

from autoprofile.kernel.call import fail, libc

__all__ = [
    "EVENT_CLONE",
    "EVENT_EXEC",
    "EVENT_EXIT",
    "EVENT_FORK",
    "EVENT_SECCOMP",
    "EVENT_STOP",
    "EVENT_VFORK",
    "EVENT_VFORK_DONE",
    "SYSCALL_STOP",
    "SyscallInfo",
    "SYSCALL_INFO_ENTRY",
    "SYSCALL_INFO_EXIT",
    "SYSCALL_INFO_NONE",
    "SYSCALL_INFO_SECCOMP",
    "TraceOption",
    "WALL",
    "ptrace_cont",
    "ptrace_detach",
    "ptrace_get_event_message",
    "ptrace_get_registers",
    "ptrace_get_rseq",
    "ptrace_get_signal_mask",
    "ptrace_get_syscall_info",
    "ptrace_interrupt",
    "ptrace_listen",
    "ptrace_peek",
    "ptrace_poke",
    "ptrace_seccomp_get_filter",
    "ptrace_seccomp_get_flags",
    "ptrace_seize",
    "ptrace_set_options",
    "ptrace_set_registers",
    "ptrace_set_signal_mask",
    "ptrace_syscall",
    "stop_event",
    "wait_for",
]

WALL: Final = 0x40000000  # __WALL of waitpid(2): clones are waited for too

# include/uapi/linux/ptrace.h
_PEEKDATA: Final = 2
_POKEDATA: Final = 5
_CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_SETOPTIONS: Final = 0x4200
_GETEVENTMSG: Final = 0x4201
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_LISTEN: Final = 0x4208
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_SECCOMP_GET_FILTER: Final = 0x420C
_SECCOMP_GET_METADATA: Final = 0x420D
_GET_SYSCALL_INFO: Final = 0x420E
_GET_RSEQ_CONFIGURATION: Final = 0x420F
_NT_PRSTATUS: Final = 1  # include/uapi/linux/elf.h

EVENT_FORK: Final = 1
EVENT_VFORK: Final = 2
EVENT_CLONE: Final = 3
EVENT_EXEC: Final = 4
EVENT_VFORK_DONE: Final = 5
EVENT_EXIT: Final = 6
EVENT_SECCOMP: Final = 7
EVENT_STOP: Final = 128

SYSCALL_STOP: Final = signal.SIGTRAP | 0x80  # os.WSTOPSIG of a syscall-stop under TRACESYSGOOD

SYSCALL_INFO_NONE: Final = 0
SYSCALL_INFO_ENTRY: Final = 1
SYSCALL_INFO_EXIT: Final = 2
SYSCALL_INFO_SECCOMP: Final = 3


class TraceOption(IntFlag):
    """PTRACE_O_*: what the tracee reports; EXITKILL: it dies with its tracer; SUSPEND_SECCOMP: unfiltered."""

    TRACESYSGOOD = 1
    TRACEFORK = 1 << EVENT_FORK
    TRACEVFORK = 1 << EVENT_VFORK
    TRACECLONE = 1 << EVENT_CLONE
    TRACEEXEC = 1 << EVENT_EXEC
    TRACEVFORKDONE = 1 << EVENT_VFORK_DONE
    TRACEEXIT = 1 << EVENT_EXIT
    TRACESECCOMP = 1 << EVENT_SECCOMP
    EXITKILL = 1 << 20
    SUSPEND_SECCOMP = 1 << 21


class SyscallInfo(NamedTuple):
    """struct ptrace_syscall_info: at entry `nr` and `args`, at exit `rval` and `is_error`."""

    op: int
    arch: int
    ip: int
    sp: int
    nr: int
    args: tuple[int, int, int, int, int, int]
    rval: int
    is_error: bool


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


_ptrace = libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

_NO_ARGS: Final = (0, 0, 0, 0, 0, 0)
_INFO_HEAD: Final = struct.Struct("=B3xIQQ")
_INFO_ENTRY: Final = struct.Struct("=Q6Q")
_INFO_EXIT: Final = struct.Struct("=qB")
_RSEQ_CONFIGURATION: Final = struct.Struct("=QII8x")
_INFO_SIZE: Final = 88  # sizeof(struct ptrace_syscall_info) up to ret_data, rounded to its alignment


def _request(number: int, name: str, pid: int, address: int, data: int) -> int:
    result: int = _ptrace(number, pid, address, data)
    if result < 0:
        fail("ptrace", f"asking {name} of process {pid}")
    return result


def stop_event(wait_status: int) -> int:
    """Return the PTRACE_EVENT_* number of a wait status, 0 when it is no event stop."""
    return wait_status >> 16


def ptrace_seize(pid: int, options: int = 0) -> None:
    """Start tracing `pid` without stopping it."""
    _request(_SEIZE, "PTRACE_SEIZE", pid, 0, int(options))


def ptrace_interrupt(pid: int) -> None:
    """Stop a seized tracee: the stop arrives as EVENT_STOP."""
    _request(_INTERRUPT, "PTRACE_INTERRUPT", pid, 0, 0)


def ptrace_cont(pid: int, signum: int = 0) -> None:
    """Let a stopped tracee run, delivering `signum`."""
    _request(_CONT, "PTRACE_CONT", pid, 0, signum)


def ptrace_syscall(pid: int, signum: int = 0) -> None:
    """Let a stopped tracee run to its next syscall-stop, delivering `signum`."""
    _request(_SYSCALL, "PTRACE_SYSCALL", pid, 0, signum)


def ptrace_listen(pid: int) -> None:
    """Leave a tracee in its group-stop, and report when it ends."""
    _request(_LISTEN, "PTRACE_LISTEN", pid, 0, 0)


def ptrace_detach(pid: int, signum: int = 0) -> None:
    """Stop tracing and let the process run, delivering `signum`."""
    _request(_DETACH, "PTRACE_DETACH", pid, 0, signum)


def ptrace_set_options(pid: int, options: int) -> None:
    """Replace the PTRACE_O_* options of a stopped tracee."""
    _request(_SETOPTIONS, "PTRACE_SETOPTIONS", pid, 0, int(options))


def ptrace_get_event_message(pid: int) -> int:
    """Return the message of an event stop: the new pid, the exit status, or the former tid."""
    message = ctypes.c_ulong()
    _request(_GETEVENTMSG, "PTRACE_GETEVENTMSG", pid, 0, ctypes.addressof(message))
    return message.value


def ptrace_get_registers(pid: int) -> bytes:
    """Return the general registers as the kernel lays them out for the tracee's current mode."""
    buffer = ctypes.create_string_buffer(512)
    vector = _IoVec(ctypes.addressof(buffer), len(buffer))
    _request(_GETREGSET, "PTRACE_GETREGSET", pid, _NT_PRSTATUS, ctypes.addressof(vector))
    return buffer.raw[: vector.len]


def ptrace_set_registers(pid: int, registers: bytes) -> None:
    """Set all general registers from bytes of the form `ptrace_get_registers` returns."""
    buffer = ctypes.create_string_buffer(registers, len(registers))
    vector = _IoVec(ctypes.addressof(buffer), len(registers))
    _request(_SETREGSET, "PTRACE_SETREGSET", pid, _NT_PRSTATUS, ctypes.addressof(vector))


def ptrace_get_signal_mask(pid: int) -> int:
    """Return the blocked signals of a stopped tracee, as the kernel's 64-bit set."""
    mask = ctypes.c_uint64()
    _request(_GETSIGMASK, "PTRACE_GETSIGMASK", pid, 8, ctypes.addressof(mask))
    return mask.value


def ptrace_set_signal_mask(pid: int, mask: int) -> None:
    """Set the blocked signals of a stopped tracee; SIGKILL and SIGSTOP cannot be blocked."""
    value = ctypes.c_uint64(mask)
    _request(_SETSIGMASK, "PTRACE_SETSIGMASK", pid, 8, ctypes.addressof(value))


# One buffer per process: requests come from one thread, and the answer is copied out at once.
_info_buffer = ctypes.create_string_buffer(_INFO_SIZE)
_info_address = ctypes.addressof(_info_buffer)


def ptrace_get_syscall_info(pid: int) -> SyscallInfo:
    """Describe the syscall-stop a tracee is in; at any other stop `op` is SYSCALL_INFO_NONE (Linux 5.3)."""
    if _ptrace(_GET_SYSCALL_INFO, pid, _INFO_SIZE, _info_address) < 0:
        fail("ptrace", f"asking PTRACE_GET_SYSCALL_INFO of process {pid}")
    op, arch, ip, sp = _INFO_HEAD.unpack_from(_info_buffer)
    if op in (SYSCALL_INFO_ENTRY, SYSCALL_INFO_SECCOMP):
        nr, a0, a1, a2, a3, a4, a5 = _INFO_ENTRY.unpack_from(_info_buffer, _INFO_HEAD.size)
        return SyscallInfo(op, arch, ip, sp, nr, (a0, a1, a2, a3, a4, a5), 0, False)
    if op == SYSCALL_INFO_EXIT:
        rval, is_error = _INFO_EXIT.unpack_from(_info_buffer, _INFO_HEAD.size)
        return SyscallInfo(op, arch, ip, sp, -1, _NO_ARGS, rval, bool(is_error))
    return SyscallInfo(op, arch, ip, sp, -1, _NO_ARGS, 0, False)


def ptrace_seccomp_get_filter(pid: int, index: int) -> bytes | None:
    """Return one filter of a stopped tracee as an array of ``struct sock_filter``, None beyond the last.

    Args:
        pid: the tracee; it must be in filter mode.
        index: 0 is the filter installed first. (ptrace(2) says the latest; get_nth_filter() in
            kernel/seccomp.c counts from the oldest.)

    Raises:
        KernelLacksError: EACCES without CAP_SYS_ADMIN or under a filter of our own; EINVAL where the kernel
            was built without CONFIG_CHECKPOINT_RESTORE (Linux 4.4).
        KernelError: EMEDIUMTYPE where the kernel kept no classic program of the filter.
    """
    doing = f"asking PTRACE_SECCOMP_GET_FILTER {index} of process {pid}"
    length = _ptrace(_SECCOMP_GET_FILTER, pid, index, 0)
    if length < 0:
        if ctypes.get_errno() == errno.ENOENT:
            return None
        fail("PTRACE_SECCOMP_GET_FILTER", doing)
    buffer = ctypes.create_string_buffer(length * 8)
    if _ptrace(_SECCOMP_GET_FILTER, pid, index, ctypes.addressof(buffer)) != length:
        fail("PTRACE_SECCOMP_GET_FILTER", doing)
    return buffer.raw


def ptrace_seccomp_get_flags(pid: int, index: int) -> int | None:
    """Return the SECCOMP_FILTER_FLAG_* kept of one filter (only LOG is), None before Linux 4.16.

    Raises:
        KernelError: there is no such filter.
    """
    metadata = (ctypes.c_uint64 * 2)(index, 0)  # struct seccomp_metadata: filter_off, flags
    size = ctypes.sizeof(metadata)
    if _ptrace(_SECCOMP_GET_METADATA, pid, size, ctypes.addressof(metadata)) < 0:
        if ctypes.get_errno() in (errno.EIO, errno.EINVAL):  # no such request
            return None
        fail("PTRACE_SECCOMP_GET_METADATA", f"asking for the flags of filter {index} of process {pid}")
    return int(metadata[1])


def ptrace_get_rseq(pid: int) -> tuple[int, int] | None:
    """Return the address of a stopped thread's ``struct rseq`` and its signature; None before Linux 5.13.

    The address is 0 where the thread has none.
    """
    # struct ptrace_rseq_configuration: rseq_abi_pointer, rseq_abi_size, signature, flags, pad
    configuration = ctypes.create_string_buffer(_RSEQ_CONFIGURATION.size)
    size = len(configuration)
    if _ptrace(_GET_RSEQ_CONFIGURATION, pid, size, ctypes.addressof(configuration)) < 0:
        if ctypes.get_errno() in (errno.EIO, errno.EINVAL):  # no such request, or CONFIG_RSEQ is not set
            return None
        fail("ptrace", f"asking PTRACE_GET_RSEQ_CONFIGURATION of process {pid}")
    address, _, signature = _RSEQ_CONFIGURATION.unpack(configuration.raw)
    return address, signature


def ptrace_peek(pid: int, address: int) -> int:
    """Read one machine word of a tracee, whatever its page's protection."""
    ctypes.set_errno(0)
    word: int = _ptrace(_PEEKDATA, pid, address, 0)
    if word == -1 and ctypes.get_errno():
        fail("ptrace", f"reading memory at {address:#x} of process {pid}")
    return word & ctypes.c_ulong(-1).value


def ptrace_poke(pid: int, address: int, word: int) -> None:
    """Write one machine word of a tracee; a read-only private page is copied first."""
    if _ptrace(_POKEDATA, pid, address, word) < 0:
        fail("ptrace", f"writing memory at {address:#x} of process {pid}")


def wait_for(pid: int) -> int:
    """Wait for the next stop or the end of one tracee and return the raw wait status."""
    return os.waitpid(pid, WALL)[1]
