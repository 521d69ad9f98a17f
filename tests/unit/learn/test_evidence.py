"""The estimators agree with hand-computed figures and with what they must never claim."""

from __future__ import annotations

from itertools import combinations
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.learn.evidence import Incidence, incidence, jeffreys_mean, upper_bound

UNITS = st.lists(st.sets(st.integers(0, 8), max_size=6), min_size=1, max_size=7)


def test_published_example_of_chao2() -> None:
    """Chao2 gives S + (T-1)/T * Q1^2/(2 Q2) on a small table worked by hand."""
    found = incidence([{1, 2, 3}, {1, 2, 4}, {1, 5}])
    # Q1 = {3, 4, 5}, Q2 = {2}, S = 5, T = 3
    assert found.richness == pytest.approx(5 + 2 / 3 * 9 / 2)
    # U = 3 + 2 + 1 + 1 + 1 = 8
    assert found.unseen_mass == pytest.approx(3 / 8)
    assert found.expected_new == pytest.approx(3 / 3)


def test_one_unit_supports_no_estimate() -> None:
    """With a single unit nothing is estimated."""
    found = incidence([{1, 2}])
    assert found.unseen_mass is None
    assert found.richness is None
    assert found.expected_new is None


@given(UNITS)
def test_estimates_stay_in_their_range(units: list[set[int]]) -> None:
    """A mass is a share, and there are never fewer species than were seen."""
    found = incidence(units)
    if found.unseen_mass is not None:
        assert 0 <= found.unseen_mass <= 1
    if found.richness is not None:
        assert found.richness >= found.observed


@given(UNITS.filter(lambda units: len(units) > 1 and any(units)))
def test_unseen_mass_is_what_each_unit_would_have_brought(units: list[set[int]]) -> None:
    """Good-Turing is leave-one-out: the incidences of each unit that no other unit has, over all incidences."""
    alone = sum(len(u - set().union(*units[:i], *units[i + 1 :])) for i, u in enumerate(units))
    assert incidence(units).unseen_mass == pytest.approx(alone / sum(len(u) for u in units))


@given(UNITS)
def test_rarefaction_is_the_mean_over_all_subsets(units: list[set[int]]) -> None:
    """The discovery curve is what averaging over every choice of runs gives."""
    found = incidence(units)
    for t in range(len(units) + 1):
        subsets = list(combinations(units, t))
        mean = sum(len(set().union(*s)) for s in subsets) / len(subsets)
        assert isclose(found.rarefied(t), mean, abs_tol=1e-9)


def test_no_singleton_means_no_unseen_mass() -> None:
    """When every species was seen twice, Good-Turing's estimate is zero (and the bound is not)."""
    found = incidence([{1, 2}, {1, 2}])
    assert found.unseen_mass == 0
    assert upper_bound(0, 2) > 0.7


def test_bound_without_hits_is_the_rule_of_three() -> None:
    """No failure in n trials bounds the rate by 1 - 0.05^(1/n), about 3/n."""
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)
    assert upper_bound(0, 100) == pytest.approx(0.03, abs=0.001)


def test_bound_agrees_with_a_published_clopper_pearson_value() -> None:
    """3 of 20 at one-sided 95 % gives 0.344 (tables of the binomial distribution)."""
    assert upper_bound(3, 20) == pytest.approx(0.3437, abs=5e-4)


@given(st.integers(1, 60), st.data())
def test_bound_lies_above_the_estimate(trials: int, data: st.DataObject) -> None:
    """An upper bound is never below the estimate, and never above one."""
    hits = data.draw(st.integers(0, trials))
    assert jeffreys_mean(hits, trials) <= upper_bound(hits, trials) + 1e-9 or hits == trials
    assert hits / trials <= upper_bound(hits, trials) <= 1


def test_rarefaction_refuses_more_units_than_there_are() -> None:
    """Extrapolation is not rarefaction."""
    with pytest.raises(ValueError, match="3 units of 1"):
        Incidence(1, {"a": 1}).rarefied(3)
