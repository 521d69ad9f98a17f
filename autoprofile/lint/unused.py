"""Rules that later runs did not use: what a profile allows and nothing showed a need for.

In: a profile and observations. Out: one finding a syscall. Rules that were never observed (the baseline, a
level's companions) are there for rare events and are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.syscalls import display_name
from autoprofile.lint.comments import is_of_a_person
from autoprofile.lint.finding import Finding
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.lint.subject import Subject
    from autoprofile.observations import Observation
    from autoprofile.profile.rule import SeccompRule

__all__ = ["is_unobserved", "unused_rules"]


def unused_rules(subject: Subject) -> Iterator[Finding]:
    """An allow rule that was observed once, or written by hand, was not needed by any later run."""
    if not subject.observations:
        return
    profile = subject.profile
    ran = {o.arch for o in subject.observations}
    used: set[int] = set()
    seen: dict[tuple[str, str], list[Observation]] = {}
    for o in subject.observations:
        seen.setdefault((o.arch, display_name(o.arch, o.nr)), []).append(o)
    for (arch, name), calls in seen.items():
        for rule in profile.rules_for(arch, int(name) if name.isdigit() else name):
            if any(_may_match(rule, o) for o in calls):
                used.add(id(rule))
    for arch in profile.arch:
        if arch not in ran:
            continue
        for call in sorted(profile.syscalls(arch), key=str):
            rules = [rule for rule in profile.rules_for(arch, call) if rule.action.is_permitting]
            left = [rule for rule in rules if id(rule) not in used and not is_unobserved(rule)]
            if not left:
                continue
            risk = syscall_risk(call) if isinstance(call, str) else None
            count = sum(r.evidence.count or 0 for r in left if r.evidence is not None)
            yield Finding(
                "unused-rule",
                "low" if risk else "info",
                "a rule was not used",
                f"none of {subject.runs} runs needed {'; '.join(rule_text(arch, r)[:160] for r in left[:4])}"
                + (f" and {len(left) - 4} more" if len(left) > 4 else "")
                + (f"; {count} calls did when it was learned" if count else "")
                + (f"; removing it shuts out: {risk.reason}" if risk else ""),
                (str(call),),
                "remove it when the runs show all the program has to do",
                arch,
            )


def _may_match(rule: SeccompRule, o: Observation) -> bool:
    # An argument that was not recorded may have been what the rule wants.
    return all((value := o.args[one.index]) is None or one.match(value) for one in rule.comparators)


def is_unobserved(rule: SeccompRule) -> bool:
    """Tell whether learning added a rule for another reason than that its calls were seen."""
    evidence = rule.evidence
    if evidence is None or evidence.count is not None or evidence.reason is None:
        return False
    return not is_of_a_person(evidence.reason)
