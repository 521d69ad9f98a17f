"""Answer the calls a filter hands over (SECCOMP_RET_USER_NOTIF): refuse, kill or let pass, and record each.

A listener fd in, answers to the kernel and audit records out. It fails closed: when anything goes wrong here,
or this process is killed, the listener closes and the kernel answers ENOSYS to every pending and later call.
Letting a call pass is for complain mode and hybrid profiles; widens: what a pointer argument points to can
change after the decision, so decisions rest on register values only.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from autoprofile import abi, kernel
from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.enforce.witness import Witness
from autoprofile.kernel import KernelError, seccomp
from autoprofile.profile.action import Action
from autoprofile.trace.program_id import thread_group_of

if TYPE_CHECKING:
    from autoprofile.auditlog import AuditRecord
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.trace.status import Child

__all__ = ["Decide", "NotifySupervisor", "SupervisorSummary"]

#: Answers one call: (arch, nr, six raw arguments) to an action. Must depend on nothing else: it is cached.
Decide: TypeAlias = Callable[[str, int, Sequence[int]], Action]

_ANSWERS_KEPT = 65_536


@dataclass(frozen=True, slots=True)
class SupervisorSummary:
    """What a supervised run came to.

    Args:
        denials: calls refused, killed for, complained about or logged.
        killed: processes killed.
        records: the distinct ones, with their totals.
        lost: audit records that could not be written or kept.
    """

    denials: int
    killed: int
    records: tuple[AuditRecord, ...]
    lost: int


@dataclass(frozen=True, slots=True)
class _Answer:
    # What to do with a call: event None records nothing.
    arch: str
    event: str | None
    text: str
    error: int = 0
    let_continue: bool = False
    kill: bool = False


class NotifySupervisor:
    """Serve one listener to its end; make a new one for each run.

    Args:
        decide: what the profile says to a call that reached us. ``errno`` refuses with that error; ``kill``
            kills the whole process with SIGKILL, so its shell status is 137 where a filter's own KILL gives
            159 (SIGSYS); ``allow`` lets the call pass silently; ``log`` lets it pass and records it.
            ``trap``, ``trace`` and ``notify`` cannot be given from here and refuse with ENOSYS (narrows).
        complain: let every call pass that would be refused, and record what would have happened. widens.
        enosys: calls refused with ENOSYS where `decide` says another errno, so that libc falls back; numbers
            without a name get ENOSYS too, as from an older kernel.
        audit: the log; closed at the end of `serve`.
        symbols: whether to look up function names for the records.
        on_record: called with each distinct call at first sight, from the serving thread.
        on_trouble: called with one sentence per kind of trouble that does not end the run.
    """

    def __init__(
        self,
        decide: Decide,
        *,
        complain: bool = False,
        enosys: frozenset[str] = ENOSYS_FALLBACK,
        audit: AuditWriter | None = None,
        symbols: bool = True,
        on_record: Callable[[AuditRecord], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._decide = decide
        self._complain = complain
        self._enosys = enosys
        self._audit = audit
        self._on_trouble = on_trouble
        self._witness = Witness(audit, symbols=symbols, on_record=on_record)
        self._answers: dict[tuple[int, int, tuple[int, ...]], _Answer] = {}
        self._killed = 0
        self._cannot_kill = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        #: What ended `serve`, None while it runs and after a proper end.
        self.error: BaseException | None = None

    def serve(self, listener: int, child: Child) -> None:
        """Answer until the last task under the filter is gone or `stop` is called.

        When this returns or raises, the listener is closed and pending and later calls fail with ENOSYS; its
        number stays taken (by an eventfd) for the caller to close.

        Args:
            listener: close-on-exec listener fd, the only copy.
            child: the first process; reaped when it ends, because before Linux 6.11 a zombie still counts as
                a user of the filter.

        Raises:
            BaseException: whatever went wrong, after it was reported and the log closed.
        """
        try:
            try:
                if self._audit is not None:
                    self._audit.begin(child.pid)
                seccomp.set_sync_wake_up(listener)
                self._loop(listener, child)
            finally:
                os.dup2(self._stop_fd, listener, inheritable=False)
        except BaseException as error:
            self.error = error
            if self._audit is not None:
                self._audit.lose("supervisor_error")
            self._tell(
                f"the supervisor failed ({type(error).__name__}: {error}); "
                "every call it would have to answer fails with ENOSYS"
            )
            raise
        finally:
            self._witness.finish()
            if self._audit is not None:
                self._audit.close(denials=self._witness.total, distinct=len(self._witness.records))
            os.close(self._stop_fd)
            self._stop_fd = -1

    def stop(self) -> None:
        """End `serve` soon, from any thread or a signal handler; later calls of the target get ENOSYS."""
        if self._stop_fd >= 0:
            os.eventfd_write(self._stop_fd, 1)

    @property
    def summary(self) -> SupervisorSummary:
        """Return what the run came to so far."""
        lost = self._witness.lost if self._audit is None else self._audit.lost
        return SupervisorSummary(self._witness.total, self._killed, self._witness.records, lost)

    def _loop(self, listener: int, child: Child) -> None:
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(child, select.POLLIN)
        while True:
            # RECV alone waits for ever once no task is left (before Linux 6.11), and cannot be stopped.
            for fd, events in poller.poll():
                if fd == listener and events & select.POLLIN:
                    try:
                        call = seccomp.receive(listener)
                    except seccomp.PendingNotification:
                        continue  # its caller died before we took it, or a signal came
                    self._answer(listener, call)
                elif fd == child.fileno():
                    if child.poll() is not None:
                        poller.unregister(fd)
                elif fd == listener:
                    return  # POLLHUP: no task uses the filter any more
                else:
                    self._tell(
                        "stopped while processes of the program still run; "
                        "every call of theirs that would have to be answered fails with ENOSYS"
                    )
                    return

    def _answer(self, listener: int, call: seccomp.Notification) -> None:
        key = (call.arch, call.nr, call.args)
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _ANSWERS_KEPT:
                self._answers.clear()
            answer = self._answers[key] = self._answer_for(call)
        if answer.event is not None:
            # Recorded before it is answered: a call that got its answer is in the log.
            self._witness.saw(
                call, answer.arch, answer.event, answer.text, lambda: seccomp.id_valid(listener, call.id)
            )
        if answer.kill and self._kill(listener, call):
            return
        # False, when the caller died meanwhile, needs nothing from us.
        seccomp.respond(listener, call.id, error=answer.error, let_continue=answer.let_continue)

    def _answer_for(self, call: seccomp.Notification) -> _Answer:
        nr = call.nr & 0xFFFFFFFF
        arch = abi.arch_from_audit(call.arch, nr)
        action = self._decide(arch, nr, call.args)
        if action.kind == "allow":
            return _Answer(arch, None, "allow", let_continue=True)
        if action.kind == "log":
            return _Answer(arch, "log", "log", let_continue=True)
        kill = action.kind in ("kill_process", "kill_thread")
        if not kill:
            name = abi.syscall_name(arch, nr)
            if action.kind != "errno" or name is None or name in self._enosys:
                action = Action.errno(errno.ENOSYS)
        if self._complain:
            return _Answer(arch, "complain", str(action), let_continue=True)
        if kill:
            # The error is for a target that cannot be killed.
            return _Answer(arch, "kill", "kill", error=errno.ENOSYS, kill=True)
        return _Answer(arch, "deny", str(action), error=action.data)

    def _kill(self, listener: int, call: seccomp.Notification) -> bool:
        # kill_thread kills the process too (narrows): a thread cannot be killed alone from outside.
        process = thread_group_of(call.tid)
        try:
            fd = kernel.pidfd_open(call.tid if process is None else process)
        except KernelError as error:
            return self._could_not_kill(listener, call, error)
        try:
            if not seccomp.id_valid(listener, call.id):
                return True  # gone, and the number may be someone else's by now
            kernel.pidfd_send_signal(fd, signal.SIGKILL)
        except KernelError as error:
            return self._could_not_kill(listener, call, error)
        finally:
            os.close(fd)
        self._killed += 1
        return True

    def _could_not_kill(self, listener: int, call: seccomp.Notification, error: KernelError) -> bool:
        if not seccomp.id_valid(listener, call.id):
            return True
        if not self._cannot_kill:
            self._cannot_kill = True
            self._tell(f"cannot kill thread {call.tid} ({error}); its calls fail with ENOSYS instead")
        return False

    def _tell(self, message: str) -> None:
        if self._on_trouble is not None:
            self._on_trouble(message)
