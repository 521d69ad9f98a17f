"""Sets of unsigned numbers as sorted, disjoint, closed ranges: the arithmetic below the argument constraints.

A set is a tuple of (low, high) pairs with gaps between them, so equal sets are equal tuples.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FULL32", "FULL64", "Ranges", "contains", "intersect", "least_masked", "normal", "size"]

Ranges: TypeAlias = tuple[tuple[int, int], ...]

FULL32: Ranges = ((0, (1 << 32) - 1),)
FULL64: Ranges = ((0, (1 << 64) - 1),)


def normal(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Make a set of any pairs: sorted, empty ones dropped, touching ones joined."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if low > high:
            continue
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def intersect(a: Ranges, b: Ranges) -> Ranges:
    """Give the numbers in both sets."""
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            result.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(result)


def contains(a: Ranges, number: int) -> bool:
    """Say whether a number is in the set."""
    at = bisect_right(a, number, key=lambda pair: pair[0]) - 1
    return at >= 0 and number <= a[at][1]


def size(a: Ranges) -> int:
    """Count the numbers in the set."""
    return sum(high - low + 1 for low, high in a)


def least_masked(low: int, mask: int, value: int) -> int | None:
    """Give the least 32-bit number from `low` on that is `value` under `mask`; None when there is none."""
    if low & mask == value:
        return low
    # The answer agrees with low above some bit, has that bit where low has not, and is as small as it can
    # below. The lower that bit, the smaller the answer.
    for bit in range(32):
        one = 1 << bit
        above = ~((one << 1) - 1)
        if low & one or (mask & one and not value & one) or (low ^ value) & mask & above:
            continue
        return (low & above) | one | (value & (one - 1))
    return None
