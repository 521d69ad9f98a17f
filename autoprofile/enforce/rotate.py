"""Move a log that has grown too long out of the way: ``A`` to ``A.1``, ``A.1`` to ``A.2``, and so on.

A path in, renamed files out; nothing is rewritten. Runs that share a log may rotate it at the same time: one
of them wins, under a lock on the folder, and the others find a short log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

__all__ = ["rotate"]


def rotate(path: str, keep: int, inode: int) -> int:
    """Move a log to ``path.1`` and its predecessors up by one; return the records that fell off the end.

    Nothing is done when the path names another file by now, or another run is at it.

    Args:
        path: the log.
        keep: how many predecessors remain, at least 1.
        inode: of the log that has grown too long.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = os.open(
        os.path.dirname(path) or ".",  # noqa: PTH120
        os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
    )
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if os.stat(path).st_ino != inode:  # noqa: PTH116
            return 0
        lost = _lines_in(f"{path}.{keep}")
        for number in range(keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}.{number}", f"{path}.{number + 1}")  # noqa: PTH104
        os.rename(path, f"{path}.1")  # noqa: PTH104
        os.fsync(folder)
        return lost
    finally:
        os.close(folder)


def _lines_in(path: str) -> int:
    # Lines that are not padding; a log is at most a few megabytes where it is rotated.
    count = 0
    try:
        # Whoever may write to the folder could put a pipe or a device there, which has no end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        return 0
    with open(fd, "rb") as file:  # noqa: PTH123
        if stat.S_ISREG(os.fstat(fd).st_mode):
            for line in file:
                count += line.lstrip(b" ")[:1] == b"{"
    return count
