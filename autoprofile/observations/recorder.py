"""The mutable side: sources count calls here, at well under a microsecond each.

The key of a call is its (audit arch, nr) code plus the constrained arguments as the kernel reads them, 0 for
one that this call does not read; everything else about the arguments is dropped at once. One process has its
own cells, so that "in how many processes" costs nothing per call.

Fast path of a source, once per thread group and program::

    program = recorder.program("/usr/sbin/nginx", build_id)
    count = recorder.counter(program, tgid)

and once per call::

    cell = count(audit_arch << 32 | nr, args, ts_ns)      # args: six raw u64; nr as an unsigned 32-bit number
    cell[OK] += 1; cell[RETURN] = 0                       # only sources that see returns
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.constants import errno_name
from autoprofile.abi.signatures import UsedIf, constrained_args, kernel_value
from autoprofile.abi.syscalls import syscall_name
from autoprofile.observations.model import (
    ARGS,
    OTHER_ERROR,
    Args,
    LossLedger,
    Observation,
    ProgramId,
    TraceMeta,
)
from autoprofile.observations.trace import Trace

__all__ = [
    "COUNT",
    "ERRORS",
    "FAILED",
    "FIRST",
    "LAST",
    "OK",
    "RETURN",
    "Cell",
    "Counter",
    "Recorder",
    "Tally",
    "add_untyped",
    "call_code",
    "error_names",
    "return_name",
]

COUNT, FIRST, LAST, OK, FAILED, RETURN, ERRORS = range(7)
"""Positions in a `Cell`."""

Cell: TypeAlias = list[Any]
"""``[count, first_ns, last_ns, ok, failed, last_return, errors]``.

last_return: None unseen, 0 ok, else the errno. errors: bit n when a call failed with errno n.
A list, not an object: the two writes of the fast path are then plain item stores."""

Counter: TypeAlias = Callable[[int, Sequence[int], int], Cell]
"""``count(code, args, ts_ns)``: count one call, return its cell."""

_Key: TypeAlias = int | tuple[int, ...]
_Keyer: TypeAlias = Callable[[Sequence[int]], _Key]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF

# Errors that only a tracer sees: the kernel restarts the call or turns them into EINTR
# (include/linux/errno.h).
_RESTARTS = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}


def return_name(last_return: int | None) -> str | None:
    """Return a cell's last return as text: ``ok``, an errno name, a number without a name, or None."""
    if last_return is None:
        return None
    if last_return == 0:
        return "ok"
    return _RESTARTS.get(last_return) or errno_name(last_return) or str(last_return)


def error_names(errors: int) -> str | None:
    """Return a cell's errors as text: their names, sorted and joined by commas; None for none.

    Args:
        errors: bit n for errno n, bit 0 for any that the source cannot tell (``other``).
    """
    numbers = [n for n in range(errors.bit_length()) if errors >> n & 1]
    names = sorted((return_name(n) or "?") if n else OTHER_ERROR for n in numbers)
    return ",".join(names) or None


def call_code(arch: str, nr: int) -> int:
    """Return the integer a call is counted under: ``audit_arch << 32 | nr``.

    Args:
        arch: an arch name, or an audit token as ``0x…``.
        nr: the syscall number, the x32 bit included for ``x32``.
    """
    known = ARCHES.get(arch)
    token = known.audit_arch if known is not None else int(arch, 16)
    return token << 32 | (nr & _U32)


def add_untyped(ledger: LossLedger, observations: Iterable[Observation]) -> None:
    """Put calls into a ledger whose arguments were not kept, because no signature says what they are.

    Those of an arch without a name (``unknown_arch``), and those by a number without one on its arch
    (``unresolved_nr``): a call newer than our tables, or one that no kernel has.
    """
    for seen in observations:
        if seen.arch.startswith("0x"):
            ledger.add("unknown_arch", seen.count, f"audit arch {seen.arch}, nr {seen.nr}")
        elif syscall_name(seen.arch, seen.nr) is None:
            ledger.add("unresolved_nr", seen.count, f"{seen.arch} nr {seen.nr}, by {seen.program.path}")


@dataclass(frozen=True, slots=True)
class Tally:
    """Say how far a recording is.

    Args:
        syscalls: distinct (arch, nr).
        observations: distinct (program, arch, nr, constrained arguments).
        events: calls counted.
        processes: thread groups seen.
    """

    syscalls: int
    observations: int
    events: int
    processes: int


