"""Denied is a decision too: calls that always failed, calls whose arguments no filter can read, spare JITs.

In: call groups, and which libraries were loaded. Out: deny rules that keep what the program saw, send libc to
a sibling that can be checked, or a library to its way without fresh code. All are optional and labelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.syscalls import syscall_name, syscall_nr
from autoprofile.learn.baseline import BASELINE
from autoprofile.learn.calls import failed_only
from autoprofile.learn.risks import conditions
from autoprofile.learn.strict import arch_limit, evidence_of
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autoprofile.learn.calls import CallGroup
    from autoprofile.observations import Observation
    from autoprofile.profile.model import Decision, Profile

__all__ = [
    "CHECKABLE",
    "FINAL_ERRORS",
    "JIT_LIBRARIES",
    "always_failed",
    "is_answered",
    "is_missed",
    "is_replaced",
    "opaque",
    "spare_jit",
]

FINAL_ERRORS = ("ENOSYS", "EPERM")
"""Errors that say "never for you" rather than "not this time" (ENOENT, EAGAIN…)."""

CHECKABLE: Mapping[str, str] = {"clone3": "clone", "openat2": "openat"}
"""Calls whose flags lie behind a pointer, and the sibling that does the same and can be checked."""

_LIBC_FALLS_BACK = frozenset({"clone3"})
"""Those of `CHECKABLE` that libc calls, so that answering them with ENOSYS costs nothing. No libc calls
openat2: a program that does would have to have a way of its own without it."""

JIT_LIBRARIES: Mapping[str, str] = {
    "libpcre2-": "libpcre2 goes on without, git before 2.40 does not"  # measured: grep -P, git grep -P
}
"""Libraries that compile at run time and can go on without memory to run fresh code from: start of the file's
name, and what they do then. Most programs go along; git did not before 2.40, and ends with an error."""


def is_answered(decision: Decision, o: Observation) -> bool:
    """Tell whether a refusal is no surprise: a deny rule says what the kernel said anyway, or sends libc on.

    That is a call whose every result was the error the rule answers, or one answered with ENOSYS for which
    libc or the program has another way (clone3…); of openat2 nobody is known to have one.
    """
    if decision.rule is None or decision.action.kind != "errno":
        return False
    error = str(decision.action)
    if o.only_error == error:
        return True
    name = syscall_name(o.arch, o.nr)
    return error == "ENOSYS" and name in ENOSYS_FALLBACK and is_replaced(name)


def is_missed(profile: Profile, decision: Decision) -> bool:
    """Tell whether a profile lacks a call: it refuses it, or only logs it as one without a rule.

    A default of ``log`` lets everything pass, for a trial; what it would log is what the profile lacks.
    """
    if not decision.action.is_permitting:
        return True
    return decision.rule is None and decision.action.kind == "log" and profile.mode != "denylist"


def is_replaced(name: str | None) -> bool:
    """Tell whether libc goes on without this call, so that ENOSYS costs nothing: not so for openat2."""
    return name not in CHECKABLE or name in _LIBC_FALLS_BACK


def always_failed(group: CallGroup, arches: Sequence[str]) -> SeccompRule | None:
    """Return the rule that denies a call with the one error it always met, or None.

    A call of the baseline is never denied: the kernel makes the process issue it, and no error is an answer.
    narrows: where the error came from missing privilege, a run with more privilege will still be refused.
    """
    if group.name in {entry.syscall for entry in BASELINE}:
        return None
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
    if sibling is None or not is_replaced(group.name) or syscall_nr(group.arch, sibling) is None:
        return None
    evidence = evidence_of(
        group.tuples, f"its flags lie behind a pointer; libc falls back to {sibling}, which is checked"
    )
    return SeccompRule(group.syscall, Action.errno("ENOSYS"), ANY, arch_limit(group.arch, arches), evidence)


def spare_jit(
    groups: Sequence[CallGroup], arches: Sequence[str], libraries: Collection[str]
) -> list[SeccompRule]:
    """Return rules that answer EACCES to writable and executable memory, where a library can do without.

    Nothing is opened: a risk that was not seen is refused by an error instead of by the default. Without it
    `grep -P` would be killed under the profile of a `grep` that was never asked for -P. SELinux answers such
    requests with EACCES too (execmem).

    Args:
        groups: what was seen; where a call already made such memory, nothing is denied.
        arches: of the profile.
        libraries: paths of those loaded while learning.
    """
    names = {path.rpartition("/")[2] for path in libraries}
    found = [why for start, why in JIT_LIBRARIES.items() if any(name.startswith(start) for name in names)]
    if not found:
        return []
    rules = []
    for arch in arches:
        for name in ("mmap", "mmap2"):
            seen = [g for g in groups if g.arch == arch and g.name == name]
            for condition in conditions(arch, name):
                risk = condition.risk
                if (risk.name_class, risk.severity) != ("write-and-execute", "high"):
                    continue
                tuples = [
                    dict(zip((s.index for s in g.specs), t.values, strict=True))
                    for g in seen
                    for t in g.tuples
                ]
                if not tuples or any(condition.holds(values) for values in tuples):
                    continue
                evidence = Evidence(reason=f"not seen: {risk.name_class}; {'; '.join(found)}")
                rules += [
                    SeccompRule(name, Action.errno("EACCES"), args, arch_limit(arch, arches), evidence)
                    for args in condition.comparators()
                ]
    return rules
