"""Level strict: the profile accepts every observed call and no unobserved constrained tuple.

In: call groups. Out: allow rules, losslessly compacted, with the evidence of what they cover.
It generalises nothing: two tuples seen never imply a third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.learn.baseline import baseline
from autoprofile.learn.calls import failed_only, least_processes
from autoprofile.learn.clocks import ANY_OWNER, apart, class_arg, has_class
from autoprofile.learn.compact import boxes
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY, Arg
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.learn.calls import CallGroup, SeenTuple
    from autoprofile.learn.compact import Box, Side
    from autoprofile.profile.rule import Args

__all__ = ["arch_limit", "args_from_box", "baseline_rules", "evidence_of", "rules_of_group", "strict_rules"]


def strict_rules(groups: Sequence[CallGroup], arches: Sequence[str]) -> list[SeccompRule]:
    """Return the rules of level strict, baseline included, by arch and then by number.

    Args:
        groups: what was seen; groups of arches outside `arches` are left out.
        arches: the arches of the profile. Rules are limited to their arch when there are several.
    """
    rules: list[SeccompRule] = []
    for group in groups:
        if group.arch in arches:
            rules += rules_of_group(group, arch_limit(group.arch, arches))
    return rules + baseline_rules(groups, arches)


def rules_of_group(group: CallGroup, limit: tuple[str, ...] | None) -> list[SeccompRule]:
    """Return the rules that allow exactly the tuples seen of one syscall."""
    rules = []
    for box in apart(group.specs, boxes(t.values for t in group.tuples)):
        evidence = evidence_of([t for t in group.tuples if _covers(box, t)])
        if has_class(group.specs, box):
            evidence = evidence.joined(Evidence(reason=ANY_OWNER))
        args = args_from_box(group.specs, box)
        rules.append(SeccompRule(group.syscall, Action.ALLOW, args, limit, evidence))
    return rules


def _covers(box: Box, seen: SeenTuple) -> bool:
    return all(
        side is None or (v is not None and v in side) for side, v in zip(box, seen.values, strict=True)
    )


def args_from_box(specs: Sequence[ArgSpec], box: Box) -> Args:
    """Return the comparators of one box, every constrained argument named; ANY when none of them binds."""
    if all(side is None for side in box):
        return ANY
    return tuple(_arg(spec, side) for spec, side in zip(specs, box, strict=True))


def _arg(spec: ArgSpec, side: Side) -> Arg:
    if side is None:
        return Arg(spec.index, "any")
    if (found := class_arg(spec, side)) is not None:
        return found
    if len(side) == 1:
        return Arg(spec.index, "eq", next(iter(side)))
    return Arg(spec.index, "in", side)


def evidence_of(seen: Sequence[SeenTuple], reason: str | None = None) -> Evidence:
    """Return the evidence of a rule that covers `seen`.

    Without a `reason` of its own, a rule whose calls all failed says so: strict allows them nevertheless,
    because the program goes on after the error it knows, and would not after a kill.
    """
    if reason is None:
        notes = []
        errors = failed_only(seen)
        if errors:
            notes.append(f"every call failed: {errors}")
        unrecorded = sorted({i for t in seen for i in t.unrecorded})
        if unrecorded:
            # widens: a value the source did not record cannot be constrained
            notes.append("not recorded, so any: " + ", ".join(f"arg{i}" for i in unrecorded))
        reason = "; ".join(notes) or None
    return Evidence(
        count=sum(t.count for t in seen),
        processes=least_processes(seen),
        first_s=_first_s(seen),
        reason=reason,
    )


def _first_s(seen: Sequence[SeenTuple]) -> float | None:
    # When a call came late it tells how long to learn. To the millisecond it would differ each time and hide
    # what really changed between two learned profiles: two digits of whole seconds are kept.
    seconds = round(min(t.first_ns for t in seen) / 1e9)
    return float(f"{seconds:.2g}") if seconds else None


def baseline_rules(groups: Iterable[CallGroup], arches: Sequence[str]) -> list[SeccompRule]:
    """Return the baseline rules of the arches for the calls that were not observed anyway."""
    seen = {(g.arch, g.name) for g in groups}
    return [
        SeccompRule(
            entry.syscall,
            Action.ALLOW,
            ANY,
            arch_limit(arch, arches),
            Evidence(count=None, processes=None, reason=f"baseline: {entry.reason}"),
        )
        for arch in arches
        for entry in baseline(arch)
        if (arch, entry.syscall) not in seen
    ]


def arch_limit(arch: str, arches: Sequence[str]) -> tuple[str, ...] | None:
    """Return the arch limit of a rule learned on `arch`: none when the profile has no other."""
    return None if tuple(arches) == (arch,) else (arch,)