class Recorder:
    """Aggregate calls into observations.

    Args:
        run: the run index the observations carry.
        returns: the source sees what calls return; without it `Observation.ok` and `failed` are None.
    """

    def __init__(self, run: int = 0, *, returns: bool = False) -> None:
        self.run = run
        self.returns = returns
        self.ledger = LossLedger()
        self._programs: list[ProgramId] = []
        self._program_ids: dict[ProgramId, int] = {}
        self._keyers: dict[int, _Keyer] = {}
        self._indexes: dict[int, tuple[int, ...]] = {}
        self._open: dict[tuple[int, int], tuple[Counter, dict[_Key, Cell]]] = {}
        self._open_tgids: dict[int, list[int]] = {}
        self._processes = 0
        self._closed_events = 0
        # (program, key) -> a cell with the number of processes appended
        self._totals: dict[tuple[int, _Key], Cell] = {}
        self._seen: set[tuple[int, _Key]] = set()

    def program(self, path: str, build_id: str | None = None) -> int:
        """Intern a program; the number is good for this recorder only."""
        identity = ProgramId(path, build_id)
        known = self._program_ids.get(identity)
        if known is None:
            known = self._program_ids[identity] = len(self._programs)
            self._programs.append(identity)
        return known

    def counter(self, program: int, tgid: int) -> Counter:
        """Return the fast path for one thread group running one program (the same one when asked again).

        After ``exec`` ask again with the new program; after `close_process` the old counter is void.
        """
        known = self._open.get((program, tgid))
        if known is None:
            cells: dict[_Key, Cell] = {}
            known = (self._new_counter(program, cells), cells)
            self._open[program, tgid] = known
            programs = self._open_tgids.get(tgid)
            if programs is None:
                self._open_tgids[tgid] = [program]
                self._processes += 1
            else:
                programs.append(program)
        return known[0]

    def record(self, program: int, arch: str, nr: int, args: Sequence[int], tgid: int, ts_ns: int) -> Cell:
        """Count one call by arch name (the convenient form; sources in a hurry hold a `counter`)."""
        return self.counter(program, tgid)(call_code(arch, nr), args, ts_ns)

    @staticmethod
    def returned(cell: Cell, error: int) -> None:
        """Note how the call last counted in `cell` returned.

        Args:
            cell: what counting the call returned.
            error: 0 for success, else the errno (positive). The kernel's internal restart codes (512…516) are
                neither success nor failure: the call is made again, or comes back as EINTR.
        """
        if error == 0:
            cell[OK] += 1
        elif error not in _RESTARTS:
            cell[FAILED] += 1
            cell[ERRORS] |= 1 << error
        cell[RETURN] = error

    def close_process(self, tgid: int) -> None:
        """Fold a finished thread group into the totals: memory follows live processes, pids may be reused."""
        for program in self._open_tgids.pop(tgid, ()):
            _, cells = self._open.pop((program, tgid))
            self._fold(program, cells)

    def tally(self) -> Tally:
        """Return how far the recording is; walks the live cells, so a few times a second at most.

        May be called from another thread than the one that records: list() copies in one step.
        """
        live = sum(cell[COUNT] for _, cells in list(self._open.values()) for cell in list(cells.values()))
        return Tally(len(self._keyers), len(self._seen), self._closed_events + live, self._processes)

    def finish(self, meta: TraceMeta) -> Trace:
        """Return the trace of everything counted; the recorder is empty of live processes afterwards."""
        for tgid in list(self._open_tgids):
            self.close_process(tgid)
        observations = [
            self._observation(program, key, cell) for (program, key), cell in self._totals.items()
        ]
        ledger = self.ledger.copy()
        add_untyped(ledger, observations)
        return Trace(meta, observations, ledger, self._processes)

    def _new_counter(self, program: int, cells: dict[_Key, Cell]) -> Counter:
        keyers, find, new_keyer, seen = self._keyers, cells.get, self._new_keyer, self._seen

        def count(code: int, args: Sequence[int], ts_ns: int) -> Cell:
            keyer = keyers.get(code)
            if keyer is None:
                keyer = new_keyer(code)
            key = keyer(args)
            cell = find(key)
            if cell is None:
                cell = cells[key] = [0, ts_ns, ts_ns, 0, 0, None, 0]
                seen.add((program, key))
            cell[0] += 1
            cell[2] = ts_ns
            return cell

        return count

    def _new_keyer(self, code: int) -> _Keyer:
        nr = code & _U32
        arch = arch_from_audit(code >> 32, nr)
        name = syscall_name(arch, nr)
        specs = constrained_args(arch, name) if name is not None else ()
        indexes = tuple(spec.index for spec in specs)
        masks = tuple(kernel_value(spec, _U64) for spec in specs)
        optional = tuple((i, s.used_if) for i, s in enumerate(specs) if s.used_if is not None)
        keyer = self._keyers[code] = _make_keyer(code, indexes, masks, optional)
        self._indexes[code] = indexes
        return keyer

    def _fold(self, program: int, cells: dict[_Key, Cell]) -> None:
        totals = self._totals
        for key, cell in cells.items():
            self._closed_events += cell[COUNT]
            total = totals.get((program, key))
            if total is None:
                totals[program, key] = [*cell, 1]
                continue
            total[COUNT] += cell[COUNT]
            total[FIRST] = min(total[FIRST], cell[FIRST])
            if cell[LAST] >= total[LAST]:
                total[LAST] = cell[LAST]
                if cell[RETURN] is not None:
                    total[RETURN] = cell[RETURN]
            elif total[RETURN] is None:
                total[RETURN] = cell[RETURN]
            total[OK] += cell[OK]
            total[FAILED] += cell[FAILED]
            total[ERRORS] |= cell[ERRORS]
            total[-1] += 1

    def _observation(self, program: int, key: _Key, cell: Cell) -> Observation:
        code, values = (key, ()) if isinstance(key, int) else (key[0], key[1:])
        args: list[int | None] = [None] * ARGS
        for index, value in zip(self._indexes[code], values, strict=True):
            args[index] = value
        nr = code & _U32
        return Observation(
            run=self.run,
            program=self._programs[program],
            arch=arch_from_audit(code >> 32, nr),
            nr=nr,
            args=_six(args),
            count=cell[COUNT],
            first_ns=cell[FIRST],
            last_ns=cell[LAST],
            processes=cell[-1],
            ok=cell[OK] if self.returns else None,
            failed=cell[FAILED] if self.returns else None,
            last_return=return_name(cell[RETURN]) if self.returns else None,
            errors=error_names(cell[ERRORS]) if self.returns else None,
        )


