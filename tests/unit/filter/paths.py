"""Find calls that execute given instructions: follow every branch, keep what each word may still be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from autoprofile.filter import opcodes as op
from autoprofile.filter.program import Program

U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Word:
    """What is known of one word on a path."""

    low: int = 0
    high: int = U32
    ones: int = 0
    zeros: int = 0
    not_equal: frozenset[tuple[int, int]] = frozenset()  # (mask, value)
    some: frozenset[int] = frozenset()  # of each mask, some bit is set

    def example(self) -> int | None:
        """Give a number that fits, None if there is none (or it is too well hidden)."""
        if self.ones & self.zeros:
            return None
        tries = {self.low, self.high, self.low + 1}
        for base in list(tries):
            for mask, value in self.not_equal:
                tries |= {
                    base ^ (mask & -mask),
                    base | mask,
                    (base & ~mask) | (value ^ (mask & -mask)),
                    base + 1,
                }
            for mask in self.some:
                bits = mask
                while bits:
                    bit = bits & -bits
                    bits ^= bit
                    tries.add(base | bit)
        for base in sorted(tries | {t + d for t in tries for d in range(-8, 9)} | set(range(40))):
            fitted = (base | self.ones) & ~self.zeros & U32
            for number in (fitted, self._raised(fitted)):
                if number is not None and self.fits(number):
                    return number
        return None

    def _raised(self, number: int) -> int | None:
        # The least number ≥ low with the wanted bits, roughly: raise free bits from the lowest.
        free = ~(self.ones | self.zeros) & U32
        bit = 1
        while number < self.low and bit <= U32:
            if free & bit:
                number |= bit
            bit <<= 1
        return number

    def fits(self, n: int) -> bool:
        """Say whether a number satisfies everything known."""
        return (
            self.low <= n <= self.high
            and n & self.ones == self.ones
            and not n & self.zeros
            and all(n & m != v for m, v in self.not_equal)
            and all(n & m for m in self.some)
        )


@dataclass(frozen=True)
class State:
    """A path's end: words by offset, what A is (offset and mask)."""

    words: dict[int, Word] = field(default_factory=dict)
    offset: int = 0
    mask: int = U32


def calls_for_every_instruction(program: Program) -> dict[int, tuple[int, ...]]:
    """Give for each instruction that can be reached the sixteen words of a call that executes it."""
    found: dict[int, tuple[int, ...]] = {}
    pending: dict[int, list[State]] = {0: [State()]}
    for pc in range(len(program)):
        for state in pending.pop(pc, [])[:24]:
            words = _solve(state)
            if words is None:
                continue
            found.setdefault(pc, words)
            for target, after in steps(program, pc, state):
                pending.setdefault(target, []).append(after)
    return found


def _solve(state: State) -> tuple[int, ...] | None:
    words = [0] * 16
    for offset, word in state.words.items():
        example = word.example()
        if example is None:
            return None
        words[offset >> 2] = example
    return tuple(words)


def steps(program: Program, pc: int, state: State) -> list[tuple[int, State]]:
    """Give where one instruction leads, and what is known there; nothing for a return."""
    code, jt, jf, k = program[pc]
    if code == op.RET_K:
        return []
    if code == op.JA:
        return [(pc + 1 + k, state)]
    if code == op.LD_ABS:
        return [(pc + 1, replace(state, offset=k, mask=U32))]
    if code == op.AND_K:
        return [(pc + 1, replace(state, mask=state.mask & k))]
    return [
        (pc + 1 + target, replace(state, words={**state.words, state.offset: word}))
        for target, holds in ((jt, True), (jf, False))
        for word in assume(state.words.get(state.offset, Word()), state.mask, code, k, holds)
    ]


def assume(word: Word, mask: int, code: int, k: int, holds: bool) -> list[Word]:
    """Give what a word may be, as alternatives, once it is known whether a test of it (under a mask) holds."""
    if code == op.JSET_K:
        k &= mask
        if not holds:
            return [replace(word, zeros=word.zeros | k)]
        if k.bit_count() == 1:
            return [replace(word, ones=word.ones | k)]
        return [replace(word, some=word.some | {k})]
    if code == op.JEQ_K:
        if not holds:
            return [replace(word, not_equal=word.not_equal | {(mask, k)})]
        if mask != U32:
            return [replace(word, ones=word.ones | k, zeros=word.zeros | (mask & ~k))]
        return [replace(word, low=max(word.low, k), high=min(word.high, k))]
    assert mask == U32, "the compiler compares order only on whole words"
    bound = k if code == op.JGE_K else k + 1
    if holds:
        return [replace(word, low=max(word.low, bound))]
    return [replace(word, high=min(word.high, bound - 1))]
