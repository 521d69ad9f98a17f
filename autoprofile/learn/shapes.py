"""The sets of calls a rule can describe: boxes of sides, and what is left of a box outside a risk.

A side is any value, a set of values, or the values with some bits fixed and some values left out. Where an
operation cannot be exact it narrows: what is left after taking a risk away never contains a part of the risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from autoprofile.learn.clocks import class_arg
from autoprofile.profile.arg import ANY, Arg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.learn.risks import Clause, RiskCondition
    from autoprofile.profile.rule import Args

__all__ = [
    "Masked",
    "Shape",
    "ShapeSide",
    "comparators",
    "contains",
    "covers",
    "intersects",
    "side_args",
    "simplify",
    "subtract",
]

_FIELD_BITS = 4
"""Widest field (SOCK_STREAM & 0xf …) whose other values are written out one by one."""


@dataclass(frozen=True, slots=True)
class Masked:
    """The values x with ``x & mask == value`` that are not in `without`; mask 0 means every value."""

    mask: int
    value: int
    without: frozenset[int] = frozenset()

    def __contains__(self, x: int) -> bool:
        return x & self.mask == self.value and x not in self.without

    def narrowed(self, mask: int, value: int, without: frozenset[int] = frozenset()) -> Masked:
        """Return this with more bits fixed and more values left out; only what still matters is kept."""
        mask, value = self.mask | mask, self.value | value
        return Masked(mask, value, frozenset(x for x in self.without | without if x & mask == value))


_EVERYTHING = Masked(0, 0)

ShapeSide: TypeAlias = "frozenset[int] | Masked | None"
Shape: TypeAlias = "tuple[ShapeSide, ...]"


def side_args(spec: ArgSpec, side: ShapeSide) -> tuple[Arg, ...]:
    """Return the comparators for a side, AND'ed; none when it allows everything."""
    if side is None:
        return ()
    if isinstance(side, Masked):
        mask = side.mask & ((1 << spec.width) - 1)
        fixed = (Arg(spec.index, "masked_eq", side.value, mask=mask),) if mask else ()
        return (*fixed, *(Arg(spec.index, "ne", x) for x in sorted(side.without)))
    if (found := class_arg(spec, side)) is not None:
        return (found,)
    if len(side) == 1:
        return (Arg(spec.index, "eq", next(iter(side))),)
    return (Arg(spec.index, "in", side),)


def comparators(specs: Sequence[ArgSpec], shape: Shape) -> Args:
    """Return the comparators of a shape, or ANY when it allows every call."""
    found = tuple(a for spec, side in zip(specs, shape, strict=True) for a in side_args(spec, side))
    return found or ANY


def covers(shape: Shape, values: Sequence[int | None]) -> bool:
    """Tell whether a tuple lies in a shape; a free value only where the side is free."""
    return all(_side_has(side, value) for side, value in zip(shape, values, strict=True))


def _side_has(side: ShapeSide, value: int | None) -> bool:
    if side is None:
        return True
    if value is None:
        return False
    return value in side


def contains(outer: Shape, inner: Shape) -> bool:
    """Tell whether every call of `inner` is one of `outer`."""
    return all(_side_contains(o, i) for o, i in zip(outer, inner, strict=True))


def _side_contains(outer: ShapeSide, inner: ShapeSide) -> bool:
    outer = _EVERYTHING if outer is None else outer
    inner = _EVERYTHING if inner is None else inner
    if isinstance(inner, frozenset):
        return all(value in outer for value in inner)
    if isinstance(outer, Masked):
        return (
            outer.mask & ~inner.mask == 0
            and inner.value & outer.mask == outer.value
            and not any(x in inner for x in outer.without)
        )
    return False


def intersects(shape: Shape, condition: RiskCondition, specs: Sequence[ArgSpec]) -> bool:
    """Tell whether some call of the shape may meet the condition; one on an argument no rule compares may."""
    place = {spec.index: at for at, spec in enumerate(specs)}
    return all(
        clause.index not in place or _may_hold(shape[place[clause.index]], clause)
        for clause in condition.clauses
    )


