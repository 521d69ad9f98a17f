"""Stop every thread of a process at once, and see where each of them stands.

In: a pid. Out: its threads in PTRACE_EVENT_STOP, with their registers; nothing of them changed. Every
request must come from the thread that made the `StoppedThreads`; when it ends, the kernel lets go of all.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from autoprofile.abi.syscalls import syscall_name
from autoprofile.enforce.attach_calls import registers_unharmed
from autoprofile.enforce.attach_target import (
    AttachError,
    ChangedError,
    permission_error,
    status_of,
    stopped_error,
    traced_error,
)
from autoprofile.errors import AutoprofileError
from autoprofile.filter.program import Program
from autoprofile.kernel import KernelError, ptrace
from autoprofile.trace.targets import threads_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SEIZE_OPTIONS", "Frozen", "StoppedThreads"]

#: How threads are seized: a killed tool leaves them running.
SEIZE_OPTIONS: Final = ptrace.TraceOption.TRACESYSGOOD | ptrace.TraceOption.TRACEEXEC

# (format, result, number, arguments, ip, sp) of NT_PRSTATUS, by its length: struct user_regs_struct of x86
# (asm/user_64.h, asm/user_32.h); which of the two a thread has tells in which mode it runs.
_VIEWS: Final = {
    216: ("x86_64", "=27q", 10, 15, (14, 13, 12, 7, 9, 8), 16, 19),
    68: ("i386", "=17i", 6, 11, (0, 1, 2, 3, 4, 5), 12, 15),
}

_LONG_PAUSE_S: Final = 0.01
_REFUSALS: Final = 5  # by which time it is no coincidence


@dataclass(frozen=True, slots=True)
class Frozen:
    """A stopped thread.

    Args:
        tid: its id.
        arch: the mode its code runs in: ``x86_64`` or ``i386``.
        registers: its NT_PRSTATUS as the kernel gave it.
        result: signed result of the call it comes from, -ERESTART* of one that was interrupted.
        nr: number of that call, -1 when it was stopped in its own code.
        args: the argument registers, unsigned.
        ip: instruction pointer.
        sp: stack pointer.
    """

    tid: int
    arch: str
    registers: bytes
    result: int
    nr: int
    args: tuple[int, ...]
    ip: int
    sp: int

    @classmethod
    def of(cls, tid: int) -> Frozen:
        """Read the registers of a stopped thread.

        Raises:
            KernelError: it is not stopped, or gone.
        """
        registers = ptrace.ptrace_get_registers(tid)
        arch, form, result, nr, args, ip, sp = _VIEWS[len(registers)]
        values = struct.unpack(form, registers)
        mask = 2**64 - 1 if arch == "x86_64" else 2**32 - 1
        return cls(
            tid=tid,
            arch=arch,
            registers=registers,
            result=values[result],
            nr=values[nr],
            args=tuple(values[i] & mask for i in args),
            ip=values[ip] & mask,
            sp=values[sp] & mask,
        )

    def with_result(self, result: int) -> bytes:
        """Return the registers with another result."""
        return self._with(2, result)

    def without_call(self) -> bytes:
        """Return the registers so that the kernel restarts nothing: orig_rax is -1, as after an interrupt."""
        return self._with(3, -1)

    def moved(self, ip: int) -> Frozen:
        """Return the same thread at another instruction."""
        limit = 1 << (63 if self.arch == "x86_64" else 31)
        return replace(self, registers=self._with(5, ip if ip < limit else ip - 2 * limit), ip=ip)

    @property
    def call_name(self) -> str:
        """Name the call it comes from."""
        return syscall_name(self.arch, self.nr) or f"syscall {self.nr}"

    def _with(self, place: int, value: int) -> bytes:
        view = _VIEWS[len(self.registers)]
        values = list(struct.unpack(view[1], self.registers))
        index = view[place]
        assert isinstance(index, int)
        values[index] = value
        return struct.pack(view[1], *values)


def filters_of(tid: int) -> tuple[Program, ...] | None:
    """Return the filters of a stopped thread, the oldest first; None where we may not read them."""
    found: list[Program] = []
    known: dict[bytes, Program] = {}
    try:
        while (raw := ptrace.ptrace_seccomp_get_filter(tid, len(found))) is not None:
            if raw not in known:
                known[raw] = Program.from_bytes(raw, sys.byteorder)
            found.append(known[raw])
    except AutoprofileError:
        return None
    return tuple(found)


class StoppedThreads:
    """All threads of a process, stopped, until `release`.

    Args:
        pid: the process.
        pidfd: of that process: should another one have got its number meanwhile, it is refused.
        deadline: monotonic time at which to give up.
        is_cancelled: asked now and then whether to give up.

    Attributes:
        seized: the threads we trace, for whoever has to reap them (see `attach`).
        is_vetted: whether somebody has seen to it that their filters let their calls go on.
    """

    def __init__(self, pid: int, pidfd: int, *, deadline: float, is_cancelled: Callable[[], bool]) -> None:
        self._pid = pid
        self._pidfd = pidfd
        self._deadline = deadline
        self._is_cancelled = is_cancelled
        self._skipped: set[int] = set()
        self._stopped: set[int] = set()
        self._group_stopped = False
        self.seized: set[int] = set()
        self.is_vetted = False

    def stop(self) -> list[Frozen]:
        """Stop all threads and return them, the first thread first when it lives.

        Raises:
            ChangedError: the process executed another program meanwhile.
            MachineError: we may not trace it.
            AttachError: it ended, is traced or stopped, or one of its threads does not stop in time.
        """
        # Threads start threads until all that we know of stand still; then one more look finds nothing new.
        while True:
            new = [t for t in threads_of(self._pid) if t not in self.seized and t not in self._skipped]
            if not new:
                break
            self._seize(new)
            self._wait()
        if not self._stopped:
            if self.has_ended():
                raise AttachError(f"process {self._pid} has ended")
            raise ChangedError(f"process {self._pid} is executing another program")
        if self._group_stopped:
            raise stopped_error(self._pid)
        try:
            return [Frozen.of(t) for t in sorted(self._stopped, key=lambda t: (t != self._pid, t))]
        except KernelError as error:
            raise self._lost(error) from error

    def release(self) -> None:
        """Let all threads go on as if they had not been stopped.

        One that did not stop is let go when this thread of ours ends.
        """
        for tid in self._stopped:
            with suppress(KernelError):  # killed meanwhile
                if not self._group_stopped:
                    self._spare(tid)
                ptrace.ptrace_detach(tid)
        self._stopped.clear()

    def _spare(self, tid: int) -> None:
        # Whatever came of the attempt, the stop itself must not show: some waits would fail with EINTR.
        thread = Frozen.of(tid)
        registers = registers_unharmed(
            self._pid, thread, lambda: () if self.is_vetted else filters_of(tid) or ()
        )
        if registers is not None:
            ptrace.ptrace_set_registers(tid, registers)

    def has_ended(self) -> bool:
        """Tell whether the process behind the pidfd is gone."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def _seize(self, tids: list[int]) -> None:
        seized = [tid for tid in tids if self._may_seize(tid)]
        self._skipped.update(set(tids).difference(seized))
        self.seized.update(seized)
        if self.has_ended():
            # Whatever we have seized, it may be of another process with the same number.
            raise AttachError(f"process {self._pid} has ended")
        ours = set(threads_of(self._pid))
        for tid in seized:
            if tid not in ours:
                raise ChangedError(f"thread {tid} of process {self._pid} ended meanwhile")
            try:
                ptrace.ptrace_interrupt(tid)
            except KernelError as error:
                if error.errno != errno.ESRCH:
                    raise
                self._skipped.add(tid)

    def have_died(self) -> bool:
        """Tell whether the process is gone or about to be: nothing of its stopped threads can be read."""
        if self.has_ended():
            return True
        for tid in self._stopped:
            try:
                Frozen.of(tid)
            except KernelError:
                return True
        return False

    def _may_seize(self, tid: int) -> bool:
        for attempt in range(_REFUSALS):
            try:
                # While another thread executes a program this waits for it; and that for us to reap the
                # threads it has killed: see `attach`.
                ptrace.ptrace_seize(tid, SEIZE_OPTIONS)
            except KernelError as error:
                if error.errno == errno.ESRCH:
                    return False
                if error.errno != errno.EPERM:
                    raise
                status = status_of(tid)
                if status is None or status.has_ended or status.is_worker:
                    return False
                if status.tracer and attempt == _REFUSALS - 1:
                    raise traced_error(status) from error
                time.sleep(0.002)  # a thread that is about to end is refused too
            else:
                return True
        raise permission_error(self._pid)

    def _wait(self) -> None:
        pending = self.seized - self._stopped - self._skipped
        pause_s = 0.00005
        while pending:
            before = len(pending)
            pending = {tid for tid in pending if not self._has_settled(tid)}
            if not pending:
                return
            if self._is_cancelled():
                raise AttachError("interrupted; nothing was changed")
            if time.monotonic() > self._deadline:
                raise self._late(min(pending))
            if pause_s == _LONG_PAUSE_S:
                self._expect_traced(pending)
            pause_s = 0.00005 if len(pending) < before else min(pause_s * 2, _LONG_PAUSE_S)
            time.sleep(pause_s)

    def _expect_traced(self, pending: set[int]) -> None:
        # A thread that executes a program takes the id of the first one, which we may have seized in vain.
        for tid in pending:
            status = status_of(tid)
            if status is None or status.tracer != os.getpid():
                raise ChangedError(f"process {self._pid} executed another program meanwhile")

    def _has_settled(self, tid: int) -> bool:
        # Whether a thread has stopped as we asked it to, or gone.
        try:
            got, status = os.waitpid(tid, os.WNOHANG | ptrace.WALL)
        except ChildProcessError:
            self._skipped.add(tid)
            return True
        if not got:
            return False
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            self._skipped.add(tid)
            return True
        event = ptrace.stop_event(status)
        if event == ptrace.EVENT_STOP:
            self._stopped.add(tid)
            self._group_stopped |= os.WSTOPSIG(status) != signal.SIGTRAP
            return True
        if event == ptrace.EVENT_EXEC:
            self._stopped.add(tid)
            raise ChangedError(f"process {self._pid} executed another program meanwhile")
        # A signal that was on its way before we came: it takes its course, and then the thread stops.
        with suppress(KernelError):
            ptrace.ptrace_cont(tid, 0 if event else os.WSTOPSIG(status))
        return False

    def _late(self, tid: int) -> AttachError:
        status = status_of(tid)
        state = status.state if status is not None else "?"
        return AttachError(
            f"thread {tid} of process {self._pid} does not stop (state {state}); nothing was changed",
            hint="it is in a wait that nothing interrupts (a vfork, a disk, a network file system, a frozen"
            " cgroup): try again when that is over",
        )

    def _lost(self, error: KernelError) -> AttachError:
        if self.has_ended() or error.errno != errno.ESRCH:
            return AttachError(f"process {self._pid} ended meanwhile")
        return ChangedError(f"threads of process {self._pid} ended meanwhile")
