"""Prove that a filter program means exactly what a profile says, for every call there can be (SMT, z3).

In: a profile and instructions, from our compiler or from anyone. Out: a `Proof`, or the call on which the
two disagree. Shares nothing with the compiler: the profile is read as `Profile.decide_call` defines it, the
program as the kernel's interpreter runs it. z3 is optional and imported only when a proof is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, arch_from_audit
from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import CONSTRAINED_KINDS, kernel_value, signature
from autoprofile.abi.syscalls import display_name, syscall_nr, syscall_table
from autoprofile.errors import MachineError
from autoprofile.filter import opcodes as op
from autoprofile.filter.newer import action_for, is_beyond, newest_known
from autoprofile.filter.program import Program
from autoprofile.filter.simulate import most_severe, run_words, words_of_call
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.profile import Arg, Profile

__all__ = ["Counterexample", "Proof", "prove"]

_U32: Final = 0xFFFFFFFF
_WORDS: Final = 16


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A call for which the program and the profile answer differently.

    Args:
        arch: the arch of the call, or its audit token as ``0x…``.
        nr: the number in ``seccomp_data.nr``.
        args: the six raw arguments.
        profile: what the profile answers.
        program: what the program answers.
    """

    arch: str
    nr: int
    args: tuple[int, ...]
    profile: Action
    program: Action

    def __str__(self) -> str:
        name = display_name(self.arch, self.nr)
        known = signature(self.arch, name)
        specs: list[ArgSpec | None] = [None] * 6
        if known is not None:
            specs[: len(known.args)] = known.args
        # What a call does not have is shown only where it is not 0: then it may be what makes the difference.
        count = max([i + 1 for i in range(6) if specs[i] or self.args[i]], default=0) if known else 6
        args = ", ".join(
            f"{value:#x}"
            if spec is None or spec.kind not in CONSTRAINED_KINDS or kernel_value(spec, value) != value
            else decode_value(self.arch, spec, value)
            for value, spec in zip(self.args[:count], specs[:count], strict=True)
        )
        return f"{self.arch} {name}({args}): the profile answers {self.profile}, the program {self.program}"


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of a proof.

    Args:
        counterexample: None when the program means what the profile says.
        calls: how many (arch, nr) were each proven for all arguments.
        queries: how many questions the solver answered; the rest needed none.
    """

    counterexample: Counterexample | None
    calls: int
    queries: int

    @property
    def holds(self) -> bool:
        """Return whether the two agree on every call."""
        return self.counterexample is None


def prove(profile: Profile, program: Program | Sequence[Program], *, beyond: Action | None = None) -> Proof:
    """Prove that `program` answers every call as `profile` does, or find one that it does not.

    Calls with a name or a rule are proven one by one, for all arguments at once; all other numbers of an arch
    together, with nr as an unknown; all other arches together. Answers are compared as the kernel reads them.

    Args:
        profile: what should be meant.
        program: a filter, or several stacked ones, the oldest first, of which the most severe answer counts.
        beyond: what the filter answers, by intent, to numbers newer than the profile that have no rule (see
            `newer`); None for the profile's default.

    Raises:
        MachineError: z3 is not installed.
    """
    prover = _Prover(profile, (program,) if isinstance(program, Program) else tuple(program), beyond)
    queries = calls = 0
    for arch, numbers in prover.cases():
        for nr in numbers:
            calls += 1
            found, asked = prover.one(arch, nr)
            queries += asked
            if found is not None:
                return Proof(found, calls, queries)
    found, asked = prover.rest()
    return Proof(found, calls, queries + asked)


class _Prover:
    def __init__(self, profile: Profile, programs: tuple[Program, ...], beyond: Action | None) -> None:
        try:
            import z3
        except ImportError:
            raise MachineError(
                "proofs need z3, which is not installed", hint="pip install 'autoprofile[prove]'"
            ) from None
        self._z3 = z3
        self._profile = profile
        self._programs = programs
        self._beyond = beyond
        self._words: list[Any] = [z3.BitVec(f"word{i}", 32) for i in range(_WORDS)]
        # By word, values that the conditions of a question rule out: code behind a test for one is not run.
        self._never: dict[int, set[int]] = {}
        self._numbers: dict[str, set[int]] = {}
        for arch in profile.arch:
            known = set(syscall_table(arch).values())
            for syscall in profile.syscalls(arch):
                nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
                if nr is not None:
                    known.add(nr & _U32)
            # A number on the other side of x86_64's gate is no call of this arch: the other's cases have it.
            token = ARCHES[arch].audit_arch
            self._numbers[arch] = {nr for nr in known if arch_from_audit(token, nr) == arch}

    def cases(self) -> Iterable[tuple[str, list[int]]]:
        return [(arch, sorted(numbers)) for arch, numbers in self._numbers.items()]

    def one(self, arch: str, nr: int) -> tuple[Counterexample | None, int]:
        """Prove one (arch, nr) for all arguments."""
        token = ARCHES[arch].audit_arch
        words: list[Any] = [nr, token, *self._words[2:]]
        says = self._says(arch, nr)
        return self._compare(self._run(words), says, words, [])

    def rest(self) -> tuple[Counterexample | None, int]:
        """Prove all numbers without name or rule, and all other arches."""
        z3 = self._z3
        tokens = {ARCHES[arch].audit_arch for arch in self._profile.arch}
        asked = 0
        gate = z3.And((self._words[0] & X32_SYSCALL_BIT) != 0, self._words[0] != _U32)
        for token in sorted(tokens):
            words = [self._words[0], token, *self._words[2:]]
            sides = (False, True) if token == ARCHES["x32"].audit_arch else (False,)
            arches = [arch_from_audit(token, X32_SYSCALL_BIT if is_x32 else 0) for is_x32 in sides]
            # Numbers of their own side of the gate: on the other no call has them.
            self._never = {
                0: {
                    nr
                    for arch in arches
                    for nr in self._numbers.get(arch, ())
                    if arch_from_audit(token, nr) == arch
                }
            }
            runs = self._run(words)
            for is_x32, arch in zip(sides, arches, strict=True):
                conditions = [self._words[0] != nr for nr in sorted(self._numbers.get(arch, ()))]
                if len(sides) > 1:
                    conditions.append(gate if is_x32 else z3.Not(gate))
                found, count = self._compare(runs, self._other(arch), words, conditions)
                asked += count
                if found is not None:
                    return found, asked
        self._never = {1: tokens}
        conditions = [self._words[1] != token for token in sorted(tokens)]
        found, count = self._compare(
            self._run(self._words), self._profile.bad_arch.ret, self._words, conditions
        )
        return found, asked + count

    def _other(self, arch: str) -> Any:
        # The answer to numbers of an arch without name or rule.
        if arch not in self._profile.arch:
            return self._profile.bad_arch.ret
        if self._beyond is None:
            return self._profile.default.ret
        default, beyond = (_value(self._z3, one.ret) for one in (self._profile.default, self._beyond))
        return self._z3.If(self._z3.UGT(self._words[0], newest_known(self._profile, arch)), beyond, default)

    def _says(self, arch: str, nr: int) -> Any:
        # decide_call: the first rule in deciding order that matches, else the default. arch_from_audit makes
        # the arch of a call, so a number of x86_64 with the x32 bit never reaches this.
        z3, answer = self._z3, self._profile.default.ret
        if self._beyond is not None and is_beyond(self._profile, arch, nr):
            return self._beyond.ret
        rules = self._profile.rules_for(arch, nr)
        if not rules or not rules[0].comparators:
            return rules[0].action.ret if rules else answer
        answer = _value(z3, answer)
        for rule in reversed(rules):
            matches = z3.And([self._matches(one) for one in rule.comparators])
            answer = z3.If(matches, _value(z3, rule.action.ret), answer)
        return z3.simplify(answer)

    def _matches(self, one: Arg) -> Any:
        z3 = self._z3
        low, high = self._words[4 + 2 * one.index], self._words[5 + 2 * one.index]
        raw = z3.ZeroExt(32, low) if one.width == 32 else z3.Concat(high, low)
        values = [z3.BitVecVal(value, 64) for value in one.values]
        if one.op in {"eq", "in"}:
            return z3.Or([raw == value for value in values])
        if one.op == "masked_eq":
            return raw & z3.BitVecVal(one.mask, 64) == values[0]
        compare = {"ne": lambda a, b: a != b, "lt": z3.ULT, "le": z3.ULE, "gt": z3.UGT, "ge": z3.UGE}
        return z3.BoolVal(True) if one.op == "any" else compare[one.op](raw, values[0])

    def _compare(
        self, runs: Any, says: Any, words: Sequence[Any], conditions: list[Any]
    ) -> tuple[Counterexample | None, int]:
        z3 = self._z3
        differs = (
            z3.simplify(runs != says)
            if not (isinstance(runs, int) and isinstance(says, int))
            else runs != says
        )
        if differs is False or (not isinstance(differs, bool) and z3.is_false(differs)):
            return None, 0
        solver = z3.SolverFor("QF_BV")
        solver.add(*conditions)
        solver.add(differs if not isinstance(differs, bool) else z3.BoolVal(differs))
        if solver.check() == z3.unsat:
            return None, 1
        model = solver.model()
        concrete = [
            word if isinstance(word, int) else model.eval(word, model_completion=True).as_long()
            for word in words
        ]
        return self._counterexample(concrete), 1

    def _counterexample(self, words: Sequence[int]) -> Counterexample:
        nr, token = words[0], words[1]
        args = tuple(words[4 + 2 * i] | words[5 + 2 * i] << 32 for i in range(6))
        arch = arch_from_audit(token, nr)
        ip = words[2] | words[3] << 32
        ret = most_severe([run_words(one, words_of_call(token, nr, args, ip)) for one in self._programs])
        said = action_for(self._profile, arch, nr, args, self._beyond)
        return Counterexample(arch, nr, args, said, Action.from_ret(ret))

    def _run(self, words: Sequence[Any]) -> Any:
        # Of stacked filters the most severe answer counts; the kernel asks the newest first, and of equally
        # severe answers keeps the one it has (seccomp_run_filters()).
        result = self._run_one(self._programs[-1], words)
        for program in self._programs[-2::-1]:
            older = self._run_one(program, words)
            if isinstance(result, int) and isinstance(older, int):
                result = most_severe((older, result))
            else:
                one, other = _value(self._z3, older), _value(self._z3, result)
                result = self._z3.If((one & 0xFFFF0000) < (other & 0xFFFF0000), one, other)
        return result

    def _run_one(self, program: Program, words: Sequence[Any]) -> Any:
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
                answers.append((here, k if code == op.RET_K else a))
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
        return self._z3.If(condition, _value(self._z3, one), _value(self._z3, other))

    def _and(self, one: Any, other: Any) -> Any:
        return other if one is True else one if other is True else self._z3.And(one, other)

    def _or(self, one: Any, other: Any) -> Any:
        return True if one is True or other is True else self._z3.Or(one, other)

    def _not(self, one: Any) -> Any:
        return not one if isinstance(one, bool) else self._z3.Not(one)

    def _jump(self, code: int, a: Any, operand: Any) -> Any:
        z3, kind = self._z3, code & 0xF0
        if code == op.JEQ_K and any(
            a is self._words[at] and operand in self._never[at] for at in self._never
        ):
            return False
        if isinstance(a, int) and isinstance(operand, int):
            return {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: a & operand != 0}[kind]
        one, other = _value(z3, a), _value(z3, operand)
        return {
            0x10: one == other,
            0x20: z3.UGT(one, other),
            0x30: z3.UGE(one, other),
            0x40: one & other != 0,
        }[kind]

    def _arithmetic(self, code: int, a: Any, operand: Any) -> Any:
        z3 = self._z3
        one, other = _value(z3, a), _value(z3, operand)
        if code == op.NEG:
            return self._folded(-one)
        shift = other & 31
        return self._folded(
            {
                0x00: one + other,
                0x10: one - other,
                0x20: one * other,
                0x30: z3.UDiv(one, other),
                0x40: one | other,
                0x50: one & other,
                0x60: one << shift,
                0x70: z3.LShR(one, shift),
                0xA0: one ^ other,
            }[code & 0xF0]
        )

    def _folded(self, expression: Any) -> Any:
        simple = self._z3.simplify(expression)
        return simple.as_long() if self._z3.is_bv_value(simple) else simple

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
    # through `_run_one`, which gives the same: most numbers need no expressions.
    a, pc = 0, 0
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        if code == op.RET_K:
            return k
        if code == op.LD_ABS and k in (op.NR_OFFSET, op.ARCH_OFFSET):
            a = nr if k == op.NR_OFFSET else token
        elif code == op.JA:
            pc += k
        elif code in (op.JEQ_K, op.JGT_K, op.JGE_K, op.JSET_K):
            holds = {op.JEQ_K: a == k, op.JGT_K: a > k, op.JGE_K: a >= k, op.JSET_K: a & k != 0}[code]
            pc += jt if holds else jf
        else:
            return None


def _value(z3: Any, value: Any) -> Any:
    """Return a 32-bit value as an expression, ints included."""
    return z3.BitVecVal(value, 32) if isinstance(value, int) else value
