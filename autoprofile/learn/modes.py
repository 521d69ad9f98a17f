"""Modes: what happens to calls that no rule names, and which deny rules that takes.

In: the allow rules of a level and what was seen. Out: the rules of the mode. allowlist adds nothing; hybrid
and denylist refuse the high risks that were not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.syscalls import syscall_nr, syscall_table
from autoprofile.learn.risks import conditions
from autoprofile.learn.strict import arch_limit
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY, Arg
from autoprofile.profile.region import is_subset
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autoprofile.abi.risk import Risk
    from autoprofile.learn.calls import CallGroup
    from autoprofile.learn.risks import RiskCondition
    from autoprofile.profile.rule import Args

__all__ = ["DEFAULTS", "NOT_SEEN", "RARE", "deny_rules", "rules_of_mode"]

DEFAULTS: Mapping[str, Action] = {
    "allowlist": Action.KILL_PROCESS,
    "denylist": Action.ALLOW,
    "hybrid": Action.NOTIFY,
}
"""The default action of each mode, unless another is asked for."""

NOT_SEEN = "not seen: "
"""How the reason of a rule begins that refuses a risk."""

RARE = frozenset(
    ("keyring", "legacy", "machine", "kernel-observation", "kernel-code", "ipsec", "rare-protocol", "netlink")
) | {"exploit-aid", "terminal"}
"""Classes whose medium risks hardly any program carries: a denylist refuses them unless they were seen.

Others stay allowed there, since a run that needs them would break: execution, identity, process-access (crash
handlers), network, write-and-execute (code made at run time).
"""

_HIDING: Mapping[str, tuple[str, Args]] = {
    "clone3": ("clone", ANY),
    "mmap": ("mmap2", ANY),  # i386's first one; where mmap takes registers, there is no mmap2
    "socketcall": ("socket", (Arg(0, "eq", 1),)),  # SYS_SOCKET (include/uapi/linux/net.h)
}
"""Calls that do what a sibling does, with arguments that no filter sees, and which of their calls that are.