def _may_hold(side: ShapeSide, clause: Clause) -> bool:
    if isinstance(side, frozenset):
        return any(clause.holds(value) for value in side)
    side = side or _EVERYTHING
    if clause.op == "in":
        if clause.is_whole:
            return any(value in side for value in clause.values)
        common = side.mask & clause.mask
        return any(one & common == side.value & clause.mask for one in clause.values)
    ones, zeros = side.mask & side.value, side.mask & ~side.value
    if clause.op == "any":
        return clause.mask & ~zeros != 0
    if clause.op == "all":
        return clause.mask & zeros == 0
    return clause.mask & ones == 0


def subtract(shape: Shape, condition: RiskCondition, specs: Sequence[ArgSpec]) -> list[Shape]:
    """Return shapes inside `shape` that together hold (nearly) all of its calls outside the condition.

    narrows: a complement that comparators cannot say is left out; an empty list means that nothing could be
        kept.
    """
    if not intersects(shape, condition, specs):
        return [shape]
    place = {spec.index: at for at, spec in enumerate(specs)}
    kept: list[Shape] = []
    for clause in condition.clauses:
        at = place.get(clause.index)
        if at is not None:
            kept += [(*shape[:at], side, *shape[at + 1 :]) for side in _without(shape[at], clause)]
    return simplify(kept)


def _without(side: ShapeSide, clause: Clause) -> list[ShapeSide]:
    if isinstance(side, frozenset):
        left = frozenset(value for value in side if not clause.holds(value))
        return [left] if left else []
    side = side or _EVERYTHING
    fixed, value = side.mask, side.value
    found: list[ShapeSide] = []
    if clause.op == "any":
        if clause.mask & fixed & value == 0:
            found.append(side.narrowed(clause.mask, 0))
    elif clause.op == "in":
        if clause.is_whole:
            found.append(side.narrowed(0, 0, clause.values))
        elif clause.mask.bit_count() <= _FIELD_BITS:
            found += [
                side.narrowed(clause.mask, field)
                for field in _fields(clause.mask)
                if field not in clause.values and (field ^ value) & fixed & clause.mask == 0
            ]
    else:
        # "all" fails where one of the bits is 0, "none" where one of them is 1
        wanted = 0 if clause.op == "all" else 1
        for bit in _bits(clause.mask):
            if not fixed & bit:
                found.append(side.narrowed(bit, bit if wanted else 0))
            elif bool(value & bit) == bool(wanted):
                return [side]
    return found


def _fields(mask: int) -> Iterator[int]:
    field = mask
    while True:
        yield mask ^ field
        if field == 0:
            return
        field = (field - 1) & mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def simplify(shapes: Iterable[Shape]) -> list[Shape]:
    """Return the shapes in order, without those inside another, sets that differ in one argument joined."""
    found = sorted(set(shapes), key=_order)
    found = [
        s
        for i, s in enumerate(found)
        if not any(_swallows(o, s, j < i) for j, o in enumerate(found) if i != j)
    ]
    while True:
        merged = _join_sets(found)
        if len(merged) == len(found):
            return merged
        found = merged


def _swallows(outer: Shape, inner: Shape, earlier: bool) -> bool:
    # of two shapes that mean the same the earlier stays
    return contains(outer, inner) and (earlier or not contains(inner, outer))


def _join_sets(found: Sequence[Shape]) -> list[Shape]:
    result: list[Shape] = []
    for shape in found:
        for n, other in enumerate(result):
            differ = [at for at, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
            if len(differ) == 1:
                a, b = shape[differ[0]], other[differ[0]]
                if isinstance(a, frozenset) and isinstance(b, frozenset):
                    result[n] = (*other[: differ[0]], a | b, *other[differ[0] + 1 :])
                    break
        else:
            result.append(shape)
    return sorted(result, key=_order)


def _order(shape: Shape) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (0,)
        if s is None
        else (1, s.mask, s.value, *sorted(s.without))
        if isinstance(s, Masked)
        else (2, *sorted(s))
        for s in shape
    )
