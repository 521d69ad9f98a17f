"""What a profile's filter costs on this machine: instructions and nanoseconds per call, beside other filters.

Two ways of timing, both in one interleaved run. Calls allowed with any arguments are made for real, with
arguments that do nothing (`harmless`), to see whether the bitmap answers them. And all calls are made as
the profile allows them, under the same filters with a refusal in place of each answer, so that whatever they
would do, they never run.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES, arch_from_machine
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.enforce.harmless import HARMLESS
from autoprofile.enforce.libseccomp import compile_with_libseccomp, libseccomp_version
from autoprofile.enforce.timing import Clock, TimedCall, refusing, time_calls, time_mix
from autoprofile.errors import AutoprofileError
from autoprofile.filter import Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.filter.cost import (
    FilterCost,
    example_calls,
    filter_cost,
    first_difference,
    smallest_filter,
)
from autoprofile.filter.newer import answer_beyond, with_fallbacks
from autoprofile.kernel import kernel_release
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprofile.filter.cost import CallCost, ExampleCall
    from autoprofile.profile import Profile, SeccompRule

__all__ = [
    "BITMAP_SINCE",
    "LIBSECCOMP",
    "OURS",
    "SMALLEST",
    "CallTiming",
    "Comparison",
    "Reference",
    "Timing",
    "compare_filters",
    "time_filters",
]

BITMAP_SINCE: Final = (5, 11)
"""The first Linux with the bitmap of constant allows."""

OURS: Final = "autoprofile"
SMALLEST: Final = "smallest"
LIBSECCOMP: Final = {1: "libseccomp 1", 2: "libseccomp 2"}
"""Names of the filters compared, those of libseccomp by SCMP_FLTATR_CTL_OPTIMIZE."""

_MOST_EXAMPLES: Final = 4  # timed calls of each rule
_MIX: Final = 2048  # calls of a mix
_AGAIN: Final = 4  # how often a reference is among the calls of a series
_CLEAR: Final = 0.05  # the bitmap's advantage, as part of a call, below which timing tells nothing
_MORE_ROUNDS: Final = 3  # times the rounds asked for, while the bitmap is not seen where it should be


@dataclass(frozen=True)
class Comparison:
    """Our filter of a profile and those that others make of it.

    Attributes:
        profile: the profile.
        bitmap: whether ours is laid out for kernels with the bitmap.
        filters: the programs, by name, ours first.
        cost: instructions of ours.
        instructions: expected executed instructions per call, by name; `SMALLEST` is what the smallest filter
            for each call alone would execute.
        libseccomp: version of the libseccomp that is installed, None where there is none.
        faults: why a filter is not among those compared.
        left_out: rules that libseccomp cannot express or refuses; its filters do without them.
        unlike: by name, a call that a filter answers otherwise than the rules it was given say, and how: such
            a filter does another thing, and its price says nothing.
    """

    profile: Profile
    bitmap: bool
    filters: dict[str, Program]
    cost: FilterCost
    instructions: dict[str, float]
    libseccomp: str | None
    faults: tuple[str, ...]
    left_out: tuple[SeccompRule, ...]
    unlike: dict[str, str]


@dataclass(frozen=True)
class Reference:
    """Nanoseconds of ``getppid``, about the cheapest call there is.

    Attributes:
        no_filter: without a filter.
        allow_all: under a filter that allows everything, answered from the bitmap where there is one.
        check: under a filter that loads one argument, which cannot be answered from the bitmap.
    """

    no_filter: float
    allow_all: float
    check: float

    @property
    def has_bitmap(self) -> bool:
        """Say whether the kernel is seen to answer constant allows without running the filter."""
        return self.check - self.allow_all > _CLEAR * self.allow_all


@dataclass(frozen=True)
class CallTiming:
    """The timing of one syscall.

    Attributes:
        cost: its name, count and instructions under our filter.
        share: how much of all calls of this arch it is.
        ns: nanoseconds that each filter adds to one call, on average over what the profile saw.
        ratio: how long a call takes under our filter against the smallest filter that could check it.
        is_bitmap: whether it was answered from the bitmap when called for real; None when it was not called
            (it is not a constant allow, or nothing it does is harmless) or the difference is not clear.
        was_called: whether it was called for real.
    """

    cost: CallCost
    share: float
    ns: dict[str, float]
    ratio: float
    is_bitmap: bool | None
    was_called: bool


@dataclass(frozen=True)
class Timing:
    """The times of all filters.

    Attributes:
        arch: this machine's arch.
        calls: its calls, the most expensive first.
        ns: nanoseconds that each filter adds to the mean call where the same call is made over and over;
            `SMALLEST` as in `Comparison.instructions`.
        mixed_ns: the same, but with the calls that are not answered from the bitmap in a random order, which
            the processor cannot foresee; the counts of the profile decide how often each occurs.
        reference: what calls cost here.
        rounds: how often everything was timed; the least counts.
        noise: by which part the references differ between every other of their runs and those in between; a
            few hundredths on a quiet machine.
    """

    arch: str
    calls: tuple[CallTiming, ...]
    ns: dict[str, float]
    mixed_ns: dict[str, float]
    reference: Reference
    rounds: int
    noise: float


def compare_filters(profile: Profile, *, bitmap: bool = True) -> Comparison:
    """Compile a profile with every compiler there is and work out what the filters execute.

    Ours answers newer numbers, and calls that libc has an older way for, with ENOSYS, as the filters that
    `enforce` installs (`filter.newer`).

    Args:
        profile: the profile, whose counts weigh the calls.
        bitmap: whether the kernel answers constant allows from a bitmap (Linux ≥ 5.11).

    Raises:
        FilterTooLarge: the profile needs several stacked filters, which are not compared.
    """
    program = compile_profile(with_fallbacks(profile), beyond=answer_beyond(profile), bitmap=bitmap)
    filters = {OURS: program}
    cost = filter_cost(profile, program)
    instructions = {SMALLEST: cost.smallest(bitmap=bitmap), OURS: cost.expected(bitmap=bitmap)}
    version = libseccomp_version()
    faults: list[str] = []
    left_out: dict[SeccompRule, None] = {}
    unlike: dict[str, str] = {}
    for optimize, name in LIBSECCOMP.items() if version else ():
        try:
            made = compile_with_libseccomp(profile, optimize=optimize)
        except AutoprofileError as error:
            faults.append(str(error))
            continue
        left_out.update(dict.fromkeys(made.left_out))
        kept = tuple(rule for rule in profile.rules if rule not in made.left_out)
        expressed = replace(profile, rules=kept)
        filters[name] = made.program
        if (difference := first_difference(expressed, made.program)) is not None:
            unlike[name] = difference
        instructions[name] = filter_cost(expressed, made.program).expected(bitmap=bitmap)
    return Comparison(
        profile, bitmap, filters, cost, instructions, version, tuple(faults), tuple(left_out), unlike
    )


def time_filters(
    compared: Comparison,
    *,
    rounds: int = 15,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Timing:
    """Time the filters on this machine.

    Args:
        compared: the filters.
        rounds: how often to time everything; up to three times as often while the bitmap is not seen where
            it should be.
        progress: told after each round how many there were, of how many.

    Raises:
        MachineError: calls cannot be timed here.
        AutoprofileError: the profile is not for this machine's arch.
    """
    arch = arch_from_machine(os.uname().machine)
    if arch not in compared.profile.arch:
        raise AutoprofileError(
            f"the profile is for {', '.join(compared.profile.arch)}: its calls cannot be timed on {arch}",
            hint="--no-timing counts instructions only",
        )
    run = _Run(compared, arch)
    done = 0
    while done < rounds or (done < rounds * _MORE_ROUNDS and not run.is_as_expected()):
        run.round()
        done += 1
        progress(done, max(done, rounds))
    return run.timing(done)


@dataclass
class _Series:
    # The calls made under one filter in one child, and the least ticks of each so far.
    program: Program | None
    calls: list[TimedCall] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)  # ticks of the first calls, the references, in each run

    def add(self, nr: int, args: tuple[int, ...] = (), times: int = 1) -> range:
        # Which of the series' calls it is.
        self.calls += [TimedCall(nr, args)] * times
        return range(len(self.calls) - times, len(self.calls))

    def run(self) -> None:
        ticks = [one for one, _ in time_calls(self.program, self.calls)]
        self.best = list(map(min, self.best, ticks)) if self.best else ticks
        self.firsts.append(min(ticks[:_AGAIN]))

    def noise(self) -> float:
        one, other = min(self.firsts[::2]), min(self.firsts[1::2])
        return abs(one - other) / min(one, other)

    def ticks(self, which: range) -> float:
        return sum(self.best[at] for at in which) / len(which)


def _allowing(*code: SockFilter) -> Program:
    return Program([*code, SockFilter(op.RET_K, 0, 0, Action.ALLOW.ret)])


class _Run:
    def __init__(self, compared: Comparison, arch: str) -> None:
        self._compared, self._arch = compared, arch
        self._clock = Clock()
        getppid = syscall_nr(arch, "getppid")
        assert getppid is not None
        self._calls = [call for call in compared.cost.calls if call.arch == arch]
        self._examples = {call.nr: self._examples_of(call) for call in self._calls}
        # Real calls: no filter, everything allowed, everything checked, and our filter.
        read = _allowing(SockFilter(op.LD_ABS, 0, 0, op.ARGS_OFFSET))
        self._none, self._allow, self._read = _Series(None), _Series(_allowing()), _Series(read)
        self._reference = self._none.add(getppid, times=_AGAIN)
        for series in (self._allow, self._read):
            series.add(getppid, times=_AGAIN)
        self._real = _Series(compared.filters[OURS])
        # Of each call made for real: which it is, under our filter and under the two others.
        self._made: dict[int, tuple[range, range]] = {}
        for call in self._calls:
            if call.is_constant and call.name in HARMLESS and compared.bitmap:
                args = HARMLESS[call.name]
                beside = self._allow.add(call.nr, args)
                self._read.add(call.nr, args)
                self._made[call.nr] = self._real.add(call.nr, args), beside
        # Refused calls: the shortest filter, the smallest for each number of words, all that are compared.
        self._refuse = _Series(refusing(read))
        self._refuse.add(getppid, times=_AGAIN)
        words = {example.words for examples in self._examples.values() for example in examples}
        self._smallest = {
            count: _Series(refusing(smallest_filter(arch, getppid, count))) for count in sorted(words)
        }
        for series in self._smallest.values():
            series.add(getppid, times=_AGAIN)
        self._refused = {name: _Series(refusing(program)) for name, program in compared.filters.items()}
        self._at: dict[int, list[range]] = {}
        for series in self._refused.values():
            for nr, examples in self._examples.items():
                self._at[nr] = [series.add(nr, example.args) for example in examples]
        self._mix = self._mixed()
        self._mix_best: dict[str, float] = {}

    def _examples_of(self, call: CallCost) -> Sequence[ExampleCall]:
        profile = self._compared.profile
        syscalls = profile.syscalls(self._arch)
        syscall = call.name if call.name in syscalls else call.nr
        return example_calls(profile, self._arch, syscall, most=_MOST_EXAMPLES)

    def _share(self, call: CallCost) -> float:
        if not self._compared.cost.is_measured:
            return 1 / len(self._calls)
        return call.count / (sum(one.count for one in self._calls) or 1)

    def _runs_filter(self, call: CallCost) -> bool:
        return not (self._compared.bitmap and call.is_constant)

    def _mixed(self) -> list[TimedCall]:
        # The calls for which the filter runs, as often as they were seen, always in the same order.
        calls, weights = [], []
        for call in filter(self._runs_filter, self._calls):
            examples = self._examples[call.nr]
            total = sum(example.weight for example in examples)
            calls += [TimedCall(call.nr, example.args) for example in examples]
            weights += [self._share(call) * example.weight / total for example in examples]
        return random.Random(0).choices(calls, weights, k=_MIX) if any(weights) else []

    def round(self) -> None:
        """Time everything once, one filter after the other."""
        references = (self._none, self._allow, self._read, self._refuse)  # all else is told from these
        for series in (
            *(*references, self._real, *self._smallest.values()),
            *(*references, *self._refused.values()),
        ):
            if series.calls:
                series.run()
        for name, series in (("", self._refuse), *self._refused.items()) if self._mix else ():
            ticks = time_mix(series.program, self._mix)
            self._mix_best[name] = min(ticks, self._mix_best.get(name, ticks))

    def is_as_expected(self) -> bool:
        """Say whether the bitmap is seen to answer all that it should."""
        reference = self._reference_ns()
        if kernel_release() >= BITMAP_SINCE and not reference.has_bitmap:
            return False  # not yet: something else had the processor
        return reference.no_filter < reference.allow_all and all(
            self._is_bitmap(nr) is not False for nr in self._made
        )

    def _reference_ns(self) -> Reference:
        ns = self._clock.ns_per_tick()
        none, allow, read = (s.ticks(self._reference) * ns for s in (self._none, self._allow, self._read))
        return Reference(none, allow, read)

    def _is_bitmap(self, nr: int) -> bool | None:
        if nr not in self._made:
            return None
        ours, beside = self._made[nr]
        allow, read = self._allow.ticks(beside), self._read.ticks(beside)
        if read - allow < _CLEAR * allow:
            return None
        return self._real.ticks(ours) < (allow + read) / 2

    def timing(self, rounds: int) -> Timing:
        """Give what was found."""
        ns, reference = self._clock.ns_per_tick(), self._reference_ns()
        token = ARCHES[self._arch].audit_arch
        bitmap = self._compared.bitmap and reference.has_bitmap
        entry = reference.check - reference.no_filter  # what running a filter costs, beside its instructions
        base = self._refuse.ticks(self._reference)
        found = []
        for call in self._calls:
            examples = self._examples[call.nr]
            total = sum(example.weight for example in examples)
            smallest = (
                sum(e.weight * self._smallest[e.words].ticks(self._reference) for e in examples) / total
            )
            added = {}
            taken = {SMALLEST: smallest}
            for name, series in self._refused.items():
                each = (series.ticks(at) for at in self._at[call.nr])
                taken[name] = sum(e.weight * one for e, one in zip(examples, each, strict=True)) / total
            for name, ticks in taken.items():
                program = self._compared.filters.get(name, self._compared.filters[OURS])
                if bitmap and program.is_constant_allow(token, call.nr):
                    added[name] = reference.allow_all - reference.no_filter
                else:
                    added[name] = entry + (ticks - base) * ns
            ratio = taken[OURS] / smallest
            is_bitmap = self._is_bitmap(call.nr)
            found.append(CallTiming(call, self._share(call), added, ratio, is_bitmap, call.nr in self._made))
        names = (SMALLEST, *self._refused)
        mean = {name: sum(one.share * one.ns[name] for one in found) for name in names}
        noise = max(series.noise() for series in (self._none, self._allow, self._read, self._refuse))
        return Timing(self._arch, tuple(found), mean, self._mixed_ns(reference), reference, rounds, noise)

    def _mixed_ns(self, reference: Reference) -> dict[str, float]:
        run = sum(self._share(call) for call in self._calls if self._runs_filter(call))
        constant = (sum(map(self._share, self._calls)) - run) * (reference.allow_all - reference.no_filter)
        entry, ns = reference.check - reference.no_filter, self._clock.ns_per_tick()
        mixed = {}
        for name in self._refused:
            beyond = (self._mix_best[name] - self._mix_best[""]) * ns if self._mix else 0.0
            mixed[name] = constant + run * (entry + beyond)
        return mixed
