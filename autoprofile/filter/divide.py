"""One decision too large for a filter → several that decide it together when they are stacked.

The values of an argument word are cut into spans: each piece decides the calls in its span and allows the
others, and of stacked filters the most severe answer counts. Rules cannot be dealt out: they are OR'ed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from autoprofile.filter.argdag import ArgumentCompiler, Weighted
from autoprofile.filter.graph import Graph
from autoprofile.filter.lower import ANY_WORD, Case, Decision, WordSet, narrow
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["divided"]

_U32 = 0xFFFFFFFF

Word: TypeAlias = tuple[int, bool]  # an argument's index, and whether its high half


def divided(decision: Decision, size: int, most: int) -> Iterator[tuple[Decision, int]]:
    """Cut a decision into ones of at most so many instructions by estimate, and give the estimate with each.

    A piece that cannot be cut any further is given as it is; whether it fits is found out when it is
    assembled.

    Args:
        decision: what to cut.
        size: how many instructions it takes.
        most: how many a piece may take.
    """
    pending: list[tuple[Decision, dict[Word, tuple[int, int]], int]] = [(decision, {}, size)]
    while pending:
        inside, region, size = pending.pop()
        spans = _spans(inside, region, -(-size * 51 // (50 * most)))
        if not spans:
            whole = _outside_allowed(inside, region)
            yield whole, _size(whole)
            continue
        word, parts = spans
        for span in reversed(parts):  # taken from the end
            part, place = _within(inside, word, span), {**region, word: span}
            whole = _outside_allowed(part, place)
            if (now := _size(whole)) <= most:
                yield whole, now
            else:
                pending.append((part, place, max(now, most + 1)))


def _size(decision: Decision) -> int:
    graph = Graph()
    weights = (0.0,) * len(decision.cases)
    root = ArgumentCompiler(graph).build(Weighted(decision, weights, 0.0))
    return len(graph.reachable(root))


def _spans(
    decision: Decision, region: dict[Word, tuple[int, int]], pieces: int
) -> tuple[Word, list[tuple[int, int]]] | None:
    # The word with the most borders inside the region, cut at some of them into so many equal shares.
    borders: dict[Word, set[int]] = {}
    for case in decision.cases:
        for index, alternatives in case.args:
            for halves in alternatives:
                for is_high, word in ((True, halves[0]), (False, halves[1])):
                    low, high = region.get((index, is_high), (0, _U32))
                    ends = {end for first, last in word.ranges for end in (first - 1, last)}
                    borders.setdefault((index, is_high), set()).update(e for e in ends if low <= e < high)
    found = max(borders, key=lambda word: (len(borders[word]), word), default=None)
    if found is None or not borders[found]:
        return None
    inside = sorted(borders[found])
    pieces = min(max(pieces, 2), len(inside) + 1)
    cuts = [inside[len(inside) * n // pieces] for n in range(1, pieces)]
    low, high = region.get(found, (0, _U32))
    starts = [low, *(cut + 1 for cut in cuts)]
    return found, list(zip(starts, [*cuts, high], strict=True))


def _within(decision: Decision, word: Word, span: tuple[int, int]) -> Decision:
    # What is left of a decision where one word lies in a span.
    index, is_high = word
    limit = WordSet((span,))
    cases = []
    for case in decision.cases:
        args = []
        for at, alternatives in case.args:
            if at == index:
                halves = (
                    (narrow(high, limit), low) if is_high else (high, narrow(low, limit))
                    for high, low in alternatives
                )
                alternatives = tuple((h, low) for h, low in halves if h is not None and low is not None)
            args.append((at, alternatives))
        if all(alternatives for _, alternatives in args):
            cases.append(Case(case.ret, tuple(args)))
    return Decision(tuple(cases), decision.final)


def _outside_allowed(decision: Decision, region: dict[Word, tuple[int, int]]) -> Decision:
    # The first case that matches answers, so what lies outside comes first.
    outside = []
    for (index, is_high), (low, high) in sorted(region.items()):
        ranges = tuple(r for r in ((0, low - 1), (high + 1, _U32)) if r[0] <= r[1])
        word = WordSet(ranges)
        if ranges:
            halves = (word, ANY_WORD) if is_high else (ANY_WORD, word)
            outside.append(Case(Action.ALLOW.ret, ((index, (halves,)),)))
    return Decision((*outside, *decision.cases), decision.final)