With ENOSYS libc takes the sibling.
"""


def rules_of_mode(
    mode: str, rules: Sequence[SeccompRule], groups: Sequence[CallGroup], arches: Sequence[str]
) -> list[SeccompRule]:
    """Return the rules that a profile of this mode has.

    A denylist keeps no allow rules: its default allows, and a rule that changes nothing only hides those that
    do. What the level refuses because of what was seen (clone3, a call that always failed) stays refused in
    every mode.
    """
    if mode == "allowlist":
        return list(rules)
    refused = [r for r in rules if r.action.is_refusing and (mode == "hybrid" or _is_of_evidence(r))]
    denied = _uncovered(deny_rules(groups, arches, rare=mode == "denylist"), refused)
    if mode == "denylist":
        return [*refused, *denied]
    return [*(r for r in rules if not _refuses(r, denied)), *denied]


def _is_of_evidence(rule: SeccompRule) -> bool:
    # An unseen sibling that is answered with ENOSYS needs no rule where the default allows.
    evidence = rule.evidence
    return evidence is not None and (
        evidence.count is not None or (evidence.reason or "").startswith(NOT_SEEN)
    )


def _uncovered(denied: Sequence[SeccompRule], refused: Sequence[SeccompRule]) -> list[SeccompRule]:
    # A rule inside another one says nothing. Where the level refuses with another error, that one is meant:
    # of two errors the filter would take the smaller.
    by_call: dict[tuple[object, object], list[SeccompRule]] = {}
    for rule in refused:
        by_call.setdefault((rule.syscall, rule.arch), []).append(rule)
    of_level = {call: tuple(rules) for call, rules in by_call.items()}
    for rule in denied:
        by_call.setdefault((rule.syscall, rule.arch), []).append(rule)
    kept = []
    for rule in denied:
        call = (rule.syscall, rule.arch)
        others = [o for o in by_call[call] if o is not rule]
        if any(_covers(o, rule) and (o in of_level.get(call, ()) or o.action == rule.action) for o in others):
            by_call[call] = others  # of two that are equal one stays
        else:
            kept.append(rule)
    return kept


def _covers(outer: SeccompRule, inner: SeccompRule) -> bool:
    # Most pairs are apart, and one call of the inner rule shows it; the exact answer takes a solver.
    sample = [0] * 6
    for one in inner.comparators:
        sample[one.index] |= one.values[0] + (one.op == "ne")
    if inner.evaluate(sample) and not outer.evaluate(sample):
        return False
    return is_subset(inner.comparators, outer.comparators)


def _refuses(rule: SeccompRule, denied: Sequence[SeccompRule]) -> bool:
    # an allow rule that was not observed (a sibling, say) gives way to the deny rule of the same call
    unseen = rule.evidence is not None and rule.evidence.count is None
    return unseen and any(d.syscall == rule.syscall and d.arch == rule.arch and d.args is ANY for d in denied)


def deny_rules(
    groups: Sequence[CallGroup], arches: Sequence[str], *, rare: bool = False
) -> list[SeccompRule]:
    """Return rules that refuse every high risk which was not seen.

    Args:
        groups: what was seen.
        arches: of the profile.
        rare: refuse also the medium risks of `RARE` classes; where nobody is asked, nothing else would.

    widens: of a call that was seen and is a risk whatever its arguments, nothing is denied here, since no
        rule says
    "all but these tuples"; argument-level risks of it are denied where none of its tuples carried them.
    """
    by_call = {(g.arch, g.name): g for g in groups if g.name is not None}
    rules = []
    for arch in arches:
        limit = arch_limit(arch, arches)
        for name in sorted(syscall_table(arch)):
            seen = by_call.get((arch, name))
            whole = syscall_risk(name)
            if seen is None and whole is not None and _is_denied(whole, rare=rare):
                action = Action.errno("ENOSYS" if name in ENOSYS_FALLBACK else "EPERM")
                reason = f"{NOT_SEEN}{whole.name_class}: {whole.reason}"
                rules.append(SeccompRule(name, action, ANY, limit, Evidence(reason=reason)))
                continue
            tuples = (
                [dict(zip((s.index for s in seen.specs), t.values, strict=True)) for t in seen.tuples]
                if seen is not None
                else []
            )
            for condition in conditions(arch, name):
                if not _is_denied(condition.risk, rare=rare) or any(condition.holds(v) for v in tuples):
                    continue
                reason = f"{NOT_SEEN}{condition.risk.name_class}: {condition.risk.reason}"
                rules += [
                    SeccompRule(
                        name,
                        Action.errno("EPERM"),
                        (*args, *_but_routes(condition)),
                        limit,
                        Evidence(reason=reason),
                    )
                    for args in condition.comparators()
                ]
        rules += _hidden_rules(arch, limit, by_call, {r.syscall for r in rules if r.arch == limit})
    return rules


def _is_denied(risk: Risk, *, rare: bool) -> bool:
    return risk.severity == "high" or (rare and risk.severity == "medium" and risk.name_class in RARE)


def _but_routes(condition: RiskCondition) -> tuple[Arg, ...]:
    # getaddrinfo and getifaddrs of glibc and musl ask the kernel for addresses through NETLINK_ROUTE: of the
    # medium risk that is netlink as a whole, this one protocol is every program's business.
    is_netlink = condition.risk.name_class == "netlink" and condition.risk.severity == "medium"
    return (Arg(2, "ne", 0),) if is_netlink else ()


def _hidden_rules(
    arch: str,
    limit: tuple[str, ...] | None,
    by_call: Mapping[tuple[str, str], CallGroup],
    denied: Collection[str | int],
) -> list[SeccompRule]:
    # What is denied of a call by its arguments is not denied while a sibling takes them behind a pointer.
    rules = []
    for name, (sibling, args) in _HIDING.items():
        if sibling in denied and syscall_nr(arch, name) is not None and (arch, name) not in by_call:
            reason = f"{NOT_SEEN}{sibling} is denied by its arguments, and here they lie behind a pointer"
            rules.append(SeccompRule(name, Action.errno("ENOSYS"), args, limit, Evidence(reason=reason)))
    return rules
