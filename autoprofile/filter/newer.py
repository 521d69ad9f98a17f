"""A profile as it is enforced: ENOSYS in place of a refusal for calls that libc can do without.

These are numbers newer than the profile, which knows the calls up to the newest one of the kernel it was
learned on (no program it was learned from can have had another answer for those above), and, where the
default is an error, calls that no rule names and that libc has an older way for. Nothing is allowed by it (no
widening); a profile whose default kills does not kill for a newer number. One definition for all verbs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.history import since
from autoprofile.abi.syscalls import newest_nr, syscall_name, syscall_nr, syscall_table
from autoprofile.profile import Action, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile import Profile

__all__ = ["TABLE_KERNEL", "action_for", "answer_beyond", "is_beyond", "newest_known", "with_fallbacks"]

#: The kernel whose calls are all in autoprofile's own table.
TABLE_KERNEL: Final = (6, 18)

_PRIVATE: Final = 0x0F0000  # arm's own calls stand far above the others and are older than most


def answer_beyond(profile: Profile) -> Action | None:
    """Return what `compile`, `enforce` and `prove` answer to numbers newer than a profile.

    ENOSYS where the default refuses. None, that is the default itself, where it permits (a denylist allows
    what it does not name) or asks: a supervisor sees such calls, and refuses them with ENOSYS itself.
    """
    return Action.errno("ENOSYS") if profile.default.is_refusing else None


def with_fallbacks(profile: Profile) -> Profile:
    """Return what `compile`, `enforce`, `decide` and `prove` take a profile for: libc gets to its older ways.

    Where the default is an errno, calls that no rule names and that libc has an older way for (clone3, statx,
    faccessat2…: `abi.ENOSYS_FALLBACK`) are refused with ENOSYS: any other error libc takes for the failure of
    the call itself. A default that kills stays, as do permitting ones; a supervisor answers so by itself.
    """
    if profile.default.kind != "errno":
        return profile
    known = {rule.syscall for rule in profile.rules}
    refusal = Action.errno("ENOSYS")
    rules = [
        SeccompRule(name, refusal, arch=arches)
        for name in sorted(ENOSYS_FALLBACK - known)
        if (arches := tuple(arch for arch in profile.arch if syscall_nr(arch, name) is not None))
    ]
    return replace(profile, rules=(*profile.rules, *rules))


def newest_known(profile: Profile, arch: str) -> int:
    """Return the highest number of one arch that a profile knows: the newest of the kernel it was learned on.

    Where it was learned on several kernels, or was not learned, the newest in autoprofile's own table.
    narrows: that may be newer than what the author had; a number below it gets the default.
    """
    kernel = _version(profile.learned.kernel if profile.learned else None)
    return newest_nr(arch) if kernel is None or kernel >= TABLE_KERNEL else _newest_of(kernel, arch)


@cache
def _newest_of(kernel: tuple[int, int], arch: str) -> int:
    bit = ARCHES[arch].nr_bit
    # `since` is the first kernel that had the call on any arch. Where another arch got it later, its number
    # counts as known; it then gets the default, which is the stricter answer.
    known = (
        nr
        for name, nr in syscall_table(arch).items()
        if nr & ~bit < _PRIVATE and (_version(since(name)) or (0, 0)) <= kernel
    )
    return max(known, default=-1)


def is_beyond(profile: Profile, arch: str, nr: int) -> bool:
    """Say whether a number of one of the profile's arches is newer than the profile and has no rule."""
    if profile.rules_for(arch, nr):
        return False
    is_private = syscall_name(arch, nr) is not None and nr > newest_nr(arch)
    return not is_private and nr > newest_known(profile, arch)


def action_for(
    profile: Profile, arch: str, nr: int, args: Sequence[int], beyond: Action | None = None
) -> Action:
    """Answer one call as `Profile.decide_call` does, but `beyond` to numbers newer than the profile.

    Args:
        profile: the rules.
        arch: the arch of the call, perhaps none of the profile's.
        nr: the number in ``seccomp_data.nr``.
        args: raw registers; those not given are 0.
        beyond: None for the default.
    """
    if beyond is not None and arch in profile.arch and is_beyond(profile, arch, nr):
        return beyond
    return profile.decide_call(arch, nr, args).action


def _version(text: str | None) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None
