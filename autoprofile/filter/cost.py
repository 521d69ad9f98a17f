"""What a filter costs at run time: executed instructions per call, weighted by how often each call was seen.

Takes a profile, whose rules carry counts, and any program (ours or another compiler's of the same rules);
executes the program on calls that the rules allow. Pure: no clock; nanoseconds are measured elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, NamedTuple

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import display_name, syscall_nr
from autoprofile.filter import opcodes as op
from autoprofile.filter.lower import ANY_WORD, case_of
from autoprofile.filter.program import Program, SockFilter
from autoprofile.filter.ranges import contains
from autoprofile.filter.simulate import run_words, words_of_call
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.filter.lower import WordSet
    from autoprofile.profile import Arg, Profile, SeccompRule

__all__ = [
    "CallCost",
    "ExampleCall",
    "FilterCost",
    "example_calls",
    "filter_cost",
    "first_difference",
    "smallest_filter",
    "smallest_length",
]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_MOST_EXAMPLES = 256
_MOST_COMPARED = 32  # calls of each rule that are compared, with those beside them


class ExampleCall(NamedTuple):
    """A call that a rule matches.

    Attributes:
        args: its arguments.
        weight: its part of what was seen of its syscall; the same for all where nothing was measured.
        words: how many 32-bit words of its arguments a filter has to look at to know that the rule, or one
            with the same answer, matches.
    """

    args: tuple[int, ...]
    weight: float
    words: int


@dataclass(frozen=True)
class CallCost:
    """What one syscall costs.

    Attributes:
        arch: its arch.
        nr: its number in ``seccomp_data.nr``.
        name: as people know it.
        count: how often it was seen.
        is_constant: whether Linux ≥ 5.11 answers it from its bitmap, without running the filter.
        instructions: executed instructions of one call, on average over its rules and their values.
        smallest: what it would be if each of these calls had the smallest filter that could check it.
    """

    arch: str
    nr: int
    name: str
    count: int
    is_constant: bool
    instructions: float
    smallest: float


@dataclass(frozen=True)
class FilterCost:
    """What a filter costs.

    Attributes:
        calls: every syscall with rules, the most expensive in total first.
        size: instructions of the filter.
        is_measured: whether counts were there; without, every rule weighs alike.
    """

    calls: tuple[CallCost, ...]
    size: int
    is_measured: bool

    def share(self, call: CallCost) -> float:
        """Give how much of all calls one of `calls` is; all are alike where nothing was measured."""
        total = sum(call.count for call in self.calls) if self.is_measured else len(self.calls)
        return (call.count if self.is_measured else 1) / total if total else 0.0

    def expected(self, *, bitmap: bool = True) -> float:
        """Give the mean number of executed instructions per call.

        Args:
            bitmap: calls the kernel answers from its bitmap count as 0 (Linux ≥ 5.11); False for kernels
                without.
        """
        run = (0.0 if bitmap and call.is_constant else call.instructions for call in self.calls)
        return sum(self.share(call) * n for call, n in zip(self.calls, run, strict=True))

    def smallest(self, *, bitmap: bool = True) -> float:
        """Give `expected` for the impossible filter that is the smallest one for each call."""
        run = (0.0 if bitmap and call.is_constant else call.smallest for call in self.calls)
        return sum(self.share(call) * n for call, n in zip(self.calls, run, strict=True))


def filter_cost(profile: Profile, program: Program) -> FilterCost:
    """Work out what a program costs on the calls its profile was learned from.

    Args:
        profile: the rules and their counts.
        program: a filter of these rules, from any compiler.
    """
    costs = []
    for arch in profile.arch:
        token = ARCHES[arch].audit_arch
        for syscall in sorted(profile.syscalls(arch), key=str):
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if nr is None or arch_from_audit(token, nr) != arch:
                continue
            count = sum(_count(rule) for rule in profile.rules_for(arch, syscall))
            examples = example_calls(profile, arch, syscall)
            executed = _mean(examples, [_executed(program, token, nr, e.args) for e in examples])
            smallest = _mean(examples, [smallest_length(e.words) for e in examples])
            constant = program.is_constant_allow(token, nr)
            costs.append(CallCost(arch, nr, display_name(arch, nr), count, constant, executed, smallest))
    costs.sort(key=lambda c: (c.is_constant, -c.count * c.instructions, -c.instructions, c.arch, c.nr))
    return FilterCost(tuple(costs), len(program), _is_measured(profile))


def example_calls(
    profile: Profile, arch: str, syscall: str | int, *, most: int = _MOST_EXAMPLES
) -> tuple[ExampleCall, ...]:
    """List calls that the rules of a syscall match, with every value of their sets.

    Args:
        profile: the rules.
        arch: one of the profile's arches.
        syscall: one of its syscalls.
        most: how many calls of each rule, spread over its values.
    """
    measured = _is_measured(profile)
    found: list[ExampleCall] = []
    rules = profile.rules_for(arch, syscall)
    for rule in rules:
        matching = list(islice(_matching(rule), _MOST_EXAMPLES))
        if len(matching) > most:
            matching = [matching[at * len(matching) // most] for at in range(most)]
        weight = float(_count(rule)) if measured else 1.0
        for args in matching:
            words = min(
                _words(one, args) for one in rules if one.action == rule.action and one.evaluate(args)
            )
            found.append(ExampleCall(args, weight / len(matching), words))
    if not found:  # rules that no call matches: any call of it will do
        return (ExampleCall((0,) * 6, 1.0, 0),)
    if not any(example.weight for example in found):  # never seen
        return tuple(example._replace(weight=1.0) for example in found)
    return tuple(found)


def first_difference(profile: Profile, program: Program) -> str | None:
    """Look for a call that a program answers otherwise than the profile: at its rules' values and beside.

    No proof (that is `prove`): it tells filters that do another thing from those that can be compared.

    Returns:
        The call and both answers, None when there is no difference among those.
    """
    for arch in profile.arch:
        for syscall in sorted(profile.syscalls(arch), key=str):
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if nr is None:
                continue
            indexes = {one.index for rule in profile.rules_for(arch, syscall) for one in rule.comparators}
            examples = example_calls(profile, arch, syscall, most=_MOST_COMPARED)
            for args in dict.fromkeys(call for e in examples for call in _beside(e.args, sorted(indexes))):
                said, does = profile.decide_call(arch, nr, args).action, program.simulate(arch, nr, args)
                if said != does:
                    shown = ", ".join(f"{value:#x}" for value in args[: max(indexes, default=-1) + 1])
                    return f"{arch} {display_name(arch, nr)}({shown}): {does} instead of {said}"
    return None


def _beside(args: tuple[int, ...], indexes: list[int]) -> Iterator[tuple[int, ...]]:
    # Upper halves stay as they are: libseccomp compares them where the kernel does not look.
    yield args
    for index in indexes:
        for value in (args[index] - 1, args[index] + 1):
            if value >= 0 and value >> 32 == args[index] >> 32:
                yield (*args[:index], value, *args[index + 1 :])


def smallest_length(words: int) -> int:
    """Give how many instructions the smallest filter executes that checks so many argument words of a call.

    It knows one call alone: it loads and tests the arch, the number and each word, and returns.
    """
    return 2 * (2 + words) + 1


def smallest_filter(arch: str, nr: int, words: int) -> Program:
    """Make the smallest filter that checks that many argument words of one call, each to be 0."""
    checks = [(op.ARCH_OFFSET, ARCHES[arch].audit_arch), (op.NR_OFFSET, nr)]
    checks += [(op.ARGS_OFFSET + 4 * word, 0) for word in range(words)]
    code = []
    for at, (offset, value) in enumerate(checks):
        to_the_end = 2 * (len(checks) - at - 1) + 1
        code += [SockFilter(op.LD_ABS, 0, 0, offset), SockFilter(op.JEQ_K, 0, to_the_end, value)]
    answers = (Action.ALLOW.ret, Action.KILL_PROCESS.ret)
    return Program([*code, *(SockFilter(op.RET_K, 0, 0, ret) for ret in answers)])


def _count(rule: SeccompRule) -> int:
    return (rule.evidence.count or 0) if rule.evidence else 0


def _is_measured(profile: Profile) -> bool:
    return any(_count(rule) for rule in profile.rules)


def _mean(examples: tuple[ExampleCall, ...], numbers: list[int]) -> float:
    total = sum(example.weight for example in examples)
    return sum(e.weight * number for e, number in zip(examples, numbers, strict=True)) / total


def _executed(program: Program, token: int, nr: int, args: tuple[int, ...]) -> int:
    visited: set[int] = set()  # jumps only go forward: no instruction is executed twice
    run_words(program, words_of_call(token, nr, args), visited)
    return len(visited)


def _words(rule: SeccompRule, args: tuple[int, ...]) -> int:
    # How many words the rule says something of, given the alternative that these arguments are of.
    case = case_of(rule)
    count = 0
    for index, several in case.args if case else ():
        low, high = args[index] & _U32, args[index] >> 32
        fitting = (pair for pair in several if _holds(pair[0], high) and _holds(pair[1], low))
        count += min((sum(word != ANY_WORD for word in pair) for pair in fitting), default=0)
    return count


def _holds(word: WordSet, number: int) -> bool:
    return contains(word.ranges, number) and number & word.mask == word.value


def _matching(rule: SeccompRule) -> Iterator[tuple[int, ...]]:
    # Calls the rule matches: every value of its sets, otherwise a value at the edge of each comparator.
    columns = []
    for index in range(6):
        args = [arg for arg in rule.comparators if arg.index == index]
        tried = dict.fromkeys(value for arg in args for value in _values(arg))
        matching = [value for value in tried if all(arg.match(value) for arg in args)]
        columns.append(matching if args else [0])
    return product(*columns)


def _values(arg: Arg) -> list[int]:
    if isinstance(arg.value, frozenset):
        return sorted(arg.value)
    edges = {"lt": (-1,), "gt": (1,), "ne": (1, -1), "any": (0,)}.get(arg.op, (0,))
    return [arg.value + step & _U64 for step in edges]
