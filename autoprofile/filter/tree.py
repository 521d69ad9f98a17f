"""Search trees over a 32-bit word: which tests, in which order, tell apart the ranges that matter.

Takes ranges that cover every number, each with an outcome and a weight; gives a tree of JEQ and JGE tests
that minimises the expected number of tests. Knows nothing of syscalls or arguments.
"""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.filter.opcodes import JEQ_K, JGE_K, JSET_K

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

__all__ = ["Branch", "Item", "Leaf", "Tree", "find", "merged", "search_tree"]


class Item(NamedTuple):
    """Numbers from low to high that lead to one outcome; a weight above 0 is what the tree is optimal for."""

    low: int
    high: int
    outcome: Hashable
    weight: float


class Leaf(NamedTuple):
    """An outcome."""

    outcome: Hashable


class Branch(NamedTuple):
    """A test of the word: `code` is JEQ_K, JGE_K or JSET_K."""

    code: int
    k: int
    yes: Tree
    no: Tree


Tree: TypeAlias = "Leaf | Branch"

_EXACT = 5  # up to so many ranges, every test is tried
_MOST_HOT = 12  # dynamic programming over up to so many ranges with weight: m³/6 states of up to m splits
_MOST_MASKED = 64  # more numbers are not tried as the subsets of a mask
_U32 = 0xFFFFFFFF
_TEST = 1e-9  # price of a test in the program, against one executed test


def merged(items: Sequence[Item]) -> list[Item]:
    """Join neighbours with one outcome."""
    result: list[Item] = []
    for item in items:
        if result and result[-1].outcome == item.outcome:
            last = result[-1]
            result[-1] = Item(last.low, item.high, last.outcome, last.weight + item.weight)
        else:
            result.append(item)
    return result


def search_tree(items: Sequence[Item]) -> Tree:
    """Find the tree with the fewest expected tests; where nothing has weight, a balanced one.

    A test either splits what is left (JGE) or removes a single number (JEQ), after which its neighbours are
    one range if they agree. Up to five ranges every tree is tried. Beyond, dynamic programming runs over the
    ranges with weight; those without only have to be told apart somewhere below. Its states are an interval
    of them and how many of the heaviest numbers in it have been removed, since a removal pays most for the
    heaviest (Anderson, Kannan, Karloff, Ladner: "Thresholds and optimal binary comparison search trees",
    2002). With more than twelve weighty ranges the top of the tree is chosen by weight alone, as full
    programming costs n⁴.

    Args:
        items: in order, without gaps, covering all 32-bit numbers that can occur.
    """
    # Outcomes may be large: numbers in their place are quick to compare and to hash.
    numbers: dict[Hashable, int] = {}
    items = merged(
        [Item(i.low, i.high, numbers.setdefault(i.outcome, len(numbers)), i.weight) for i in items]
    )
    tree = _grow(items)
    for mask, rest in _masks(items):
        option = Branch(JSET_K, mask, yes=_grow(rest), no=Leaf(items[0].outcome))
        if _price(option, items) < _price(tree, items) - 1e-12:
            tree = option
    return _with_outcomes(tree, list(numbers))


def _with_outcomes(tree: Tree, outcomes: Sequence[Hashable]) -> Tree:
    if isinstance(tree, Leaf):
        assert isinstance(tree.outcome, int)
        return Leaf(outcomes[tree.outcome])
    yes, no = _with_outcomes(tree.yes, outcomes), _with_outcomes(tree.no, outcomes)
    return Branch(tree.code, tree.k, yes, no)


def _masks(items: list[Item]) -> Iterator[tuple[int, list[Item]]]:
    # Flags leave sets like {0, 1, 0x80, 0x81}: all numbers without bits outside a mask. One JSET tells them
    # from the others. Gives the bits to test, and what is left to tell apart when one of them is set.
    outcome = items[0].outcome
    same = [item for item in items if item.outcome == outcome]
    if len(same) < 2 or len(items) > _MOST_MASKED or same[-1].high == _U32:
        return
    points = {0}
    for item in same:
        if item.high - item.low > _MOST_MASKED:
            return
        points.update(range(item.low, item.high + 1))
    free, cube = 0, {0}
    for bit in sorted((p for p in points if p.bit_count() == 1), reverse=True):
        if all(p | bit in points for p in cube):
            free, cube = free | bit, cube | {p | bit for p in cube}
    if len(cube) < 2:
        return
    rest: list[Item] = []
    for item in items:
        if item.outcome != outcome:
            rest.append(item)
            continue
        size = item.high - item.low + 1
        rest += [
            Item(p, p, outcome, item.weight / size) for p in range(item.low, item.high + 1) if p not in cube
        ]
    yield ~free & _U32, merged(rest)


