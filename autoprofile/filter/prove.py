"""Prove that a filter means its profile, for every arch, number and all six 64-bit arguments, or find a call.

The proof reads the rules themselves and the instructions themselves, never the compiler's own stages, so an
error of the compiler cannot hide in it. Needs z3 (``pip install autoprofile[prove]``), loaded only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, arch_from_audit
from autoprofile.abi.syscalls import display_name, syscall_nr
from autoprofile.errors import AutoprofileError, MachineError
from autoprofile.filter.simulate import most_severe
from autoprofile.filter.symbolic import Symbolic
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoprofile.filter.program import Program
    from autoprofile.profile import Arg, Profile

__all__ = ["Counterexample", "Proof", "prove"]

_U64 = 0xFFFFFFFFFFFFFFFF
_MINUS_ONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Counterexample:
    """A call that the filter answers differently from its profile.

    Attributes:
        arch: the arch's name, or its audit token as text.
        token: the audit token.
        nr: ``seccomp_data.nr``.
        args: the six raw arguments.
        expected: the profile's answer.
        actual: the filter's answer.
    """

    arch: str
    token: int
    nr: int
    args: tuple[int, ...]
    expected: Action
    actual: Action

    def __str__(self) -> str:
        args = ", ".join(f"{a:#x}" for a in self.args)
        name = display_name(self.arch, self.nr)
        return f"{self.arch} {name}({args}): the profile says {self.expected}, the filter {self.actual}"


@dataclass(frozen=True)
class Proof:
    """The result of a proof.

    Attributes:
        counterexample: a call on which profile and filter differ; None when there is none.
        cases: how many classes of calls were shown, each for all its arguments.
        queries: how many of them needed the solver.
    """

    counterexample: Counterexample | None
    cases: int
    queries: int

    @property
    def holds(self) -> bool:
        """Say whether the filter means its profile."""
        return self.counterexample is None


def prove(profile: Profile, program: Program | Sequence[Program], *, default: Action | None = None) -> Proof:
    """Prove that a filter, or several stacked ones, answer every call as `Profile.decide_call` does.

    The calls fall into classes: each number with rules, of each arch, for all arguments; all other numbers of
    an arch at once; all other arches at once. Within a class the instructions are executed symbolically and
    compared with the rules by an SMT solver over bit vectors, which decides exactly.

    Args:
        profile: what the filter should mean.
        program: the filter; several are stacked, as the kernel does: the most severe answer wins.
        default: the default action the filter was compiled with, where it is not the profile's.

    Raises:
        MachineError: z3 is not installed.
    """
    try:
        import z3
    except ImportError as error:
        raise MachineError(
            "proofs need the z3 solver, which is not installed", hint="pip install 'autoprofile[prove]'"
        ) from error
    from autoprofile.filter.program import Program as ProgramType

    programs = (program,) if isinstance(program, ProgramType) else tuple(program)
    return _Prover(z3, profile, programs, profile.default if default is None else default).run()


@dataclass(frozen=True)
class _Class:
    # Calls proven together: concrete numbers where they are integers, else symbols that satisfy `given`.
    token: Any
    nr: Any
    given: tuple[Any, ...]
    expected: Any


class _Prover:
    def __init__(self, z3: Any, profile: Profile, programs: tuple[Program, ...], default: Action) -> None:
        self._z3 = z3
        self._profile = profile
        self._programs = programs
        self._default = default
        self._args = [z3.BitVec(f"arg{i}", 64) for i in range(6)]
        self._ip = z3.BitVec("ip", 64)
        self._token = z3.BitVec("arch", 32)
        self._nr = z3.BitVec("nr", 32)

    def run(self) -> Proof:
        cases = queries = 0
        for case in self._classes():
            cases += 1
            actual = self._answer(case)
            if isinstance(actual, int) and isinstance(case.expected, int) and actual == case.expected:
                continue
            queries += 1
            solver = self._z3.SolverFor("QF_BV")
            solver.add(*case.given, self._word(actual) != self._word(case.expected))
            outcome = solver.check()
            if outcome == self._z3.sat:
                return Proof(self._counterexample(case, solver.model()), cases, queries)
            if outcome != self._z3.unsat:
                raise AutoprofileError(f"the solver gave up: {solver.reason_unknown()}")
        return Proof(None, cases, queries)

    def _word(self, value: Any) -> Any:
        return self._z3.BitVecVal(value, 32) if isinstance(value, int) else value

    def _classes(self) -> Iterator[_Class]:
        z3, nr = self._z3, self._nr
        tokens = dict.fromkeys(ARCHES[arch].audit_arch for arch in self._profile.arch)
        for token in tokens:
            arches = {a.name for a in ARCHES.values() if a.audit_arch == token}
            for arch in sorted(arches):
                listed = arch in self._profile.arch
                known = self._numbers(arch, token) if listed else {}
                for number, syscall in known.items():
                    yield _Class(token, number, (), self._rules(arch, syscall))
                given = [nr != number for number in known]
                if len(arches) > 1:
                    is_x32 = z3.And(nr & X32_SYSCALL_BIT != 0, nr != _MINUS_ONE)
                    given.append(is_x32 if arch == "x32" else z3.Not(is_x32))
                other = self._default if listed else self._profile.bad_arch
                yield _Class(token, nr, tuple(given), other.ret)
        foreign = tuple(self._token != token for token in tokens)
        yield _Class(self._token, nr, foreign, self._profile.bad_arch.ret)

    def _numbers(self, arch: str, token: int) -> dict[int, str | int]:
        found = {}
        for syscall in self._profile.syscalls(arch):
            number = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if number is not None and arch_from_audit(token, number) == arch:
                found[number] = syscall
        return dict(sorted(found.items()))

    def _rules(self, arch: str, syscall: str | int) -> Any:
        # What decide_call says, as a formula: the most severe matching rule.
        answer: Any = self._default.ret
        for rule in sorted(self._profile.rules_for(arch, syscall), key=lambda r: r.action.rank):
            holds = [self._comparator(arg) for arg in rule.comparators]
            if not holds:
                answer = rule.action.ret
            else:
                answer = self._z3.If(
                    self._z3.And(*holds), self._z3.BitVecVal(rule.action.ret, 32), self._word(answer)
                )
        return answer

    def _comparator(self, arg: Arg) -> Any:
        z3 = self._z3
        raw = self._args[arg.index]
        if arg.width == 32:
            raw = raw & 0xFFFFFFFF
        value = arg.value
        if isinstance(value, frozenset):
            return z3.Or(*(raw == one for one in sorted(value)))
        if arg.mask is not None:
            return raw & arg.mask == value & arg.mask
        return {
            "eq": lambda: raw == value,
            "ne": lambda: raw != value,
            "lt": lambda: z3.ULT(raw, value),
            "le": lambda: z3.ULE(raw, value),
            "gt": lambda: z3.UGT(raw, value),
            "ge": lambda: z3.UGE(raw, value),
            "any": lambda: z3.BoolVal(True),
        }[arg.op]()

    def _answer(self, case: _Class) -> Any:
        z3 = self._z3
        words = [case.nr, case.token, z3.Extract(31, 0, self._ip), z3.Extract(63, 32, self._ip)]
        for arg in self._args:
            words += (z3.Extract(31, 0, arg), z3.Extract(63, 32, arg))
        answers = [Symbolic(z3, words).run(program) for program in self._programs]
        result = answers[0]
        for answer in answers[1:]:  # the newest filter first, as the kernel walks them
            result = self._more_severe(answer, result)
        return result

    def _more_severe(self, new: Any, old: Any) -> Any:
        # As seccomp_run_filters(): the older filter's answer replaces only a less severe action.
        if isinstance(new, int) and isinstance(old, int):
            return most_severe((old, new))
        z3, new, old = self._z3, self._word(new), self._word(old)
        return z3.If((old & 0xFFFF0000) < (new & 0xFFFF0000), old, new)

    def _counterexample(self, case: _Class, model: Any) -> Counterexample:
        def number(symbol: Any) -> int:
            value = model.eval(symbol, model_completion=True) if not isinstance(symbol, int) else symbol
            return value if isinstance(value, int) else int(value.as_long())

        token, nr = number(case.token), number(case.nr)
        args = tuple(number(arg) & _U64 for arg in self._args)
        arch = arch_from_audit(token, nr)
        said = self._profile.decide_call(arch, nr, args)
        unmatched = said.rule is None and arch in self._profile.arch
        expected = self._default if unmatched else said.action
        # What is reported is what the simulator and the profile say of the call, not the formulas.
        actual = Action.from_ret(most_severe([p.simulate_ret(token, nr, args) for p in self._programs]))
        if expected == actual:
            raise AutoprofileError(
                f"the proof and the simulator disagree about {arch} {nr} {args}: a fault of autoprofile"
            )
        return Counterexample(arch, token, nr, args, expected, actual)
