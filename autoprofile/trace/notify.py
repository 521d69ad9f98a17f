"""The notify source: every syscall handed to us by seccomp (USER_NOTIF), recorded, and let continue.

Unprivileged, Linux 5.5 or newer; sees each call of the program and its descendants from the first instruction
after exec to the last exit, with raw arguments and the arch of the call, but not what calls return, nor calls
that a filter of the program's own refuses (in the ledger as ``own_filter``).
narrows: should the tool be killed while it learns, the program's further calls fail with ENOSYS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import struct
import threading
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from autoprofile import kernel
from autoprofile.abi.arch import arch_from_audit
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.kernel import seccomp
from autoprofile.observations import COUNT, LAST, Recorder, TraceMeta
from autoprofile.trace.filtered import run_filtered
from autoprofile.trace.processes import Processes
from autoprofile.trace.program_id import libc_of
from autoprofile.trace.source import Progress, RunResult
from autoprofile.trace.status import shell_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autoprofile.observations import Trace
    from autoprofile.trace.filtered import Running
    from autoprofile.trace.source import Command, OnProgress

__all__ = ["NotifySource"]

# One instruction: BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF.
_NOTIFY_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0x7FC00000)

# Indexes of 64-bit words in struct seccomp_notif. The thread id has the flags (always 0) in its upper half,
# the code has the arch there: it is the very number under which a Recorder counts.
_ID: Final = 0
_TID: Final = 1
_CODE: Final = 2
_ARGS: Final = 4

_U32: Final = 0xFFFFFFFF
_PR_SET_SECCOMP: Final = 22  # include/uapi/linux/prctl.h
# Raw argument tuples kept per call and process: garbage in upper halves must not fill the memory.
_CACHED_TUPLES: Final = 4096
_PROGRESS_S: Final = 0.25


class NotifySource:
    """Run one command under a filter that hands every call to us; a new object for each run."""

    name = "notify"

    def __init__(self) -> None:
        # Before Linux 6.11 RECV sleeps on when the last process has gone, and a zombie still counts as a user
        # of the filter: there poll(2) comes before each RECV, and the child is reaped as soon as it ends.
        self._is_polled = kernel.kernel_release() < (6, 11)
        self._run: _Run | None = None
        self._interrupts = 0

    def run(
        self, command: Command, *, on_progress: OnProgress | None = None, privileged: bool = False
    ) -> RunResult:
        """Run the command until the last process under the filter has ended; see `TraceSource.run`.

        A program that leaves processes behind is followed until they have ended, too. They keep their own
        parent: the tool does not become a subreaper, since programs look at getppid(2). Ctrl-C then asks them
        to end (SIGTERM), and kills them the second time.
        """
        started_s = time.time()
        with run_filtered(
            command, _NOTIFY_ALL, new_listener=True, privileged=privileged, kill_on=2
        ) as running:
            run = _Run(running, is_privileged=privileged, is_polled=self._is_polled)
            running.signals.interrupts += self._interrupts
            self._run = run
            try:
                with _many_files(), _reporting(run, on_progress):
                    run.follow()
            finally:
                self._run = None
                run.close()
            status = shell_status(running.child.wait())
        return RunResult(run.trace(command, started_s, status), status)

    def interrupt(self) -> None:
        """Do as Ctrl-C does: first let the program end by itself, the second time kill it."""
        if self._run is None:
            self._interrupts += 1
        else:
            self._run.running.signals.interrupt()


class _Run:
    # One run: the loop over notifications, and what was learned in it.

    def __init__(self, running: Running, *, is_privileged: bool, is_polled: bool) -> None:
        assert running.listener is not None
        self.running = running
        self.start_ns = time.monotonic_ns()
        self.end_ns = self.start_ns
        self._recorder = Recorder()
        self._processes = Processes(self._recorder, is_privileged=is_privileged)
        self._listener = running.listener
        self._is_polled = is_polled
        self._is_killed = False
        self._libc: str | None = None
        self._picks: dict[int, Callable[[memoryview], Any] | None] = {}
        self._root_end = select.poll()
        self._root_end.register(running.child.pidfd, select.POLLIN)
        running.signals.send = self._send_signal
        running.signals.on_interrupt = self._interrupted

    def follow(self) -> None:
        """Answer notifications until no process uses the filter any more."""
        seccomp.set_sync_wake_up(self._listener)
        sizes = seccomp.notification_sizes()
        notification = bytearray(max(sizes.notif, 80))
        answer = bytearray(max(sizes.resp, 24))
        answer[20] = seccomp.NOTIF_CONTINUE
        zeros = bytes(len(notification))
        words, answer_words = memoryview(notification).cast("Q"), memoryview(answer).cast("Q")
        # About 2 µs of Python for each call of the program: all names are local, and nothing is decoded.
        listener, start, now = self._listener, self.start_ns, time.monotonic_ns
        receive = self._poll_and_receive if self._is_polled else fcntl.ioctl
        send, recv_code, send_code = fcntl.ioctl, seccomp.NOTIF_RECV, seccomp.NOTIF_SEND
        fast = self._processes.fast
        while True:
            notification[:] = zeros  # the kernel insists
            try:
                receive(listener, recv_code, notification)
            except OSError as error:
                if self._is_over(error):
                    break
                continue
            calls = fast.get(words[_TID])
            entry = None if calls is None else calls.get(words[_CODE])
            if entry is None:
                self._look_closely(words, answer, answer_words)
                fast = self._processes.fast
                continue
            answer_words[_ID] = words[_ID]
            try:
                send(listener, send_code, answer)
            except OSError as error:
                _check_unanswered(error)
                continue
            # Counted after it was answered: the program runs meanwhile, and a call that a signal took back is
            # not counted twice.
            cell, pick, cells, count = entry
            ts_ns = now() - start
            if pick is not None:
                cell = cells.get(pick(words))
                if cell is None:
                    _remember(
                        cells, pick(words), count(words[_CODE], words[_ARGS : _ARGS + 6].tolist(), ts_ns)
                    )
                    continue
            cell[COUNT] += 1
            cell[LAST] = ts_ns
        self.end_ns = now()

    def trace(self, command: Command, started_s: float, status: int) -> Trace:
        """Return what was recorded."""
        if self.running.signals.interrupts:
            self._recorder.ledger.add("interrupted", detail="Ctrl-C during the run")
        trace = self._recorder.finish(
            TraceMeta(
                backend="notify",
                argv=command.argv,
                kernel=os.uname().release,
                libc=self._libc,
                start_time_s=started_s,
                duration_ns=self.end_ns - self.start_ns,
                exit_status=status,
                libraries=self._processes.libraries,
            )
        )
        for seen in trace.observations:
            if _installs_a_filter(syscall_name(seen.arch, seen.nr), seen.args):
                detail = f"{seen.program.path} filters itself: calls its own filter refuses were not seen"
                trace.ledger.add("own_filter", seen.count, detail)
        return trace

    def close(self) -> None:
        """Close what the run held open; programs that still run are killed, for they could not go on."""
        self._processes.send_signal(signal.SIGKILL)
        self._processes.close()

    def _look_closely(self, words: memoryview, answer: bytearray, answer_words: memoryview) -> None:
        # The slow path: a thread or a call not seen before, or one that changes who is who.
        listener, cookie, tid, code = self._listener, words[_ID], words[_TID] & _U32, words[_CODE]
        process = self._processes.find(tid, lambda: seccomp.id_valid(listener, cookie))
        if process is None:
            return  # the caller has died: nobody waits for an answer
        if self._libc is None:
            self._libc = str(libc_of(process.tgid))
        if self._is_killed:
            self._processes.send_signal(signal.SIGKILL)  # born while the others were being killed
        count = process.count
        if code in self._processes.special:
            self._processes.entering(process, tid, code)
        answer_words[_ID] = cookie
        try:
            fcntl.ioctl(listener, seccomp.NOTIF_SEND, answer, True)
        except OSError as error:
            _check_unanswered(error)
            return
        cell = count(code, words[_ARGS : _ARGS + 6].tolist(), time.monotonic_ns() - self.start_ns)
        if code not in self._processes.special:
            pick = self._pick(code)
            process.calls[code] = (cell, pick, {} if pick is None else {pick(words): cell}, count)

    def _pick(self, code: int) -> Callable[[memoryview], Any] | None:
        if code not in self._picks:
            nr = code & _U32
            arch = arch_from_audit(code >> 32, nr)
            name = syscall_name(arch, nr)
            indexes = [_ARGS + spec.index for spec in constrained_args(arch, name)] if name else []
            self._picks[code] = itemgetter(*indexes) if indexes else None
        return self._picks[code]

    def _is_over(self, error: OSError) -> bool:
        if error.errno == errno.EINTR:
            return False
        if error.errno != errno.ENOENT:
            kernel.fail("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", "receiving a notification", error.errno)
        poller = select.poll()
        poller.register(self._listener, 0)
        # POLLHUP: no user of the filter is left; otherwise a caller died before we looked.
        return bool(poller.poll(0))

    def _poll_and_receive(self, listener: int, request: int, buffer: bytearray) -> int:
        child = self.running.child
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        if child.poll() is None:
            poller.register(child.pidfd, select.POLLIN)
        events = dict(poller.poll())
        if events.get(listener, 0) & select.POLLIN:
            return int(fcntl.ioctl(listener, request, buffer))
        raise OSError(errno.ENOENT if listener in events else errno.EINTR, "nothing to receive")

    def progress(self) -> Progress:
        """Return how far it is; may be called from another thread."""
        tally = self._recorder.tally()
        elapsed_s = (time.monotonic_ns() - self.start_ns) / 1e9
        return Progress(tally.syscalls, tally.observations, tally.events, tally.processes, elapsed_s)

    def _has_root_ended(self) -> bool:
        return bool(self._root_end.poll(0))  # does not reap: this may run in a signal handler during a wait

    def _send_signal(self, signum: int) -> None:
        # Signals sent to the tool mean the program, and after its end what it left behind.
        if signum == signal.SIGKILL:
            self._is_killed = True
            self._processes.send_signal(signum)
            self.running.child.send_signal(signum)
        elif self._has_root_ended():
            self._processes.send_signal(signum)
        else:
            self.running.child.send_signal(signum)

    def _interrupted(self) -> None:
        # While the program runs, Ctrl-C has reached it from the terminal. What it left behind has not heard.
        if self._has_root_ended():
            self._processes.send_signal(signal.SIGTERM)


def _installs_a_filter(name: str | None, args: Sequence[int | None]) -> bool:
    # The kernel runs all filters and takes the severest answer: what the program's own refuses (ERRNO, TRAP,
    # KILL) never comes to us, and would later be killed by a profile that does not know it. The other
    # sources see calls before any filter, or refusals beside them.
    return (name == "seccomp" and args[0] == seccomp.SECCOMP_SET_MODE_FILTER) or (
        name == "prctl" and args[0] == _PR_SET_SECCOMP
    )


def _remember(cells: dict[Any, Any], key: Any, cell: Any) -> None:
    if len(cells) >= _CACHED_TUPLES:
        cells.clear()
    cells[key] = cell


def _check_unanswered(error: OSError) -> None:
    if error.errno not in (
        errno.ENOENT,
        errno.EINTR,
    ):  # ENOENT: the caller died, or a signal took the call back
        kernel.fail("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", "answering a notification", error.errno)


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    # One pidfd for each live process. The program was started with the limit as it was.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _reporting(run: _Run, on_progress: OnProgress | None) -> Iterator[None]:
    # From a thread of its own, so that time goes on showing while the program makes no call.
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def report() -> None:
        while not done.wait(_PROGRESS_S):
            on_progress(run.progress())

    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
