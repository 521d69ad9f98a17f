"""Decisions over argument words → graph nodes: which word to load next, and how to tell its values apart.

Every word is loaded once on a path, and again after each AND that has spoilt it in A; equal remaining
decisions are one node, and the order of words and tests follows the weights. The meaning of a decision is
never changed.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.filter import opcodes as op
from autoprofile.filter.lower import ANY_WORD, Case, Decision, WordSet, decision_of, word_offset
from autoprofile.filter.ranges import FULL32, contains, least_masked, size
from autoprofile.filter.tree import Item, Leaf, find, search_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprofile.filter.graph import Graph, NodeId
    from autoprofile.filter.lower import Alternative
    from autoprofile.filter.tree import Tree

__all__ = ["ArgumentCompiler", "Weighted"]

_U32 = 0xFFFFFFFF
_FEW_CASES = 12  # up to so many cases every order of words is tried


class Weighted(NamedTuple):
    """A decision with the weights of its cases and of its final answer."""

    decision: Decision
    weights: tuple[float, ...]
    final_weight: float

    @property
    def total(self) -> float:
        """Give the weight of all answers together."""
        return sum(self.weights) + self.final_weight


# (argument index, whether it is the high half)
Word: TypeAlias = tuple[int, bool]


class ArgumentCompiler:
    """Turns decisions into nodes of one graph, sharing whatever is equal."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._built: dict[Decision, tuple[NodeId, float]] = {}
        self._built_loaded: dict[tuple[Decision, Word], tuple[NodeId, float]] = {}

    def build(self, weighted: Weighted) -> NodeId:
        """Make the node that decides; nothing is assumed to be in A."""
        return self._build(weighted)[0]

    def _build(self, weighted: Weighted) -> tuple[NodeId, float]:
        # The node and its expected number of instructions, the return included.
        decision = weighted.decision
        if not decision.cases:
            return self._graph.ret(decision.final), 1.0
        found = self._built.get(decision)
        if found is None:
            words = _words(decision)
            # A word that has to be the same whatever else holds costs every answer one test, first or last.
            alike = [word for word in words if len({_half(case, word) for case in decision.cases}) == 1]
            if alike:
                words = alike[:1]
            elif len(words) > 3 or len(decision.cases) > _FEW_CASES:
                words = [min(words, key=lambda w: (self._disorder(weighted, w), w))]
            options = [self._by_word(weighted, word) for word in words]
            found = self._built[decision] = min(options, key=lambda o: o[1])
        return found

    def _disorder(self, weighted: Weighted, word: Word) -> tuple[int, int]:
        # What testing this word leaves to do, roughly: remaining words and cases, over its outcomes.
        outcomes = [left.decision for left in _partition(weighted, word)[1]]
        left = sum(len(outcome.cases) * len(_words(outcome)) for outcome in outcomes)
        return left, len(outcomes)

    def _by_word(self, weighted: Weighted, word: Word) -> tuple[NodeId, float]:
        items, children = _partition(weighted, word)
        offset = word_offset(word[0], high=word[1])
        built: dict[object, tuple[NodeId, float]] = {}

        def leaf(outcome: object) -> NodeId:
            assert isinstance(outcome, int)
            built[outcome] = self._loaded(children[outcome], word)
            return built[outcome][0]

        tree = search_tree(items)
        node = self.plant(tree, leaf)
        return self._graph.load(offset, node), _cost(tree, items, built)

    def plant(self, tree: Tree, leaf: Callable[[object], NodeId]) -> NodeId:
        """Make the nodes of a search tree, whose outcomes `leaf` turns into nodes."""
        if isinstance(tree, Leaf):
            return leaf(tree.outcome)
        yes, no = self.plant(tree.yes, leaf), self.plant(tree.no, leaf)
        return self._graph.test(tree.code, tree.k, yes, no)

    def _loaded(self, weighted: Weighted, word: Word) -> tuple[NodeId, float]:
        # As _build, but A holds `word`, of which only masks are left to test.
        pending = [(i, m) for i, case in enumerate(weighted.decision.cases) if (m := _mask_of(case, word))]
        if not pending:
            return self._build(weighted)
        known = self._built_loaded.get((weighted.decision, word))
        if known is None:
            known = self._built_loaded[weighted.decision, word] = self._by_mask(weighted, word, pending)
        return known

    def _by_mask(
        self, weighted: Weighted, word: Word, pending: Sequence[tuple[int, tuple[int, int]]]
    ) -> tuple[NodeId, float]:
        _, (mask, value) = max(pending, key=lambda p: (weighted.weights[p[0]], -p[0]))
        ones, zeros = value, mask & ~value
        if zeros and ones.bit_count() <= 1:
            # None of these bits set?
            hit = self._loaded(_given(weighted, word, _Some(zeros)), word)
            clear = self._loaded(_given(weighted, word, _Bits(zeros, 0)), word)
            return self._graph.test(op.JSET_K, zeros, hit[0], clear[0]), 1 + clear[1]
        if ones.bit_count() <= 2:
            one = ones & -ones
            hit = self._loaded(_given(weighted, word, _Bits(one, one)), word)
            clear = self._loaded(_given(weighted, word, _Bits(one, 0)), word)
            return self._graph.test(op.JSET_K, one, hit[0], clear[0]), 1 + hit[1]
        hit = self._reloaded(_given(weighted, word, _Bits(mask, value)), word)
        clear = self._reloaded(_given(weighted, word, _Not(mask, value)), word)
        return self._graph.mask(mask, self._graph.test(op.JEQ_K, value, hit[0], clear[0])), 2 + hit[1]

    def _reloaded(self, weighted: Weighted, word: Word) -> tuple[NodeId, float]:
        # As _loaded, after an AND: A no longer holds the word.
        node, cost = self._loaded(weighted, word)
        if any(_mask_of(case, word) for case in weighted.decision.cases):
            return self._graph.load(word_offset(word[0], high=word[1]), node), cost + 1
        return node, cost


