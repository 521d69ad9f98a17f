"""How far each call and each argument was seen: unseen mass and richness of its tuples and of its values.

In: call groups, and which runs did the same. Out: the incidence that decides about the form of a constraint,
and a `Distribution` for everybody who wants to see why. The unit is a run that made the call, runs that did
the very same counted once; one such run says nothing, and then the estimates are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autoprofile.learn.evidence import Incidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from autoprofile.learn.calls import CallGroup, SeenTuple

__all__ = ["Distribution", "distributions", "incidence_of", "value_at"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Say how much of one call's tuples, or of one argument's values, the runs have shown.

    Args:
        arch: of the call.
        syscall: its name, or its number where it has none.
        argument: which argument; None for the joint tuples of all that are constrained.
        runs: runs that made the call, equal ones counted once.
        observed: distinct tuples or values seen.
        unseen_mass: share of what another such run brings that is new (Good-Turing); None with one run.
        richness: tuples or values there are at least (Chao2); None with one run.
    """

    arch: str
    syscall: str | int
    argument: str | None
    runs: int
    observed: int
    unseen_mass: float | None
    richness: float | None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "arch": self.arch,
            "syscall": self.syscall,
            "argument": self.argument,
            "runs": self.runs,
            "observed": self.observed,
            "unseen_mass": self.unseen_mass,
            "richness": self.richness,
        }


def incidence_of(
    group: CallGroup, same: Mapping[int, int], species: Callable[[SeenTuple], Iterable[object]]
) -> Incidence:
    """Return in how many runs each species of a call was seen.

    Args:
        group: the call.
        same: for each run the first that did the same (`calls.distinct_runs`).
        species: what to count of a tuple: the tuple, a value, the bits of a value.
    """
    holders: dict[object, set[int]] = {}
    for t in group.tuples:
        units = {same[run] for run in t.runs}
        for one in species(t):
            holders.setdefault(one, set()).update(units)
    everything = {same[run] for t in group.tuples for run in t.runs}
    return Incidence(len(everything), {one: len(units) for one, units in holders.items()})


def value_at(at: int, t: SeenTuple) -> list[object]:
    """Return the value of one constrained argument as a species; None where the call does not read it."""
    return [t.values[at]]


def distributions(groups: Sequence[CallGroup], same: Mapping[int, int]) -> tuple[Distribution, ...]:
    """Return the distributions of each call's joint tuples and of each argument, in the order of the groups.

    A call without constrained arguments has none: whether it is made at all is a matter of whole runs
    (`completeness`).
    """
    found = []
    for group in groups:
        if not group.specs:
            continue
        parts: list[tuple[str | None, Callable[[SeenTuple], Iterable[object]]]] = [
            (None, lambda t: [t.values])
        ]
        parts += [(spec.name, partial(value_at, at)) for at, spec in enumerate(group.specs)]
        for argument, species in parts:
            seen = incidence_of(group, same, species)
            found.append(
                Distribution(
                    group.arch,
                    group.syscall,
                    argument,
                    seen.units,
                    seen.observed,
                    seen.unseen_mass,
                    seen.richness,
                )
            )
    return tuple(found)
