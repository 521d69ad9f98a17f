"""A file system that nobody else sees, and that goes with its descriptor: fsopen(2), fsmount(2).

Errors are `KernelError`; it needs Linux 5.2 and CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from autoprofile.kernel.call import fail, syscall

__all__ = ["detached_tmpfs"]

# include/uapi/asm-generic/unistd.h: the same on every architecture
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
# include/uapi/linux/mount.h
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1


def detached_tmpfs() -> int:
    """Return a descriptor of the root of a new tmpfs that is mounted nowhere.

    Its files are reached below ``/proc/PID/fd/N``. It ends with its last descriptor: whatever becomes of the
    process, nothing of it stays.
    """
    name = ctypes.create_string_buffer(b"tmpfs")
    context = syscall(_NR_FSOPEN, ctypes.addressof(name), _FSOPEN_CLOEXEC)
    if context < 0:
        fail("fsopen", "making a file system")
    try:
        if syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            fail("fsconfig", "making a file system")
        mount = syscall(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
        if mount < 0:
            fail("fsmount", "making a file system")
    finally:
        os.close(context)
    return mount
