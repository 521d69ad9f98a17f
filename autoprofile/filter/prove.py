"""Prove that a filter program means exactly what a profile says, for every call there can be (SMT, z3).

In: a profile and instructions, from our compiler or from anyone. Out: a `Proof`, or the call on which the
two disagree. Shares nothing with the compiler: the profile is read as `Profile.decide_call` defines it, the
program as the kernel's interpreter runs it. z3 is optional and imported only when a proof is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, arch_from_audit, audit_arch_name
from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import CONSTRAINED_KINDS, kernel_value, signature
from autoprofile.abi.syscalls import display_name, syscall_nr, syscall_table
from autoprofile.errors import AutoprofileError, MachineError
from autoprofile.filter.newer import action_for, is_beyond, newest_known
from autoprofile.filter.program import Program
from autoprofile.filter.simulate import most_severe, run_words, words_of_call
from autoprofile.filter.symbolic import SymbolicPrograms, as_expression
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.profile import Arg, Profile

__all__ = ["Counterexample", "Proof", "ProofUndecided", "prove"]

_U32: Final = 0xFFFFFFFF
_WORDS: Final = 16
_LONGEST_MS: Final = 0xFFFFFFFE  # z3 takes an unsigned int; the value above it means for ever


class ProofUndecided(AutoprofileError):  # noqa: N818 - reads as the fact it states
    """Report that there was no time, or no way, to find out whether a filter means what a profile says."""


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


def prove(
    profile: Profile,
    program: Program | Sequence[Program],
    *,
    beyond: Action | None = None,
    seconds_left: Callable[[], float] | None = None,
) -> Proof:
    """Prove that `program` answers every call as `profile` does, or find one that it does not.

    Calls with a name or a rule are proven one by one, for all arguments at once; all other numbers of an arch
    together, with nr as an unknown; all other arches together. Answers are compared as the kernel reads them:
    without the data it ignores, error numbers capped, an unknown action as kill.

    Args:
        profile: what should be meant.
        program: a filter, or several stacked ones, the oldest first, of which the most severe answer counts.
        beyond: what the filter answers, by intent, to numbers newer than the profile that have no rule (see
            `newer`); None for the profile's default.
        seconds_left: asked before every question for how long the proof may go on; None for ever. Our own
            filters take some milliseconds a question, those of others may multiply arguments.

    Raises:
        MachineError: z3 is not installed.
        ProofUndecided: the time is over, or the solver cannot tell.
        KeyboardInterrupt: Ctrl-C came while the solver was at work.
    """
    programs = (program,) if isinstance(program, Program) else tuple(program)
    prover = _Prover(profile, programs, beyond, seconds_left)
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
    def __init__(
        self,
        profile: Profile,
        programs: tuple[Program, ...],
        beyond: Action | None,
        seconds_left: Callable[[], float] | None,
    ) -> None:
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
        self._seconds_left = seconds_left
        self._words: list[Any] = [z3.BitVec(f"word{i}", 32) for i in range(_WORDS)]
        self._symbolic = SymbolicPrograms(z3, programs, self._words)
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
        self._milliseconds_left((nr, token))
        words: list[Any] = [nr, token, *self._words[2:]]
        says = self._says(arch, nr)
        return self._compare(self._symbolic.run(words), says, words, [])

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
            self._symbolic.never = {
                0: {
                    nr
                    for arch in arches
                    for nr in self._numbers.get(arch, ())
                    if arch_from_audit(token, nr) == arch
                }
            }
            runs = self._symbolic.run(words)
            for is_x32, arch in zip(sides, arches, strict=True):
                conditions = [self._words[0] != nr for nr in sorted(self._numbers.get(arch, ()))]
                if len(sides) > 1:
                    conditions.append(gate if is_x32 else z3.Not(gate))
                found, count = self._compare(runs, self._other(arch), words, conditions)
                asked += count
                if found is not None:
                    return found, asked
        self._symbolic.never = {1: tokens}
        conditions = [self._words[1] != token for token in sorted(tokens)]
        found, count = self._compare(
            self._symbolic.run(self._words), self._profile.bad_arch.ret, self._words, conditions
        )
        return found, asked + count

    def _other(self, arch: str) -> Any:
        # The answer to numbers of an arch without name or rule.
        if arch not in self._profile.arch:
            return self._profile.bad_arch.ret
        if self._beyond is None:
            return self._profile.default.ret
        default, beyond = (as_expression(self._z3, one.ret) for one in (self._profile.default, self._beyond))
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
        answer = as_expression(z3, answer)
        for rule in reversed(rules):
            matches = z3.And([self._matches(one) for one in rule.comparators])
            answer = z3.If(matches, as_expression(z3, rule.action.ret), answer)
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
        solver.set("timeout", self._milliseconds_left(words))
        answer = solver.check()
        if answer == z3.unsat:
            return None, 1
        if answer != z3.sat:
            # z3 takes Ctrl-C for itself while it works.
            if "interrupted" in (why := solver.reason_unknown()):
                raise KeyboardInterrupt
            raise self._undecided(words, "in time" if why in {"timeout", "canceled"} else f"by z3: {why}")
        model = solver.model()
        concrete = [
            word if isinstance(word, int) else model.eval(word, model_completion=True).as_long()
            for word in words
        ]
        return self._counterexample(concrete), 1

    def _milliseconds_left(self, words: Sequence[Any]) -> int:
        if self._seconds_left is None:
            return _LONGEST_MS
        left = self._seconds_left()
        if left <= 0:
            raise self._undecided(words, "in time")
        return int(min(max(1, left * 1000), _LONGEST_MS))

    def _undecided(self, words: Sequence[Any], how: str) -> ProofUndecided:
        nr, token = words[0], words[1]
        if not isinstance(token, int):
            what = "calls of arches that the profile does not list"
        elif not isinstance(nr, int):
            what = f"numbers of {audit_arch_name(token)} without name or rule"
        else:
            arch = arch_from_audit(token, nr)
            what = f"{arch} {display_name(arch, nr)}"
        return ProofUndecided(
            f"neither proven nor refuted: {what} could not be decided {how}",
            hint="multiplication, division and long chains of arithmetic are hard to prove; allow more time",
        )

    def _counterexample(self, words: Sequence[int]) -> Counterexample:
        nr, token = words[0], words[1]
        args = tuple(words[4 + 2 * i] | words[5 + 2 * i] << 32 for i in range(6))
        arch = arch_from_audit(token, nr)
        ip = words[2] | words[3] << 32
        ret = most_severe([run_words(one, words_of_call(token, nr, args, ip)) for one in self._programs])
        said = action_for(self._profile, arch, nr, args, self._beyond)
        return Counterexample(arch, nr, args, said, Action.from_ret(ret))
