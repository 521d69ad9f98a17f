"""The probes in the kernel, loaded and filled: whom to follow, what was counted, what is new.

One object for each run. Whatever ends the tool ends the probes: their descriptors are all that holds them.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from functools import cache
from typing import TYPE_CHECKING, Final

from autoprofile.errors import MachineError
from autoprofile.trace.ebpf.counts import Count, add_losses, counts_from_maps, spilled_from_map
from autoprofile.trace.ebpf.files import Files
from autoprofile.trace.ebpf.libbpf import EventRing
from autoprofile.trace.ebpf.loading import BTF, is_ready, lacks, load
from autoprofile.trace.ebpf.records import (
    ANSWER_FOLLOWED,
    ASK_DESCRIPTOR,
    ASK_FOLLOW,
    ASK_FORGET,
    ASK_MOUNT_SPACE,
    ASK_PARENT,
    ASK_PROCESS,
    ASK_PROGRAM,
    ASK_ROOT,
    ASK_SELF,
    ASK_THREAD,
    EVENT_FILE,
    KEY_BYTES,
    PROCESS_CELLS,
    THREAD_IN_CALL,
    THREAD_UNSURE,
    Cell,
    Config,
    Event,
    Process,
    SeenKey,
    Thread,
    Totals,
    call_tables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprofile.observations import LossLedger

__all__ = ["BTF", "Probes", "is_ready", "lacks"]

_ZERO: Final = bytes(4)
_CELL_BYTES: Final = ctypes.sizeof(Cell)
# Ids given here, not by the probes, for what ran before they did.
_SEEDED_FILE: Final = 1 << 28
_SEEDED_PROCESS: Final = 1 << 30
_MANY_THREADS: Final = 1 << 40  # a seeded process is never forgotten


_tables: Final = cache(call_tables)


class Probes:
    """The loaded probes.

    Args:
        entries: map -> entries, where the usual number does not fit.
        returns: see what calls return, and which ones seccomp refuses; costs as much again as the counting.

    Raises:
        MachineError: no root, no BTF, no libbpf, or a kernel that refuses them.
    """

    def __init__(self, entries: Mapping[str, int] | None = None, *, returns: bool = True) -> None:
        self.files = Files()
        self.returns = returns
        # Made while the loader and the kernel work, which takes longer: somebody waits for the command.
        tables = threading.Thread(target=_tables, name="tables", daemon=True)
        tables.start()
        self._object = load(entries, returns=returns)
        tables.join()
        self._ring: EventRing | None = None
        self._checked: list[Event] | None = None
        self._seeded_processes: dict[int, int] = {}
        try:
            self._maps = self._object.maps
            layouts, conditions = _tables()
            self._maps["layouts"].put(_ZERO, layouts)
            for number, condition in enumerate(conditions):
                self._maps["conditions"].put(number.to_bytes(4, "little"), bytes(condition))
            self._ring = EventRing(self._maps["events"], self._take)
            self.files.own_root = self._object.ask(ASK_SELF, ASK_ROOT)
            if self._object.is_unsure:
                self._check_kernel()
        except BaseException:
            self.close()
            raise

    def attach(self) -> None:
        """Begin to watch."""
        self._object.attach()

    def configure(
        self, flags: int, *, cgroup_id: int = 0, cgroup_level: int = 0, mount_space: int = 0
    ) -> None:
        """Say whom the probes adopt by themselves: CONFIG_* flags, 0 for nobody."""
        config = Config(flags, cgroup_level, cgroup_id, mount_space, os.getpid())
        self._maps["configs"].put(_ZERO, bytes(config))

    def fileno(self) -> int:
        """Return a descriptor that is readable when `consume` has something to take."""
        assert self._ring is not None
        return self._ring.fileno()

    def wait(self, timeout_s: float, *others: int) -> None:
        """Wait for news of the probes or for other descriptors to become readable; take the news."""
        poller = select.poll()
        for fd in (self.fileno(), *others):
            poller.register(fd, select.POLLIN)
        poller.poll(timeout_s * 1000)
        self.consume()

    def consume(self) -> None:
        """Take what the probes told."""
        assert self._ring is not None
        self._ring.consume()

    def follows(self, tid: int) -> bool:
        """Tell whether a thread is a member."""
        return self._maps["threads"].get(tid.to_bytes(4, "little")) is not None

    def members(self) -> list[int]:
        """Return the thread ids of all members."""
        return [int.from_bytes(key, "little") for key in self._maps["threads"].keys()]  # noqa: SIM118

    def seed(self, tid: int, tgid: int, *, in_call: bool = True) -> bool:
        """Make a running thread a member; False when it is one.

        Args:
            tid: the thread.
            tgid: its process, whose program becomes known by this.
            in_call: whether the thread may be inside a call; the first end of a call is then doubtful.
        """
        if self.follows(tid):
            return False
        process = self._seeded_processes.get(tgid)
        if process is None:
            process = _SEEDED_PROCESS + len(self._seeded_processes)
            self._seeded_processes[tgid] = process
            self._maps["processes"].put(process.to_bytes(4, "little"), bytes(Process(_MANY_THREADS)))
            self.files.add_process(_SEEDED_FILE + process - _SEEDED_PROCESS, tgid)
        program = _SEEDED_FILE + process - _SEEDED_PROCESS
        answer = self._object.ask(ASK_FOLLOW, tid, program, process, THREAD_UNSURE if in_call else 0)
        if answer != ANSWER_FOLLOWED:
            return False  # a member meanwhile, or no room: that is in the totals
        if not os.path.exists(f"/proc/{tgid}/task/{tid}"):  # noqa: PTH110
            self._object.ask(ASK_FORGET, tid)  # it ended before it was followed
        return True

    @property
    def live(self) -> int:
        """Return the number of threads that are followed."""
        return int(self.totals().live)

    @property
    def processes(self) -> int:
        """Return the number of processes followed so far."""
        return int(self.totals().processes) + len(self._seeded_processes)

    def totals(self) -> Totals:
        """Return the counters of the probes."""
        return Totals.from_buffer_copy(self._maps["totals"].get(_ZERO) or bytes(ctypes.sizeof(Totals)))

    def counts(self) -> list[Count]:
        """Return everything counted so far, calls that have not ended included.

        While the probes are attached, a count that a thread is just handing over may be missed or be there
        twice; after `detach` it is exact.
        """
        # A key of `plain` is the beginning of one of `cells`.
        keys, cells, number = self._maps["cells"].items()
        short, plain, more = self._maps["plain"].items()
        rest = bytes(KEY_BYTES - 8)
        keys += b"".join(short[i : i + 8] + rest for i in range(0, 8 * more, 8))
        cells, number = cells + plain, number + more
        ids = {
            keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]: Cell.from_buffer_copy(cells, i * _CELL_BYTES).id
            for i in range(number)
        }
        return counts_from_maps(keys, cells, number) + self._counts_of_threads(ids)

    def spilled(self) -> list[Count]:
        """Return the calls for which there was no room, without arguments; they are among the losses, too."""
        if not self.totals().cells_full:
            return []
        spilled = self._maps["spilled"]
        values = (spilled.get(at.to_bytes(4, "little")) for at in range(spilled.entries))
        return spilled_from_map(b"".join(value or b"" for value in values))

    def _counts_of_threads(self, ids: Mapping[bytes, int]) -> list[Count]:
        counts: list[Count] = []
        known: set[tuple[int, bytes]] = set()
        _, places, number = self._maps["threads"].items()
        for i in range(number):
            raw = self._maps["members"].get(places[4 * i : 4 * i + 4])
            if raw is None:
                continue
            thread = Thread.from_buffer_copy(raw)
            if thread.flags & THREAD_IN_CALL:
                thread.slots[thread.slot].cell.unended += 1
            for slot in thread.slots:
                if not slot.cell.count:
                    continue
                key = bytes(slot.key)
                if slot.is_plain:
                    key = key[:8] + bytes(KEY_BYTES - 8)
                mark = (thread.process, key)
                is_new = mark not in known and not self._has_counted(thread.process, ids.get(key))
                known.add(mark)
                slot.cell.processes = int(is_new)
                counts += counts_from_maps(key, bytes(slot.cell), 1)
        return counts

    def _has_counted(self, process: int, cell: int | None) -> bool:
        if cell is None:
            return False
        raw = self._maps["processes"].get(process.to_bytes(4, "little"))
        if raw is not None and cell < PROCESS_CELLS:
            return bool(Process.from_buffer_copy(raw).cells[cell // 64] >> (cell % 64) & 1)
        return self._maps["seen"].get(bytes(SeenKey(process, cell))) is not None

    def add_losses(self, ledger: LossLedger) -> None:
        """Put what was lost so far into a ledger."""
        add_losses(self.totals(), ledger)

    def detach(self) -> None:
        """Stop watching; what was counted stays readable."""
        self._object.detach()

    def close(self) -> None:
        """Release everything."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._object.close()

    def _check_kernel(self) -> None:
        # Whether the kernel's own data are where the probes look for them: what they say of this thread.
        pipe = os.pipe()
        try:
            what = {
                ASK_THREAD: threading.get_native_id(),
                ASK_PROCESS: os.getpid(),
                ASK_PARENT: os.getppid(),
                ASK_MOUNT_SPACE: os.stat("/proc/self/ns/mnt").st_ino,  # noqa: PTH116
                ASK_DESCRIPTOR + pipe[0]: os.fstat(pipe[0]).st_ino & 0xFFFFFFFF,
            }
            answers = {which: self._object.ask(ASK_SELF, which) for which in what}
            self._checked = []
            self._object.ask(ASK_SELF, ASK_PROGRAM)
            self.consume()
        finally:
            for fd in pipe:
                os.close(fd)
        paths = [event.path_text() or "" for event in self._checked]
        program = os.readlink("/proc/self/exe")  # noqa: PTH115
        if answers != what or len(paths) != 1 or not paths[0].endswith(program):
            raise MachineError(
                f"{self._object.source} do not describe this kernel",
                hint=f"apt-get install linux-headers-{os.uname().release}, or a kernel with BTF",
            )
        self._checked = None
        for key in self._maps["files"].keys():  # noqa: SIM118 - should the program be this one, it must be new
            self._maps["files"].remove(key)

    def _take(self, raw: bytes) -> None:
        event = Event.from_buffer_copy(raw)
        if self._checked is not None:
            self._checked.append(event)
            return
        if event.kind == EVENT_FILE:
            self.files.take(event)
