"""The ptrace source: every syscall of a command and its descendants, with what each call returned.

Needs no privilege and no new kernel (5.3), costs two stops a call. It starts at the first instruction after
the exec and ends when the last descendant has ended. Calls through the vsyscall page it does not see (in the
ledger as ``vsyscall``, where a program may make them). One thread does everything; signals, group-stops and
exits of the program behave as without a tracer. Nobody is left behind stopped: tracees die with the tool.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

from autoprofile import kernel
from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.kernel.ptrace import (
    EVENT_CLONE,
    EVENT_EXEC,
    EVENT_FORK,
    EVENT_STOP,
    EVENT_VFORK,
    WALL,
    TraceOption,
)
from autoprofile.observations import OK, RETURN, Recorder, TraceMeta, call_code
from autoprofile.trace.launch import launch
from autoprofile.trace.privilege import lacks_rights_of_its_file
from autoprofile.trace.program_id import libc_of, loaded_objects, program_of, thread_group_of
from autoprofile.trace.ptrace_binding import (
    ENTRY,
    EXIT,
    Vanished,
    event_message,
    info_reader,
    listen,
    machine_error,
    resume,
)
from autoprofile.trace.source import Command, OnProgress, Progress, RunResult
from autoprofile.trace.status import Child, Forwarding, shell_status
from autoprofile.trace.vsyscall import HiddenCalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.observations import Cell, Counter, Trace

__all__ = ["PtraceSource"]

_OPTIONS: Final = TraceOption.TRACEFORK | TraceOption.TRACEVFORK | TraceOption.TRACECLONE

# Our own tracees and children only: those of the tool's other threads are theirs to reap (waitpid(2)).
_WNOTHREAD: Final = 0x20000000
_WAIT: Final = WALL | _WNOTHREAD

_SYSCALL_STOP: Final = (signal.SIGTRAP | 0x80) << 8 | 0x7F  # the whole wait status, under TRACESYSGOOD
_BIRTHS: Final = frozenset({EVENT_CLONE, EVENT_FORK, EVENT_VFORK})
_GROUP_STOPS: Final = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_CLONE_UNTRACED: Final = 0x00800000  # include/uapi/linux/sched.h
_PROGRESS_S: Final = 0.25


def _codes(name: str) -> dict[int, str]:
    return {call_code(arch, nr): name for arch in ARCHES if (nr := syscall_nr(arch, name)) is not None}


class PtraceSource:
    """Run one command under ptrace(2); a new object for each run."""

    name = "ptrace"

    def __init__(self) -> None:
        self._forwarding: Forwarding | None = None
        self._interrupts = 0

    def run(
        self, command: Command, *, on_progress: OnProgress | None = None, privileged: bool = False
    ) -> RunResult:
        """Run the command until its last descendant has ended; see `TraceSource.run`.

        Once the command's first process has ended, Ctrl-C asks what it left behind to end (SIGTERM), and
        kills it the second time. Meanwhile every child of the calling thread is reaped here, whether of the
        command or not; start this in a thread of its own when that matters.

        `privileged` changes nothing here: ptrace sets no no_new_privs, and the kernel itself ignores the
        set-uid bit for the tracees of a tracer without CAP_SYS_PTRACE (in the ledger: ``setuid_ignored``).
        """
        del privileged
        stopped = launch(command, options=_OPTIONS)
        started_s = time.time()
        child = Child(stopped.pid)
        tracees = _Tracees(child)
        forwarding = Forwarding(child, kill_on=2)
        forwarding.send, forwarding.on_interrupt = tracees.send_signal, tracees.interrupted
        forwarding.interrupts += self._interrupts
        self._forwarding = forwarding
        try:
            libc = str(libc_of(stopped.pid))
            with forwarding, _reporting(tracees, on_progress):
                tracees.follow()
        finally:
            self._forwarding = None
            tracees.kill()
            child.close()
        if forwarding.interrupts:
            tracees.recorder.ledger.add("interrupted", detail="Ctrl-C during the run")
        status = shell_status(tracees.root_status)
        return RunResult(tracees.trace(command, started_s, libc, status), status)

    def interrupt(self) -> None:
        """Do as Ctrl-C does: first let the program end by itself, the second time kill it."""
        forwarding = self._forwarding
        if forwarding is None:
            self._interrupts += 1
        else:
            forwarding.interrupt()


class _Tracees:
    # All tracees of one run, and the loop that follows them.

    def __init__(self, child: Child) -> None:
        self.child = child
        self.root = child.pid
        self.root_status = 0
        self.root_ended = False
        self.recorder = Recorder(returns=True)
        self.threads: dict[int, set[int]] = {}  # thread group -> its live threads
        self.start_ns = time.monotonic_ns()
        self.end_ns = self.start_ns
        self._groups: dict[int, int] = {}  # thread -> thread group
        self._counters: dict[int, Counter] = {}  # thread -> where its calls are counted
        self._pending: dict[int, Cell] = {}  # thread -> the call it is in
        # A birth is told twice, by the parent's event and the child's first stop, in either order; here are
        # the threads of which only one has come.
        self._unborn: set[int] = set()  # reported, not stopped yet
        self._early: set[int] = set()  # stopped, perhaps even dead, but not reported
        self._executed_over: set[int] = set()  # ended by an execve of their process, not yet reaped
        self._libraries: dict[str, str] = {}
        self._hidden = HiddenCalls()
        self._noted = {**_codes("clone"), **_codes("clone3"), **_codes("exit_group")}

    def follow(self) -> None:
        """Run all tracees to their end."""
        self._adopt(self.root)
        self._note_program(self.root)
        self._resume(self.root, 0)
        # Everything the loop touches on every stop is a local name: two stops a call.
        waitpid, now, read, go = os.waitpid, time.monotonic_ns, info_reader(), resume
        counters, pending, noted, start = self._counters, self._pending, self._noted, self.start_ns
        while True:
            try:
                tid, status = waitpid(-1, _WAIT)
            except ChildProcessError:
                break
            if status != _SYSCALL_STOP:
                self._stopped(tid, status)
                if not self.threads and not self._unborn:
                    break  # others may still be children of ours, but no tracees
                continue
            try:
                op, audit, _, _, nr, a0, a1, a2, a3, a4, a5 = read(tid)
                if op == ENTRY:
                    ts_ns = now() - start
                    count = counters.get(tid) or self._adopt(tid)
                    code = audit << 32 | nr & _U32
                    pending[tid] = count(code, (a0, a1, a2, a3, a4, a5), ts_ns)
                    if code in noted:
                        self._note_call(tid, noted[code], a0)
                elif op == EXIT and (cell := pending.pop(tid, None)) is not None:
                    if a0 & 0xFF:
                        Recorder.returned(cell, -nr & _U64)
                    else:
                        cell[OK] += 1
                        cell[RETURN] = 0
                go(tid, 0)
            except Vanished as error:
                self._vanished(error)
        self.end_ns = now()

    def kill(self) -> None:
        """Kill and reap whatever still runs: the tracer lives on, so EXITKILL alone would not."""
        for tgid in list(self.threads):
            with contextlib.suppress(ProcessLookupError):
                os.kill(tgid, signal.SIGKILL)
        while self.threads or self._unborn:
            try:
                tid, status = os.waitpid(-1, _WAIT)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                # A child that was being born while we killed; it is ours as well.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(tid, signal.SIGKILL)
                with contextlib.suppress(Vanished):
                    resume(tid, 0)
            else:
                self._ended(tid, status)

    def send_signal(self, signum: int) -> None:
        """Pass a signal sent to the tool on to the program, or after its end to what it left behind."""
        if signum != signal.SIGKILL and not self.root_ended:
            self.child.send_signal(signum)
            return
        for tgid in list(self.threads):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(tgid, signum)

    def interrupted(self) -> None:
        """Take note of Ctrl-C: while the program runs the terminal has told it, but not a daemon it left."""
        if self.root_ended:
            self.send_signal(signal.SIGTERM)

    def trace(self, command: Command, started_s: float, libc: str, status: int) -> Trace:
        for path in self._hidden.found:
            detail = f"{path} may call the vsyscall page, which ptrace does not see; notify and ebpf do"
            self.recorder.ledger.add("vsyscall", detail=detail)
        return self.recorder.finish(
            TraceMeta(
                backend="ptrace",
                argv=command.argv,
                kernel=os.uname().release,
                libc=libc,
                start_time_s=started_s,
                duration_ns=self.end_ns - self.start_ns,
                exit_status=status,
                libraries=self._libraries,
            )
        )

    def _stopped(self, tid: int, status: int) -> None:
        # Everything but syscall-stops: signals, events, group-stops, ends (ptrace(2)).
        if status & 0xFF != 0x7F:
            self._ended(tid, status)
            return
        event, signum = status >> 16, status >> 8 & 0xFF
        try:
            if event == EVENT_STOP:
                # A new tracee's first stop, a group-stop, or the end of one.
                if tid not in self._groups:
                    self._adopt(tid)
                if signum in _GROUP_STOPS:
                    listen(tid)
                    return
            elif event == EVENT_EXEC:
                self._executed(tid)
            elif event in _BIRTHS:
                child = event_message(tid)
                if child in self._early:
                    self._early.discard(child)
                else:
                    self._unborn.add(child)
            resume(tid, 0 if event else signum)
        except Vanished as error:
            self._vanished(error)

    def _adopt(self, tid: int) -> Counter:
        # /proc tells, rather than the parent's event: that may come later.
        self._seen(tid)
        tgid = thread_group_of(tid) or tid
        siblings = self.threads.get(tgid)
        if siblings:
            counter = self._counters[next(iter(siblings))]
            siblings.add(tid)
        else:
            self.threads[tgid] = {tid}
            counter = self._counter(tgid)
        self._groups[tid] = tgid
        self._counters[tid] = counter
        return counter

    def _counter(self, tgid: int) -> Counter:
        identity = program_of(tgid)
        return self.recorder.counter(self.recorder.program(identity.path, identity.build_id), tgid)

    def _executed(self, tgid: int) -> None:
        # The thread that called execve now is the leader, and alone; its call is still pending, and belongs
        # to the old program.
        former = event_message(tgid)
        call = self._pending.pop(former, None)
        for tid in self.threads.pop(tgid, set()) - {tgid}:
            self._forget(tid)
            if tid != former:
                self._executed_over.add(tid)
        self._pending.pop(tgid, None)
        if call is not None:
            self._pending[tgid] = call
        self.threads[tgid] = {tgid}
        self._groups[tgid] = tgid
        self._counters[tgid] = self._counter(tgid)
        self._note_program(tgid)

    def _ended(self, tid: int, status: int) -> None:
        if tid == self.root:
            self.root_status = status
            self.root_ended = True
        tgid = self._groups.get(tid)
        self._forget(tid)
        if tgid is None:
            # Killed before its first stop; or ended by an execve of its process, and then it was seen before.
            if tid not in self._executed_over:
                self._seen(tid)
            self._executed_over.discard(tid)
            return
        threads = self.threads.get(tgid, set())
        threads.discard(tid)
        if not threads:
            self.threads.pop(tgid, None)
            self.recorder.close_process(tgid)

    def _seen(self, tid: int) -> None:
        if tid in self._unborn:
            self._unborn.discard(tid)
        elif tid != self.root:
            self._early.add(tid)

    def _forget(self, tid: int) -> None:
        self._groups.pop(tid, None)
        self._counters.pop(tid, None)
        self._pending.pop(tid, None)

    def _resume(self, tid: int, signum: int) -> None:
        try:
            resume(tid, signum)
        except Vanished as error:
            self._vanished(error)

    @staticmethod
    def _vanished(error: Vanished) -> None:
        # SIGKILL may take a tracee out of any stop; its end is reported by waitpid like every other.
        if error.errno != errno.ESRCH:
            raise machine_error(error) from error

    def _note_call(self, tid: int, name: str, a0: int) -> None:
        if name == "exit_group":
            for loaded in loaded_objects(tid):
                self._libraries.setdefault(loaded.path, loaded.build_id or "")
            self._hidden.look(tid)
            return
        flags = a0
        if name == "clone3":
            try:
                flags = int.from_bytes(kernel.read_memory(tid, a0, 8), "little")  # struct clone_args, flags
            except kernel.KernelError:
                return  # a bad pointer: the kernel will not read it either
        if flags & _CLONE_UNTRACED:
            self.recorder.ledger.add("missed_fork", detail=f"{name} with CLONE_UNTRACED in process {tid}")

    def _note_program(self, pid: int) -> None:
        self._hidden.look(pid)
        # Under a tracer without CAP_SYS_PTRACE, root or not, set-uid programs get no rights (ptrace(2)).
        if lacks_rights_of_its_file(pid):
            path = program_of(pid).path
            self.recorder.ledger.add("setuid_ignored", detail=f"{path} ran without the rights it asks for")


@contextlib.contextmanager
def _reporting(tracees: _Tracees, on_progress: OnProgress | None) -> Iterator[None]:
    # From a thread of its own, so that time goes on showing while the program sleeps and waitpid blocks.
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def report() -> None:
        while not done.wait(_PROGRESS_S):
            elapsed_s = (time.monotonic_ns() - tracees.start_ns) / 1e9
            tally = tracees.recorder.tally()
            on_progress(
                Progress(tally.syscalls, tally.observations, tally.events, tally.processes, elapsed_s)
            )

    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
