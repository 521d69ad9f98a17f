"""Profile → decisions: for every arch and number, the cases its rules make of the argument words.

A comparator on a 64-bit argument becomes constraints on its two 32-bit halves, since classic BPF sees nothing
wider. Nothing is widened or narrowed here: what cannot match is dropped, what always matches ends the list.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import display_name, syscall_nr
from autoprofile.filter.opcodes import ARGS_OFFSET
from autoprofile.filter.ranges import FULL32, FULL64, Ranges, intersect, least_masked, normal, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.profile import Action, Arg, Profile, SeccompRule

__all__ = [
    "ANY_WORD",
    "Call",
    "Case",
    "Decision",
    "WordSet",
    "alternatives_of",
    "case_of",
    "decision_of",
    "lower_arch",
    "narrow",
    "word_offset",
]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_FEW = 64  # numbers worth testing one by one against a mask


class WordSet(NamedTuple):
    """What one 32-bit word may be: in these ranges, and equal to `value` under `mask`."""

    ranges: Ranges
    mask: int = 0
    value: int = 0


ANY_WORD = WordSet(FULL32)

# (high half, low half); the alternatives of one argument have disjoint high halves.
Alternative: TypeAlias = tuple[WordSet, WordSet]


class Case(NamedTuple):
    """An answer, and the constraints it needs: by argument index, alternatives of (high half, low half)."""

    ret: int
    args: tuple[tuple[int, tuple[Alternative, ...]], ...]


class Decision(NamedTuple):
    """The first case that matches answers, else `final`."""

    cases: tuple[Case, ...]
    final: int


class Call(NamedTuple):
    """One syscall of one arch, lowered.

    Attributes:
        name: as people know it.
        decision: what to answer.
        weights: how often each case was seen, beside `decision.cases`.
        final_weight: how often the final answer was given where that is a rule's, else 0.
    """

    name: str
    decision: Decision
    weights: tuple[float, ...]
    final_weight: float

    @property
    def weight(self) -> float:
        """Give how often the syscall was seen."""
        return sum(self.weights) + self.final_weight


def word_offset(index: int, *, high: bool) -> int:
    """Give the byte offset of an argument's half in ``struct seccomp_data`` of a little-endian arch."""
    return ARGS_OFFSET + 8 * index + (4 if high else 0)


def narrow(a: WordSet, b: WordSet) -> WordSet | None:
    """Give what satisfies both, in one spelling; None when nothing does."""
    if (a.value ^ b.value) & a.mask & b.mask:
        return None
    ranges, mask, value = intersect(a.ranges, b.ranges), a.mask | b.mask, a.value | b.value
    if mask:
        free = ~mask & _U32
        if free & (free + 1) == 0:  # the mask is all the upper bits: one range
            ranges, mask, value = intersect(ranges, ((value, value | free),)), 0, 0
        elif size(ranges) <= _FEW:
            numbers = (n for low, high in ranges for n in range(low, high + 1))
            ranges, mask, value = normal((n, n) for n in numbers if n & mask == value), 0, 0
        else:
            ranges = tuple(
                r for r in ranges if (n := least_masked(r[0], mask, value)) is not None and n <= r[1]
            )
    return WordSet(ranges, mask, value) if ranges else None


def _ranges_of(arg: Arg) -> Ranges:
    # The 64-bit numbers a comparator without mask accepts.
    value, op = arg.value, arg.op
    if isinstance(value, frozenset):
        return normal((v, v) for v in value)
    if op == "eq":
        return ((value, value),)
    if op == "ne":
        return normal(((0, value - 1), (value + 1, _U64)))
    if op == "lt":
        return normal(((0, value - 1),))
    if op == "le":
        return ((0, value),)
    if op == "gt":
        return normal(((value + 1, _U64),))
    if op == "ge":
        return ((value, _U64),)
    return FULL64


def _halves(ranges: Ranges) -> list[tuple[Ranges, Ranges]]:
    # Cut 64-bit ranges into (high halves, low halves), the high halves disjoint and equal low halves
    # together.
    pieces: list[tuple[int, int, Ranges]] = []
    for low, high in ranges:
        first, last = low >> 32, high >> 32
        if first == last:
            pieces.append((first, last, ((low & _U32, high & _U32),)))
            continue
        if low & _U32:
            pieces.append((first, first, ((low & _U32, _U32),)))
            first += 1
        if high & _U32 != _U32:
            pieces.append((last, last, ((0, high & _U32),)))
            last -= 1
        if first <= last:
            pieces.append((first, last, FULL32))
    by_high: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for first, last, lows in pieces:  # a high half met twice is a single number: ranges are disjoint
        by_high.setdefault((first, last), []).extend(lows)
    by_low: dict[Ranges, list[tuple[int, int]]] = {}
    for span, lows_list in by_high.items():
        by_low.setdefault(normal(lows_list), []).append(span)
    return sorted((normal(spans), lows) for lows, spans in by_low.items())


