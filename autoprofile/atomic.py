"""Files that are written whole or not at all.

`write_atomic` puts the new content beside the target, makes it durable and renames it into place. After any
failure the old file is untouched and nothing is left beside it; a reader never sees half a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["write_atomic"]

_HINTS = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "the directory is not writable; the file is replaced, not changed in place",
    errno.ENOENT: "the directory does not exist",
}


def write_atomic(
    path: str | os.PathLike[str],
    content: bytes | str | Callable[[BinaryIO], object],
    *,
    overwrite: bool = True,
    mode: int = 0o666,
    follow: bool = True,
) -> None:
    """Write a file whole or not at all: temporary file in the same directory, fsync, rename, fsync directory.

    A symbolic link is followed, so that what it points to is replaced, unless `follow` is False. An existing
    file keeps its permission bits, and its owner and group where the caller may set them.

    Args:
        path: the file.
        content: bytes, text (UTF-8), or a function that writes to the open binary file it is given.
        overwrite: whether an existing file may be replaced.
        mode: permission bits of a new file, cut by the umask.
        follow: whether the path may be a symbolic link; False where somebody else may put one there.

    Raises:
        AutoprofileError: the file exists and may not be replaced, is no regular file, or cannot be written.
    """
    target = Path(os.path.realpath(path)) if follow else Path(path).absolute()
    try:
        old = target.stat(follow_symlinks=follow)
    except FileNotFoundError:
        old = None
    except OSError as error:
        raise _failure(path, error) from error
    if old is not None and not overwrite:
        raise _exists(path)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise AutoprofileError("not a regular file, so it is not replaced", where=str(path))
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:200]}.", suffix=".tmp", dir=target.parent
        )
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            elif isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            _dress(handle, old, mode)
            os.fsync(handle)
        if overwrite or not _linked(temporary, target):
            os.replace(temporary, target)  # noqa: PTH105 - Path.replace says nothing more
        else:
            os.unlink(temporary)  # noqa: PTH108
        temporary = None
        _sync_directory(target.parent)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108


def _linked(temporary: str, target: Path) -> bool:
    # link(2) refuses an existing name, so a file that appeared since the check is not lost. File systems
    # without hard links answer EPERM or EOPNOTSUPP; there the check has to do.
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS} and not target.exists():
            return False
        raise
    return True


def _dress(handle: int, old: os.stat_result | None, mode: int) -> None:
    # mkstemp made the file 0600, owned by the caller.
    if old is None:
        umask = os.umask(0o077)
        os.umask(umask)
        os.fchmod(handle, mode & ~umask)
        return
    bits = stat.S_IMODE(old.st_mode)
    made = os.fstat(handle)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except OSError:
            # Ownership goes to the caller: set-id bits and group rights must not follow it to someone else.
            bits &= 0o777
            if made.st_gid != old.st_gid:
                bits &= ~0o070 | ((bits & 0o007) << 3)
    os.fchmod(handle, bits)


def _sync_directory(directory: Path) -> None:
    # The rename itself must survive a power cut. Some file systems cannot sync a directory (EINVAL).
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EROFS}:
            raise
    finally:
        os.close(handle)


def _exists(path: str | os.PathLike[str]) -> AutoprofileError:
    return AutoprofileError(
        "the file exists", where=str(path), hint="say --force to overwrite it, or name another file"
    )


def _failure(path: str | os.PathLike[str], error: OSError) -> AutoprofileError:
    reason = error.strerror or str(error)
    return AutoprofileError(f"cannot write: {reason}", where=str(path), hint=_HINTS.get(error.errno or 0))
