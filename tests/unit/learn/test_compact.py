"""Compacting tuples into boxes loses nothing and gains nothing."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from autoprofile.learn.compact import boxes

DOMAIN = (0, 1, 2, 3)
WIDTHS = st.integers(min_value=0, max_value=4)


@st.composite
def tuple_sets(draw: st.DrawFn) -> set[tuple[int | None, ...]]:
    width = draw(WIDTHS)
    value = st.one_of(st.none(), st.sampled_from(DOMAIN))
    return draw(st.sets(st.tuples(*[value] * width), min_size=1, max_size=12))


def points(tuples: set[tuple[int | None, ...]]) -> set[tuple[int, ...]]:
    return {p for t in tuples for p in product(*[DOMAIN if v is None else (v,) for v in t])}


@given(tuple_sets())
def test_the_boxes_cover_exactly_the_tuples(tuples: set[tuple[int | None, ...]]) -> None:
    """The union of the boxes is the set of tuples, no more and no less."""
    covered = {
        p
        for box in boxes(tuples)
        for p in product(*[DOMAIN if side is None else tuple(side) for side in box])
    }
    assert covered == points(tuples)


@given(tuple_sets())
def test_the_result_does_not_depend_on_the_order(tuples: set[tuple[int | None, ...]]) -> None:
    """Any order of the same tuples gives the same boxes in the same order."""
    assert boxes(sorted(tuples, key=repr)) == boxes(sorted(tuples, key=repr, reverse=True))


@given(tuple_sets())
def test_there_are_never_more_boxes_than_tuples(tuples: set[tuple[int | None, ...]]) -> None:
    """Compaction shortens a profile or leaves it alone."""
    assert len(boxes(tuples)) <= len(tuples)


def test_tuples_that_differ_in_one_argument_become_one_box() -> None:
    """A product of value sets is written as one rule."""
    assert boxes({(1, 2, 0), (1, 3, 0)}) == ((frozenset({1}), frozenset({2, 3}), frozenset({0})),)
    assert len(boxes(set(product((1, 2), (3, 4), (5, 6))))) == 1


def test_tuples_that_differ_in_two_arguments_stay_apart() -> None:
    """Two tuples seen never imply a third."""
    assert len(boxes({(1, 2), (3, 4)})) == 2


def test_a_tuple_inside_a_free_one_disappears() -> None:
    """What a free argument allows already needs no rule of its own."""
    assert boxes({(1, None), (1, 7)}) == ((frozenset({1}), None),)
