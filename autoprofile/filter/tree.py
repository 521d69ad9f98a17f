"""Search trees over a 32-bit word: which tests, in which order, tell apart the ranges that matter.

Takes ranges that cover every number, each with an outcome and a weight; gives a tree of JEQ and JGE tests
that minimises the expected number of tests. Knows nothing of syscalls or arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.filter.opcodes import JEQ_K, JGE_K

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Branch", "Item", "Leaf", "Tree", "find", "merged", "search_tree"]


class Item(NamedTuple):
    """Numbers from low to high that lead to one outcome."""

    low: int
    high: int
    outcome: Hashable
    weight: float


class Leaf(NamedTuple):
    """An outcome."""

    outcome: Hashable


class Branch(NamedTuple):
    """A test of the word: `code` is JEQ_K or JGE_K."""

    code: int
    k: int
    yes: Tree
    no: Tree


Tree: TypeAlias = "Leaf | Branch"

_EXACT = 6  # up to so many ranges, every test is tried
_WINDOW = 2  # beyond, splits this close to the middle of the weight
_TEST = 1e-6  # price of a test in the program, against one executed test of the whole weight


def merged(items: list[Item]) -> tuple[Item, ...]:
    """Join neighbours with one outcome."""
    result: list[Item] = []
    for item in items:
        if result and result[-1].outcome == item.outcome:
            last = result[-1]
            result[-1] = Item(last.low, item.high, last.outcome, last.weight + item.weight)
        else:
            result.append(item)
    return tuple(result)


def search_tree(items: list[Item]) -> Tree:
    """Find the tree with the fewest expected tests.

    Dynamic programming over what is left to tell apart: a state is the list of ranges that can still occur. A
    test is either a split (JGE) or the removal of a single number (JEQ), after which its neighbours are one
    range if they agree: the number can no longer occur between them. Up to six ranges every test is tried.
    Beyond, the number of states grows like n⁴, so only removals of the two heaviest numbers and splits near
    the middle of the weight are tried: the weight-balanced rule is at most about a test from the optimum for
    trees of splits, and removals pay only for heavy numbers (Anderson et al., "Binary search trees of two-way
    comparisons").

    Args:
        items: in order, without gaps, covering all 32-bit numbers that can occur.
    """
    total = sum(item.weight for item in items) or 1.0
    # A trace of weight everywhere keeps paths nobody was seen on short, after those that were.
    traced = [
        Item(i.low, i.high, i.outcome, i.weight / total + _TEST * min(i.high - i.low + 1, 4)) for i in items
    ]
    return _solve(merged(traced), {})[1]


def _solve(items: tuple[Item, ...], known: dict[tuple[Item, ...], tuple[float, Tree]]) -> tuple[float, Tree]:
    if len(items) == 1:
        return 0.0, Leaf(items[0].outcome)
    found = known.get(items)
    if found is not None:
        return found
    weight = sum(item.weight for item in items)
    best: tuple[float, Tree] | None = None
    for index, single in _candidates(items, weight):
        if single:
            left_cost = 0.0
            yes: Tree = Leaf(items[index].outcome)
            no_cost, no = _solve(merged([*items[:index], *items[index + 1 :]]), known)
            code, k = JEQ_K, items[index].low
        else:
            left_cost, no = _solve(items[:index], known)
            no_cost, yes = _solve(items[index:], known)
            code, k = JGE_K, items[index].low
        cost = weight + _TEST + left_cost + no_cost
        if best is None or cost < best[0] - 1e-12:
            best = cost, Branch(code, k, yes, no)
    assert best is not None
    known[items] = best
    return best


def _candidates(items: tuple[Item, ...], weight: float) -> list[tuple[int, bool]]:
    # (index, True): remove that single number; (index, False): split before that range.
    count = len(items)
    singles = [i for i, item in enumerate(items) if item.low == item.high]
    if count <= _EXACT:
        return [*((i, True) for i in singles), *((i, False) for i in range(1, count))]
    passed, middle = 0.0, 0
    while middle < count - 1 and passed + items[middle].weight < weight / 2:
        passed += items[middle].weight
        middle += 1
    splits = range(max(1, middle + 1 - _WINDOW), min(count - 1, middle + _WINDOW) + 1)
    singles = sorted(singles, key=lambda i: (-items[i].weight, i))[:2]
    singles = [i for i in singles if items[i].weight >= weight / 8]
    return [*((i, True) for i in singles), *((i, False) for i in splits)]


def find(tree: Tree, number: int) -> tuple[Hashable, int]:
    """Follow the tree for one number; give its outcome and how many tests that takes."""
    depth = 0
    while isinstance(tree, Branch):
        holds = number == tree.k if tree.code == JEQ_K else number >= tree.k
        tree, depth = (tree.yes if holds else tree.no), depth + 1
    return tree.outcome, depth
