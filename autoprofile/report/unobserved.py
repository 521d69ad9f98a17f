"""Rules of a profile that are there for another reason than that their calls were seen.

In: a profile. Out: the profile without them, or text and plain values that list them by reason. A level adds
them (baseline, companions, essentials, siblings), a mode does, and people do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autoprofile.report.facts import counted, rule_rows
from autoprofile.report.text import Style, TextPage

if TYPE_CHECKING:
    from autoprofile.profile import Profile, SeccompRule

__all__ = ["observed_only", "unobserved_document", "unobserved_only", "unobserved_text"]

BY_HAND = "no reason given: written by hand"


def _is_unobserved(rule: SeccompRule) -> bool:
    return rule.evidence is None or rule.evidence.count is None


def observed_only(profile: Profile) -> Profile:
    """Return the profile with only those of its rules whose calls were seen."""
    return replace(profile, rules=tuple(rule for rule in profile.rules if not _is_unobserved(rule)))


def unobserved_only(profile: Profile) -> Profile:
    """Return the profile with only those of its rules that are there for another reason."""
    return replace(profile, rules=tuple(rule for rule in profile.rules if _is_unobserved(rule)))


def unobserved_document(profile: Profile) -> list[dict[str, str]]:
    """Return these rules as JSON values, in the profile's order."""
    return [
        {
            "syscall": row.syscall,
            "arch": row.arch,
            "arguments": row.arguments,
            "action": row.action,
            "reason": row.reason or BY_HAND,
        }
        for row in rule_rows(unobserved_only(profile))
    ]


def _call(name: str, arguments: list[str]) -> str:
    if len(arguments) > 1:
        return f"{name} ({len(arguments)} rules)"
    return name if arguments == ["any"] else f"{name}({arguments[0]})"


def unobserved_text(profile: Profile, style: Style) -> str:
    """Return these rules grouped by their reason, the largest group first."""
    page = TextPage(style)
    rows = rule_rows(unobserved_only(profile), longest_set=12)
    page.heading(f"not observed: {counted(len(rows), 'rule')} of {len(profile.rules)}")
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        name = f"{row.syscall} [{row.arch}]" if row.arch else row.syscall
        groups.setdefault((row.reason or BY_HAND, row.action), {}).setdefault(name, []).append(row.arguments)
    for (reason, action), calls in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        page.line()
        page.line(reason if action == "allow" else f"{reason} ({action})", "bold", indent=2)
        page.table([(", ".join(_call(name, arguments) for name, arguments in calls.items()),)], indent=4)
    return page.render()
