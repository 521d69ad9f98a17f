"""One rule as comparisons of whole 64-bit registers, the only ones that libseccomp and its users know.

A comparator of 32 bits becomes a masked one where that means the same; where no such form exists, the note
says which way it errs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from autoprofile.profile import Arg, SeccompRule

__all__ = ["MAX_ALTERNATIVES", "Condition", "Conditions", "conditions_of"]

#: How many AND'ed lists one rule may become before its sets are dropped instead.
MAX_ALTERNATIVES: Final = 512

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
    """Return a rule's alternatives; of two comparators on one argument only one can stay."""
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
        kept = comparators[0]
        if len(comparators) > 1:
            rest = ", ".join(one.op for one in comparators[1:])
            widened.append(f"argument {index}: {rest} dropped, a rule holds one condition an argument")
        sides.append([_whole(kept, widened, narrowed)])
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
    return Conditions(tuple(product(*sides)), tuple(widened), tuple(narrowed))


def _equal(index: int, value: int, width: int | None) -> Condition:
    if width == 32:
        return Condition(index, "masked_eq", value, _U32)
    return Condition(index, "eq", value)


def _whole(one: Arg, widened: list[str], narrowed: list[str]) -> Condition:
    assert isinstance(one.value, int)
    if one.op == "masked_eq":
        return Condition(one.index, "masked_eq", one.value, one.mask)
    if one.width == 32:
        dirty = f"argument {one.index}: {one.op} compares 64 bits where the kernel reads 32"
        if one.op in {"lt", "le"}:
            narrowed.append(f"{dirty}: a dirty upper half no longer passes")
        else:
            widened.append(f"{dirty}: a dirty upper half always passes")
    return Condition(one.index, one.op, one.value)
