"""Say a union of rules in few joint forms: value sets instead of one rule for each way out of a risk.

Shapes in (see `learn.shapes`), fewer shapes out that together hold the same calls; only where a field of flag
bits would take a rule for each of its values, those without a name are left out, which the kernel refuses.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from autoprofile.abi.constants import constants
from autoprofile.learn.shapes import Masked, contains, simplify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.learn.shapes import Shape, ShapeSide

__all__ = ["joint_forms"]

_MAX_FLAGS = 4  # beside a field: SOCK_CLOEXEC and SOCK_NONBLOCK; each doubles the values


def joint_forms(
    arch: str, specs: Sequence[ArgSpec], shapes: Sequence[Shape], seen: Sequence[int | None]
) -> list[Shape]:
    """Return the fewest forms found for the calls of `shapes`.

    narrows: values of a field that have no name (socket type 7) are left out where that makes one form of
        many, and so are undefined bits beside it; the kernel answers both with EINVAL.

    Args:
        arch: for the names.
        specs: the arguments that the sides of a shape stand for.
        shapes: what to allow.
        seen: the call that this is about, which stays in.
    """
    best = simplify(shapes)
    for at, spec in enumerate(specs):
        best = _named_values(arch, at, spec, best, seen[at])
    for at in range(len(specs)):
        fewer = _by_value(at, best)
        if len(fewer) < len(best):
            best = fewer
    return best


def _by_value(at: int, shapes: Sequence[Shape]) -> list[Shape]:
    """Return disjoint groups of the values of one argument, each with all that goes with them."""
    sides = [shape[at] for shape in shapes]
    values: set[int] = set()
    for side in sides:
        if not isinstance(side, frozenset):
            return list(shapes)
        values |= side
    groups: dict[tuple[Shape, ...], set[int]] = {}
    for value in sorted(values):
        rests = simplify(
            _with(shape, at, None)
            for shape, side in zip(shapes, sides, strict=True)
            if isinstance(side, frozenset) and value in side
        )
        groups.setdefault(tuple(rests), set()).add(value)
    return [_with(rest, at, frozenset(group)) for rests, group in groups.items() for rest in rests]


def _named_values(
    arch: str, at: int, spec: ArgSpec, shapes: Sequence[Shape], seen: int | None
) -> list[Shape]:
    """Return the shapes with those that differ in the value of one field joined to one with its names."""
    masks = {s.mask for shape in shapes if isinstance(s := shape[at], Masked)}
    if not spec.constants or len(masks) != 1 or 0 in masks:
        return list(shapes)
    (mask,) = masks
    known = {value for value in constants(spec.constants, arch).values() if value >> spec.width == 0}
    flags = [value for value in known if not value & mask and value]
    bases = {value for value in known if not value & ~mask and value}
    if not bases or len(flags) > _MAX_FLAGS:
        return list(shapes)
    sets = [sum(chosen) for n in range(len(flags) + 1) for chosen in combinations(flags, n)]
    fields: dict[Shape, set[int]] = {}
    for shape in shapes:
        if isinstance(side := shape[at], Masked) and not side.without:
            fields.setdefault(_with(shape, at, None), set()).add(side.value)
    result = [s for s in shapes if not isinstance(side := s[at], Masked) or side.without]
    for rest, found in fields.items():
        named = {base | more for base in bases & found for more in sets}
        if seen is not None and seen & mask in found:
            named.add(seen)
        if len(found) == 1 or not named:
            result += [_with(rest, at, Masked(mask, value)) for value in sorted(found)]
        else:
            result.append(_with(rest, at, frozenset(named)))
    return [s for s in result if not any(contains(o, s) for o in result if o != s)]


def _with(shape: Shape, at: int, side: ShapeSide) -> Shape:
    return (*shape[:at], side, *shape[at + 1 :])
