"""Checks of the rules against each other and against what a filter can know.

What one rule covers of another is calculated exactly (`profile.region`), over several rules as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.risk import call_risk, risk_conditions, syscall_risk
from autoprofile.abi.signatures import signature
from autoprofile.lint.finding import Finding
from autoprofile.lint.view import permitting, witness_text
from autoprofile.profile.region import intersection, is_empty, is_subset, subtract_all
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoprofile.lint.subject import Subject
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["overlapping_rules", "pointer_constraints", "risky_calls"]

_PIECES = 256  # regions that a rule may fall into before nothing is said about several rules covering it
_LONGEST = 160  # letters of a rule in a finding


def overlapping_rules(profile: Profile) -> Iterator[Finding]:
    """A rule can never decide, because others that cover it always do, or changes nothing where it does."""
    for arch in profile.arch:
        for call in sorted(profile.syscalls(arch), key=str):
            rules = profile.rules_for(arch, call)
            for at, rule in enumerate(rules):
                yield from _overlap(profile, arch, call, rules, at, rule)


def _overlap(
    profile: Profile, arch: str, call: str | int, rules: Sequence[SeccompRule], at: int, rule: SeccompRule
) -> Iterator[Finding]:
    # Rules come in the order in which they decide: only an earlier one can be in the way.
    over = _covering(rule, rules[:at])
    if over and any(one.action.kind != rule.action.kind for one in over):
        yield Finding(
            "contradictory-rules",
            "medium",
            "two rules contradict each other, and the more severe one always wins",
            f"{_text(arch, rule)} never applies, because {_texts(arch, over)} covers it",
            (str(call),),
            "remove the one that is not meant",
            arch,
        )
        return
    # Rules of one action that only together cover another are no mistake: learned sets overlap like that.
    same = [r for r in (*rules[:at], *rules[at + 1 :]) if r.action == rule.action]
    wider = next((r for r in same if is_subset(rule.comparators, r.comparators)), None)
    if wider is not None:
        yield Finding(
            "shadowed-rule",
            "low",
            "a rule says what another one says already",
            f"{_text(arch, rule)} lies inside {_text(arch, wider)}",
            (str(call),),
            "remove it, or remove the wider one if the narrow one was meant",
            arch,
        )
    elif rule.action == profile.default and all(r.action == rule.action for r in rules):
        yield Finding(
            "redundant-rule",
            "info",
            "a rule says what the default says",
            f"{_text(arch, rule)} is answered with {rule.action}, as every call without a rule is",
            (str(call),),
            "remove it, unless it is there to stay when the default changes",
            arch,
        )


def _covering(rule: SeccompRule, others: Sequence[SeccompRule]) -> list[SeccompRule]:
    # One rule that covers this one, else several that do together; none when calls are left over.
    single = next((r for r in others if is_subset(rule.comparators, r.comparators)), None)
    if single is not None:
        return [single]
    touching = [r for r in others if intersection(rule.comparators, r.comparators) is not None]
    if len(touching) < 2:
        return []
    left = subtract_all(rule.comparators, [r.comparators for r in touching], _PIECES)
    return touching if left is not None and all(is_empty(one) for one in left) else []


def _texts(arch: str, rules: Sequence[SeccompRule]) -> str:
    few = " with ".join(_text(arch, rule) for rule in rules[:3])
    return f"{few} and {len(rules) - 3} more" if len(rules) > 3 else few


def _text(arch: str, rule: SeccompRule) -> str:
    text = rule_text(arch, rule)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…): {rule.action}"


def pointer_constraints(profile: Profile) -> Iterator[Finding]:
    """A rule compares a pointer: it constrains where the data lies, never what it is."""
    for arch in profile.arch:
        for call in sorted(profile.syscalls(arch), key=str):
            known = signature(arch, call) if isinstance(call, str) else None
            for rule in profile.rules_for(arch, call) if known else ():
                assert known is not None
                names = [
                    known.args[one.index].name
                    for one in rule.comparators
                    if one.index < len(known.args)
                    and known.args[one.index].kind == "pointer"
                    and one.values != (0,)  # with or without a null pointer is a fact about the call
                ]
                if names:
                    yield Finding(
                        "pointer-constraint",
                        "medium",
                        "a rule compares a pointer",
                        f"{rule_text(arch, rule)}: {', '.join(sorted(set(names)))} is an address of the "
                        "caller; what it points to is not checked and another thread can change it meanwhile",
                        (str(call),),
                        "drop the comparison, or deny the call",
                        arch,
                    )


def risky_calls(subject: Subject) -> Iterator[Finding]:
    """A call of a high risk class is allowed with any arguments, and no person wrote down why."""
    profile = subject.profile
    for arch in profile.arch:
        for call in sorted(n for n in profile.syscalls(arch) if isinstance(n, str)):
            if subject.is_explained(arch, call):
                continue
            bare = [rule for rule in permitting(profile, arch, call) if not rule.comparators]
            if not bare or profile.rules_for(arch, call)[0].action.severity > bare[0].action.severity:
                continue
            reasons = []
            whole = syscall_risk(call)
            if whole is not None and whole.severity == "high":
                reasons.append(f"{whole.name_class}: {whole.reason}")
            reasons += [
                f"{risk.name_class} ({condition}): {risk.reason}"
                for condition, risk in risk_conditions().get(call, ())
                if risk.severity == "high"
            ]
            if reasons:
                seen = any(rule.evidence is not None and rule.evidence.count for rule in bare)
                yield Finding(
                    "risky-call-unconstrained",
                    "medium" if seen else "high",
                    f"{call} is allowed with any arguments",
                    "; ".join(reasons)
                    + (". It was seen while learning" if seen else ". Nothing shows that it is needed"),
                    (call,),
                    "constrain its arguments to those needed, deny it, or write a comment beside it that "
                    "says why it is needed",
                    arch,
                )
    yield from _risky_tuples(subject)


def _risky_tuples(subject: Subject) -> Iterator[Finding]:
    # Exact tuples of a high risk class that nothing was observed for: somebody wrote them by hand.
    profile = subject.profile
    for arch in profile.arch:
        for call in sorted(n for n in profile.syscalls(arch) if isinstance(n, str)):
            if subject.is_explained(arch, call):
                continue
            for rule in permitting(profile, arch, call):
                if not rule.comparators or (rule.evidence is not None and rule.evidence.count):
                    continue
                args = [0] * 6
                for one in rule.comparators:
                    if one.op in ("eq", "in"):
                        args[one.index] = one.values[-1]
                risk = call_risk(arch, call, tuple(args))
                if risk is not None and risk.severity == "high" and rule.evaluate(args):
                    yield Finding(
                        "risky-rule-unobserved",
                        "medium",
                        f"a risky {call} is allowed although it was never observed",
                        f"{witness_text(arch, call, tuple(args))} is allowed: {risk.reason}",
                        (call,),
                        "remove the rule, or write down beside it why the program needs it",
                        arch,
                    )
