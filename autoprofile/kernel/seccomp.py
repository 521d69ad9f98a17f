"""seccomp(2) and the ioctls of its listener fd (seccomp_unotify(2)).

Programs are the bytes of an array of ``struct sock_filter``. Installing here binds the calling thread for
ever; `trace.inject` installs in another process. Field layouts and numbers: include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
from typing import Final, NamedTuple

from autoprofile.kernel.call import fail, libc, syscall

__all__ = [
    "ADDFD_SEND",
    "FLAG_LOG",
    "FLAG_NEW_LISTENER",
    "FLAG_TSYNC",
    "FLAG_TSYNC_ESRCH",
    "FLAG_WAIT_KILLABLE_RECV",
    "NOTIF_CONTINUE",
    "NOTIF_RECV",
    "NOTIF_SEND",
    "Notification",
    "NotificationSizes",
    "PendingNotification",
    "SECCOMP_SET_MODE_FILTER",
    "addfd",
    "id_valid",
    "is_action_available",
    "notification_sizes",
    "receive",
    "respond",
    "seccomp_set_mode_filter",
    "set_sync_wake_up",
]

SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_SECCOMP_GET_NOTIF_SIZES: Final = 3

FLAG_TSYNC: Final = 1 << 0
FLAG_LOG: Final = 1 << 1
FLAG_NEW_LISTENER: Final = 1 << 3
FLAG_TSYNC_ESRCH: Final = 1 << 4  # Linux 5.7: TSYNC and NEW_LISTENER together
FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5  # Linux 5.19

NOTIF_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5
ADDFD_SEND: Final = 1 << 1  # SECCOMP_ADDFD_FLAG_SEND, Linux 5.14
_SYNC_WAKE_UP: Final = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6

# _IOC(dir, '!', nr, size): the sizes are those of the structs of the ABI, so the numbers are constants.
# mips, powerpc and sparc encode the direction differently; autoprofile does not run on them.
NOTIF_RECV: Final = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif)
NOTIF_SEND: Final = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp)
_NOTIF_ID_VALID: Final = 0x40082102  # _IOW('!', 2, __u64)
_NOTIF_ADDFD: Final = 0x40182103  # _IOW('!', 3, struct seccomp_notif_addfd)
_NOTIF_SET_FLAGS: Final = 0x40082104  # _IOW('!', 4, __u64)

# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, instruction_pointer, args[6]
_NOTIF: Final = struct.Struct("=QIIiIQ6Q")
_RESP: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
_ADDFD: Final = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags

# asm/unistd*.h, by `uname -m` and pointer size: the one syscall here without a libc function
_NR_SECCOMP: Final = {"x86_64": 317, "i686": 354, "i386": 354, "aarch64": 277, "riscv64": 277, "armv7l": 383}


class NotificationSizes(NamedTuple):
    """Sizes in bytes of the kernel's structs (SECCOMP_GET_NOTIF_SIZES): buffers must hold at least these."""

    notif: int
    resp: int
    data: int


class Notification(NamedTuple):
    """One notified call: `id` is its cookie, `tid` the calling thread, `arch` the AUDIT_ARCH_* token."""

    id: int
    tid: int
    flags: int
    nr: int
    arch: int
    ip: int
    args: tuple[int, int, int, int, int, int]


class PendingNotification(Exception):  # noqa: N818 - a condition of the loop, not a failure
    """Tell that no notification could be received: the caller died (ENOENT) or a signal came (EINTR)."""


def _seccomp(operation: int, flags: int, address: int) -> int:
    machine = os.uname().machine
    if machine == "x86_64" and ctypes.sizeof(ctypes.c_void_p) == 4:
        machine = "i386"
    nr = _NR_SECCOMP.get(machine)
    if nr is None:
        fail("seccomp", f"looking for its number on {machine}", errno.ENOSYS)
    return syscall(nr, operation, flags, address)


