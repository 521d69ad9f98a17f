"""Group observations for inference: one `CallGroup` per (arch, number), with its distinct argument tuples.

In: observations of any number of runs and programs. Out: groups and tuples in a fixed order, so that equal
traces give equal profiles. It never invents a value: an argument that the kernel does not read in a call, and
one that the source did not record, are both `None` (free) in the tuple, and the two are told apart.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import display_name, syscall_name
from autoprofile.learn.clocks import class_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.observations import Observation

__all__ = [
    "CallGroup",
    "SeenTuple",
    "Unit",
    "Values",
    "arch_rank",
    "call_groups",
    "canonical",
    "describe_call",
    "distinct_runs",
    "failed_only",
    "least_processes",
]

Values = tuple["int | None", ...]
"""One value per constrained argument, as the kernel reads it; None means free (unused or unrecorded)."""

Unit = tuple[int, str]
"""(run, program path): within one unit the number of processes of each tuple is known."""


@dataclass(frozen=True, slots=True)
class SeenTuple:
    """Describe one distinct tuple of constrained arguments and the evidence for it.

    Args:
        values: one entry per spec of the group.
        count: calls.
        processes: processes that made it, per (run, program).
        first_ns: nanoseconds into its run when it was first seen.
        ok: calls known to have succeeded, None when the source records no results.
        failed: calls known to have failed, likewise.
        errors: the errors that calls failed with ("ENOENT", …), `OTHER_ERROR` where they are not all known.
        unrecorded: indices of constrained arguments whose value the source did not record.
    """

    values: Values
    count: int
    processes: Mapping[Unit, int]
    first_ns: int
    ok: int | None = None
    failed: int | None = None
    errors: frozenset[str] = frozenset()
    unrecorded: frozenset[int] = frozenset()

    @property
    def runs(self) -> frozenset[int]:
        """The runs it was seen in."""
        return frozenset(run for run, _ in self.processes)


@dataclass(frozen=True, slots=True)
class CallGroup:
    """Hold everything seen of one syscall on one arch."""

    arch: str
    nr: int
    name: str | None
    specs: tuple[ArgSpec, ...]
    tuples: tuple[SeenTuple, ...]

    @property
    def syscall(self) -> str | int:
        """The name, or the number where this arch has no name for it."""
        return self.nr if self.name is None else self.name

    @property
    def count(self) -> int:
        """Calls, all tuples together."""
        return sum(t.count for t in self.tuples)


def arch_rank(name: str) -> tuple[int, str]:
    """Order arches as the ABI tables do, unknown ones last."""
    known = list(ARCHES)
    return (known.index(name) if name in known else len(known), name)


def canonical(specs: Sequence[ArgSpec], args: Sequence[int | None]) -> Values:
    """Return the tuple of `args` at `specs`, with None where the kernel does not read the argument.

    widens: such an argument may then hold anything, which changes nothing that the kernel does: whether it is
    read is decided by another argument of the same tuple (openat reads `mode` only with O_CREAT in `flags`).
    narrows: where that other argument was not recorded, the value counts as read.
    widens: of a clock that belongs to a process or a descriptor only its class is kept (`learn.clocks`).
    """
    values: list[int | None] = []
    for spec in specs:
        value = args[spec.index]
        used_if = spec.used_if
        if value is not None and used_if is not None and args[used_if.index] is not None:
            value = value if used_if.holds([a or 0 for a in args]) else None
        values.append(None if value is None else class_of(spec, value))
    return tuple(values)


def describe_call(arch: str, nr: int, args: Sequence[int | None]) -> str:
    """Return a call as text: ``socket(family=AF_UNIX, type=SOCK_STREAM, protocol=0)``."""
    name = syscall_name(arch, nr)
    specs = constrained_args(arch, name) if name else ()
    shown = [
        f"{spec.name}={decode_value(arch, spec, value)}"
        for spec, value in zip(specs, canonical(specs, args), strict=True)
        if value is not None
    ]
    return f"{display_name(arch, nr)}({', '.join(shown)})"


def _sort_key(values: Values) -> tuple[int, ...]:
    # None first: free tuples lead
    return tuple(-1 if v is None else v for v in values)


def call_groups(observations: Iterable[Observation]) -> tuple[CallGroup, ...]:
    """Group observations by (arch, number) and merge those whose canonical tuples are equal."""
    specs_of: dict[tuple[str, int], tuple[ArgSpec, ...]] = {}
    gathered: dict[tuple[str, int], dict[Values, _Gather]] = defaultdict(dict)
    for o in observations:
        key = (o.arch, o.nr)
        specs = specs_of.get(key)
        if specs is None:
            name = syscall_name(o.arch, o.nr)
            specs = specs_of[key] = constrained_args(o.arch, name) if name else ()
        values = canonical(specs, o.args)
        tuples = gathered[key]
        if values not in tuples:
            tuples[values] = _Gather()
        tuples[values].add(o, specs, returns=syscall_name(o.arch, o.nr) not in _RESTORES)
    groups = []
    for arch, nr in sorted(gathered, key=lambda k: (arch_rank(k[0]), k[1])):
        tuples = gathered[arch, nr]
        seen = tuple(tuples[v].seen(v) for v in sorted(tuples, key=_sort_key))
        groups.append(CallGroup(arch, nr, syscall_name(arch, nr), specs_of[arch, nr], seen))
    return tuple(groups)


_RESTORES = frozenset({"rt_sigreturn", "sigreturn"})
"""What these "return" is the register of the interrupted code, restored: no result (sigreturn(2))."""


class _Gather:
    __slots__ = ("count", "errors", "failed", "first_ns", "ok", "processes", "unrecorded")

    def __init__(self) -> None:
        self.count = 0
        self.processes: dict[Unit, int] = {}
        self.first_ns: int | None = None
        self.ok: int | None = 0
        self.failed: int | None = 0
        self.errors: set[str] = set()
        self.unrecorded: set[int] = set()

    def add(self, o: Observation, specs: Sequence[ArgSpec], *, returns: bool) -> None:
        self.count += o.count
        unit = (o.run, o.program.path)
        # Two observations of one canonical tuple (they differ in an argument that is not read, or in the
        # build-id) may come from the same processes: the larger number is the one that is certain.
        self.processes[unit] = max(self.processes.get(unit, 0), o.processes)
        self.first_ns = o.first_ns if self.first_ns is None else min(self.first_ns, o.first_ns)
        # one source that records no results makes the sum unknown
        is_known = returns and None not in (o.ok, o.failed)
        self.ok = self.ok + (o.ok or 0) if is_known and self.ok is not None else None
        self.failed = self.failed + (o.failed or 0) if is_known and self.failed is not None else None
        if returns:
            self.errors |= o.error_names
        self.unrecorded.update(s.index for s in specs if o.args[s.index] is None)

    def seen(self, values: Values) -> SeenTuple:
        return SeenTuple(
            values=values,
            count=self.count,
            processes=dict(sorted(self.processes.items())),
            first_ns=self.first_ns or 0,
            ok=self.ok,
            failed=self.failed,
            errors=frozenset(self.errors),
            unrecorded=frozenset(self.unrecorded),
        )


def least_processes(tuples: Iterable[SeenTuple]) -> int:
    """Return how many processes made these calls at least.

    One process may have made several of them, so within one run and program only the largest number is
    certain; different runs and programs add up.
    """
    most: dict[Unit, int] = {}
    for t in tuples:
        for unit, n in t.processes.items():
            most[unit] = max(most.get(unit, 0), n)
    return sum(most.values())


def distinct_runs(groups: Sequence[CallGroup]) -> Mapping[int, int]:
    """Return for each run the first run that made the very same calls (distinct tuples of all syscalls).

    A workload that is repeated is one draw from what the program may be used for, however often it is
    repeated: its repetitions are no independent sampling units.
    """
    calls: dict[int, list[tuple[int, int]]] = {}
    for at, group in enumerate(groups):
        for number, t in enumerate(group.tuples):
            for run in t.runs:
                calls.setdefault(run, []).append((at, number))
    first: dict[tuple[tuple[int, int], ...], int] = {}
    return {run: first.setdefault(tuple(calls[run]), run) for run in sorted(calls)}


def failed_only(tuples: Iterable[SeenTuple]) -> str | None:
    """Return the errors, as "EACCES, ENOENT", when every call is known to have failed; else None."""
    errors: set[str] = set()
    for t in tuples:
        if t.ok != 0 or not t.failed:
            return None
        errors |= t.errors
    return ", ".join(sorted(errors)) or None