def _cost(tree: Tree, items: Sequence[Item], built: dict[object, tuple[NodeId, float]]) -> float:
    # Expected instructions from the load of a word on.
    total = sum([item.weight for item in items]) or 1.0
    cost = 1.0
    for item in items:
        if item.weight:
            outcome, depth = find(tree, item.low)
            cost += item.weight / total * (depth + built[outcome][1])
    return cost


def _words(decision: Decision) -> list[Word]:
    # The words the next step may test. Where an argument has several alternatives, the high half comes first:
    # it says which of them is meant.
    found: dict[Word, None] = {}
    high_first = {i for case in decision.cases for i, several in case.args if len(several) > 1}
    for case in decision.cases:
        for index, several in case.args:
            for high, low in several:
                if high != ANY_WORD:
                    found[index, True] = None
                if low != ANY_WORD and index not in high_first:
                    found[index, False] = None
    return sorted(found)


def _half(case: Case, word: Word) -> tuple[WordSet, ...]:
    # What the case says of a word: one set for each alternative, none when it says nothing.
    for index, several in case.args:
        if index == word[0]:
            return tuple(pair[0] if word[1] else pair[1] for pair in several)
    return ()


def _mask_of(case: Case, word: Word) -> tuple[int, int] | None:
    sets = _half(case, word)
    return next(((s.mask, s.value) for s in sets if s.mask), None)


def _partition(weighted: Weighted, word: Word) -> tuple[list[Item], list[Weighted]]:
    # Cut the values of a word where some case changes its mind. Outcomes are numbers: each stands for what is
    # left to decide.
    halves = _halves(weighted, word)
    edges = {0}
    for half in halves:
        for one in half.sets if half else ():
            for low, high in one.ranges:
                edges.add(low)
                edges.add(high + 1)
    edges.discard(_U32 + 1)
    lows = sorted(edges)
    place = {low: at for at, low in enumerate([*lows, _U32 + 1])}
    pieces: list[_Fitting] = [[] for _ in lows]
    for number, half in enumerate(halves):
        if half is None:
            for piece in pieces:
                piece.append((number, []))
            continue
        for which, one in enumerate(half.sets):
            for low, high in one.ranges:
                for piece in pieces[place[low] : place[high + 1]]:
                    if piece and piece[-1][0] == number:
                        piece[-1][1].append(which)
                    else:
                        piece.append((number, [which]))
    items: list[Item] = []
    places: dict[Decision, int] = {}
    sums: list[Weighted] = []
    for low, high, piece in zip(lows, [e - 1 for e in lows[1:]] + [_U32], pieces, strict=True):
        left = _given_range(weighted, word, low, high, halves, piece)
        outcome = places.setdefault(left.decision, len(sums))
        items.append(Item(low, high, outcome, left.total))
        if outcome == len(sums):
            sums.append(left)
        else:
            old = sums[outcome]
            added = tuple(map(add, old.weights, left.weights))
            sums[outcome] = Weighted(left.decision, added, old.final_weight + left.final_weight)
    return _absorb(items, word, [left.decision for left in sums]), sums


def _absorb(items: list[Item], word: Word, decisions: Sequence[Decision]) -> list[Item]:
    # A single number need not be told apart where its neighbour's masks lead to the same decision anyway.
    has_masks = [any(_mask_of(case, word) for case in decision.cases) for decision in decisions]
    if not any(has_masks):
        return items
    result = list(items)
    for index, item in enumerate(items):
        for other in (index - 1, index + 1) if item.low == item.high else ():
            if 0 <= other < len(items):
                outcome = result[other].outcome
                assert isinstance(outcome, int)
                assert isinstance(item.outcome, int)
                if has_masks[outcome] and (
                    _given_number(decisions[outcome], word, item.low) == decisions[item.outcome]
                ):
                    result[index] = Item(item.low, item.high, outcome, item.weight)
                    break
    return result


