"""The eBPF source for what runs already: attach, follow, read out while it runs, and let go.

Nothing is stopped, injected or signalled. Calls that have not ended when the watch does are counted, too.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from autoprofile import kernel
from autoprofile.errors import AutoprofileError
from autoprofile.observations import LossLedger, Trace, TraceMeta, add_untyped
from autoprofile.trace.ebpf.counts import observations_from_counts, tally_from_counts
from autoprofile.trace.ebpf.probes import Probes
from autoprofile.trace.ebpf.records import CONFIG_CGROUP, CONFIG_CGROUP_EXEC, CONFIG_MOUNT_SPACE
from autoprofile.trace.program_id import libc_of
from autoprofile.trace.source import OnProgress, Progress
from autoprofile.trace.targets import cgroup_level_of, mount_space_of, processes_of, threads_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from autoprofile.observations import ProgramId
    from autoprofile.trace.ebpf.counts import Count
    from autoprofile.trace.targets import Target

__all__ = ["Watch"]

_TICK_S: Final = 0.25
_SEED_ROUNDS: Final = 20


class Watch:
    """A watch over a target; a context manager that attaches on entry and lets go at the end.

    Args:
        target: whom to watch.
        entries: see `Probes`.
        returns: see `Probes`; without it the target is slowed down half as much.

    Attributes:
        has_ended: whether the target ended by itself.
    """

    def __init__(
        self, target: Target, entries: Mapping[str, int] | None = None, *, returns: bool = True
    ) -> None:
        self.target = target
        self.has_ended = False
        self._entries = entries
        self._returns = returns
        self._stop = threading.Event()
        self._probes: Probes | None = None
        self._pidfd = -1
        self._cgroup_id = 0
        self._libc: str | None = None
        self._start_ns = 0
        self._started_s = 0.0
        self._seeded = 0

    def __enter__(self) -> Self:
        target = self.target
        try:
            if target.ends_with is not None:
                self._pidfd = kernel.pidfd_open(target.ends_with)
                if target.mount_space is not None and mount_space_of(target.ends_with) != target.mount_space:
                    raise AutoprofileError(f"{target.name} has changed while it was looked up")
            self._probes = Probes(self._entries, returns=self._returns)
            self._probes.files.root_of = target.ends_with
            if target.cgroup is not None:
                level = cgroup_level_of(target.cgroup)
                self._cgroup_id = target.cgroup.stat().st_ino
                flags = CONFIG_CGROUP_EXEC if target.at_exec else CONFIG_CGROUP
                self._probes.configure(flags, cgroup_id=self._cgroup_id, cgroup_level=level)
            elif target.mount_space is not None:
                self._probes.configure(CONFIG_MOUNT_SPACE, mount_space=target.mount_space)
            self._started_s, self._start_ns = time.time(), time.monotonic_ns()
            # First attached, then seeded: whoever is born meanwhile is born to a member, or is found by the
            # next round.
            self._probes.attach()
            self._seed()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._probes is not None:
            self._probes.close()
            self._probes = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def stop(self) -> None:
        """End the watch soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def follow(
        self,
        *,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        """Watch until the target ends, `stop` is called, or the time is over.

        Args:
            timeout_s: seconds, None for no end.
            on_progress: called a few times a second.
            on_tick: called a few times a second, for whoever reads out meanwhile.
        """
        probes = self._attached()
        deadline_ns = None if timeout_s is None else self._start_ns + int(timeout_s * 1e9)
        while not self._stop.is_set():
            now_ns = time.monotonic_ns()
            if deadline_ns is not None and now_ns >= deadline_ns:
                break
            if self._is_over(probes):
                self.has_ended = True
                break
            left_s = _TICK_S if deadline_ns is None else min(_TICK_S, (deadline_ns - now_ns) / 1e9)
            probes.wait(left_s)
            if on_progress is not None:
                tally = tally_from_counts(probes.counts(), probes.processes)
                elapsed_s = (time.monotonic_ns() - self._start_ns) / 1e9
                on_progress(
                    Progress(tally.syscalls, tally.observations, tally.events, tally.processes, elapsed_s)
                )
            if on_tick is not None:
                on_tick()

    def detach(self) -> None:
        """Stop counting; everything can still be read."""
        probes = self._attached()
        probes.detach()
        probes.consume()

    def counts(self) -> list[Count]:
        """Return everything counted so far."""
        return self._attached().counts()

    def spilled(self) -> list[Count]:
        """Return the calls that were counted without their arguments, for which there was no room."""
        return self._attached().spilled()

    @property
    def losses(self) -> LossLedger:
        """Return which calls, processes and names were lost so far, as far as the probes know."""
        ledger = LossLedger()
        self._attached().add_losses(ledger)
        return ledger

    @property
    def lost(self) -> int:
        """Return how many that are."""
        return self.losses.total

    def program_of(self, count: Count) -> str:
        """Return the path of the program that made a counted call."""
        return self.identity_of(count).path

    def identity_of(self, count: Count) -> ProgramId:
        """Return the program that made a counted call; its path is ``?`` when nothing told of it."""
        return self._attached().files.program(count.file)

    def trace(self, *, is_final: bool = True) -> Trace:
        """Return what was seen so far.

        Args:
            is_final: the watch is over and detached: calls that have not ended are counted, too.
        """
        probes = self._attached()
        ledger = LossLedger()
        probes.add_losses(ledger)
        counts = probes.counts()
        meta = TraceMeta(
            backend="ebpf",
            argv=self.target.argv,
            kernel=os.uname().release,
            libc=self._libc,
            start_time_s=self._started_s,
            duration_ns=time.monotonic_ns() - self._start_ns,
            # Only a target without a past, every process of it followed to its end, was seen whole.
            complete=is_final
            and self.has_ended
            and self._seeded == 0
            and probes.totals().adopted == 0
            and probes.live <= 0,
            libraries=probes.files.libraries,
        )
        observations = observations_from_counts(counts, probes.files, self._start_ns, returns=self._returns)
        add_untyped(ledger, observations)
        return Trace(meta, observations, ledger, probes.processes)

    def _seed(self) -> None:
        probes = self._attached()
        seeded: list[int] = []
        for _ in range(_SEED_ROUNDS):
            added = 0
            for pid in processes_of(self.target):
                if self._libc is None:
                    self._libc = str(libc_of(pid))
                new = sum(probes.seed(tid, pid) for tid in threads_of(pid))
                added += new
                if new:
                    seeded.append(pid)
            self._seeded += added
            if not added:
                break
        # What they map from here on is told; what they have mapped is read last, for it takes longest.
        for pid in dict.fromkeys(seeded):
            probes.files.add_mapped(pid)

    def _is_over(self, probes: Probes) -> bool:
        target = self.target
        if self._pidfd >= 0:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            return bool(poller.poll(0))
        if target.cgroup is not None:
            return self._has_lost(target.cgroup)
        return probes.live <= 0

    def _has_lost(self, cgroup: Path) -> bool:
        # A unit that is started again gets a new cgroup of the same name.
        try:
            return cgroup.stat().st_ino != self._cgroup_id
        except OSError:
            return True

    def _attached(self) -> Probes:
        assert self._probes is not None
        return self._probes
