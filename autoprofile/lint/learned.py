"""Checks of what stands around the rules: the default, completeness of the learning, libc fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.lint.finding import Finding
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.profile.model import Profile

__all__ = ["default_action", "fallback_errno", "incomplete_learning"]

_ENOSYS = Action("errno", 38)  # asm-generic/errno.h


def default_action(profile: Profile) -> Iterator[Finding]:
    """The default lets calls through that no rule names."""
    if profile.default == Action.ALLOW:
        yield Finding(
            "default-allow",
            "medium",
            "calls that no rule names are allowed",
            "a denylist refuses what somebody thought of; every other call, and every call of a newer "
            "kernel, passes",
            (),
            "use mode: allowlist once the program's needs are known",
        )
    elif profile.default.is_permitting:
        yield Finding(
            "default-log",
            "medium",
            "nothing is refused",
            f"the default is {profile.default}: calls that no rule names are let through and logged",
            (),
            "set default to kill or errno when the log stays quiet",
        )


def incomplete_learning(profile: Profile) -> Iterator[Finding]:
    """The profile was learned from evidence with gaps."""
    learned = profile.learned
    if learned is None:
        return
    if learned.lost:
        yield Finding(
            "lost-events",
            "medium",
            "events were lost while learning",
            f"{learned.lost} losses: the program may need calls that the profile refuses",
            (),
            "learn again with another backend or a lighter load, and merge",
        )
    elif not learned.complete:
        yield Finding(
            "unfinished-learning",
            "medium",
            "learning did not follow the program to its end",
            "it was watched from outside (--pid and its like) or cut short: calls of its start or "
            "its end may be missing",
            (),
            "learn a whole run from its start (learn --merge -- COMMAND); watch longer (--until-stable) what "
            "cannot be started again",
        )


def fallback_errno(profile: Profile) -> Iterator[Finding]:
    """A call for which libc has another way is denied with an answer that stops libc from taking it."""
    for arch in profile.arch:
        found = [
            (str(rule.syscall), str(rule.action))
            for name in sorted(ENOSYS_FALLBACK)
            for rule in profile.rules_for(arch, name)
            if rule.action.is_refusing and rule.action != _ENOSYS and not rule.comparators
        ]
        if found:
            yield Finding(
                "fallback-not-enosys",
                "medium",
                "a call with a libc fallback is denied with something other than ENOSYS",
                ", ".join(f"{name}: {action}" for name, action in found)
                + "; libc takes its other way only when the kernel says that the call does not exist",
                tuple(name for name, _ in found),
                "deny them with ENOSYS",
                arch,
            )
