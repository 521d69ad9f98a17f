"""Why behaviour changed: what differs between the side that was learned and the side that was seen now.

In: a profile and where the new evidence comes from. Out: one verdict and one sentence. It claims "same
binaries" only when both sides name their program and libc; what one side does not know is said, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from autoprofile.profile.model import Profile

__all__ = ["CHANGED", "SAME", "UNKNOWN", "Attribution", "attribute", "strangers"]

CHANGED = "changed"
SAME = "same"
UNKNOWN = "unknown"

_NAMED = 3  # libraries named in a sentence
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attribution:
    """Say whether the binaries or the kernel changed, and how that is known.

    Args:
        verdict: `CHANGED`, `SAME` or `UNKNOWN`.
        text: the sentence.
        is_new_behaviour: whether no rebuild, libc or kernel explains it: all is as it was learned, or all but
            code that was not there.
    """

    verdict: str
    text: str
    is_new_behaviour: bool = False


def attribute(
    profile: Profile,
    *,
    program: str | None,
    build_id: str | None,
    libc: str | None,
    kernel: str | None,
    binaries: Mapping[str, str] = _NONE,
    elsewhere: Mapping[str, str] = _NONE,
) -> Attribution:
    """Compare what a profile says it was learned from with the side that new evidence comes from.

    Args:
        profile: its `program` and `learned` blocks are the known side.
        program: the executable that made the call now.
        build_id: of that executable.
        libc: the libc in use now.
        kernel: the kernel in use now.
        binaries: path to build-id of what is mapped now by that executable, "" without one. A file that both
            sides know and that differs is a change, and so is one that was not there when it was learned.
        elsewhere: the same of what is mapped by some executable of the run, nobody knows which: a file that
            was not there makes the cause unknown.
    """
    learned = profile.learned
    known_program = profile.program.path if profile.program else None
    known_build_id = profile.program.build_id if profile.program else None
    known = learned.binaries if learned else _NONE
    changes: list[str] = []
    unknown: list[str] = []
    if program is not None and program != known_program and program in known:
        known_program, known_build_id = program, known[program]
    if program is not None and known_program is not None and program != known_program:
        # A child that no training run had, or a profile from before it held the builds of children.
        unknown.append(f"the profile records no build of {program}")
    elif known_build_id and build_id:
        if known_build_id != build_id:
            name = known_program or "the program"
            changes.append(f"{name} was rebuilt ({_short(known_build_id)} → {_short(build_id)})")
    else:
        unknown.append("the program's build-id is not known on both sides")
    libraries = {
        path: build
        for path, build in sorted({**elsewhere, **binaries}.items())
        if path not in (program, known_program)
    }
    rebuilt = [
        f"{_name(path)} was rebuilt ({_short(known[path])} → {_short(build)})"
        for path, build in libraries.items()
        if build and known.get(path) and known[path] != build
    ]
    changes += _some(rebuilt, "more libraries were rebuilt")
    for what, before, now, matters in (
        ("libc", learned.libc if learned else None, libc, True),
        ("kernel", learned.kernel if learned else None, kernel, False),
    ):
        if before and now:
            if before != now:
                changes.append(f"{what} {before} → {now}")
        elif matters:
            unknown.append(f"the {what} is not known on both sides")
    is_rebuilt = bool(changes)
    if known.keys() - {known_program, program}:
        new, doubtful = _not_learned(known, libraries, elsewhere.keys() - binaries.keys())
        changes += _some(
            [f"{_name(path)} was not there when it was learned" for path in new], "more files were not there"
        )
        unknown += _some(doubtful, "more files of which that is not known")
    if changes:
        text = "; ".join(changes)
        if is_rebuilt:
            return Attribution(CHANGED, text)
        return Attribution(CHANGED, f"new behaviour: {text}", is_new_behaviour=True)
    if unknown:
        return Attribution(UNKNOWN, "cannot be attributed: " + "; ".join(unknown))
    return Attribution(SAME, "same binaries, new behaviour", is_new_behaviour=True)


def strangers(profile: Profile, programs: Iterable[tuple[str, str | None]]) -> tuple[str, ...]:
    """Return the programs of some evidence when the profile was learned from none of them, else nothing.

    Args:
        profile: what it is compared with.
        programs: path and build-id of those in one trace, log or profile; ``?`` counts for nothing.
    """
    known = dict(profile.learned.binaries) if profile.learned else {}
    if profile.program.path is None:
        return ()
    known.setdefault(profile.program.path, profile.program.build_id or "")
    builds = {build for build in known.values() if build}
    found = {path: build for path, build in programs if path != "?"}
    if any(path in known or build in builds for path, build in found.items()):
        return ()
    return tuple(sorted(found))


def _not_learned(
    known: Mapping[str, str], libraries: Mapping[str, str], elsewhere: AbstractSet[str]
) -> tuple[list[str], list[str]]:
    """Return the files that were not there when the profile was learned, and of which that is not known."""
    new, doubtful = [], []
    for path, build in libraries.items():
        if path in known:
            if known[path] and not build:
                doubtful.append(f"the build-id of {_name(path)} is not known now")
        elif path in elsewhere:
            doubtful.append(f"{_name(path)} was not there when it was learned, and may be the program's")
        elif build and path.startswith("/") and path.isprintable():
            new.append(path)
        else:
            # A profile holds no files without a build-id, and no names it cannot write.
            doubtful.append(f"{_name(path)} has no build-id: it may not have been there")
    return new, doubtful


def _some(texts: list[str], more: str) -> list[str]:
    left = len(texts) - _NAMED
    return texts if left <= 0 else [*texts[:_NAMED], f"and {left} {more}"]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _short(build_id: str) -> str:
    return build_id[:8] + "…" if len(build_id) > 9 else build_id
