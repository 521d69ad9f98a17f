"""Move a log that has grown too long out of the way: ``A`` to ``A.1``, ``A.1`` to ``A.2``, and so on.

A path in, renamed files out; nothing is rewritten. Runs that share a log may rotate it at the same time: one
of them wins, under a lock on the folder, and the others find a short log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat

__all__ = ["rotate"]

_REASON_LENGTH = 40  # ours are shorter; the file may have been written by others


def rotate(path: str, keep: int, inode: int) -> tuple[int, dict[str, int]]:
    """Move a log to ``path.1`` and its predecessors up by one; return what fell off the end.

    That is the number of records, and by reason the losses that ``lost`` records there told of: whoever reads
    the log later has to be told again.

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
            return 0, {}
        if os.stat(path).st_ino != inode:  # noqa: PTH116
            return 0, {}
        lost = _told_in(f"{path}.{keep}")
        for number in range(keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}.{number}", f"{path}.{number + 1}")  # noqa: PTH104
        os.rename(path, f"{path}.1")  # noqa: PTH104
        os.fsync(folder)
        return lost
    finally:
        os.close(folder)


def _told_in(path: str) -> tuple[int, dict[str, int]]:
    # Lines that are not padding; a log is at most a few megabytes where it is rotated.
    records, losses = 0, dict[str, int]()
    try:
        # Whoever may write to the folder could put a pipe or a device there, which has no end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        return records, losses
    with open(fd, "rb") as file:  # noqa: PTH123
        if stat.S_ISREG(os.fstat(fd).st_mode):
            for line in file:
                if line.lstrip(b" ")[:1] != b"{":
                    continue
                loss = _loss_in(line)
                if loss is None:
                    records += 1
                else:
                    losses[loss[0]] = losses.get(loss[0], 0) + loss[1]
    return records, losses


def _loss_in(line: bytes) -> tuple[str, int] | None:
    """Return the reason and the count of a ``lost`` record, None of any other line."""
    if b'"event":"lost"' not in line:
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    reason, count = entry.get("reason"), entry.get("count")
    if entry.get("event") != "lost" or not isinstance(reason, str) or not isinstance(count, int):
        return None
    return (reason, count) if len(reason) <= _REASON_LENGTH and count > 0 else None
