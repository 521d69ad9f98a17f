"""The region algebra answers exactly, judged by evaluating small domains and border values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoprofile.profile import Arg
from autoprofile.profile.region import intersection, is_empty, is_subset, subtract, witness

from .strategies import comparators, examples

REGIONS = st.lists(comparators(range(2), (32,)), max_size=3).map(tuple)
WIDE = st.lists(comparators(range(1), (64,)), max_size=3).map(tuple)
MIXED = st.lists(comparators(range(2), (32, 64)), max_size=3).map(tuple)


def holds(region: tuple[Arg, ...], call: tuple[int, int]) -> bool:
    """Return whether a call lies in a region."""
    return all(one.match(call[one.index]) for one in region)


def calls(*regions: tuple[Arg, ...]) -> list[tuple[int, int]]:
    """Return calls around every border of some regions."""
    values: tuple[set[int], set[int]] = ({0, 1, 5}, {0, 1, 5})
    for region in regions:
        for one in region:
            values[one.index].update(one.interesting_values())
    return [(x, y) for x in sorted(values[0])[::2] for y in sorted(values[1])[::3]]


@examples(60)
@given(st.one_of(st.tuples(REGIONS, REGIONS), st.tuples(WIDE, WIDE), st.tuples(MIXED, MIXED)))
def test_intersection_and_difference_are_what_they_say(two: tuple) -> None:
    """A call lies in the intersection when in both, and in exactly one piece of the difference when in one."""
    one, other = two
    both, pieces = intersection(one, other), subtract(one, other)
    for call in calls(one, other):
        assert (both is not None and holds(both, call)) == (holds(one, call) and holds(other, call))
        assert sum(holds(piece, call) for piece in pieces) == (holds(one, call) and not holds(other, call))


@examples(100)
@given(st.one_of(REGIONS, WIDE))
def test_a_region_is_empty_exactly_when_it_has_no_witness(region: tuple[Arg, ...]) -> None:
    """A witness lies in its region, and an empty region contains none of its border values."""
    found = witness(region)
    assert is_empty(region) == (found is None)
    if found is None:
        assert not any(holds(region, call) for call in calls(region))
    else:
        assert holds(region, found[:2])


@examples(60)
@given(MIXED)
def test_a_region_with_a_call_is_never_called_empty(region: tuple[Arg, ...]) -> None:
    """Comparators of both widths on one argument may hide emptiness, never a call."""
    if any(holds(region, call) for call in calls(region)):
        assert not is_empty(region)
    found = witness(region)
    assert found is None or holds(region, found[:2])


@examples(60)
@given(st.one_of(st.tuples(REGIONS, REGIONS), st.tuples(MIXED, MIXED)))
def test_a_subset_lies_inside(two: tuple) -> None:
    """What is called a subset has no call outside; an intersection is a subset of both."""
    one, other = two
    if is_subset(one, other):
        assert not any(holds(one, call) and not holds(other, call) for call in calls(one, other))
    both = intersection(one, other)
    assert is_subset(one, one)
    if both is not None and all(a.width == 32 for a in (*one, *other)):
        assert is_subset(both, one)
        assert is_subset(both, other)


def test_the_complement_of_a_mask_is_short() -> None:
    """The calls outside {mask: [PROT_READ, PROT_WRITE]} are one range, not sixty bits."""
    allowed = (Arg(2, "masked_eq", 0, ~3, 64),)
    assert subtract((), allowed) == [(Arg(2, "gt", 3, None, 64),)]
