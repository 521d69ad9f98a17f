"""Exact algebra of rules: where comparators hold together, where they do not, and a call that proves it.

A region is a tuple of comparators that all hold; the empty tuple is every call. Answers are exact for
comparators of one width on an argument. Where 32- and 64-bit comparators meet on one argument, `is_empty` may
say False for a region without calls; it never says True for a region that has one.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from autoprofile.profile.arg import Arg

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Region", "intersection", "is_empty", "is_subset", "subtract", "subtract_all", "witness"]

Region = tuple[Arg, ...]

# Longer lists of comparators on one argument are not searched for superfluous ones: that takes cubic time.
_MANY: Final = 6

_OPPOSITE: Final = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}


def intersection(one: Region, other: Region) -> Region | None:
    """Return the region where both hold, simplified; None when there is none."""
    return None if _is_clearly_apart(one, other) else _tidy((*one, *other))


def is_empty(region: Region) -> bool:
    """Return whether no call lies in a region."""
    return _tidy(region) is None


def is_subset(inner: Region, outer: Region) -> bool:
    """Return whether every call of `inner` lies in `outer`."""
    return all(_implies(inner, one) for one in outer)


def subtract(region: Region, other: Region) -> list[Region]:
    """Return disjoint regions that together hold every call of `region` outside `other`."""
    if _is_clearly_apart(region, other) or intersection(region, other) is None:
        return [region]
    pieces = []
    held: Region = region
    for one in other:
        for alternative in _negations(one):
            piece = intersection(held, alternative)
            if piece is not None:
                pieces.append(piece)
        both = intersection(held, (one,))
        if both is None:
            break
        held = both
    return pieces


def subtract_all(region: Region, others: Iterable[Region], limit: int) -> list[Region] | None:
    """Return `region` without all of `others`; None when that takes more than `limit` pieces."""
    pieces = [region]
    for other in others:
        pieces = [rest for piece in pieces for rest in subtract(piece, other)]
        if len(pieces) > limit:
            return None
    return pieces


def witness(region: Region) -> tuple[int, int, int, int, int, int] | None:
    """Return the registers of a call in a region, None when none was found."""
    values = [0] * 6
    for index, args in _by_index(region):
        found = _solve(args)
        if found is None:
            return None
        values[index] = found
    return (values[0], values[1], values[2], values[3], values[4], values[5])


def _is_clearly_apart(one: Region, other: Region) -> bool:
    # Most rules of learned profiles are tuples of exact values; telling those apart is quick.
    return any(
        mine.op == "eq" == its.op and mine.index == its.index and mine.width == its.width
        and mine.value != its.value
        for mine in one
        for its in other
    )  # fmt: skip


def _by_index(region: Region) -> list[tuple[int, list[Arg]]]:
    ordered = sorted(set(region), key=lambda one: one.sort_key)
    return [(index, list(args)) for index, args in groupby(ordered, key=lambda one: one.index)]


def _tidy(region: Region) -> Region | None:
    result: list[Arg] = []
    for index, args in _by_index(region):
        if _is_mixed(args):
            if _is_surely_empty(args):
                return None
        elif _solve(args) is None:
            return None
        result += _simplest(index, args) if len(args) > 1 else args
    return tuple(result)


def _simplest(index: int, args: list[Arg]) -> list[Arg]:
    # A comparator that lists its values decides alone: those the others refuse are dropped from it.
    if _is_mixed(args):
        return args
    listing = [one for one in args if one.op in {"eq", "in"}]
    if listing:
        values = [value for value in listing[0].values if all(one.match(value) for one in args)]
        one = listing[0]
        if len(values) == 1:
            return [Arg(index, "eq", values[0], None, one.width)]
        return [Arg(index, "in", values, None, one.width)]
    if len(args) > _MANY:
        return args
    kept = list(args)
    for one in args:
        others = [other for other in kept if other is not one]
        if others and _implies(tuple(others), one):
            kept = others
    return kept


def _implies(region: Region, one: Arg) -> bool:
    mine = [other for other in region if other.index == one.index]
    if one in mine:
        return True
    if any(other.width != one.width for other in mine):
        return False  # errs to "no": the callers then keep more regions than needed
    for other in mine:
        if other.op in {"eq", "in"}:
            return all(one.match(v) for v in other.values if all(m.match(v) for m in mine))
    return all(_solve([*mine, *rest]) is None for rest in _negations(one))


def _negations(one: Arg) -> list[Region]:
    # The calls `one` refuses, as disjoint regions.
    index, width = one.index, one.width
    if one.op == "any":
        return []
    if one.op == "in":
        return [tuple(Arg(index, "ne", value, None, width) for value in one.values)]
    value = one.values[0]
    if one.mask is None:
        return [(Arg(index, _OPPOSITE[one.op], value, None, width),)]
    # (arg & mask) == value fails above or below the block that the mask's leading bits select, or inside it
    # at one of the remaining bits, the first from the top that differs.
    bits = width or 64
    low = bits
    while low and one.mask >> (low - 1) & 1:
        low -= 1
    regions: list[Region] = []
    first, last = value >> low << low, (value >> low << low) + (1 << low) - 1
    if low < bits:
        if first > 0:
            regions.append((Arg(index, "lt", first, None, width),))
        if last < (1 << bits) - 1:
            regions.append((Arg(index, "gt", last, None, width),))
    agreed = ((1 << bits) - 1) >> low << low
    for bit in (1 << at for at in reversed(range(low)) if one.mask >> at & 1):
        mask = agreed | bit
        regions.append((Arg(index, "masked_eq", (value & mask) ^ bit, mask, width),))
        agreed = mask
    return regions


def _is_mixed(args: Iterable[Arg]) -> bool:
    return len({one.width or 64 for one in args}) > 1


def _is_surely_empty(args: list[Arg]) -> bool:
    return any(_solve([one for one in args if (one.width or 64) == width]) is None for width in (32, 64))


def _solve(args: list[Arg]) -> int | None:
    """Return the smallest value that satisfies every comparator of one argument, or None."""
    if _is_mixed(args):
        return _solve_mixed(args)
    values: set[int] | None = None
    low, high = 0, (1 << (args[0].width or 64)) - 1 if args else 0
    mask = fixed = 0
    unequal: set[int] = set()
    for one in args:
        value = one.values[0]
        if one.op in {"eq", "in"}:
            values = set(one.values) if values is None else values & set(one.values)
        elif one.op == "ne":
            unequal.add(value)
        elif one.op == "lt":
            high = min(high, value - 1)
        elif one.op == "le":
            high = min(high, value)
        elif one.op == "gt":
            low = max(low, value + 1)
        elif one.op == "ge":
            low = max(low, value)
        elif one.mask is not None:
            if (fixed ^ value) & mask & one.mask:
                return None
            mask |= one.mask
            fixed |= value
    if values is not None:
        return min((v for v in values if all(one.match(v) for one in args)), default=None)
    at: int | None = low
    while at is not None and at <= high:
        at = _next_masked(at, mask, fixed, high)
        if at is None or at not in unequal:
            return at
        at += 1
    return None


def _next_masked(at: int, mask: int, fixed: int, high: int) -> int | None:
    # The smallest number from `at` on whose bits under `mask` are `fixed`.
    wrong = (at ^ fixed) & mask
    if not wrong:
        return at if at <= high else None
    top = wrong.bit_length() - 1
    if not fixed >> top & 1:
        # A bit has to fall: the number grows at the lowest free zero bit above it.
        top += 1
        while mask >> top & 1 or at >> top & 1:
            top += 1
    found = (at >> top | 1) << top | fixed & ((1 << top) - 1)
    return found if found <= high else None


def _solve_mixed(args: list[Arg]) -> int | None:
    halves = sorted({v & 0xFFFFFFFF for one in args for v in one.interesting_values()})
    tops = sorted({v >> 32 for one in args for v in one.interesting_values()})
    return next(
        (
            top << 32 | low
            for top in tops
            for low in halves
            if all(one.match(top << 32 | low) for one in args)
        ),
        None,
    )
