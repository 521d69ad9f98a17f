"""Whether a program got the rights its file gives: set-uid, set-gid, file capabilities.

The kernel withholds them under no_new_privs, and from who is traced by somebody without CAP_SYS_PTRACE
(security/commoncap.c, cap_bprm_creds_from_file). What is looked at is what came of it, not who we are.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

__all__ = ["lacks_rights_of_its_file"]

# struct vfs_cap_data: magic and flags, then (permitted, inheritable) of 32 bits, once in version 1, twice
# from version 2 on; <linux/capability.h>, capabilities(7).
_VERSION_1: Final = 0x01000000
_VERSION_MASK: Final = 0xFF000000


def lacks_rights_of_its_file(pid: int) -> bool:
    """Tell whether a process that has just executed its program runs without rights that the file gives.

    False when it cannot be looked at. A file on a ``nosuid`` mount gives none.
    """
    link = f"/proc/{pid}/exe"
    try:
        file = os.stat(link)  # noqa: PTH116
        given = _capabilities_of(link)
        if not file.st_mode & (stat.S_ISUID | stat.S_ISGID) and not given:
            return False
        if os.statvfs(link).f_flag & os.ST_NOSUID:
            return False
        has = _status_of(pid)
    except OSError:
        return False
    if file.st_mode & stat.S_ISUID and has["Uid"][1] != file.st_uid:
        return True
    both = stat.S_ISGID | stat.S_IXGRP  # without the second it means locking, or nothing
    if file.st_mode & both == both and has["Gid"][1] != file.st_gid:
        return True
    return bool(given & has["CapBnd"][0] & ~has["CapPrm"][0])


def _capabilities_of(link: str) -> int:
    try:
        raw = os.getxattr(link, "security.capability")
    except OSError:
        return 0  # none, or a file system that has no such thing
    if len(raw) < 12:
        return 0
    (magic,) = struct.unpack_from("<I", raw)
    (low,) = struct.unpack_from("<I", raw, 4)
    high = 0
    if magic & _VERSION_MASK != _VERSION_1 and len(raw) >= 20:
        (high,) = struct.unpack_from("<I", raw, 12)
    return int(high << 32 | low)


def _status_of(pid: int) -> dict[str, tuple[int, ...]]:
    # proc_pid_status(5): "Uid: real effective saved filesystem", capabilities in hex.
    found: dict[str, tuple[int, ...]] = {}
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("Uid", "Gid"):
                found[name] = tuple(map(int, rest.split()))
            elif name in ("CapPrm", "CapBnd"):
                found[name] = (int(rest, 16),)
    return found
