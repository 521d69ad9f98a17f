"""Profile files: read with ``file:line`` in errors, written whole or not at all, comments kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile.parse import parse_profile

if TYPE_CHECKING:
    import os

    from autoprofile.profile.model import Profile

__all__ = ["load_profile", "read_profile_file", "save_profile"]


# A thousand times what the largest learned profile takes; reading a device would not end otherwise.
_MAX_BYTES: Final = 64 << 20


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile file.

    Raises:
        AutoprofileError: the file cannot be read.
        ProfileError: it is no profile; `where` is ``file:line``.
    """
    where = str(path)
    return parse_profile(read_profile_file(path), where)


def save_profile(profile: Profile, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a profile file: durable, in one step, keeping what people wrote into the file it replaces.

    Args:
        profile: what to write.
        path: the file.
        overwrite: whether an existing file may be replaced. When that file is a profile, only what changed is
            rewritten; when it is something else, it is replaced as a whole.

    Raises:
        AutoprofileError: the file exists and `overwrite` is not set, or it cannot be written; the old file is
            untouched then.
    """
    text = profile.dumps()
    if overwrite and Path(path).is_file():
        from autoprofile.profile.edit import edit_profile

        try:
            text = edit_profile(read_profile_file(path), profile)
        except ProfileError:
            text = profile.dumps()
    from autoprofile.atomic import write_atomic  # only for writing: enforcing starts quicker without

    write_atomic(path, text, overwrite=overwrite)


def read_profile_file(path: str | os.PathLike[str]) -> str:
    """Return the text of a profile file, without a byte order mark.

    Raises:
        AutoprofileError: the file cannot be read.
        ProfileError: it is not UTF-8 text, or larger than any profile.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise AutoprofileError("no such file", where=str(path)) from error
    except OSError as error:
        raise AutoprofileError(f"cannot read: {error.strerror}", where=str(path)) from error
    if len(raw) > _MAX_BYTES:
        raise ProfileError(f"more than {_MAX_BYTES >> 20} MiB: this is no profile", where=str(path))
    try:
        # A byte order mark is no part of the text; some editors write one.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ProfileError("not UTF-8 text", where=f"{path}:{line}") from error
