"""What is answered to one syscall as a decision diagram over the bits of its arguments, and the way back.

A diagram of rules is exact whatever their operators, widths and overlaps. It comes back as paths: AND'ed
conditions, at most one an argument, no two paths with a call in common. Pure algebra; knows no format.
After Bryant, "Graph-Based Algorithms for Boolean Function Manipulation" (1986), with actions as terminals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.formats.conditions import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from autoprofile.profile import Arg, SeccompRule

__all__ = ["OPPOSITE", "Diagram", "Path", "TooMany"]

#: AND'ed conditions and the number of the answer.
Path = tuple[tuple[Condition, ...], int]

_U64: Final = (1 << 64) - 1
#: What holds where a comparison does not.
OPPOSITE: Final = {"ne": "eq", "eq": "ne", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}
_LAST: Final = (1 << 16, 0, 0)  # after every variable
_TERMINALS: Final = 64  # more answers than a syscall's rules can give: their kinds times a few errors


class TooMany(Exception):  # noqa: N818 - reads as the fact it states; never leaves this package
    """A diagram has more paths than were asked for."""


class Diagram:
    """Answers to the calls of one syscall.

    Args:
        whole: comparators of whole registers that stand for themselves: what every rule says of their
            argument is that or the opposite, such as ``length <= N``; in bits up to 64 conditions.
        low_first: which bits of an argument are asked first; one or the other gives fewer paths.
    """

    def __init__(self, whole: Mapping[int, Arg] | None = None, *, low_first: bool = False) -> None:
        self._whole = dict(whole or {})
        self._low_first = low_first
        # A node is (variable, node where its bit is 0, node where it is 1); below _TERMINALS are answers.
        self._nodes: list[tuple[int, int, int]] = []
        self._known: dict[tuple[int, int, int], int] = {}
        self._compared: dict[Arg, int] = {}

    def rule(self, rule: SeccompRule) -> int:
        """Return the diagram that is 1 for the calls a rule matches and 0 for others."""
        made = 1
        for one in sorted(rule.comparators, key=lambda one: -one.index):
            made = self._both(self._comparator(one), made)
        return made

    def union(self, several: Sequence[int]) -> int:
        """Return the diagram that is 1 where any of several, of 0 and 1, is 1."""
        made = list(several)
        while len(made) > 1:  # halves with halves: every step joins diagrams of about one size
            pairs = zip(made[::2], made[1::2], strict=False)
            joined = [self._combine(one, other, lambda a, b: a | b) for one, other in pairs]
            made = joined + made[len(joined) * 2 :]
        return made[0] if made else 0

    def put(self, where: int, answer: int, rest: int) -> int:
        """Return `rest` with `answer` to the calls of `where`."""
        return self._combine(where, rest, lambda inside, other: answer if inside else other)

    def fill(self, where: int, answer: int, rest: int) -> int:
        """Return `rest` with `answer` to those calls of `where` that it answers with 0."""
        return self._combine(where, rest, lambda inside, other: answer if inside and not other else other)

    def inverse(self, root: int) -> int:
        """Return the diagram that is 1 where another one, of 0 and 1, is 0."""
        return self._combine(root, 0, lambda one, _: 1 - one)

    def those(self, root: int, answer: int) -> int:
        """Return the diagram that is 1 for the calls that get one answer and 0 for others."""
        return self._combine(root, 0, lambda one, _: int(one == answer))

    def without(self, root: int, index: int, better: Callable[[int, int], int]) -> int:
        """Return a diagram that no longer looks at one argument: the better of its answers for each call."""
        memo: dict[int, int] = {}
        pairs: dict[tuple[int, int], int] = {}

        def walk(node: int) -> int:
            if node < _TERMINALS or self._nodes[node - _TERMINALS][0] >> 6 > index:
                return node
            if node not in memo:
                variable, low, high = self._nodes[node - _TERMINALS]
                low, high = walk(low), walk(high)
                if variable >> 6 != index:
                    memo[node] = self._node(variable, low, high)
                else:
                    memo[node] = low if low == high else self._combine(low, high, better, pairs)
            return memo[node]

        return walk(root)

    def answers(self, root: int) -> frozenset[int]:
        """Return every answer that some call gets."""
        return frozenset(node for node in self._reachable(root) if node < _TERMINALS)

    def indexes(self, root: int) -> tuple[int, ...]:
        """Return the arguments that matter."""
        inner = (node for node in self._reachable(root) if node >= _TERMINALS)
        return tuple(sorted({self._nodes[node - _TERMINALS][0] >> 6 for node in inner}))

    def size(self, root: int) -> int:
        """Return how many nodes a diagram has."""
        return len(self._reachable(root))

    def paths(self, root: int, limit: int, *, overlapping: bool = False) -> list[Path]:
        """Return the ways to every answer but 0, no two of them with a call in common.

        Args:
            root: the diagram.
            limit: how many at most.
            overlapping: paths of one answer may have calls in common where that makes them fewer: what holds
                for every value of an argument is said once, without it. Only for one answer beside 0.

        Raises:
            TooMany: there are more than `limit`.
        """
        found: list[Path] = []
        self._paths(root, (), found, limit, overlapping=overlapping)
        return list(dict.fromkeys(found))

    def _paths(
        self, node: int, before: tuple[Condition, ...], found: list[Path], limit: int, *, overlapping: bool
    ) -> None:
        if node == 0:
            return
        if node < _TERMINALS:
            if len(found) >= limit:
                raise TooMany
            found.append((before, node))
            return
        index = self._nodes[node - _TERMINALS][0] >> 6
        always = self.without(node, index, min) if overlapping else 0
        self._paths(always, before, found, limit, overlapping=overlapping)
        for target, mask, value in self._cubes(node, index, limit):
            if always == 0 or self._combine(target, always, lambda one, other: one if other == 0 else 0):
                condition = self._condition(index, mask, value)
                self._paths(target, (*before, condition), found, limit, overlapping=overlapping)

    def _cubes(self, node: int, index: int, limit: int) -> list[tuple[int, int, int]]:
        # What of one argument leads where: (node after it, bits looked at, what they are).
        found: list[tuple[int, int, int]] = []
        stack = [(node, 0, 0)]
        while stack:
            at, mask, value = stack.pop()
            if at == 0:
                continue
            if at < _TERMINALS or self._nodes[at - _TERMINALS][0] >> 6 != index:
                if len(found) >= limit:
                    raise TooMany
                found.append((at, mask, value))
                continue
            variable, low, high = self._nodes[at - _TERMINALS]
            bit = 1 << self._bit(variable)
            stack += [(high, mask | bit, value | bit), (low, mask | bit, value)]
        return found

    def _condition(self, index: int, mask: int, value: int) -> Condition:
        if index in self._whole:
            one = self._whole[index]
            return Condition(index, one.op if value else OPPOSITE[one.op], one.values[0])
        return Condition(index, "eq", value) if mask == _U64 else Condition(index, "masked_eq", value, mask)

    def _comparator(self, one: Arg) -> int:
        if one not in self._compared:
            self._compared[one] = self._of_comparator(one)
        return self._compared[one]

    def _of_comparator(self, one: Arg) -> int:
        if one.op == "any":
            return 1
        if one.index in self._whole:
            low, high = (0, 1) if one == self._whole[one.index] else (1, 0)
            return self._node(one.index << 6, low, high)
        bits = 32 if one.width == 32 else 64
        values = one.values
        if one.op in {"eq", "in"}:
            return self._any_of(one.index, bits, sorted(values))
        if one.op == "ne":
            return self.inverse(self._any_of(one.index, bits, values))
        if one.op == "masked_eq":
            assert one.mask is not None
            return self._cube(one.index, one.mask, values[0])
        # x < N and x <= N differ in what equality answers; the others are their inverses.
        below = self._below(one.index, bits, values[0], int(one.op in {"le", "gt"}))
        return below if one.op in {"lt", "le"} else self.inverse(below)

    def _any_of(self, index: int, bits: int, values: Sequence[int]) -> int:
        # Built from the values directly: sorted by the bits in the order in which they are asked.
        order = range(bits) if self._low_first else range(bits - 1, -1, -1)

        def walk(left: Sequence[int], at: int) -> int:
            if not left or at == bits:
                return int(bool(left))
            bit = order[at]
            low = [value for value in left if not value >> bit & 1]
            high = [value for value in left if value >> bit & 1]
            return self._node(self._variable(index, bit), walk(low, at + 1), walk(high, at + 1))

        return walk(values, 0)

    def _cube(self, index: int, mask: int, value: int) -> int:
        made = 1
        for bit in self._from_last(mask.bit_length()):
            if mask >> bit & 1:
                low, high = (0, made) if value >> bit & 1 else (made, 0)
                made = self._node(self._variable(index, bit), low, high)
        return made

    def _below(self, index: int, bits: int, border: int, equal: int) -> int:
        # Whichever bit is asked first, the highest one that differs decides: two states suffice.
        if not self._low_first:
            made = equal
            for bit in range(bits):
                low, high = (1, made) if border >> bit & 1 else (made, 0)
                made = self._node(self._variable(index, bit), low, high)
            return made
        states = (0, 1)  # what follows where the bits below are not, and are, below the border's
        for bit in reversed(range(bits)):
            no, yes = states
            either = self._node(self._variable(index, bit), yes, no)
            states = (either, yes) if border >> bit & 1 else (no, either)
        return states[equal]

    def _both(self, one: int, other: int) -> int:
        return self._combine(one, other, lambda a, b: a & b)

    def _combine(
        self,
        one: int,
        other: int,
        answer: Callable[[int, int], int],
        memo: dict[tuple[int, int], int] | None = None,
    ) -> int:
        memo = {} if memo is None else memo
        nodes = self._nodes

        def walk(a: int, b: int) -> int:
            if a < _TERMINALS and b < _TERMINALS:
                return answer(a, b)
            made = memo.get((a, b))
            if made is not None:
                return made
            first = nodes[a - _TERMINALS] if a >= _TERMINALS else _LAST
            second = nodes[b - _TERMINALS] if b >= _TERMINALS else _LAST
            variable = min(second[0], first[0])
            low_a, high_a = first[1:] if first[0] == variable else (a, a)
            low_b, high_b = second[1:] if second[0] == variable else (b, b)
            made = memo[a, b] = self._node(variable, walk(low_a, low_b), walk(high_a, high_b))
            return made

        return walk(one, other)

    def _node(self, variable: int, low: int, high: int) -> int:
        if low == high:
            return low
        key = (variable, low, high)
        if key not in self._known:
            self._known[key] = len(self._nodes) + _TERMINALS
            self._nodes.append(key)
        return self._known[key]

    def _reachable(self, root: int) -> set[int]:
        seen: set[int] = set()
        left = [root]
        while left:
            node = left.pop()
            if node not in seen:
                seen.add(node)
                if node >= _TERMINALS:
                    left += self._nodes[node - _TERMINALS][1:]
        return seen

    def _variable(self, index: int, bit: int) -> int:
        return index << 6 | (bit if self._low_first else 63 - bit)

    def _bit(self, variable: int) -> int:
        return variable & 63 if self._low_first else 63 - (variable & 63)

    def _from_last(self, count: int) -> Iterable[int]:
        return reversed(range(count)) if self._low_first else range(count)
