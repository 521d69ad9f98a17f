"""Denied is a decision too: calls that always failed, and calls whose arguments no filter can read.

In: call groups. Out: deny rules that keep what the program saw, or send libc to a sibling that can be
checked. Both are optional and labelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.syscalls import syscall_name, syscall_nr
from autoprofile.learn.calls import failed_only
from autoprofile.learn.strict import arch_limit, evidence_of
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY
from autoprofile.profile.rule import SeccompRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprofile.learn.calls import CallGroup
    from autoprofile.observations import Observation
    from autoprofile.profile.model import Decision

__all__ = ["CHECKABLE", "FINAL_ERRORS", "always_failed", "is_answered", "opaque"]

FINAL_ERRORS = ("ENOSYS", "EPERM")
"""Errors that say "never for you" rather than "not this time" (ENOENT, EAGAIN…)."""

CHECKABLE: Mapping[str, str] = {"clone3": "clone", "openat2": "openat"}
"""Calls whose flags lie behind a pointer, and the sibling that libc falls back to, which can be checked."""


def is_answered(decision: Decision, o: Observation) -> bool:
    """Tell whether a refusal is no surprise: a deny rule says what the kernel said anyway, or sends libc on.

    That is a call whose every result was the error the rule answers, or one answered with ENOSYS for which
    libc has another way (clone3, openat2…).
    """
    if decision.rule is None or decision.action.kind != "errno":
        return False
    error = str(decision.action)
    if o.ok == 0 and o.failed and o.last_return == error:
        return True
    return error == "ENOSYS" and syscall_name(o.arch, o.nr) in ENOSYS_FALLBACK


def always_failed(group: CallGroup, arches: Sequence[str]) -> SeccompRule | None:
    """Return the rule that denies a call with the one error it always met, or None.

    narrows: where the error came from missing privilege, a run with more privilege will still be refused.
    """
    error = failed_only(group.tuples)
    if error not in FINAL_ERRORS:
        return None
    evidence = evidence_of(group.tuples, f"denied as while learning: every call failed with {error}")
    return SeccompRule(group.syscall, Action.errno(error), ANY, arch_limit(group.arch, arches), evidence)


def opaque(group: CallGroup, arches: Sequence[str]) -> SeccompRule | None:
    """Return the rule that answers ENOSYS to a call that libc replaces by a checkable one, or None.

    narrows: a program that makes the call itself, and has no fallback, loses it.
    """
    sibling = CHECKABLE.get(group.name or "")
    if sibling is None or group.name not in ENOSYS_FALLBACK or syscall_nr(group.arch, sibling) is None:
        return None
    evidence = evidence_of(
        group.tuples, f"its flags lie behind a pointer; libc falls back to {sibling}, which is checked"
    )
    return SeccompRule(group.syscall, Action.errno("ENOSYS"), ANY, arch_limit(group.arch, arches), evidence)
