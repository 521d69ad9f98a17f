"""How complete is what was learned: will the next run need something unseen?

In: observations and the way a profile is made from them. Out: a `Completeness`. The unit is the run; one run
says nothing about the next, and then the estimate is absent instead of optimistic. Losses cap every claim.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.learn.calls import call_groups, describe_call, distinct_runs
from autoprofile.learn.denied import is_answered, is_missed
from autoprofile.learn.distributions import Distribution, distributions
from autoprofile.learn.evidence import CONFIDENCE, Incidence, jeffreys_mean, upper_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autoprofile.learn.calls import CallGroup, Values
    from autoprofile.observations import LossLedger, Observation
    from autoprofile.profile.model import Profile

__all__ = ["MAX_LEFT_OUT", "Completeness", "LeftOut", "completeness", "run_incidence"]

MAX_LEFT_OUT = 50
"""Runs left out at most, evenly spread; each costs one inference."""

Species = tuple[str, int, "Values"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tell what one run would have been denied had the other runs been enforced.

    Args:
        run: its index.
        denials: calls (distinct tuples) that would have been denied, most frequent first, as (text, count).
    """

    run: int
    denials: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Completeness:
    """State how much of the program's needs the runs have shown.

    Args:
        runs: runs observed.
        unseen: estimated probability that a further run needs something that the profile refuses; None when
            there is only one run. It is Jeffreys' estimate from leave-one-run-out (with T runs it describes T
            - 1, so it errs upwards), and never below the share of events that were lost.
        unseen_upper: its one-sided upper confidence bound; 1.0 when there is only one run.
        unseen_mass: Good-Turing share of a further run's distinct tuples that are new; None with one run.
        observed: distinct tuples seen.
        richness: Chao2 lower estimate of the distinct tuples there are; None with one run.
        discovery: (runs, expected distinct tuples) from 1 to T runs, the mean over all orders.
        discovery_time: (seconds, distinct tuples) over the first run, where something new appeared.
        left_out: what each run would have been denied by a profile of the others; empty with one run.
        distributions: the same figures for each call's tuples and each argument alone.
        lost: entries of the loss ledger.
        complete: nothing was lost and every run was followed to its end.
    """

    runs: int
    unseen: float | None
    unseen_upper: float
    unseen_mass: float | None
    observed: int
    richness: float | None
    discovery: tuple[tuple[int, float], ...]
    discovery_time: tuple[tuple[float, int], ...]
    left_out: tuple[LeftOut, ...]
    lost: int
    complete: bool
    distributions: tuple[Distribution, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "runs": self.runs,
            "unseen": self.unseen,
            "unseen_upper": self.unseen_upper,
            "unseen_mass": self.unseen_mass,
            "observed": self.observed,
            "richness": self.richness,
            "discovery": [list(p) for p in self.discovery],
            "discovery_time": [list(p) for p in self.discovery_time],
            "left_out": [
                {"run": o.run, "denials": [{"call": text, "count": n} for text, n in o.denials]}
                for o in self.left_out
            ],
            "distributions": [one.to_dict() for one in self.distributions],
            "lost": self.lost,
            "complete": self.complete,
        }


def run_incidence(groups: Sequence[CallGroup], runs: int) -> Incidence:
    """Return in how many of the runs each distinct tuple was seen."""
    frequency = {(g.arch, g.nr, t.values): len(t.runs) for g in groups for t in g.tuples}
    return Incidence(runs, frequency)


def completeness(
    observations: Sequence[Observation],
    runs: int,
    ledger: LossLedger,
    followed: bool,
    profile_of: Callable[[Sequence[Observation]], Profile],
    *,
    confidence: float = CONFIDENCE,
) -> Completeness:
    """Estimate the completeness of a profile learned from `observations`.

    Args:
        observations: of all runs.
        runs: how many runs there were.
        ledger: what was lost.
        followed: every run was followed from its first instruction to its end.
        profile_of: makes the profile from some of the observations, as it was made from all of them.
        confidence: level of `unseen_upper`.
    """
    groups = call_groups(observations)
    seen = run_incidence(groups, runs)
    events = sum(o.count for o in observations)
    lost = ledger.total
    left_out = _leave_one_out(observations, runs, profile_of) if runs > 1 else ()
    unseen: float | None = None
    upper = 1.0
    if left_out:
        # each lost entry is at least one event that may have been anything
        floor = lost / (lost + events) if lost else 0.0
        hits = sum(1 for o in left_out if o.denials)
        unseen = max(jeffreys_mean(hits, len(left_out)), floor)
        upper = max(upper_bound(hits, len(left_out), confidence), floor)
    return Completeness(
        runs=runs,
        unseen=unseen,
        unseen_upper=upper,
        unseen_mass=seen.unseen_mass,
        observed=seen.observed,
        richness=seen.richness,
        discovery=tuple((t, round(seen.rarefied(t), 6)) for t in _steps(runs)),
        discovery_time=_over_time(call_groups(o for o in observations if o.run == 0)),
        left_out=left_out,
        lost=lost,
        complete=followed and lost == 0,
        distributions=distributions(groups, distinct_runs(groups)),
    )


def _steps(runs: int) -> Sequence[int]:
    # at most about 200 points, the last one always
    stride = max(1, runs // 200)
    steps = list(range(1, runs + 1, stride))
    return steps if steps[-1] == runs else [*steps, runs]


def _over_time(groups: Sequence[CallGroup]) -> tuple[tuple[float, int], ...]:
    times = sorted(t.first_ns for g in groups for t in g.tuples)
    points: dict[float, int] = {}
    for n, first_ns in enumerate(times, 1):
        points[first_ns / 1e9] = n
    return tuple(points.items())


def _leave_one_out(
    observations: Sequence[Observation], runs: int, profile_of: Callable[[Sequence[Observation]], Profile]
) -> tuple[LeftOut, ...]:
    chosen = range(runs) if runs <= MAX_LEFT_OUT else [i * runs // MAX_LEFT_OUT for i in range(MAX_LEFT_OUT)]
    by_run: dict[int, list[Observation]] = defaultdict(list)
    for o in observations:
        by_run[o.run].append(o)
    needed = _runs_needing(observations)
    found = []
    for run in chosen:
        if not needed.get(run):
            # Everything this run did, another run did too; a profile always allows what it was made from.
            found.append(LeftOut(run, ()))
            continue
        others = [o for o in observations if o.run != run]
        if not others:
            continue
        found.append(LeftOut(run, _denials(profile_of(others), by_run[run])))
    return tuple(found)


def _runs_needing(observations: Sequence[Observation]) -> Mapping[int, bool]:
    groups = call_groups(observations)
    single = [t for g in groups for t in g.tuples if len(t.runs) == 1]
    return {run: True for t in single for run in t.runs}


def _denials(profile: Profile, observations: Sequence[Observation]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for o in observations:
        decision = profile.decide_call(o.arch, o.nr, [a or 0 for a in o.args])
        if is_missed(profile, decision) and not is_answered(decision, o):
            text = describe_call(o.arch, o.nr, o.args)
            counts[text] = counts.get(text, 0) + o.count
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
