"""Why behaviour changed: what differs between the side that was learned and the side that was seen now.

In: a profile and where the new evidence comes from. Out: one verdict and one sentence. It claims "same
binaries" only when both sides name their program and libc; what one side does not know is said, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprofile.profile.model import Profile

__all__ = ["CHANGED", "SAME", "UNKNOWN", "Attribution", "attribute"]

CHANGED = "changed"
SAME = "same"
UNKNOWN = "unknown"

_NAMED = 3  # rebuilt libraries named in a sentence
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attribution:
    """Say whether the binaries or the kernel changed, and how that is known."""

    verdict: str
    text: str


def attribute(
    profile: Profile,
    *,
    program: str | None,
    build_id: str | None,
    libc: str | None,
    kernel: str | None,
    binaries: Mapping[str, str] = _NONE,
) -> Attribution:
    """Compare what a profile says it was learned from with the side that new evidence comes from.

    Args:
        profile: its `program` and `learned` blocks are the known side.
        program: the executable that made the call now.
        build_id: of that executable.
        libc: the libc in use now.
        kernel: the kernel in use now.
        binaries: path to build-id of what is mapped now; a file that both sides know and that differs is a
            change, one that only this side has is not.
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
    rebuilt = [
        f"{path.rpartition('/')[2]} was rebuilt ({_short(known[path])} → {_short(build)})"
        for path, build in sorted(binaries.items())
        if path != known_program and build and known.get(path) and known[path] != build
    ]
    changes += rebuilt[:_NAMED]
    if len(rebuilt) > _NAMED:
        changes.append(f"and {len(rebuilt) - _NAMED} more libraries were rebuilt")
    for what, before, now, matters in (
        ("libc", learned.libc if learned else None, libc, True),
        ("kernel", learned.kernel if learned else None, kernel, False),
    ):
        if before and now:
            if before != now:
                changes.append(f"{what} {before} → {now}")
        elif matters:
            unknown.append(f"the {what} is not known on both sides")
    if changes:
        return Attribution(CHANGED, "; ".join(changes))
    if unknown:
        return Attribution(UNKNOWN, "cannot be attributed: " + "; ".join(unknown))
    return Attribution(SAME, "same binaries, new behaviour")


def _short(build_id: str) -> str:
    return build_id[:8] + "…" if len(build_id) > 9 else build_id
