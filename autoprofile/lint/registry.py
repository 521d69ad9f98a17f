"""The checks and the engine that runs them: a registry of small functions from a profile to findings.

Adding a check is one line in `CHECKS`; the engine knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from autoprofile.errors import UsageError
from autoprofile.lint import bypass, learned, rules
from autoprofile.lint.finding import SEVERITIES, Finding, LintReport

if TYPE_CHECKING:
    from autoprofile.profile.model import Profile

__all__ = ["CHECKS", "lint"]

Check = Callable[["Profile"], Iterable[Finding]]

CHECKS: dict[str, Check] = {
    "clone": bypass.clone_bypass,
    "write-execute": bypass.write_execute_bypass,
    "socket": bypass.socket_bypass,
    "openat": bypass.openat_bypass,
    "compat": bypass.compat_entry,
    "overlap": rules.overlapping_rules,
    "pointer": rules.pointer_constraints,
    "risk": rules.risky_calls,
    "default": learned.default_action,
    "incomplete": learned.incomplete_learning,
    "newer-calls": learned.newer_calls,
    "fallback": learned.fallback_errno,
}


def lint(profile: Profile, *, only: Iterable[str] | None = None) -> LintReport:
    """Run the checks over a profile.

    Args:
        profile: what to look at.
        only: names of the checks to run; all of them by default.

    Raises:
        UsageError: a check of that name does not exist.
    """
    names = list(CHECKS) if only is None else list(dict.fromkeys(only))
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"there is no check {name!r}", hint="checks are " + ", ".join(CHECKS))
    found = {f.fingerprint + f.detail: f for name in names for f in CHECKS[name](profile)}
    return LintReport(tuple(sorted(found.values(), key=_rank)), tuple(names))


def _rank(finding: Finding) -> tuple[object, ...]:
    return (
        SEVERITIES.index(finding.severity),
        finding.id,
        finding.arch or "",
        finding.syscalls,
        finding.detail,
    )
