"""Change one instruction of a program; tell why a change that no call shows makes no difference.

The explanation shares nothing with the solver: it follows both programs side by side from the changed instruction on,
for everything that the words of a call may be there, and compares the answers at the end of every pair of paths.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoprofile.filter import opcodes as op
from autoprofile.filter.program import Program, SockFilter
from autoprofile.profile import Action

from .paths import U32, State, Word, assume, steps

_SWAPPED = {op.JEQ_K: op.JGT_K, op.JGT_K: op.JGE_K, op.JGE_K: op.JEQ_K, op.JSET_K: op.JEQ_K}


def mutants(program: Program) -> Iterator[tuple[int, SockFilter]]:
    """Yield (index, changed instruction): every instruction with one thing changed, in several ways."""
    for index, one in enumerate(program):
        if one.code in op.JUMP_NAMES:
            yield index, one._replace(jt=one.jf, jf=one.jt)
            yield index, one._replace(k=one.k ^ 1)
            yield index, one._replace(k=one.k ^ 1 << 31)
            yield index, one._replace(code=_SWAPPED[one.code])
            if one.jt < 255:
                yield index, one._replace(jt=one.jt + 1)
            if one.jf < 255:
                yield index, one._replace(jf=one.jf + 1)
        elif one.code == op.LD_ABS:
            yield index, one._replace(k=(one.k + 4) % op.DATA_SIZE)
        elif one.code == op.RET_K:
            yield index, one._replace(k=Action.LOG.ret if one.k != Action.LOG.ret else Action.ALLOW.ret)
        elif one.code == op.JA:
            yield index, one._replace(k=one.k + 1)
        else:
            yield index, one._replace(k=one.k ^ 2)


def reason_of_equality(program: Program, mutant: Program, index: int) -> str | None:
    """Tell why a mutant answers all calls as the program; None when it does not.

    Either what would show the difference cannot be in A at that place (paths before it have ruled it out), or it goes
    another way to the same answer.
    """
    differs = False
    for state in _states_at(program, index):
        way = _Pair(program, mutant)
        if not way.alike(index, state, index, state):
            return None
        differs |= way.parted
    return "another way to the same answer" if differs else "no value that shows it gets there"


def _states_at(program: Program, index: int) -> list[State]:
    pending: dict[int, list[State]] = {0: [State()]}
    for pc in range(index):
        for state in pending.pop(pc, []):
            for target, after in steps(program, pc, state):
                if _possible(after) and target <= index:
                    pending.setdefault(target, []).append(after)
    found = pending.get(index, [])
    assert len(found) < 5000
    return found


def _possible(state: State) -> bool:
    return all(word.example() is not None for word in state.words.values())


class _Pair:
    # Two programs followed at once. `parted`: whether at some point they stood at different places.

    def __init__(self, one: Program, two: Program) -> None:
        self.one, self.two, self.parted = one, two, False

    def alike(self, a: int, at_a: State, b: int, at_b: State) -> bool:
        a, at_a = _to_decision(self.one, a, at_a)
        b, at_b = _to_decision(self.two, b, at_b)
        first, second = self.one[a], self.two[b]
        if first.code == second.code == op.RET_K:
            self.parted |= a != b
            return first.k == second.k
        if a == b and first == second and (at_a.offset, at_a.mask) == (at_b.offset, at_b.mask):
            return True  # the rest is the same program
        if first.code != op.RET_K:
            ways = [(t, a_, b, at_b) for t, a_ in _branches(self.one, a, at_a)]
            return all(
                self.alike(t, after, b, _with(at_b, after)) for t, after, _, _ in ways if _possible(after)
            )
        return all(
            self.alike(a, _with(at_a, after), t, after)
            for t, after in _branches(self.two, b, at_b)
            if _possible(after)
        )


def _with(state: State, other: State) -> State:
    # What has been learned of the words on the other's way holds for both.
    return State(other.words, state.offset, state.mask)


def _to_decision(program: Program, pc: int, state: State) -> tuple[int, State]:
    while program[pc].code not in (*op.JUMP_NAMES, op.RET_K):
        ((pc, state),) = steps(program, pc, state)
    return pc, state


def _branches(program: Program, pc: int, state: State) -> Iterator[tuple[int, State]]:
    code, jt, jf, k = program[pc]
    if state.mask == U32 or code in (op.JEQ_K, op.JSET_K):
        yield from steps(program, pc, state)
        return
    # An order comparison of a masked word, which only mutants make: value by value.
    word = state.words.get(state.offset, Word())
    value = 0
    while True:
        target = jt if (value >= k if code == op.JGE_K else value > k) else jf
        for after in assume(word, state.mask, op.JEQ_K, value, holds=True):
            yield pc + 1 + target, State({**state.words, state.offset: after}, state.offset, state.mask)
        value = (value - state.mask) & state.mask  # the next value under the mask
        if not value:
            return
