"""What a filter costs at run time: executed instructions per call, weighted by how often each call was seen.

Takes a profile, whose rules carry counts, and any program (ours or another compiler's of the same rules);
executes the program on calls that the rules allow. Pure: no clock; nanoseconds are measured elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import display_name, syscall_nr
from autoprofile.filter.simulate import run_words, words_of_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.filter.program import Program
    from autoprofile.profile import Arg, Profile, SeccompRule

__all__ = ["CallCost", "FilterCost", "filter_cost"]

_U64 = 0xFFFFFFFFFFFFFFFF
_MOST_EXAMPLES = 256


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
    """

    arch: str
    nr: int
    name: str
    count: int
    is_constant: bool
    instructions: float


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

    def expected(self, *, bitmap: bool = True) -> float:
        """Give the mean number of executed instructions per call.

        Args:
            bitmap: calls the kernel answers from its bitmap count as 0 (Linux ≥ 5.11); False for kernels
                without.
        """
        weights = [call.count if self.is_measured else 1 for call in self.calls]
        total = sum(weights)
        run = (0.0 if bitmap and call.is_constant else call.instructions for call in self.calls)
        return sum(w * n for w, n in zip(weights, run, strict=True)) / total if total else 0.0


def filter_cost(profile: Profile, program: Program) -> FilterCost:
    """Work out what a program costs on the calls its profile was learned from.

    Args:
        profile: the rules and their counts.
        program: a filter of these rules, from any compiler.
    """
    rules = [rule for rule in profile.rules if rule.evidence and rule.evidence.count]
    measured = bool(rules)
    costs = []
    for arch in profile.arch:
        token = ARCHES[arch].audit_arch
        for syscall in sorted(profile.syscalls(arch), key=str):
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if nr is None or arch_from_audit(token, nr) != arch:
                continue
            total = weight = 0.0
            count = 0
            for rule in profile.rules_for(arch, syscall):
                executed = [_executed(program, token, nr, args) for args in _examples(rule)]
                seen = (rule.evidence.count or 0) if rule.evidence else 0
                share = float(seen) if measured else 1.0
                if executed:
                    total += share * sum(executed) / len(executed)
                    weight += share
                count += seen
            if weight == 0.0:  # never seen: any call of it will do
                total, weight = float(_executed(program, token, nr, (0,) * 6)), 1.0
            constant = arch != "x32" and program.is_constant_allow(token, nr)  # the bitmap has no x32 numbers
            costs.append(CallCost(arch, nr, display_name(arch, nr), count, constant, total / weight))
    costs.sort(key=lambda c: (c.is_constant, -c.count * c.instructions, -c.instructions, c.arch, c.nr))
    return FilterCost(tuple(costs), len(program), measured)


def _executed(program: Program, token: int, nr: int, args: tuple[int, ...]) -> int:
    visited: set[int] = set()  # jumps only go forward: no instruction is executed twice
    run_words(program, words_of_call(token, nr, args), visited)
    return len(visited)


def _examples(rule: SeccompRule) -> Iterator[tuple[int, ...]]:
    # Calls the rule matches: every value of its sets, otherwise a value at the edge of each comparator.
    columns = []
    for index in range(6):
        args = [arg for arg in rule.comparators if arg.index == index]
        tried = dict.fromkeys(value for arg in args for value in _values(arg))
        matching = [value for value in tried if all(arg.match(value) for arg in args)]
        columns.append(matching if args else [0])
    return islice(product(*columns), _MOST_EXAMPLES)


def _values(arg: Arg) -> list[int]:
    if isinstance(arg.value, frozenset):
        return sorted(arg.value)
    edges = {"lt": (-1,), "gt": (1,), "ne": (1, -1), "any": (0,)}.get(arg.op, (0,))
    return [arg.value + step & _U64 for step in edges]
