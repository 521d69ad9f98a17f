"""What can be done about one drift record, and the profile that comes of it.

In: a profile, a record, a verdict. Out: the edited profile. Pure; asking, remembering and writing belong to
the command line. What errs says which way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.drift.edit import accept, accept_rules
from autoprofile.drift.joint import joint_forms
from autoprofile.drift.record import DENIALS
from autoprofile.errors import AutoprofileError
from autoprofile.learn.calls import CallGroup, SeenTuple
from autoprofile.learn.generalise import Policy, open_shapes
from autoprofile.learn.shapes import comparators, covers
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY
from autoprofile.profile.region import intersection, subtract_all
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from autoprofile.drift.record import DriftRecord
    from autoprofile.profile.model import Profile

__all__ = ["CHANGING", "VERDICTS", "apply", "deny_rule", "generalised_rules", "verdicts_for"]

VERDICTS = ("accept", "generalise", "deny", "remove", "keep")
"""``accept`` exactly this call; ``generalise`` it; ``deny`` it with an errno; ``remove`` an unused rule;
``keep`` the profile as it is and do not report this record again."""

CHANGING = ("accept", "generalise", "deny", "remove")
"""The verdicts that change the profile."""

_MAX_PIECES = 512  # of an allowed region; beyond that it counts as allowed


def verdicts_for(profile: Profile, record: DriftRecord) -> tuple[str, ...]:
    """Return the verdicts that make sense for a record, in the order of `VERDICTS`."""
    if record.kind == "unused_rule":
        return ("remove", "keep")
    if record.kind not in DENIALS:
        return ("keep",)
    if record.rule is None:
        return ("keep",)  # no profile can hold such a call
    can = {
        "accept": True,
        "generalise": len(generalised_rules(profile, record)) > 0,
        "deny": record.arch in profile.arch and not _takes_away(profile, deny_rule(profile, record, "EPERM")),
        "keep": True,
    }
    return tuple(verdict for verdict, is_possible in can.items() if is_possible)


def _takes_away(profile: Profile, rule: SeccompRule) -> bool:
    """Tell whether a deny rule would refuse a call that the profile allows: more than what was looked at."""
    for arch in rule.arch or profile.arch:
        own = profile.rules_for(arch, rule.syscall)
        denied = [r.comparators for r in own if not r.action.is_permitting]
        for allowed in (r.comparators for r in own if r.action.is_permitting):
            both = intersection(allowed, rule.comparators)
            if both is not None and subtract_all(both, denied, _MAX_PIECES) != []:
                return True
    return False


def apply(profile: Profile, record: DriftRecord, verdict: str, *, errno: str = "EPERM") -> Profile:
    """Return the profile with a verdict carried out.

    Args:
        profile: the profile the record is a difference to.
        record: the difference.
        verdict: one of `verdicts_for`.
        errno: for ``deny``, the error's name.

    Raises:
        AutoprofileError: this verdict does not fit this kind of record, or there is no such errno.
    """
    if verdict not in verdicts_for(profile, record):
        raise AutoprofileError(
            f"{record.id} is a {record.kind}: it cannot be answered with {verdict}",
            hint="its verdicts are " + ", ".join(verdicts_for(profile, record)),
        )
    if verdict == "accept":
        return accept(profile, [record])
    if verdict == "generalise":
        return accept_rules(profile, record, generalised_rules(profile, record))
    if verdict == "deny":
        return replace(profile, rules=(*profile.rules, deny_rule(profile, record, errno)))
    if verdict == "remove":
        kept = tuple(r for r in profile.rules if r != record.rule)
        if len(kept) == len(profile.rules):
            raise AutoprofileError(f"{record.id}: the profile no longer has this rule", hint="compare again")
        return replace(profile, rules=kept)
    return profile


def generalised_rules(profile: Profile, record: DriftRecord) -> tuple[SeccompRule, ...]:
    """Return what level standard makes of this call: everything of it that is of no other risk class.

    Nothing where there is no middle way between this call and all calls of that name: it has no arguments to
    compare, or not all are known, it is a risk whatever its arguments, or what is left open cannot be said in
    few rules. Nothing of another profile's rule either, which is general already.

    widens: allows calls that nobody saw; the risk classes of `abi.risk` that the record does not carry stay
        out.
    """
    arch, nr = record.arch, record.nr
    name = syscall_name(arch, nr) if arch is not None and nr is not None else None
    if arch is None or nr is None or name is None or record.unknown or record.is_whole_rule:
        return ()
    specs = constrained_args(arch, name)
    risk = syscall_risk(name)
    if not specs or (risk is not None and risk.severity in ("high", "medium")):
        return ()
    values = tuple(record.args[s.index] for s in specs)
    seen = SeenTuple(values, record.count, {(0, record.program or "?"): 1}, 0)
    shapes = open_shapes(CallGroup(arch, nr, name, tuple(specs), (seen,)), Policy())
    shapes = joint_forms(arch, specs, shapes, values)
    limit = None if profile.arch == (arch,) else (arch,)
    rules = []
    for shape in shapes:
        holds_it = covers(shape, values)
        evidence = Evidence(count=record.count if holds_it else None, reason="review: generalised")
        rules.append(SeccompRule(name, Action.ALLOW, comparators(specs, shape), limit, evidence))
    if rules and not any(covers(shape, values) for shape in shapes) and record.rule is not None:
        rules.append(replace(record.rule, arch=limit, evidence=Evidence(count=record.count)))
    return tuple(rules)


def deny_rule(profile: Profile, record: DriftRecord, errno: str) -> SeccompRule:
    """Return the rule that answers a refused call with an errno.

    A call that no rule allows is denied whatever its arguments, where the profile's default refuses it
    already: that changes only how it is refused. Otherwise exactly the arguments seen are denied.

    Raises:
        AutoprofileError: there is no such errno.
    """
    assert record.rule is not None
    is_whole = record.kind == "new_syscall" and profile.default.kind in (
        "errno",
        "kill_process",
        "kill_thread",
        "trap",
    )
    args = ANY if is_whole else record.rule.args
    limit = None if profile.arch == (record.arch,) else record.rule.arch
    return SeccompRule(record.rule.syscall, Action.errno(errno), args, limit)
