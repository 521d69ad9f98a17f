"""The eBPF source for a command: launched stopped, watched from its exec to the end of its last descendant.

The program runs at full speed and unstopped; counting is the kernel's (probes/). Should the tool be killed,
the program runs on unwatched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from autoprofile.errors import MachineError
from autoprofile.kernel import ptrace
from autoprofile.observations import LossLedger, Trace, TraceMeta, add_untyped
from autoprofile.trace.ebpf.counts import observations_from_counts, tally_from_counts
from autoprofile.trace.ebpf.loading import LoadError
from autoprofile.trace.ebpf.probes import Probes
from autoprofile.trace.ebpf.records import CONFIG_CHILD
from autoprofile.trace.launch import kill_tracee, launch
from autoprofile.trace.program_id import libc_of, thread_group_of
from autoprofile.trace.source import Command, OnProgress, Progress, RunResult
from autoprofile.trace.status import Child, Forwarding, shell_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EbpfSource"]

_PROGRESS_S: Final = 0.25
_CHECKPOINT_S: Final = 5.0


class EbpfSource:
    """Run one command under the probes; a new object for each run.

    Args:
        entries: map -> entries, to give the probes more (or, in tests, less) room.

    Attributes:
        on_checkpoint: given what was seen so far every few seconds, as an incomplete trace.
        is_stopped: asked once the probes are loaded, which takes a moment, whether to begin no more.
    """

    name = "ebpf"

    def __init__(self, entries: Mapping[str, int] | None = None) -> None:
        self.on_checkpoint: Callable[[Trace], None] | None = None
        self.is_stopped: Callable[[], bool] | None = None
        self._entries = entries
        self._forwarding: Forwarding | None = None
        self._interrupts = 0
        self._probes: Probes | None = None
        self._child: Child | None = None

    def run(
        self, command: Command, *, on_progress: OnProgress | None = None, privileged: bool = False
    ) -> RunResult:
        """Run the command until its last descendant has ended; see `TraceSource.run`.

        `privileged` changes nothing here: the program is not restricted in any way.

        Raises:
            LoadError: the probes cannot be loaded; the command was not started.
            KeyboardInterrupt: `is_stopped` said so; the command was not started.
        """
        del privileged
        try:
            probes = Probes(self._entries)
        except MachineError as error:
            raise LoadError(error.what, where=error.where, hint=error.hint) from error
        try:
            return self._run(probes, command, on_progress)
        finally:
            self._forwarding = self._probes = self._child = None
            probes.close()

    def interrupt(self) -> None:
        """Do as Ctrl-C does: first let the program end by itself, the second time kill it."""
        if self._forwarding is None:
            self._interrupts += 1
        else:
            self._forwarding.interrupt()

    def _run(self, probes: Probes, command: Command, on_progress: OnProgress | None) -> RunResult:
        # The probes take our child up at its exec themselves: so the kernel gives its program an id.
        probes.configure(CONFIG_CHILD)
        probes.attach()
        if self.is_stopped is not None and self.is_stopped():
            raise KeyboardInterrupt
        stopped = launch(command)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            probes.configure(0)
            if not probes.follows(stopped.pid):
                probes.seed(stopped.pid, stopped.pid)
            probes.consume()
            libc = str(libc_of(stopped.pid))
            child = Child(stopped.pid)
            forwarding = Forwarding(child, kill_on=2)
            forwarding.send, forwarding.on_interrupt = self._send_signal, self._interrupted
            forwarding.interrupts += self._interrupts
            self._probes, self._child, self._forwarding = probes, child, forwarding
            forwarding.install()
            started_s, start_ns = time.time(), time.monotonic_ns()
            ptrace.ptrace_detach(stopped.pid)
        except BaseException:
            kill_tracee(stopped.pid)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        def trace(status: int | None) -> Trace:
            ledger = LossLedger()
            probes.add_losses(ledger)
            if forwarding.interrupts:
                ledger.add("interrupted", detail="Ctrl-C during the run")
            meta = TraceMeta(
                backend="ebpf",
                argv=command.argv,
                kernel=os.uname().release,
                libc=libc,
                start_time_s=started_s,
                duration_ns=time.monotonic_ns() - start_ns,
                exit_status=status,
                complete=status is not None,
                libraries=probes.files.libraries,
            )
            observations = observations_from_counts(probes.counts(), probes.files, start_ns)
            add_untyped(ledger, observations)
            return Trace(meta, observations, ledger, probes.processes)

        try:
            self._follow(probes, child, start_ns, on_progress, lambda: trace(None))
            status = shell_status(child.wait())
        finally:
            forwarding.remove()
            child.kill()
            child.close()
        probes.detach()
        probes.consume()
        return RunResult(trace(status), status)

    def _follow(
        self,
        probes: Probes,
        child: Child,
        start_ns: int,
        on_progress: OnProgress | None,
        so_far: Callable[[], Trace],
    ) -> None:
        report_ns = start_ns + int(_PROGRESS_S * 1e9)
        checkpoint_ns = start_ns + int(_CHECKPOINT_S * 1e9)
        while probes.live > 0 or child.poll() is None:
            pidfds = () if child.poll() is not None else (child.pidfd,)
            probes.wait(_PROGRESS_S, *pidfds)
            now_ns = time.monotonic_ns()
            if self.on_checkpoint is not None and now_ns >= checkpoint_ns:
                checkpoint_ns = now_ns + int(_CHECKPOINT_S * 1e9)
                self.on_checkpoint(so_far())
            if on_progress is not None and now_ns >= report_ns:
                report_ns = now_ns + int(_PROGRESS_S * 1e9)
                tally = tally_from_counts(probes.counts(), probes.processes)
                elapsed_s = (now_ns - start_ns) / 1e9
                on_progress(
                    Progress(tally.syscalls, tally.observations, tally.events, tally.processes, elapsed_s)
                )

    def _interrupted(self) -> None:
        # While the program runs the terminal has told it, but not a daemon it left behind.
        if self._child is not None and self._child.poll() is not None:
            self._send_signal(signal.SIGTERM)

    def _send_signal(self, signum: int) -> None:
        child, probes = self._child, self._probes
        if child is None or probes is None:
            return
        if signum != signal.SIGKILL and child.poll() is None:
            child.send_signal(signum)
            return
        for tgid in {found for tid in probes.members() if (found := thread_group_of(tid)) is not None}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(tgid, signum)
