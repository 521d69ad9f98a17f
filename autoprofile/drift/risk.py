"""The worst that a rule lets in, not what one call of it happens to be.

In: a call and the regions that an edit would open. Out: the gravest risk that any call in them carries, with
a region of such calls as proof. An argument that is not compared may have any value, so any risk.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from autoprofile.abi.risk import Risk, syscall_risk
from autoprofile.abi.signatures import constrained_args, signature
from autoprofile.learn.risks import WEIGHT, conditions
from autoprofile.profile.region import intersection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.profile.region import Region

__all__ = ["RegionRisk", "region_risk", "unknown_args"]


class RegionRisk(NamedTuple):
    """The gravest risk of some regions.

    Attributes:
        risk: it; None where every call in them is ordinary.
        region: where it is met: a part of one of the regions.
    """

    risk: Risk | None
    region: Region | None


def region_risk(arch: str, name: str, regions: Sequence[Region]) -> RegionRisk:
    """Return the gravest risk that a call in `regions` can carry; the call's own risk included.

    Args:
        arch: of the call.
        name: its name.
        regions: what is let in, of one or several rules.
    """
    worst = syscall_risk(name)
    found = RegionRisk(worst, next(iter(regions), None))
    # Only arguments that a condition names matter, and where one of them counts only with some value of
    # another (the mode of openat), the conditions of abi/data/risk.tsv name that one, too.
    exact = [{one.index: one.values[0] for one in region if one.op == "eq"} for region in regions]
    for risk, alternatives in _gravest_first(arch, name):
        if worst is not None and WEIGHT[risk.severity] <= WEIGHT[worst.severity]:
            break
        for alternative in alternatives:
            for region, values in zip(regions, exact, strict=True):
                # most regions are single calls, and telling those apart is quick
                if any(one.index in values and not one.match(values[one.index]) for one in alternative):
                    continue
                both = intersection(region, alternative)
                if both is not None:
                    return RegionRisk(risk, both)
    return found


@cache
def _gravest_first(arch: str, name: str) -> tuple[tuple[Risk, tuple[Region, ...]], ...]:
    spec_of = {spec.index: spec for spec in known.args} if (known := signature(arch, name)) else {}
    return tuple(
        (
            condition.risk,
            tuple(
                # the width that the kernel reads: comparators of several widths are not told apart exactly
                tuple(replace(one, width=spec_of[one.index].width) for one in alternative)
                for alternative in condition.comparators()
            ),
        )
        for condition in sorted(conditions(arch, name), key=lambda c: -WEIGHT[c.risk.severity])
    )


def unknown_args(arch: str, name: str | None, args: Sequence[int | None]) -> tuple[ArgSpec, ...]:
    """Return the arguments that the profile could compare and the evidence does not hold.

    An argument that the kernel does not read in this call is not missing.
    """
    return tuple(
        spec
        for spec in (constrained_args(arch, name) if name else ())
        if args[spec.index] is None
        and (
            spec.used_if is None
            or args[spec.used_if.index] is None
            or spec.used_if.holds([a or 0 for a in args])
        )
    )