class _Half(NamedTuple):
    # What a case says of a word: where its argument stands among the case's, its alternatives, what each of
    # them says of the word, and how many numbers that leaves to it.
    at: int
    several: tuple[Alternative, ...]
    sets: tuple[WordSet, ...]
    sizes: tuple[int, ...]


# The cases that a range of a word leaves possible, by number, with those of their alternatives that it does.
_Fitting: TypeAlias = "list[tuple[int, list[int]]]"


def _halves(weighted: Weighted, word: Word) -> list[_Half | None]:
    found: list[_Half | None] = []
    index, high = word
    for case in weighted.decision.cases:
        half = None
        for at, (argument, several) in enumerate(case.args):
            if argument == index:
                sets = tuple(pair[0] if high else pair[1] for pair in several)
                half = _Half(at, several, sets, tuple(size(one.ranges) for one in sets))
                break
        found.append(half)
    return found


def _given_number(decision: Decision, word: Word, number: int) -> Decision:
    # What is left to decide when the word is this number.
    weighted = Weighted(decision, (0.0,) * len(decision.cases), 0.0)
    halves = _halves(weighted, word)
    fitting: _Fitting = []
    for at, half in enumerate(halves):
        which = [i for i, one in enumerate(half.sets) if contains(one.ranges, number)] if half else []
        if half is None or which:
            fitting.append((at, which))
    return _given_range(weighted, word, number, number, halves, fitting).decision


def _given_range(
    weighted: Weighted, word: Word, low: int, high: int, halves: Sequence[_Half | None], fitting: _Fitting
) -> Weighted:
    # What is left to decide when the word lies in one range on which every case is of one mind but for masks.
    kept = []
    # The bits all numbers of the range have in common are known.
    alike = _U32 >> (low ^ high).bit_length() << (low ^ high).bit_length()
    known = _Bits(alike, low & alike)
    for number, which in fitting:
        case, weight, half = weighted.decision.cases[number], weighted.weights[number], halves[number]
        if half is None:
            kept.append((case, weight))
            continue
        left: list[Alternative] = []
        for i in which:
            one, pair = half.sets[i], half.several[i]
            rest = ANY_WORD
            if one.mask:
                masked = _mask_given((one.mask, one.value), known)
                least = least_masked(low, one.mask, one.value)
                if masked is None or least is None or least > high:
                    continue
                rest = WordSet(FULL32, *masked)
            weight *= (high - low + 1) / half.sizes[i] / len(half.several)
            left.append((rest, pair[1]) if word[1] else (pair[0], rest))
        if not left:
            continue
        new = () if left == [(ANY_WORD, ANY_WORD)] else ((word[0], tuple(left)),)
        kept.append((Case(case.ret, case.args[: half.at] + new + case.args[half.at + 1 :]), weight))
    return _again(weighted, kept)


def _again(weighted: Weighted, kept: Sequence[tuple[Case, float]]) -> Weighted:
    decision, weights, final_weight = decision_of(kept, weighted.decision.final)
    if decision.final == weighted.decision.final:
        final_weight += weighted.final_weight
    return Weighted(decision, tuple(weights), final_weight)


class _Bits(NamedTuple):
    # Known: the word equals `value` under `mask`.
    mask: int
    value: int


class _Not(NamedTuple):
    # Known: the word does not equal `value` under `mask`.
    mask: int
    value: int


class _Some(NamedTuple):
    # Known: the word has one of these bits.
    bits: int


def _given(weighted: Weighted, word: Word, fact: _Bits | _Not | _Some) -> Weighted:
    # What is left to decide of the masks on a word, given what a test found.
    kept = []
    for case, weight in zip(weighted.decision.cases, weighted.weights, strict=True):
        masked = _mask_of(case, word)
        if masked is None:
            kept.append((case, weight))
            continue
        left = _mask_given(masked, fact)
        if left is None:
            continue
        rest = WordSet(FULL32, *left)
        args: list[tuple[int, tuple[Alternative, ...]]] = []
        for index, several in case.args:
            if index == word[0]:
                several = tuple((rest, p[1]) if word[1] else (p[0], rest) for p in several)
            if several != ((ANY_WORD, ANY_WORD),):
                args.append((index, several))
        kept.append((Case(case.ret, tuple(args)), weight))
    return _again(weighted, kept)


def _mask_given(masked: tuple[int, int], fact: _Bits | _Not | _Some) -> tuple[int, int] | None:
    # The (mask, value) still to test, (0, 0) when it holds, None when it cannot hold.
    mask, value = masked
    if isinstance(fact, _Bits):
        if (fact.value ^ value) & fact.mask & mask:
            return None
        mask &= ~fact.mask
        return mask, value & mask
    if isinstance(fact, _Some):
        # All of those bits would have to be clear.
        return None if not fact.bits & ~mask and not value & fact.bits else masked
    return None if fact.mask & mask == fact.mask and value & fact.mask == fact.value else masked
