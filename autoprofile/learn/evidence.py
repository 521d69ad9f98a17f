"""Estimate what was not seen from how often things were seen: coverage and richness of incidence data.

In: for each species (a syscall, a value, a tuple) the number of sampling units it was seen in. Out: estimates
and bounds. The unit is a run or a process, never a call: calls in a loop are not independent. Deterministic;
no data, no claim (None).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

__all__ = ["CONFIDENCE", "Incidence", "incidence", "jeffreys_mean", "upper_bound"]

CONFIDENCE = 0.95
"""Level of the one-sided bounds, unless asked for another."""


@dataclass(frozen=True, slots=True)
class Incidence:
    """Count in how many of `units` each species was seen.

    Args:
        units: sampling units, T.
        frequency: for each species its number of units, from 1 to T.

    The estimators are those for replicated incidence data: Good, "The population frequencies of species and
    the estimation of population parameters" (Biometrika 40, 1953), Chao, "Estimating the population size for
    capture-recapture data with unequal catchability" (Biometrics 43, 1987) and, for `rarefied`, Chao and
    Jost, "Coverage-based rarefaction and extrapolation" (Ecology 93, 2012). Q1 and Q2 are the species seen
    in exactly one and two units.
    """

    units: int
    frequency: Mapping[Any, int]

    @property
    def observed(self) -> int:
        """The number of species seen."""
        return len(self.frequency)

    def seen_in(self, units: int) -> int:
        """Return how many species were seen in exactly that many units (Q1, Q2, …)."""
        return sum(1 for f in self.frequency.values() if f == units)

    @property
    def unseen_mass(self) -> float | None:
        """The share of a further unit's incidences that are of unseen species (Good-Turing): Q1/U.

        U is the sum of the frequencies. None with fewer than two units. With two or more and no singleton it
        is 0, which is an estimate and not a proof: `upper_bound` says what the number of units can support.

        It describes a unit added to T - 1, so it errs upwards. The correction that Chao and Jost (2012)
        multiply by rests on Q2 telling how many species are rare; of two or three runs nearly all species are
        in two, and it takes most of the estimate away: on the programs of docs/inference-study.md it gave
        0.03 for 0.11 seen after two runs, where this gives 0.15; after eight 0.027 and 0.032, for 0.034 seen.
        """
        if self.units < 2 or not self.frequency:
            return None
        return self.seen_in(1) / sum(self.frequency.values())

    @property
    def expected_new(self) -> float | None:
        """The number of unseen species to expect in a further unit, Q1/T; None below two units."""
        if self.units < 2:
            return None
        return self.seen_in(1) / self.units

    @property
    def richness(self) -> float | None:
        """The number of species there are at least, seen or not (Chao2); None below two units."""
        if self.units < 2:
            return None
        q1, q2, t = self.seen_in(1), self.seen_in(2), self.units
        more = q1 * q1 / (2 * q2) if q2 else q1 * (q1 - 1) / 2
        return self.observed + (t - 1) / t * more

    def rarefied(self, units: int) -> float:
        """Return the number of species to expect in `units` of the T units (sample-based rarefaction).

        It is the mean over all subsets, so it does not depend on the order of the units.
        """
        if not 0 <= units <= self.units:
            raise ValueError(f"{units} units of {self.units}")
        ways = comb(self.units, units)
        return sum(1 - comb(self.units - f, units) / ways for f in self.frequency.values())


def incidence(units: Iterable[Iterable[Hashable]]) -> Incidence:
    """Return the incidence of the species in `units`, each an iterable of the species seen in it."""
    frequency: Counter[Hashable] = Counter()
    total = 0
    for species in units:
        total += 1
        frequency.update(set(species))
    return Incidence(total, dict(frequency))


def jeffreys_mean(hits: int, trials: int) -> float:
    """Return the posterior mean of a rate under Jeffreys' prior, (hits + ½)/(trials + 1).

    Unlike hits/trials it does not claim certainty after few trials: no hit in three trials gives 1/8.
    """
    return (hits + 0.5) / (trials + 1)


def upper_bound(hits: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a rate; 1.0 without trials.

    With no hit it is 1 - (1 - confidence)^(1/trials), the "rule of three" (3/trials at 95 %).
    """
    if trials == 0 or hits >= trials:
        return 1.0
    alpha = 1 - confidence
    low, high = hits / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(hits, trials, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, trials: int, rate: float) -> float:
    return sum(comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(hits + 1))
