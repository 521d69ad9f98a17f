"""Levels: the allow rules of strict, standard and permissive, from what was seen.

In: call groups and a policy. Out: rules, the constraints weighed on the way, and notes on what was decided.
Whatever was not observed is labelled with the reason it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK, fallbacks
from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn.calls import CallGroup, distinct_runs
from autoprofile.learn.companions import companion_rules, companions_of
from autoprofile.learn.denied import CHECKABLE, always_failed, is_replaced, opaque, spare_jit
from autoprofile.learn.essentials import essential_rules, lookup_errors
from autoprofile.learn.generalise import Policy, generalise, open_shapes
from autoprofile.learn.risks import conditions
from autoprofile.learn.shapes import comparators
from autoprofile.learn.strict import arch_limit, baseline_rules, strict_rules
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from autoprofile.learn.price import Constraint

__all__ = ["Decided", "Leveled", "rules_of_level"]


@dataclass(frozen=True, slots=True)
class Decided:
    """Say one thing that was decided without being seen, and by which rules.

    Args:
        text: for people.
        rules: those that do it; empty where it is about the evidence as a whole.
        is_list: whether what the rules answer is to follow the text.
    """

    text: str
    rules: tuple[SeccompRule, ...] = ()
    is_list: bool = False

    def __str__(self) -> str:
        answers = sorted({f"{r.syscall} with {r.action}" for r in self.rules}) if self.is_list else []
        return self.text + (f": {', '.join(answers)}" if answers else "")

    def among(self, rules: Sequence[SeccompRule]) -> Decided | None:
        """Return what of it holds in a profile of these rules, None when nothing does."""
        own = tuple(rule for rule in self.rules if rule in rules)
        return replace(self, rules=own) if own else None


@dataclass(slots=True)
class Leveled:
    """Collect the rules of a level and what was decided on the way.

    Args:
        rules: of the level.
        constraints: those weighed.
        decided: what a reader must know of them.
        units: runs that differ from each other; 0 at strict, which counts none.
    """

    rules: list[SeccompRule] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    units: int = 0


def rules_of_level(
    groups: Sequence[CallGroup],
    arches: Sequence[str],
    policy: Policy,
    *,
    deny_failed: bool = True,
    deny_opaque: bool = True,
    deny_lookups: bool = True,
    libraries: Collection[str] = (),
) -> Leveled:
    """Return the rules of the policy's level.

    Args:
        groups: what was seen.
        arches: of the profile.
        policy: level and thresholds.
        deny_failed: deny calls that always met ENOSYS or EPERM with that same error (not at strict).
        deny_opaque: deny clone3 with ENOSYS, so that libc uses clone (not at strict).
        deny_lookups: answer the first calls of unseen lookups (users, hosts, locale) with an error that the C
            library expects (`essentials.lookup_errors`). Not at strict.
        libraries: paths of those that were loaded; one that can do without fresh code is told so by an error
            (`denied.spare_jit`), instead of being killed. Not at strict.
    """
    result = Leveled()
    groups = [g for g in groups if g.arch in arches]
    if policy.level == "strict":
        result.rules = strict_rules(groups, arches)
        for group in groups:
            result.decided += _unchecked(group, result.rules, policy)
        return result
    same = distinct_runs(groups)
    result.units = len(set(same.values()))
    total = sum(g.count for g in groups) or 1
    allowed = {(g.arch, g.name) for g in groups}
    for group in groups:
        failed = always_failed(group, arches) if deny_failed else None
        hidden = opaque(group, arches) if deny_opaque else None
        rule = failed or hidden
        if rule is not None:
            result.rules.append(rule)
            why = rule.evidence.reason if rule.evidence else ""
            result.decided.append(Decided(f"{group.syscall} is answered with {rule.action}: {why}", (rule,)))
            sibling = CHECKABLE.get(group.name or "")
            if hidden is not None and sibling is not None and (group.arch, sibling) not in allowed:
                allowed.add((group.arch, sibling))
                result.rules += _unseen(
                    group.arch, sibling, arches, policy, f"libc falls back to it from {group.name}"
                )
            continue
        rules, constraint = generalise(
            group, arch_limit(group.arch, arches), same, group.count / total, policy
        )
        result.rules += rules
        result.decided += _unchecked(group, rules, policy)
        if constraint is not None:
            result.constraints.append(constraint)
    jit = spare_jit(groups, arches, libraries)
    result.rules += jit
    if jit:
        causes = sorted({(r.evidence.reason or "").partition("; ")[2] for r in jit if r.evidence})
        text = f"writable and executable memory is refused with {jit[0].action}"
        result.decided.append(Decided(f"{text} (not seen; {', '.join(causes)}; --no-jit-error)", tuple(jit)))
    result.rules += baseline_rules(groups, arches)
    allowed |= {
        (arch, r.syscall) for r in result.rules for arch in (r.arch or arches) if isinstance(r.syscall, str)
    }
    for arch in arches:
        for call, reason in companions_of(arch, groups).items():
            if call.argument:
                evidence = Evidence(reason=f"{policy.level}: companion: {reason}")
                result.rules += companion_rules(arch, arches, call, result.rules, evidence)
            elif (arch, call.syscall) not in allowed:
                allowed.add((arch, call.syscall))
                result.rules += _unseen(arch, call.syscall, arches, policy, f"companion: {reason}")
    if policy.level == "permissive":
        result.rules += _families(groups, arches, policy, allowed, deny_opaque=deny_opaque)
    for arch in arches:
        seen = {g.name for g in groups if g.arch == arch and g.name is not None}
        # after companions and siblings: what they open already needs no rule of its own
        found = essential_rules(arch, arches, seen, result.rules, policy.level)
        result.rules += [_checkable(r) for r in found] if deny_opaque else found
        if deny_lookups:
            errors = lookup_errors(arch, arches, seen, result.rules, policy.level)
            result.rules += errors
            if errors:
                text = "lookups of names or locales, which were not seen, are answered"
                result.decided.append(Decided(text, tuple(errors), is_list=True))
    return result


def _unchecked(group: CallGroup, rules: Sequence[SeccompRule], policy: Policy) -> list[Decided]:
    # widens: a call whose flags no filter reads passes with all of them
    own = tuple(r for r in rules if r.syscall == group.name and r.action.is_permitting)
    if group.name not in CHECKABLE or not own:
        return []
    text = f"{group.name} is allowed with any flags: they lie behind a pointer"
    if policy.level == "strict" and group.name in ENOSYS_FALLBACK and is_replaced(group.name):
        text += f"; at --level standard libc is sent to {CHECKABLE[group.name]} instead"
    return [Decided(text, own)]


def _checkable(rule: SeccompRule) -> SeccompRule:
    # an essential whose flags lie behind a pointer (clone3 of a thread): libc is sent to the one that can be
    # checked
    if rule.syscall in CHECKABLE and rule.syscall in ENOSYS_FALLBACK:
        return replace(rule, action=Action.errno("ENOSYS"))
    return rule


def _unseen(arch: str, name: str, arches: Sequence[str], policy: Policy, reason: str) -> list[SeccompRule]:
    # Everything of an unseen call that is of no risk class.
    group = CallGroup(arch, syscall_nr(arch, name) or 0, name, constrained_args(arch, name), ())
    limit = arch_limit(arch, arches)
    evidence = Evidence(reason=f"{policy.level}: {reason}")
    if not group.specs:
        # i386's old mmap hides protection and flags behind a pointer: what cannot be told apart stays shut
        risks = conditions(arch, name)
        return [] if risks else [SeccompRule(name, Action.ALLOW, ANY, limit, evidence)]
    rules = []
    for shape in open_shapes(group, policy):
        args = comparators(group.specs, shape)
        rules.append(SeccompRule(name, Action.ALLOW, args, limit, evidence))
    return rules


def _families(
    groups: Sequence[CallGroup],
    arches: Sequence[str],
    policy: Policy,
    allowed: set[tuple[str, str | None]],
    *,
    deny_opaque: bool,
) -> list[SeccompRule]:
    rules: list[SeccompRule] = []
    for group in groups:
        if group.name is None:
            continue
        own = syscall_risk(group.name)
        for name in fallbacks(group.name):
            if syscall_nr(group.arch, name) is None or (group.arch, name) in allowed:
                continue
            allowed.add((group.arch, name))
            risk = syscall_risk(name)
            if name == "clone3" and not deny_opaque:
                continue  # an essential of threads, which then decides
            if name in CHECKABLE and name in ENOSYS_FALLBACK:
                # narrows: its flags cannot be checked, and libc has another way
                reason = f"{policy.level}: sibling of {group.name} whose flags lie behind a pointer"
                limit = arch_limit(group.arch, arches)
                rules.append(SeccompRule(name, Action.errno("ENOSYS"), ANY, limit, Evidence(reason=reason)))
            elif (
                risk is None
                or risk.severity == "low"
                or (own is not None and own.name_class == risk.name_class and own.severity == risk.severity)
            ):
                # a sibling that is a greater risk than what was seen is not added
                rules += _unseen(group.arch, name, arches, policy, f"sibling of {group.name}")
    return rules