def alternatives_of(args: Iterable[Arg]) -> tuple[Alternative, ...]:
    """Turn the comparators on one argument, all of which must hold, into alternatives; () when none can hold.

    A comparator whose width is 32 constrains the low half only: the kernel never looks at the other.
    """
    wide, high, low = FULL64, ANY_WORD, ANY_WORD
    for arg in args:
        narrow_arg = arg.width == 32
        if arg.mask is not None:
            assert isinstance(arg.value, int)
            if narrow_arg and arg.value >> 32:
                return ()
            new_low = narrow(low, WordSet(FULL32, arg.mask & _U32, arg.value & _U32))
            new_high = high if narrow_arg else narrow(high, WordSet(FULL32, arg.mask >> 32, arg.value >> 32))
            if new_low is None or new_high is None:
                return ()
            low, high = new_low, new_high
        elif narrow_arg:
            new_low = narrow(low, WordSet(intersect(_ranges_of(arg), FULL32)))
            if new_low is None:
                return ()
            low = new_low
        else:
            wide = intersect(wide, _ranges_of(arg))
    result = []
    for highs, lows in _halves(wide):
        one = narrow(high, WordSet(highs)), narrow(low, WordSet(lows))
        if one[0] is not None and one[1] is not None:
            result.append((one[0], one[1]))
    return tuple(result)


def case_of(rule: SeccompRule) -> Case | None:
    """Lower one rule, whose widths a `Profile` has bound; None when no call can match it."""
    by_index: dict[int, list[Arg]] = {}
    for arg in rule.comparators:
        by_index.setdefault(arg.index, []).append(arg)
    args = []
    for index, several in sorted(by_index.items()):
        alternatives = alternatives_of(several)
        if not alternatives:
            return None
        if alternatives != ((ANY_WORD, ANY_WORD),):
            args.append((index, alternatives))
    return Case(rule.action.ret, tuple(args))


def decision_of(cases: Iterable[tuple[Case, float]], final: int) -> tuple[Decision, list[float], float]:
    """Drop what decides nothing from a list of (case, weight).

    Returns:
        The decision, the weights of its cases, and the weight of its final answer.
    """
    kept: list[Case] = []
    weights: list[float] = []
    places: dict[tuple[object, ...], int] = {}  # by constraints
    final_weight = 0.0
    for case, weight in cases:
        if not case.args:
            final, final_weight = case.ret, final_weight + weight
            break
        at = places.setdefault(case.args, len(kept))
        if at == len(kept):
            kept.append(case)
            weights.append(weight)
        elif kept[at].ret == case.ret:  # otherwise an earlier case with equal constraints always wins
            weights[at] += weight
    while kept and kept[-1].ret == final:
        kept.pop()
        final_weight += weights.pop()
    if len(kept) > 1:
        # Among equal answers the order has no meaning: one spelling, so that equal decisions are shared.
        runs = [0, *accumulate(a.ret != b.ret for a, b in pairwise(kept))]  # answers that changed before
        order = sorted(range(len(kept)), key=lambda i: (runs[i], kept[i].args))
        kept, weights = [kept[i] for i in order], [weights[i] for i in order]
    return Decision(tuple(kept), final), weights, final_weight


def lower_arch(profile: Profile, arch: str, default: Action) -> dict[int, Call]:
    """Lower the rules of one arch; numbers whose decision is always the default are left out.

    Returns:
        The calls by ``seccomp_data.nr`` (x32 numbers include their bit), in order of number.
    """
    result: dict[int, Call] = {}
    for syscall in profile.syscalls(arch):
        nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
        if nr is None or arch_from_audit(ARCHES[arch].audit_arch, nr) != arch:
            # Not a call of this arch: nothing to decide. A number of x86_64 with bit 30 belongs to x32, and
            # one of x32 without it to x86_64; a rule for one must not answer the other's calls.
            continue
        lowered = []
        for rule in profile.rules_for(arch, syscall):  # the most severe action first
            case = case_of(rule)
            if case is not None:
                count = rule.evidence.count if rule.evidence else None
                lowered.append((case, float(count or 0)))
        decision, weights, final_weight = decision_of(lowered, default.ret)
        if decision.cases or decision.final != default.ret:
            result[nr] = Call(display_name(arch, nr), decision, tuple(weights), final_weight)
    return dict(sorted(result.items()))
