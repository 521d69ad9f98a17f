"""Another profile as evidence: what it allows and this one refuses, with a call as proof.

In: two profiles. Out: one record per rule of the other that this profile does not let through whole. Exact
where the regions can be worked out; what is too complex is counted as undecided, never taken for no drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import display_name, syscall_name, syscall_nr
from autoprofile.drift.edit import edit_text
from autoprofile.drift.record import DriftRecord, denial_ids
from autoprofile.drift.risk import region_risk
from autoprofile.profile.canonical import arches_with
from autoprofile.profile.region import intersection, subtract_all, witness
from autoprofile.profile.wording import call_text, rule_text, rule_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile.model import Profile
    from autoprofile.profile.region import Region
    from autoprofile.profile.rule import SeccompRule

__all__ = ["ProfileDrift", "profile_drift"]

_SHOWN = 2  # rules of this profile that a sentence names
_LIMIT = 2048  # pieces a region may fall into before it counts as not worked out


@dataclass(frozen=True, slots=True)
class ProfileDrift:
    """Hold what another profile allows that this one refuses.

    Args:
        records: one per rule and arch.
        allowed: rules that are allowed whole.
        undecided: rules that could not be compared.
    """

    records: tuple[DriftRecord, ...]
    allowed: int
    undecided: int


def profile_drift(profile: Profile, other: Profile, where: str) -> ProfileDrift:
    """Compare what `other` allows with `profile`.

    Args:
        profile: what is allowed.
        other: the evidence.
        where: what to call it in the witness.
    """
    records: list[DriftRecord] = []
    allowed = undecided = 0
    for rule in other.rules:
        if not rule.action.is_permitting:
            continue
        for arch in rule.arch or arches_with(rule.syscall, other.arch):
            nr = syscall_nr(arch, rule.syscall) if isinstance(rule.syscall, str) else rule.syscall
            if nr is None:
                continue
            pieces = _refused(profile, other, rule, arch, nr)
            if pieces is None:
                undecided += 1
                continue
            pieces = [piece for piece in pieces if witness(piece) is not None]
            if pieces:
                records.append(_record(profile, other, rule, arch, nr, pieces, where))
            else:
                allowed += 1
    return ProfileDrift(tuple(records), allowed, undecided)


def _refused(profile: Profile, other: Profile, rule: SeccompRule, arch: str, nr: int) -> list[Region] | None:
    own = [r.comparators for r in other.rules_for(arch, nr) if not r.action.is_permitting]
    if arch not in profile.arch:
        return [] if profile.bad_arch.is_permitting else subtract_all(rule.comparators, own, _LIMIT)
    mine = profile.rules_for(arch, nr)
    permitted = [r.comparators for r in mine if r.action.is_permitting]
    parts: list[Region] = []
    if profile.default.kind != "allow":
        rest = subtract_all(rule.comparators, [*own, *permitted], _LIMIT)
        if rest is None:
            return None
        parts += rest
    for denied in (r.comparators for r in mine if not r.action.is_permitting):
        both = intersection(rule.comparators, denied)
        rest = [] if both is None else subtract_all(both, own, _LIMIT)
        if rest is None:
            return None
        parts += rest
    return parts


def _record(
    profile: Profile,
    other: Profile,
    rule: SeccompRule,
    arch: str,
    nr: int,
    pieces: Sequence[Region],
    where: str,
) -> DriftRecord:
    name = syscall_name(arch, nr)
    known = arch in profile.arch and any(r.action.is_permitting for r in profile.rules_for(arch, nr))
    # The edit lets in all of the pieces: the gravest of their calls is the measure, and the proof.
    risk, gravest = region_risk(arch, name, pieces) if name else (None, None)
    proof = pieces[0] if gravest is None else gravest
    call = witness(proof) or (0,) * 6
    specs = constrained_args(arch, name) if name else ()
    compared = {a.index for a in (*rule.comparators, *proof)}
    args = tuple(call[i] if i in compared and any(s.index == i for s in specs) else None for i in range(6))
    signature = tuple((a.index, a.op, a.values, a.mask) for a in rule.comparators)
    limit = None if profile.arch == (arch,) else (arch,)
    reason = f" ({rule.evidence.reason})" if rule.evidence and rule.evidence.reason else ""
    severity = "high" if arch not in profile.arch else risk.severity if risk else "low" if name else "medium"
    id_, *former = denial_ids(arch, display_name(arch, nr), ("rule", signature))
    return DriftRecord(
        kind="new_argument" if known else "new_syscall",
        id=id_,
        severity=severity,
        arch=arch,
        syscall=display_name(arch, nr),
        nr=nr,
        args=args,
        decoded=rule_values(arch, rule) or dict.fromkeys((s.name for s in specs), "any"),
        program=other.program.path if other.program else None,
        programs=(other.program.path,) if other.program and other.program.path else ("?",),
        count=rule.evidence.count or 0 if rule.evidence else 0,
        why="; ".join(
            part
            for part in (
                f"the other profile allows it{reason}",
                _own_answer(profile, arch, nr, call),
                f"{call_text(arch, name, call)}: {risk.reason}" if risk and name else None,
            )
            if part
        ),
        edit=edit_text(profile, arch, nr, call, rule),
        witness={"source": "profile", "profile": where},
        risk=risk.name_class if risk else None,
        rule=replace(rule, arch=limit),
        former_ids=tuple(former),
    )


def _own_answer(profile: Profile, arch: str, nr: int, call: Sequence[int]) -> str:
    decision = profile.decide_call(arch, nr, call)
    permitted = [r for r in profile.rules_for(arch, nr) if r.action.is_permitting]
    if decision.rule is not None or arch not in profile.arch or not permitted:
        return decision.why
    # Nobody made the call that proves it; what this profile allows says more than how far off that is.
    shown = ", ".join(rule_text(arch, r).removesuffix(": allow") for r in permitted[:_SHOWN])
    more = f" and {len(permitted) - _SHOWN} more" if len(permitted) > _SHOWN else ""
    return f"this one only {shown}{more}; default {profile.default}"
