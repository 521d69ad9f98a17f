"""One rule as comparisons of whole 64-bit registers, the only ones that libseccomp and its users know.

A comparator of 32 bits becomes a masked one where that means the same, a range becomes the masked blocks that
make it up; where no such form exists, or it grows too long, the note says which way it errs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoprofile.profile import Arg, SeccompRule

__all__ = ["MAX_ALTERNATIVES", "Condition", "Conditions", "conditions_of", "direct_conditions"]

#: How many AND'ed lists one rule may become before its sets are dropped instead.
MAX_ALTERNATIVES: Final = 512
#: How many masked comparisons may stand for the comparators of one argument before it is widened instead.
MAX_BLOCKS: Final = 64

_U32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Condition:
    """Compare one whole register: ``op`` eq, ne, lt, le, gt, ge, or masked_eq with its mask."""

    index: int
    op: str
    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """A rule as alternatives of AND'ed conditions, at most one condition an index.

    Args:
        alternatives: any of them satisfies the rule; one empty alternative means every call.
        widened: why it accepts more than the rule, one sentence each.
        narrowed: why it may accept less.
    """

    alternatives: tuple[tuple[Condition, ...], ...]
    widened: tuple[str, ...] = ()
    narrowed: tuple[str, ...] = ()


def conditions_of(rule: SeccompRule) -> Conditions:
    """Return a rule's alternatives; of two comparators on one argument only one can stay, or their blocks."""
    widened: list[str] = []
    narrowed: list[str] = []
    by_index: dict[int, list[Arg]] = {}
    for one in rule.comparators:
        if one.op != "any":
            by_index.setdefault(one.index, []).append(one)
    sides: list[list[Condition]] = []
    for index, comparators in sorted(by_index.items()):
        sets = [one for one in comparators if one.op in {"eq", "in"}]
        if sets:
            # A set AND anything else on the same argument is the set of the values that satisfy the rest.
            values = sets[0].value if isinstance(sets[0].value, frozenset) else frozenset({sets[0].value})
            left = sorted(v for v in values if all(one.match(v) for one in comparators))
            sides.append([_equal(index, v, sets[0].width) for v in left])
            continue
        if len(comparators) == 1 and (comparators[0].width != 32 or comparators[0].mask is not None):
            sides.append([_whole(comparators[0])])
            continue
        blocks = _blocks(comparators)
        if blocks is not None:
            sides.append([Condition(index, "masked_eq", value, mask) for mask, value in blocks])
            continue
        kept = comparators[0]
        if len(comparators) > 1:
            rest = ", ".join(one.op for one in comparators[1:])
            widened.append(f"argument {index}: {rest} dropped, a rule holds one condition an argument")
        if kept.width == 32 and kept.mask is None:
            dirty = f"argument {index}: {kept.op} compares 64 bits where the kernel reads 32"
            if kept.op in {"lt", "le"}:
                narrowed.append(f"{dirty}: a dirty upper half no longer passes")
            else:
                widened.append(f"{dirty}: a dirty upper half always passes")
        sides.append([_whole(kept)])
    size = 1
    for side in sides:
        size *= len(side)
    if size > MAX_ALTERNATIVES:
        longest = sorted(sides, key=len, reverse=True)
        while size > MAX_ALTERNATIVES and longest:
            gone = longest.pop(0)
            size //= len(gone)
            sides.remove(gone)
            widened.append(
                f"argument {gone[0].index}: its {len(gone)} values dropped, they multiply the rule "
                f"beyond {MAX_ALTERNATIVES} entries"
            )
    # An empty mask is no condition.
    alternatives = (tuple(one for one in some if one.mask != 0) for some in product(*sides))
    return Conditions(tuple(dict.fromkeys(alternatives)), tuple(widened), tuple(narrowed))


def _equal(index: int, value: int, width: int | None) -> Condition:
    if width == 32:
        return Condition(index, "masked_eq", value, _U32)
    return Condition(index, "eq", value)


def _whole(one: Arg) -> Condition:
    assert isinstance(one.value, int)
    return Condition(one.index, one.op, one.value, one.mask)


def _blocks(comparators: Sequence[Arg]) -> list[tuple[int, int]] | None:
    # The AND of all comparators of one argument as a union of (mask, value) pairs: a range is cut into
    # aligned blocks, as an address range is into prefixes. None when that takes more than MAX_BLOCKS pairs,
    # or the widths differ.
    widths = {one.width or 64 for one in comparators}
    if len(widths) > 1:
        return None
    bits = widths.pop()
    full = (1 << bits) - 1
    # Plain borders first: one interval with some values left out.
    low, high, unequal, masks = 0, full, set(), []
    for one in comparators:
        value = one.values[0]
        if one.mask is not None:
            masks.append((one.mask, value))
        elif one.op == "ne":
            unequal.add(value)
        else:
            low = max(low, value + (one.op == "gt")) if one.op in {"gt", "ge"} else low
            high = min(high, value - (one.op == "lt")) if one.op in {"lt", "le"} else high
    pairs: list[tuple[int, int]] = []
    for first, last in _intervals(low, high, sorted(unequal)):
        pairs += _prefixes(first, last, full)
        if len(pairs) > MAX_BLOCKS:
            return None
    for mask, value in masks:
        # Two masked comparisons hold together when they agree on the bits both look at.
        pairs = [(m | mask, v | value) for m, v in pairs if (v ^ value) & m & mask == 0]
    return pairs


def _intervals(low: int, high: int, unequal: Sequence[int]) -> Iterator[tuple[int, int]]:
    for value in unequal:
        if low <= value <= high:
            if low < value:
                yield low, value - 1
            low = value + 1
    if low <= high:
        yield low, high


def _prefixes(first: int, last: int, full: int) -> Iterator[tuple[int, int]]:
    while first <= last:
        # The largest aligned block that begins at `first` and does not pass `last`.
        size = first & -first or full + 1
        while first + size - 1 > last:
            size >>= 1
        yield full & ~(size - 1), first
        first += size


def direct_conditions(rule: SeccompRule) -> list[tuple[Condition, ...]] | None:
    """Return a rule as alternatives of AND'ed conditions, one an argument; None where that needs more.

    Sets multiply out. One empty alternative means every call.
    """
    sides: dict[int, list[Condition]] = {}
    for one in rule.comparators:
        if one.op == "any":
            continue
        made = _conditions(one)
        if made is None or one.index in sides:
            return None
        sides[one.index] = made
    return list(product(*(sides[index] for index in sorted(sides))))


def _conditions(one: Arg) -> list[Condition] | None:
    if one.op in {"eq", "in"}:
        if one.width == 32:
            return [Condition(one.index, "masked_eq", value, _U32) for value in one.values]
        return [Condition(one.index, "eq", value) for value in one.values]
    if one.op == "masked_eq":
        return [Condition(one.index, "masked_eq", one.values[0], one.mask)] if one.mask else None
    return None if one.width == 32 else [Condition(one.index, one.op, one.values[0])]
