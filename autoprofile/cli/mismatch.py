"""Whether a profile is put on the program it was learned from; a sentence where it is not.

Only loaded where the path says that it may not be, or with `-v`: the file is read then for its build-id.
Scripts count as their interpreter, on both sides; programs that ran when it was learned count as known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.trace.program_id import UNKNOWN_PROGRAM, elf_facts

if TYPE_CHECKING:
    from autoprofile.profile import Profile

__all__ = ["other_build", "other_program"]

_SHOWN = 8  # digits of a build-id


def other_program(profile: Profile, path: str, file: str | None = None) -> str | None:
    """Return what a profile was learned from when that is another program; None when it is this one.

    Args:
        profile: the profile.
        path: of the executable, as ``/proc/PID/exe`` names it.
        file: where to read it, should that not be at `path`.
    """
    learned_from = profile.program.path
    known = _known(profile)
    if learned_from is None or path == UNKNOWN_PROGRAM or path in known:
        return None
    build = _build_of(file or path)
    if build is not None and build in known.values():
        return None  # the same file under another name
    return learned_from


def other_build(profile: Profile, path: str, file: str | None = None) -> str | None:
    """Return how the build-id of a program differs from what it was when the profile was learned, or None."""
    before, now = _known(profile).get(path), _build_of(file or path)
    if not before or now is None or before == now:
        return None
    return f"{before[:_SHOWN]} → {now[:_SHOWN]}"


def _known(profile: Profile) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    if profile.learned is not None:
        found.update(profile.learned.binaries)
    if profile.program.path is not None:
        found[profile.program.path] = profile.program.build_id or found.get(profile.program.path)
    return found


def _build_of(file: str) -> str | None:
    try:
        facts = elf_facts(file)
    except OSError:
        return None
    return None if facts is None else facts.build_id or None
