"""Checks of the rules against each other and against what a filter can know.

Containment is decided comparator by comparator: a rule is said to lie inside another only where that is
certain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.risk import call_risk, risk_conditions, syscall_risk
from autoprofile.abi.signatures import signature
from autoprofile.lint.finding import Finding
from autoprofile.lint.view import permitting, witness_text
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.profile.arg import Arg
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["inside", "overlapping_rules", "pointer_constraints", "risky_calls"]


def overlapping_rules(profile: Profile) -> Iterator[Finding]:
    """A rule can never decide, because another one that covers it always does."""
    for arch in profile.arch:
        for call in sorted(profile.syscalls(arch), key=str):
            rules = profile.rules_for(arch, call)
            for at, rule in enumerate(rules):
                # rules come in the order in which they decide: only an earlier one can be in the way
                over = next((r for r in rules[:at] if inside(rule, r)), None)
                later = next(
                    (r for r in rules[at + 1 :] if r.action == rule.action and inside(rule, r)), None
                )
                if over is not None and over.action.kind != rule.action.kind:
                    yield Finding(
                        "contradictory-rules",
                        "medium",
                        "two rules contradict each other, and the more severe one always wins",
                        f"{rule_text(arch, rule)} never applies, because {rule_text(arch, over)} covers it",
                        (str(call),),
                        "remove the one that is not meant",
                        arch,
                    )
                elif over is not None or later is not None:
                    other = over or later
                    assert other is not None
                    yield Finding(
                        "shadowed-rule",
                        "low",
                        "a rule says what another one says already",
                        f"{rule_text(arch, rule)} lies inside {rule_text(arch, other)}",
                        (str(call),),
                        "remove it, or remove the wider one if the narrow one was meant",
                        arch,
                    )


def inside(inner: SeccompRule, outer: SeccompRule) -> bool:
    """Tell whether every call that matches `inner` certainly matches `outer`."""
    return all(_implied(inner.comparators, one) for one in outer.comparators)


def _implied(given: tuple[Arg, ...], one: Arg) -> bool:
    on_it = [a for a in given if a.index == one.index]
    for a in on_it:
        if a == one:
            return True
        if a.op in ("eq", "in") and a.width == one.width and all(one.match(v) for v in a.values):
            return True
        if a.mask is not None and one.mask is not None and a.width == one.width:
            covered = one.mask & ~a.mask == 0 and a.values[0] & one.mask == one.values[0]
            if covered:
                return True
    return False


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


def risky_calls(profile: Profile) -> Iterator[Finding]:
    """A call of a high risk class is allowed with any arguments."""
    for arch in profile.arch:
        for call in sorted(n for n in profile.syscalls(arch) if isinstance(n, str)):
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
                    "constrain its arguments to those needed, or deny it",
                    arch,
                )
    yield from _risky_tuples(profile)


def _risky_tuples(profile: Profile) -> Iterator[Finding]:
    # Exact tuples of a high risk class that nothing was observed for: somebody wrote them by hand.
    for arch in profile.arch:
        for call in sorted(n for n in profile.syscalls(arch) if isinstance(n, str)):
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