def seccomp_set_mode_filter(program: bytes, *, flags: int = 0) -> int:
    """Install a filter in this process; return the listener fd with FLAG_NEW_LISTENER, 0 otherwise.

    Raises:
        KernelError: refused: EACCES without no_new_privs, EINVAL for a malformed program, EBUSY when a
            listener exists already, ENOMEM when all stacked filters together grow too long.
    """
    code = ctypes.create_string_buffer(program, len(program))

    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    fprog = SockFprog(len(program) // 8, ctypes.addressof(code))
    result = _seccomp(SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(fprog))
    if result < 0:
        fail("seccomp", "installing a filter")
    if result > 0 and not flags & FLAG_NEW_LISTENER:
        # TSYNC answers with the id of a thread that has diverged (seccomp(2)): nothing was installed.
        fail("seccomp", f"synchronising thread {result}", errno.ESRCH)
    return result


def is_action_available(ret: int) -> bool:
    """Say whether this kernel knows the action of a SECCOMP_RET_* value (SECCOMP_GET_ACTION_AVAIL)."""
    value = ctypes.c_uint32(ret & 0xFFFF0000)
    return _seccomp(_SECCOMP_GET_ACTION_AVAIL, 0, ctypes.addressof(value)) == 0


@functools.cache
def notification_sizes() -> NotificationSizes:
    """Return the sizes of the kernel's notification structs."""
    sizes = (ctypes.c_uint16 * 3)()
    if _seccomp(_SECCOMP_GET_NOTIF_SIZES, 0, ctypes.addressof(sizes)) != 0:
        fail("seccomp", "asking for the sizes of notifications (needs Linux 5.0)")
    return NotificationSizes(*sizes)


def receive(listener: int) -> Notification:
    """Wait for the next notification of a listener fd.

    Raises:
        PendingNotification: nothing was received, ask again (or see with poll(2) whether POLLHUP says that
            no process uses the filter any more).
    """
    buffer = bytearray(max(notification_sizes().notif, _NOTIF.size))
    try:
        fcntl.ioctl(listener, NOTIF_RECV, buffer, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            raise PendingNotification from error
        fail("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", "receiving a notification", error.errno)
    cookie, tid, flags, nr, arch, ip, a0, a1, a2, a3, a4, a5 = _NOTIF.unpack_from(buffer)
    return Notification(cookie, tid, flags, nr, arch, ip, (a0, a1, a2, a3, a4, a5))


def respond(
    listener: int, cookie: int, *, value: int = 0, error: int = 0, let_continue: bool = False
) -> bool:
    """Answer a notification; False when the caller has died or was interrupted meanwhile.

    Args:
        listener: the listener fd.
        cookie: the `Notification.id`.
        value: what the call returns when `error` is 0.
        error: the positive errno with which the call fails.
        let_continue: run the call after all (SECCOMP_USER_NOTIF_FLAG_CONTINUE). widens: the arguments
            behind pointers may change after they were looked at; a decision must not rest on them.
    """
    # The kernel refuses CONTINUE together with a value or an error.
    flags = NOTIF_CONTINUE if let_continue else 0
    buffer = bytearray(max(notification_sizes().resp, _RESP.size))
    _RESP.pack_into(buffer, 0, cookie, value, -error, flags)
    try:
        fcntl.ioctl(listener, NOTIF_SEND, buffer, True)
    except OSError as failure:
        if failure.errno == errno.ENOENT:
            return False
        fail("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", "answering a notification", failure.errno)
    return True


def id_valid(listener: int, cookie: int) -> bool:
    """Say whether the call behind a cookie still waits, so that what was read under its tid belongs to it."""
    try:
        fcntl.ioctl(listener, _NOTIF_ID_VALID, struct.pack("=Q", cookie))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        fail("ioctl(SECCOMP_IOCTL_NOTIF_ID_VALID)", "checking a notification", error.errno)
    return True


def addfd(listener: int, cookie: int, fd: int, *, flags: int = 0, cloexec: bool = True) -> int:
    """Put a duplicate of our `fd` into the waiting caller; return its number there (Linux 5.9)."""
    raw = _ADDFD.pack(cookie, flags, fd, 0, os.O_CLOEXEC if cloexec else 0)
    request = ctypes.create_string_buffer(raw, len(raw))
    # fcntl.ioctl cannot return the number and pass a buffer at once; libc's can.
    result = libc.ioctl(listener, ctypes.c_ulong(_NOTIF_ADDFD), ctypes.byref(request))
    if result < 0:
        fail("ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)", "adding a file descriptor")
    return int(result)


def set_sync_wake_up(listener: int) -> bool:
    """Ask for wake-ups on the same CPU, which halves the cost of a notification; False before Linux 6.6.

    Right only where one thread answers the listener and does nothing but that.
    """
    try:
        fcntl.ioctl(listener, _NOTIF_SET_FLAGS, _SYNC_WAKE_UP)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        fail("ioctl(SECCOMP_IOCTL_NOTIF_SET_FLAGS)", "asking for synchronous wake-ups", error.errno)
    return True
