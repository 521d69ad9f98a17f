"""What a filter answers as an expression over the words of a call, for the solver (z3) to reason about.

In: programs and words, each a number or an unknown. Out: a number where the known words decide, else a z3
expression. As the kernel's interpreter runs them and reads their answers; z3 is handed in by the prover.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final

from autoprofile.filter import opcodes as op
from autoprofile.filter.simulate import most_severe
from autoprofile.profile import Action
from autoprofile.profile.action import KINDS, MAX_ERRNO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprofile.filter.program import Program

__all__ = ["SymbolicPrograms", "as_expression"]

_KNOWN: Final = frozenset(Action(kind).ret for kind in KINDS)


class SymbolicPrograms:
    """Stacked filters, run on words that need not be known.

    Args:
        z3: the module.
        programs: the filters, the oldest first.
        words: the unknowns that stand for ``struct seccomp_data``, by word.

    Attributes:
        never: by word, values that the conditions of a question rule out: code behind a test for one is not
            run.
    """

    def __init__(self, z3: Any, programs: Sequence[Program], words: Sequence[Any]) -> None:
        self._z3 = z3
        self._programs = programs
        self._words = words
        self.never: dict[int, set[int]] = {}
        # Whether some answer may be none the kernel knows, or is worked out.
        self._has_odd = any(
            code == op.RET_A or (code == op.RET_K and k & 0xFFFF0000 not in _KNOWN)
            for one in programs
            for code, _, _, k in one
        )

    def run(self, words: Sequence[Any]) -> Any:
        """Return what all programs together answer, as the kernel reads it."""
        # Of stacked filters the most severe answer counts; the kernel asks the newest first, and of equally
        # severe answers keeps the one it has (seccomp_run_filters()). Which one counts is found by the words
        # the filters return, what it means only then: an unknown action is less severe than most.
        result = self.run_one(self._programs[-1], words)
        for program in self._programs[-2::-1]:
            older = self.run_one(program, words)
            if isinstance(result, int) and isinstance(older, int):
                result = most_severe((older, result))
            else:
                one, other = as_expression(self._z3, older), as_expression(self._z3, result)
                result = self._z3.If((one & 0xFFFF0000) < (other & 0xFFFF0000), one, other)
        return self._as_read(result) if self._has_odd else result

    def _as_read(self, ret: Any) -> Any:
        # As Action.from_ret, for expressions too.
        if isinstance(ret, int):
            return Action.from_ret(ret).ret
        z3, action, data = self._z3, ret & 0xFFFF0000, ret & 0xFFFF
        capped = z3.If(z3.UGT(data, MAX_ERRNO), z3.BitVecVal(MAX_ERRNO, 32), data)
        read = z3.BitVecVal(Action.KILL_PROCESS.ret, 32)
        for known in sorted(_KNOWN):
            kind = Action.from_ret(known).kind
            means = action | capped if kind == "errno" else ret if kind in {"trap", "trace"} else action
            read = z3.If(action == known, means, read)
        return z3.simplify(read)

    def run_one(self, program: Program, words: Sequence[Any]) -> Any:
        """Return what one program answers, as an int or an expression over the unknown words.

        Jumps only go forward, so one pass in program order meets every instruction after all that lead to it:
        the states that arrive are merged under their conditions. Values that are ints stay ints, and a jump
        they decide is taken, so a known nr leaves little more than its own rules.
        """
        z3 = self._z3
        if isinstance(words[0], int) and isinstance(words[1], int):
            ret = _answer_by_number(program, words[0], words[1])
            if ret is not None:
                return ret
        arriving: dict[int, list[tuple[Any, Any, Any, tuple[Any, ...]]]] = {
            0: [(True, 0, 0, (0,) * op.MEMORY_WORDS)]
        }
        answers: list[tuple[Any, Any]] = []
        for pc, (code, jt, jf, k) in enumerate(program):
            if pc not in arriving:
                continue
            here, a, x, memory = self._merged(arriving.pop(pc))
            if code in (op.RET_K, op.RET_A):
                if code == op.RET_K:
                    a = _constant_read(k)
                answers.append((here, a))
                continue
            if code in op.JUMP_NAMES:
                holds = self._jump(code, a, x if code & 8 else k)
                for target, way in ((pc + 1 + jt, holds), (pc + 1 + jf, self._not(holds))):
                    if way is not False:
                        arriving.setdefault(target, []).append((self._and(here, way), a, x, memory))
                continue
            target = pc + 1
            if code == op.JA:
                target += k
            elif code & 7 == 4:
                if code == op.DIV_X:
                    zero = self._jump(op.JEQ_K, x, 0)
                    if zero is not False:
                        answers.append((self._and(here, zero), 0))
                        here = self._and(here, self._not(zero))
                a = self._arithmetic(code, a, x if code & 8 else k)
            else:
                a, x, memory = self._move(code, k, a, x, memory, words)
            arriving.setdefault(target, []).append((here, a, x, memory))
        result: Any = answers[-1][1]
        for condition, value in reversed(answers[:-1]):
            result = value if condition is True else self._if(condition, value, result)
        return result if isinstance(result, int) else z3.simplify(result)

    def _merged(
        self, states: list[tuple[Any, Any, Any, tuple[Any, ...]]]
    ) -> tuple[Any, Any, Any, tuple[Any, ...]]:
        here, a, x, memory = states[0]
        for there, other_a, other_x, other_memory in states[1:]:
            a, x = self._if(there, other_a, a), self._if(there, other_x, x)
            memory = tuple(self._if(there, new, old) for new, old in zip(other_memory, memory, strict=True))
            here = self._or(here, there)
        return here, a, x, memory

    def _if(self, condition: Any, one: Any, other: Any) -> Any:
        if one is other or (isinstance(one, int) and isinstance(other, int) and one == other):
            return one
        if condition is True:
            return one
        return self._z3.If(condition, as_expression(self._z3, one), as_expression(self._z3, other))

    def _and(self, one: Any, other: Any) -> Any:
        return other if one is True else one if other is True else self._z3.And(one, other)

    def _or(self, one: Any, other: Any) -> Any:
        return True if one is True or other is True else self._z3.Or(one, other)

    def _not(self, one: Any) -> Any:
        return not one if isinstance(one, bool) else self._z3.Not(one)

    def _jump(self, code: int, a: Any, operand: Any) -> Any:
        z3, kind = self._z3, code & 0xF0
        if code == op.JEQ_K and any(a is self._words[at] and operand in self.never[at] for at in self.never):
            return False
        if isinstance(a, int) and isinstance(operand, int):
            return {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: a & operand != 0}[kind]
        compare: Callable[[Any, Any], Any] = {
            0x10: operator.eq,
            0x20: z3.UGT,
            0x30: z3.UGE,
            0x40: lambda a, b: a & b != 0,
        }[kind]
        return compare(as_expression(z3, a), as_expression(z3, operand))

    def _arithmetic(self, code: int, a: Any, operand: Any) -> Any:
        z3 = self._z3
        one, other = as_expression(z3, a), as_expression(z3, operand)
        if code == op.NEG:
            return self._folded(-one)
        operation: Callable[[Any, Any], Any] = {
            0x00: operator.add,
            0x10: operator.sub,
            0x20: operator.mul,
            0x30: z3.UDiv,
            0x40: operator.or_,
            0x50: operator.and_,
            0x60: lambda a, b: a << (b & 31),
            0x70: lambda a, b: z3.LShR(a, b & 31),
            0xA0: operator.xor,
        }[code & 0xF0]
        return self._folded(operation(one, other))

    def _folded(self, expression: Any) -> Any:
        # Over numbers it is one. All else stays as it is: each step would simplify all before it again.
        if any(not self._z3.is_bv_value(one) for one in expression.children()):
            return expression
        return self._z3.simplify(expression).as_long()

    def _move(
        self, code: int, k: int, a: Any, x: Any, memory: tuple[Any, ...], words: Sequence[Any]
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        if code == op.LD_ABS:
            return words[k >> 2], x, memory
        if code in (op.ST, op.STX):
            return a, x, (*memory[:k], a if code == op.ST else x, *memory[k + 1 :])
        new_a = {op.TXA: x, op.LD_IMM: k, op.LD_LEN: op.DATA_SIZE}
        new_x = {op.TAX: a, op.LDX_IMM: k, op.LDX_LEN: op.DATA_SIZE}
        if code == op.LD_MEM:
            return memory[k], x, memory
        if code == op.LDX_MEM:
            return a, memory[k], memory
        return new_a.get(code, a), new_x.get(code, x), memory


def _answer_by_number(program: Program, nr: int, token: int) -> int | None:
    # What is answered where nothing but nr and arch is looked at on the way; None where more is. A shortcut
    # through `run_one`, which gives the same: most numbers need no expressions.
    a, pc = 0, 0
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        if code == op.RET_K:
            return _constant_read(k)
        if code == op.LD_ABS and k in (op.NR_OFFSET, op.ARCH_OFFSET):
            a = nr if k == op.NR_OFFSET else token
        elif code == op.JA:
            pc += k
        elif code in (op.JEQ_K, op.JGT_K, op.JGE_K, op.JSET_K):
            holds = {op.JEQ_K: a == k, op.JGT_K: a > k, op.JGE_K: a >= k, op.JSET_K: a & k != 0}[code]
            pc += jt if holds else jf
        else:
            return None


def _constant_read(ret: int) -> int:
    # What an answer means, but that of an unknown action as it is: see `_run`.
    return Action.from_ret(ret).ret if ret & 0xFFFF0000 in _KNOWN else ret


def as_expression(z3: Any, value: Any) -> Any:
    """Return a 32-bit value as an expression, ints included."""
    return z3.BitVecVal(value, 32) if isinstance(value, int) else value
