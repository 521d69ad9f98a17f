"""Search trees over a 32-bit word: which tests, in which order, tell apart the ranges that matter.

Takes ranges that cover every number, each with an outcome and a weight; gives a tree of JEQ and JGE tests
that minimises the expected number of tests. Knows nothing of syscalls or arguments.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from operator import add
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

_EXACT = 4  # up to so many ranges, every test is tried
_MOST_HOT = 48  # dynamic programming over up to so many ranges with weight: some tens of milliseconds
_REMOVED_FROM, _REMOVED_ABOVE = 1 / 4, 4 / 9  # see `_Planner`
_MOST_SURE, _REMOVED_FROM_OF_MANY = (
    24,
    1 / 3,
)  # with more ranges, see there too
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
    one range if they agree. Up to four ranges every tree is tried. Beyond, dynamic programming runs over the
    ranges with weight; those without only have to be told apart somewhere below. Its states are an interval
    of them and how many of the heaviest numbers in it have been removed, since a removal pays most for the
    heaviest (Anderson, Kannan, Karloff, Ladner: "Thresholds and optimal binary comparison search trees",
    2002). With more than 48 weighty ranges, as no learned profile has, the top of the tree is chosen by
    weight alone.

    Args:
        items: in order, without gaps, covering all 32-bit numbers that can occur. Their outcomes are compared
            and hashed a lot.
    """
    items = merged(items)
    tree = _grow(items)
    for mask, rest in _masks(items):
        option = Branch(JSET_K, mask, yes=_grow(rest), no=Leaf(items[0].outcome))
        if _price(option, items) < _price(tree, items) - 1e-12:
            tree = option
    return tree


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
        return _exact(tuple(items), {})
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
    return list(_all_but(tuple(items), at))


def _remove(items: list[Item], at: int) -> Branch:
    return Branch(JEQ_K, items[at].low, yes=Leaf(items[at].outcome), no=_grow(_without(items, at)))


# By the ranges of a state: its cost, and its first test: a split before that range, or the removal of the
# number at ~choice.
_Plan: TypeAlias = "dict[tuple[Item, ...], tuple[float, int]]"


def _exact(items: tuple[Item, ...], known: _Plan) -> Tree:
    # The cheapest of all trees.
    if len(items) == 1:
        return Leaf(items[0].outcome)
    _least(items, known)
    choice = known[items][1]
    if choice < 0:
        gone = items[~choice]
        return Branch(JEQ_K, gone.low, Leaf(gone.outcome), _exact(_all_but(items, ~choice), known))
    return Branch(JGE_K, items[choice].low, _exact(items[choice:], known), _exact(items[:choice], known))


def _least(items: tuple[Item, ...], known: _Plan) -> float:
    # The cost of the cheapest tree: expected tests, then tests in the program.
    if len(items) == 1:
        return 0.0
    found = known.get(items)
    if found is not None:
        return found[0]
    weight = sum([item.weight for item in items])
    best, choice = float("inf"), 0
    for at, (low, high, _, own) in enumerate(items):
        # Behind a removal at least one test follows for all others, but where they are one range then.
        if low == high and (weight - own < best or len(items) <= 3):
            cost = _least(_all_but(items, at), known)
            if cost < best:
                best, choice = cost, ~at
        if at:
            cost = _least(items[:at], known)
            if cost < best:
                cost += _least(items[at:], known)
                if cost < best:
                    best, choice = cost, at
    best += _TEST + weight
    known[items] = best, choice
    return best


def _all_but(items: tuple[Item, ...], at: int) -> tuple[Item, ...]:
    # The number at `at` can no longer occur, so its neighbours touch.
    if 0 < at < len(items) - 1:
        before, behind = items[at - 1], items[at + 1]
        if before.outcome == behind.outcome:
            joined = Item(before.low, behind.high, before.outcome, before.weight + behind.weight)
            return (*items[: at - 1], joined, *items[at + 2 :])
    return items[:at] + items[at + 1 :]


# The expected tests of a state, and its first test: a split before that hot range, or None for removing the
# heaviest number left.
_Step: TypeAlias = "tuple[float, int | None]"


