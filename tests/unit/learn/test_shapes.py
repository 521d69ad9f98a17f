"""Taking a risk away from a shape leaves only calls outside the risk, and comparators say what the shape says."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi.risk import Risk, call_risk, risk_conditions
from autoprofile.abi.signatures import ArgSpec, constrained_args
from autoprofile.learn.risks import Clause, RiskCondition, conditions
from autoprofile.learn.shapes import Masked, contains, covers, intersects, side_args, simplify, subtract

BITS = 4
VALUES = range(1 << BITS)
SPECS = tuple(ArgSpec(i, f"a{i}", "unsigned int", 32, "flags", None, None) for i in range(2))
HIGH32 = 0xFFFFFFFF ^ (len(VALUES) - 1)

sides = st.one_of(
    st.none(),
    st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=4),
    st.builds(
        lambda mask, value, without: Masked(0, 0).narrowed(mask, mask & value, without),
        st.sampled_from(VALUES),
        st.sampled_from(VALUES),
        st.frozensets(st.sampled_from(VALUES), max_size=3),
    ),
)
shapes = st.tuples(sides, sides)
clauses = st.builds(
    lambda index, op, mask, values: Clause(
        index, op, mask, frozenset(v & mask for v in values) if op == "in" else frozenset()
    ),
    st.integers(0, 1),
    st.sampled_from(["in", "any", "all", "none"]),
    st.one_of(st.integers(1, (1 << BITS) - 1), st.just(0xFFFFFFFF)),
    st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=3),
)
risks = st.builds(
    lambda c: RiskCondition("", Risk("x", "high", ""), tuple(c)), st.lists(clauses, min_size=1, max_size=2)
)


def calls(shape: tuple[object, ...]) -> set[tuple[int, int]]:
    return {p for p in product(VALUES, VALUES) if covers(shape, p)}


def risky(condition: RiskCondition) -> set[tuple[int, int]]:
    return {p for p in product(VALUES, VALUES) if condition.holds(dict(enumerate(p)))}


@settings(max_examples=300, deadline=None)
@given(shapes, risks)
def test_what_is_left_is_inside_the_shape_and_outside_the_risk(
    shape: tuple, condition: RiskCondition
) -> None:
    """No part of the risk stays, and nothing is added; small fields lose nothing else either."""
    left = set().union(*(calls(part) for part in subtract(shape, condition, SPECS)))
    assert left <= calls(shape) - risky(condition)
    assert left == calls(shape) - risky(condition)


@settings(max_examples=300, deadline=None)
@given(shapes, risks)
def test_intersection_is_never_overlooked(shape: tuple, condition: RiskCondition) -> None:
    """A shape that meets the risk is always said to."""
    if calls(shape) & risky(condition):
        assert intersects(shape, condition, SPECS)


@given(shapes, shapes)
def test_containment_is_certain(outer: tuple, inner: tuple) -> None:
    """What is said to be contained is."""
    if contains(outer, inner):
        assert calls(inner) <= calls(outer)


@given(st.lists(shapes, min_size=1, max_size=5))
def test_simplifying_is_lossless(many: list[tuple]) -> None:
    """The shapes cover the same calls before and after, in an order that does not depend on theirs."""
    assert set().union(*map(calls, simplify(many))) == set().union(*map(calls, many))
    assert simplify(many) == simplify(many[::-1])


@given(sides, st.sampled_from(VALUES))
def test_comparators_say_what_the_side_says(side: object, value: int) -> None:
    """The comparator of a side accepts exactly its values."""
    assert all(arg.match(value) for arg in side_args(SPECS[0], side)) == covers((side,), (value,))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_conditions_agree_with_the_abi(data: st.DataObject) -> None:
    """Parsed conditions and their comparators hold for exactly the calls that the ABI room calls risky."""
    name = data.draw(st.sampled_from(sorted(risk_conditions())))
    found = conditions("x86_64", name)
    specs = {s.index: s for s in constrained_args("x86_64", name)}
    near = {i: {0, 1, 2, 4, 6} for i in range(6)}
    for c in found:
        for clause in c.clauses:
            near[clause.index] |= {clause.mask & ((1 << 32) - 1), *clause.values}
    args = tuple(
        data.draw(st.sampled_from(sorted(near[i])))
        & ((1 << specs[i].width) - 1 if i in specs else (1 << 64) - 1)
        for i in range(6)
    )
    holding = [c for c in found if c.holds(dict(enumerate(args)))]
    for c in found:
        by_rule = any(all(a.match(args[a.index]) for a in alternative) for alternative in c.comparators())
        assert by_rule == (c in holding)
    order = ["low", "medium", "high"]
    worst = call_risk("x86_64", name, args)
    for c in holding:
        assert worst is not None
        assert order.index(worst.severity) >= order.index(c.risk.severity)
