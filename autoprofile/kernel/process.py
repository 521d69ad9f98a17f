"""Process-wide kernel calls: prctl(2), pidfds, memory of other processes, capabilities.

Typed wrappers only; no policy. Addresses and lengths are in bytes. Errors are `KernelError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from pathlib import Path
from typing import Final

from autoprofile.kernel.call import KernelError, fail, libc, syscall

__all__ = [
    "PR_SET_NO_NEW_PRIVS",
    "PR_SET_PTRACER_ANY",
    "has_cap_sys_admin",
    "open_in_root",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "process_vm_readv",
    "process_vm_writev",
    "set_child_subreaper",
    "set_no_new_privs",
    "set_ptracer",
    "write_memory",
    "read_memory",
]

# include/uapi/linux/prctl.h
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_PTRACER: Final = 0x59616D61  # "Yama"
PR_SET_PTRACER_ANY: Final = -1

# include/uapi/asm-generic/unistd.h: numbers from 424 on are the same on every architecture
_NR_PIDFD_GETFD: Final = 438
_NR_OPENAT2: Final = 437
# include/uapi/linux/openat2.h
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10

_CAP_SYS_ADMIN: Final = 21  # include/uapi/linux/capability.h


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


libc.process_vm_readv.restype = ctypes.c_ssize_t
libc.process_vm_writev.restype = ctypes.c_ssize_t


def _prctl(option: int, argument: int, doing: str) -> None:
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument & (2**64 - 1)), zero, zero, zero) != 0:
        fail("prctl", doing)


def set_no_new_privs() -> None:
    """Give up gaining privileges by execve in this thread and its children, for ever (prctl(2))."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1, "setting no_new_privs")


def set_child_subreaper(*, on: bool) -> None:
    """Make this process the new parent of its orphaned descendants, or stop being that."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(on), "changing the child subreaper attribute")


def set_ptracer(pid: int) -> None:
    """Let `pid` (or `PR_SET_PTRACER_ANY`) trace this process under Yama; a no-op on kernels without Yama."""
    try:
        _prctl(PR_SET_PTRACER, pid, "allowing a tracer")
    except KernelError as error:
        if error.errno != errno.EINVAL:  # EINVAL: no Yama here, hence nothing to allow
            raise


def open_in_root(root: str, path: str) -> int:
    """Open a path with O_PATH as if `root` were the root directory, for its symbolic links, too; return it.

    openat2(2), Linux 5.6.
    """
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        fail("open", f"opening {root}", error.errno)
    try:
        how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        name = ctypes.create_string_buffer(os.fsencode(path))
        fd = syscall(_NR_OPENAT2, root_fd, ctypes.addressof(name), ctypes.addressof(how), ctypes.sizeof(how))
        if fd < 0:
            fail("openat2", f"opening {path} below {root}")
        return fd
    finally:
        os.close(root_fd)


def pidfd_open(pid: int) -> int:
    """Return a pidfd of the process `pid`; it becomes readable when the process ends."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        fail("pidfd_open", f"opening process {pid}", error.errno)


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Return our own close-on-exec duplicate of `target_fd` of the process behind `pidfd`."""
    fd = syscall(_NR_PIDFD_GETFD, pidfd, target_fd, 0)
    if fd < 0:
        fail("pidfd_getfd", f"duplicating file descriptor {target_fd} of the target")
    return fd


def pidfd_send_signal(pidfd: int, signum: int) -> bool:
    """Send a signal to the process behind `pidfd`; False when it has already gone."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except OSError as error:
        fail("pidfd_send_signal", f"sending signal {signum}", error.errno)
    return True


def process_vm_readv(pid: int, address: int, length: int) -> bytes:
    """Read up to `length` bytes of another process; shorter when the mapping ends before that."""
    buffer = ctypes.create_string_buffer(length)
    local, remote = _IoVec(ctypes.addressof(buffer), length), _IoVec(address, length)
    one = ctypes.c_ulong(1)
    got = libc.process_vm_readv(pid, ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0))
    if got < 0:
        fail("process_vm_readv", f"reading {length} bytes at {address:#x} of process {pid}")
    return buffer.raw[:got]


def process_vm_writev(pid: int, address: int, data: bytes) -> None:
    """Write all of `data` into writable memory of another process."""
    buffer = ctypes.create_string_buffer(data, len(data))
    local, remote = _IoVec(ctypes.addressof(buffer), len(data)), _IoVec(address, len(data))
    one = ctypes.c_ulong(1)
    put = libc.process_vm_writev(pid, ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0))
    if put < 0:
        fail("process_vm_writev", f"writing {len(data)} bytes at {address:#x} of process {pid}")
    if put != len(data):
        fail("process_vm_writev", f"writing {len(data)} bytes at {address:#x} of process {pid}", errno.EFAULT)


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Read exactly `length` bytes of a traced process, whatever its pages' protection (proc(5))."""
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), length, address)
    except OSError as error:
        fail("/proc/PID/mem", f"reading {length} bytes at {address:#x} of process {pid}", error.errno)
    if len(data) != length:
        fail("/proc/PID/mem", f"reading {length} bytes at {address:#x} of process {pid}", errno.EFAULT)
    return data


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write all of `data` into a traced process, read-only private pages included (proc(5), mem)."""
    try:
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            put = os.pwrite(memory.fileno(), data, address)
    except OSError as error:
        fail("/proc/PID/mem", f"writing {len(data)} bytes at {address:#x} of process {pid}", error.errno)
    if put != len(data):
        fail("/proc/PID/mem", f"writing {len(data)} bytes at {address:#x} of process {pid}", errno.EFAULT)


def has_cap_sys_admin(pid: int | None = None) -> bool:
    """Say whether a process (default: this one) holds CAP_SYS_ADMIN, hence may skip no_new_privs."""
    try:
        status = Path(f"/proc/{'self' if pid is None else pid}/status").read_text()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