def _six(args: Sequence[int | None]) -> Args:
    a, b, c, d, e, f = args
    return a, b, c, d, e, f


# One closure per shape, not one loop for all: the loop costs four times as much, on every call.
def _make_keyer(
    code: int,
    indexes: tuple[int, ...],
    masks: tuple[int, ...],
    optional: tuple[tuple[int, UsedIf], ...],
) -> _Keyer:
    if optional:
        return _make_conditional_keyer(code, tuple(zip(indexes, masks, strict=True)), optional)
    if not indexes:
        return lambda _args: code
    if len(indexes) == 1:
        (i,), (m,) = indexes, masks
        return lambda args: (code, args[i] & m)
    if len(indexes) == 2:
        (i, j), (m, n) = indexes, masks
        return lambda args: (code, args[i] & m, args[j] & n)
    if len(indexes) == 3:
        (i, j, k), (m, n, o) = indexes, masks
        return lambda args: (code, args[i] & m, args[j] & n, args[k] & o)
    pairs = tuple(zip(indexes, masks, strict=True))
    return lambda args: (code, *[args[i] & m for i, m in pairs])


# An argument that this call does not read (openat's mode without O_CREAT, prctl's pointer behind PR_SET_NAME)
# holds whatever the register held: counted by it, one call would be as many observations as there are stack
# addresses. It is recorded as 0, and whoever decides on it asks `ArgSpec.used_if` first.
def _make_conditional_keyer(
    code: int, pairs: tuple[tuple[int, int], ...], optional: tuple[tuple[int, UsedIf], ...]
) -> _Keyer:
    def keyer(args: Sequence[int]) -> _Key:
        values = [args[i] & m for i, m in pairs]
        for position, used_if in optional:
            if values[position] and not used_if.holds(args):
                values[position] = 0
        return (code, *values)

    return keyer
