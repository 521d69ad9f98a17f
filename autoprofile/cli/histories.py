"""The version history of a profile on disk: read it, and add the version that was just written.

It is kept only for profiles whose history somebody began (`autoprofile history P.yaml --record`): nothing
appears beside a profile unasked.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError
from autoprofile.profile.history import History

if TYPE_CHECKING:
    from pathlib import Path

    from autoprofile.profile import Profile
    from autoprofile.profile.history import Version

__all__ = ["history_file", "read_history", "record_if_kept", "record_version", "user_name"]


def history_file(profile: Path) -> Path:
    """Return where the versions are kept: ``web.history.jsonl`` beside ``web.yaml``."""
    return profile.with_name(f"{profile.stem}.history.jsonl")


def read_history(profile: Path) -> History | None:
    """Read the history of a profile; None when none was begun.

    Raises:
        AutoprofileError: it cannot be read.
    """
    path = history_file(profile)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
        raise AutoprofileError(f"cannot read: {reason}", where=os.fspath(path)) from error
    return History.loads(text, str(path))


def record_version(path: Path, profile: Profile, *, who: str | None, why: str) -> Version | None:
    """Add the version that a profile is now; None when it is recorded already.

    Raises:
        AutoprofileError: the history cannot be read or written; it is as it was then.
    """
    from autoprofile.atomic import write_atomic

    history = read_history(path) or History()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    version = history.next(profile, time=now, who=who or user_name(), why=why)
    if version is not None:
        lines = "".join(v.to_line() for v in (*history.versions, version))
        write_atomic(history_file(path), lines)
    return version


def record_if_kept(path: Path, profile: Profile, *, why: str, who: str | None = None) -> Version | None:
    """Add the version that was just written to `path`, where its history is kept."""
    if not history_file(path).exists():
        return None
    return record_version(path, profile, who=who, why=why)


def user_name() -> str:
    """Return the name of the user, ``unknown`` where the system has none for the number."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
