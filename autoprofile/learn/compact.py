"""Write a set of argument tuples as few rules: boxes, each a product of value sets.

In: tuples of one length. Out: boxes whose union is exactly those tuples; nothing is gained or lost.
The result depends on the set alone, not on its order.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.learn.calls import Values

__all__ = ["Box", "Side", "box_order", "boxes"]

Side = frozenset[int] | None
"""The values one argument may take in a box; None means any value."""

Box = tuple[Side, ...]

# Trying every order of the arguments costs n! passes; beyond these sizes only the rotations are tried.
_MAX_PERMUTED_ARGS = 4
_MAX_PERMUTED_TUPLES = 500


def boxes(tuples: Iterable[Values]) -> tuple[Box, ...]:
    """Return few boxes whose union is exactly `tuples`; None in a tuple stands for every value.

    Covering a set of points by the fewest boxes is NP-hard (it contains minimum biclique cover). Merging
    boxes that differ in one argument only, one argument after the other, is lossless by construction and
    gives what a person would write. The order of the arguments matters, so several are tried; the fewest
    boxes win, then the fewest values, then the earlier order. The rejected alternative, an exact cover by
    SAT, changes many rules when one tuple is added, which makes profiles hard to review.
    """
    points = sorted(
        {tuple(None if v is None else frozenset({v}) for v in t) for t in tuples},
        key=box_order,
    )
    if not points:
        return ()
    width = len(points[0])
    if width <= _MAX_PERMUTED_ARGS and len(points) <= _MAX_PERMUTED_TUPLES:
        orders = list(permutations(range(width)))
    else:
        orders = [tuple(range(i, width)) + tuple(range(i)) for i in range(width or 1)]
    best = min((_merge(points, order) for order in orders), key=_cost)
    return tuple(sorted(best, key=box_order))


def _cost(found: Sequence[Box]) -> tuple[int, int]:
    return len(found), sum(len(side) for box in found for side in box if side is not None)


def _merge(points: Sequence[Box], order: Sequence[int]) -> list[Box]:
    current = list(points)
    while True:
        before = len(current)
        for axis in order:
            current = _merge_along(current, axis)
        if len(current) == before:
            return _without_contained(current)


def _merge_along(current: Sequence[Box], axis: int) -> list[Box]:
    # Boxes equal in every other argument are one box with the union on this one: the only rewriting there is.
    merged: dict[Box, Side] = {}
    for box in current:
        rest = (*box[:axis], *box[axis + 1 :])
        side = box[axis]
        if rest not in merged:
            merged[rest] = side
        else:
            held = merged[rest]
            merged[rest] = None if held is None or side is None else held | side
    return [(*rest[:axis], side, *rest[axis:]) for rest, side in merged.items()]


def _without_contained(current: Sequence[Box]) -> list[Box]:
    # A box inside another one adds nothing.
    return [b for b in current if not any(o is not b and o != b and _contains(o, b) for o in current)]


def _contains(outer: Box, inner: Box) -> bool:
    return all(o is None or (i is not None and i <= o) for o, i in zip(outer, inner, strict=True))


def box_order(box: Box) -> tuple[tuple[int, ...], ...]:
    """Sort boxes by their values, argument by argument; "any" comes first."""
    return tuple(() if side is None else tuple(sorted(side)) for side in box)
