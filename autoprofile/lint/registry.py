"""The checks and the engine that runs them: a registry of small functions from a profile to findings.

Adding a check is one line in `CHECKS`; the engine knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from autoprofile.errors import UsageError
from autoprofile.lint import bypass, evasion, kernels, learned, rules, unused
from autoprofile.lint.comments import explained_calls
from autoprofile.lint.finding import SEVERITIES, Finding, LintReport
from autoprofile.lint.subject import Subject

if TYPE_CHECKING:
    from autoprofile.observations import Trace
    from autoprofile.profile.model import Profile

__all__ = ["CHECKS", "lint"]

Check = Callable[[Subject], Iterable[Finding]]


def _rules(check: Callable[[Profile], Iterable[Finding]]) -> Check:
    return lambda subject: check(subject.profile)


CHECKS: dict[str, Check] = {
    "clone": _rules(bypass.clone_bypass),
    "write-execute": _rules(bypass.write_execute_bypass),
    "socket": _rules(bypass.socket_bypass),
    "openat": _rules(bypass.openat_bypass),
    "compat": _rules(bypass.compat_entry),
    "overlap": _rules(rules.overlapping_rules),
    "pointer": _rules(rules.pointer_constraints),
    "risk": rules.risky_calls,
    "trace": _rules(evasion.trace_action),
    "upper-half": _rules(evasion.upper_halves),
    "default": _rules(learned.default_action),
    "incomplete": _rules(learned.incomplete_learning),
    "kernel": kernels.unknown_to_kernel,
    "newer-calls": kernels.newer_calls,
    "fallback": _rules(learned.fallback_errno),
    "unused": unused.unused_rules,
}


def lint(
    profile: Profile,
    *,
    only: Iterable[str] | None = None,
    text: str | None = None,
    kernel: tuple[int, int] | None = None,
    traces: Iterable[Trace] = (),
) -> LintReport:
    """Run the checks over a profile.

    Args:
        profile: what to look at.
        only: names of the checks to run; all of them by default.
        text: of the profile's file, for the comments that people wrote in it.
        kernel: version of the kernel that will enforce the profile (`subject.kernel_version`).
        traces: of later runs, to tell which rules nothing used.

    Raises:
        UsageError: a check of that name does not exist.
    """
    names = list(CHECKS) if only is None else list(dict.fromkeys(only))
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"there is no check {name!r}", hint="checks are " + ", ".join(CHECKS))
    given = list(traces)
    subject = Subject(
        profile,
        None if text is None else explained_calls(text),
        kernel,
        tuple(o for trace in given for o in trace.observations) if given else None,
        sum(trace.meta.runs for trace in given),
    )
    found = {f.fingerprint + f.detail: f for name in names for f in CHECKS[name](subject)}
    return LintReport(tuple(sorted(found.values(), key=_rank)), tuple(names))


def _rank(finding: Finding) -> tuple[object, ...]:
    return (
        SEVERITIES.index(finding.severity),
        finding.id,
        finding.arch or "",
        finding.syscalls,
        finding.detail,
    )