class _Planner:
    # Dynamic programming over the ranges with weight. A state (i, j, h) means: of the hot ranges i to j-1,
    # the h heaviest single numbers have been removed. What lies between them weighs nothing. The paper's
    # thresholds: a number with more than 4/9 of the weight is removed first, one with less than 1/4 never;
    # that leaves few states with h > 0. With many ranges those between 1/4 and 1/3 are taken for too light: a
    # third of the time for at most some tenths of a percent.

    def __init__(self, items: list[Item], hot: list[int]) -> None:
        self._items = items
        self._removed_from = _REMOVED_FROM if len(hot) <= _MOST_SURE else _REMOVED_FROM_OF_MANY
        self._hot = [items[at] for at in hot]
        # Whether something without weight lies before each hot range, and behind the last.
        self._gap = [a + 1 < b for a, b in pairwise([-1, *hot, len(items)])]
        self._passed = list(accumulate((item.weight for item in self._hot), initial=0.0))
        self._removed: dict[tuple[int, int, int], _Step] = {}  # states with h > 0
        # States with h = 0: costs by start and end, by end and start, and first tests.
        size = len(self._hot) + 1
        self._from = [[0.0] * size for _ in range(size)]
        self._to = [[0.0] * size for _ in range(size)]
        self._first: dict[tuple[int, int], int | None] = {}
        self._order: dict[tuple[int, int], list[int]] = {}
        singles = (x for x, item in enumerate(self._hot) if item.low == item.high)
        self._heaviest_first = sorted(singles, key=lambda x: (-self._hot[x].weight, x))
        self._fill()

    def _fill(self) -> None:
        weights = [item.weight for item in self._hot]
        is_single = [item.low == item.high for item in self._hot]
        for j in range(1, len(self._hot) + 1):
            heaviest = -1.0
            to = self._to[j]
            for i in range(j - 1, -1, -1):
                if is_single[i] and weights[i] > heaviest:
                    heaviest = weights[i]
                weight = self._passed[j] - self._passed[i]
                cost, first = float("inf"), None
                if j - i == 1:
                    cost = weight * (1 if is_single[i] else self._sides(i, i, j))
                elif j - i == 2 and is_single[i] and is_single[i + 1]:
                    cost = weight + weight - heaviest  # one after the other
                elif heaviest >= self._removed_from * weight or (j - i == 2 and heaviest >= 0):
                    cost = weight + self._best(i, j, 1)[0]
                if j - i > 1 and heaviest <= _REMOVED_ABOVE * weight:
                    splits = list(map(add, self._from[i][i + 1 : j], to[i + 1 : j]))
                    least = min(splits)
                    if weight + least < cost - 1e-12:
                        cost, first = weight + least, i + 1 + splits.index(least)
                self._from[i][j] = to[i] = cost
                self._first[i, j] = first

    def _singles(self, i: int, j: int) -> list[int]:
        # The single numbers among the hot ranges i to j-1, the heaviest first.
        found = self._order.get((i, j))
        if found is None:
            found = self._order[i, j] = [x for x in self._heaviest_first if i <= x < j]
        return found

    def _best(self, i: int, j: int, h: int) -> _Step:
        if h == 0:
            return self._from[i][j], self._first[i, j]
        found = self._removed.get((i, j, h))
        if found is not None:
            return found
        singles = self._singles(i, j)
        left = j - i - h
        weight = self._passed[j] - self._passed[i]
        for x in singles[:h]:
            weight -= self._hot[x].weight
        cost, first = 0.0, None
        if left == 1:
            # One number is told from all others by one test, a range by one for each side where others are.
            cost = weight * (1 if h < len(singles) else self._sides(self._last(i, j, h), i, j))
        elif left == 2 and h + 1 < len(singles):
            cost = weight + self._hot[singles[h + 1]].weight  # one after the other
        elif left:
            heaviest = self._hot[singles[h]].weight if h < len(singles) else -1.0
            cost = float("inf")
            if heaviest >= self._removed_from * weight or (left == 2 and heaviest >= 0):
                cost = weight + self._best(i, j, h + 1)[0]
            if heaviest <= _REMOVED_ABOVE * weight:
                cost, first = self._split(i, j, h, weight, cost)
        self._removed[i, j, h] = cost, first
        return cost, first

    def _split(self, i: int, j: int, h: int, weight: float, cost: float) -> _Step:
        # The cheapest split, if it costs less than `cost`.
        first = None
        gone = set(self._singles(i, j)[:h])
        start, to, known = self._from[i], self._to[j], self._removed
        below = 0
        for at in range(i + 1, j):
            if at - 1 in gone:
                below += 1
            above = h - below
            if below == at - i or above == j - at:
                continue  # one side would be empty
            # Most states are known: a call for each would be half of the time.
            option = weight
            option += (known.get((i, at, below)) or self._best(i, at, below))[0] if below else start[at]
            if option < cost:
                option += (known.get((at, j, above)) or self._best(at, j, above))[0] if above else to[at]
                if option < cost - 1e-12:
                    cost, first = option, at
        return cost, first

    def _last(self, i: int, j: int, h: int) -> int:
        # The one range left when all other numbers of a state have been removed.
        return next(x for x in range(i, j) if x not in self._singles(i, j)[:h])

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
        at = self._best(i, j, h)[1]
        singles = self._singles(i, j)
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