def _price(tree: Tree, items: list[Item]) -> float:
    # Expected tests, then tests in the program.
    def count(node: Tree) -> int:
        return 1 + count(node.yes) + count(node.no) if isinstance(node, Branch) else 0

    expected = sum(item.weight * _mean_depth(tree, item) for item in items)
    return expected + (sum(item.weight for item in items) + 1) * _TEST * count(tree)


def _mean_depth(tree: Tree, item: Item) -> float:
    if item.high - item.low > _MOST_MASKED:
        return float(find(tree, item.high)[1])
    depths = [find(tree, number)[1] for number in range(item.low, item.high + 1)]
    return sum(depths) / len(depths)


def find(tree: Tree, number: int) -> tuple[Hashable, int]:
    """Follow the tree for one number; give its outcome and how many tests that takes."""
    depth = 0
    while isinstance(tree, Branch):
        if tree.code == JEQ_K:
            holds = number == tree.k
        else:
            holds = number >= tree.k if tree.code == JGE_K else number & tree.k != 0
        tree, depth = (tree.yes if holds else tree.no), depth + 1
    return tree.outcome, depth


def _grow(items: list[Item]) -> Tree:
    if len(items) == 1:
        return Leaf(items[0].outcome)
    if len(items) <= _EXACT:
        return _exact(items, {})[1]
    hot = [i for i, item in enumerate(items) if item.weight > 0]
    if not hot:
        return _split(items, len(items) // 2)
    if len(hot) <= _MOST_HOT:
        return _Planner(items, hot).realise()
    weight = sum(items[i].weight for i in hot)
    heaviest = max(hot, key=lambda i: (items[i].weight if items[i].low == items[i].high else 0.0, -i))
    if items[heaviest].low == items[heaviest].high and items[heaviest].weight >= weight / 4:
        return _remove(items, heaviest)
    # The first split behind which at most half of the weight lies, or the one before it: the more even one.
    passed = list(accumulate(item.weight for item in items))
    at = next(i for i, so_far in enumerate(passed) if so_far >= weight / 2) + 1
    if at == len(items) or (
        at > 1 and weight - passed[at - 2] - passed[at - 2] < 2 * passed[at - 1] - weight
    ):
        at -= 1
    return _split(items, at)


def _split(items: list[Item], at: int) -> Branch:
    return Branch(JGE_K, items[at].low, yes=_grow(items[at:]), no=_grow(items[:at]))


def _without(items: list[Item], at: int) -> list[Item]:
    # The number at `at` can no longer occur, so its neighbours touch.
    if 0 < at < len(items) - 1 and items[at - 1].outcome == items[at + 1].outcome:
        return [*items[: at - 1], *merged((items[at - 1], items[at + 1])), *items[at + 2 :]]
    return [*items[:at], *items[at + 1 :]]


def _remove(items: list[Item], at: int) -> Branch:
    return Branch(JEQ_K, items[at].low, yes=Leaf(items[at].outcome), no=_grow(_without(items, at)))


def _exact(items: list[Item], known: dict[tuple[Item, ...], tuple[float, Tree]]) -> tuple[float, Tree]:
    # The cheapest of all trees, and its cost: expected tests, then tests in the program.
    size = len(items)
    if size == 1:
        return 0.0, Leaf(items[0].outcome)
    first, second = items[0], items[1]
    if size == 2:
        low, high = Leaf(first.outcome), Leaf(second.outcome)
        cost = _TEST + first.weight + second.weight
        if first.low == first.high:
            return cost, Branch(JEQ_K, first.low, low, high)
        return cost, Branch(JEQ_K if second.low == second.high else JGE_K, second.low, high, low)
    if size == 3 and second.low == second.high and first.outcome == items[2].outcome:
        tree: Tree = Branch(JEQ_K, second.low, Leaf(second.outcome), Leaf(first.outcome))
        return _TEST + first.weight + second.weight + items[2].weight, tree
    key = tuple(items)
    found = known.get(key)
    if found is not None:
        return found
    best = float("inf")
    for at, item in enumerate(items):
        if item.low == item.high:
            cost, no = _exact(_without(items, at), known)
            if cost < best:
                best, tree = cost, Branch(JEQ_K, item.low, Leaf(item.outcome), no)
        if at:
            cost, no = _exact(items[:at], known)
            if cost < best:
                more, yes = _exact(items[at:], known)
                if cost + more < best:
                    best, tree = cost + more, Branch(JGE_K, item.low, yes, no)
    known[key] = found = best + _TEST + sum(item.weight for item in items), tree
    return found


class _Planner:
    # Dynamic programming over the ranges with weight. A state (i, j, h) means: of the hot ranges i to j-1,
    # the h heaviest single numbers have been removed. What lies between them weighs nothing.

    def __init__(self, items: list[Item], hot: list[int]) -> None:
        self._items = items
        self._hot = [items[at] for at in hot]
        # Whether something without weight lies before each hot range, and behind the last.
        self._gap = [a + 1 < b for a, b in pairwise([-1, *hot, len(items)])]
        self._plan: dict[tuple[int, int, int], tuple[float, int | None]] = {}

    @cached_property
    def _singles(self) -> dict[tuple[int, int], list[int]]:
        order = sorted(
            (i for i, item in enumerate(self._hot) if item.low == item.high),
            key=lambda i: (-self._hot[i].weight, i),
        )
        size = len(self._hot)
        return {(i, j): [x for x in order if i <= x < j] for i in range(size) for j in range(i + 1, size + 1)}

    @cached_property
    def _passed(self) -> list[float]:
        return list(accumulate((item.weight for item in self._hot), initial=0.0))

    def _best(self, i: int, j: int, h: int) -> tuple[float, int | None]:
        # The expected tests of a state, and its first test: a split before that hot range, or None for
        # removing the heaviest number left.
        found = self._plan.get((i, j, h))
        if found is not None:
            return found
        singles = self._singles[i, j]
        left = j - i - h
        gone = set(singles[:h])
        weight = self._passed[j] - self._passed[i]
        for x in gone:
            weight -= self._hot[x].weight
        choice: int | None = None
        if left == 0:
            cost = 0.0
        elif left == 1:
            # One number is told from all others by one test, a range by one for each side where others are.
            cost = weight * (1 if h < len(singles) else self._sides(self._last(i, j, h), i, j))
        else:
            cost = weight + self._best(i, j, h + 1)[0] if h < len(singles) else float("inf")
            # Above 4/9 of the weight removing a number is always best (the paper's upper threshold).
            certain = h < len(singles) and self._hot[singles[h]].weight >= 4 / 9 * weight
            below = 0
            for at in () if certain else range(i + 1, j):
                below += at - 1 in gone
                if below == at - i or h - below == j - at:
                    continue  # one side would be empty
                option = self._best(i, at, below)[0] + weight
                if option < cost and (option := option + self._best(at, j, h - below)[0]) < cost - 1e-12:
                    cost, choice = option, at
        self._plan[i, j, h] = cost, choice
        return cost, choice

    def _last(self, i: int, j: int, h: int) -> int:
        # The one range left when all other numbers of a state have been removed.
        return next(x for x in range(i, j) if x not in self._singles[i, j][:h])

    def _sides(self, x: int, i: int, j: int) -> int:
        before = x != i or (self._gap[i] and (i == 0 or not self._cut_at_upper(i)))
        behind = x != j - 1 or (self._gap[j] and (j == len(self._hot) or self._cut_at_upper(j)))
        return before + behind

    def _cut_at_upper(self, at: int) -> bool:
        # A split between two hot ranges runs along the edge of one that is no single number, the heavier if
        # neither is: that saves a test there. Is it the upper one's?
        lower, upper = self._hot[at - 1], self._hot[at]
        return upper.low != upper.high and (lower.low == lower.high or upper.weight >= lower.weight)

    def realise(self) -> Tree:
        return self._realise(self._items, 0, len(self._hot), 0)

    def _realise(self, items: list[Item], i: int, j: int, h: int) -> Tree:
        left = j - i - h
        if len(items) <= _EXACT or left == 0:
            return _grow(items)
        _, at = self._best(i, j, h)
        singles = self._singles[i, j]
        if at is None and h < len(singles):
            here = _position(items, self._hot[singles[h]])
            if here is None:
                return _grow(items)
            rest = self._realise(_without(items, here), i, j, h + 1)
            return Branch(JEQ_K, items[here].low, Leaf(items[here].outcome), rest)
        if at is None:
            here = _position(items, self._hot[self._last(i, j, h)])
            return _grow(items) if here is None else _split(items, here or 1)
        cut = self._cut(items, at)
        if cut is None:
            return _grow(items)
        below = sum(x < at for x in singles[:h])
        yes = self._realise(items[cut:], at, j, h - below)
        no = self._realise(items[:cut], i, at, below)
        return Branch(JGE_K, items[cut].low, yes, no)

    def _cut(self, items: list[Item], at: int) -> int | None:
        # Where to split between two hot ranges; in the middle of what lies between two single numbers.
        first, last = self._edge(items, at - 1, -1), self._edge(items, at, 1)
        if first is None or last is None or first >= last:
            return None
        if self._cut_at_upper(at):
            return last
        if items[first].low != items[first].high:
            return first + 1
        return (first + 1 + last) // 2

    def _edge(self, items: list[Item], hot: int, step: int) -> int | None:
        # The nearest hot range still there, from one on in one direction.
        while 0 <= hot < len(self._hot):
            here = _position(items, self._hot[hot])
            if here is not None:
                return here
            hot += step
        return None


def _position(items: list[Item], wanted: Item) -> int | None:
    return next((at for at, item in enumerate(items) if item.low == wanted.low and item == wanted), None)
