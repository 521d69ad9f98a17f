"""Answer the calls a filter hands over (SECCOMP_RET_USER_NOTIF): refuse, kill or let pass, and record each.

A listener fd in, answers to the kernel and audit records out. It fails closed: when anything goes wrong here,
or this process is killed, the listener closes and the kernel answers ENOSYS to every pending and later call.
Letting a call pass is for complain mode and for judges; widens: what a pointer argument points to can change
after the decision, so decisions rest on register values only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from autoprofile import abi
from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.auditlog import decoded_args
from autoprofile.enforce.caller import Callers
from autoprofile.enforce.judge import CallEvent
from autoprofile.enforce.kill import Executioner
from autoprofile.enforce.witness import Witness
from autoprofile.errors import AutoprofileError
from autoprofile.kernel import KernelError, fail, seccomp
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from autoprofile.auditlog import AuditRecord
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.caller import Caller, Task
    from autoprofile.enforce.judge import Judge
    from autoprofile.enforce.witness import Tally
    from autoprofile.trace.status import Child

__all__ = ["Decide", "NotifySupervisor", "SupervisorSummary"]

#: Answers one call: (arch, nr, six raw arguments) to an action. Must depend on nothing else: it is cached.
Decide: TypeAlias = Callable[[str, int, Sequence[int]], Action]

_ANSWERS_KEPT: Final = 65_536
_KINDS_TOLD: Final = 100  # a hook may fail in as many ways as there are calls
_ENOSYS: Final = Action.errno("ENOSYS")

# A thread that makes the very same call again this soon (nanoseconds) has not run execve(2) in between, which
# takes longer; to look costs as much as all else. Answers that rest on who calls are not given on trust.
_EXEC_NS: Final = 50_000

# struct seccomp_notif as 64-bit words: id; tid and flags; nr and arch; instruction pointer; six arguments.
# What makes two notifications identical is all of it but the id.
_NOTIF_BYTES: Final = 80
_CALL: Final = slice(8, _NOTIF_BYTES)


@dataclass(frozen=True, slots=True)
class SupervisorSummary:
    """What a supervised run came to.

    Args:
        denials: calls refused, killed for, complained about, logged or let pass by a judge.
        killed: processes killed.
        killed_by_sigkill: those of them that SIGSYS could not be relied on to kill (status 137, not 159).
        records: the distinct ones, with their totals.
        lost: audit records that could not be written or kept.
    """

    denials: int
    killed: int
    records: tuple[AuditRecord, ...]
    lost: int
    killed_by_sigkill: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    # What to do with a call: event None records nothing.
    arch: str
    event: str | None
    text: str
    error: int = 0
    let_continue: bool = False
    kill: bool = False
    by: str = "profile"
    remember: bool = True

    @property
    def word(self) -> int:
        # The third word of struct seccomp_notif_resp: error and flags. CONTINUE goes with no error.
        return seccomp.NOTIF_CONTINUE << 32 if self.let_continue else -self.error & 0xFFFFFFFF


@dataclass(slots=True)
class _Known:
    # A call that came before and gets the same answer again, at the cost of one look at who makes it.
    word: int
    task: Task | None
    tally: Tally | None
    trust_ns: int = 0
    seen_ns: int = 0


class NotifySupervisor:
    """Serve one listener to its end; make a new one for each run.

    Args:
        decide: what the profile says to a call that reached us. ``errno`` refuses with that error; ``kill``
            ends the process by SIGSYS as the kernel would (see `kill`), by SIGKILL where it handles that;
            ``allow`` lets the call pass silently; ``log`` lets it pass and records it. ``trap``, ``trace``
            and ``notify`` cannot be given from here and refuse with ENOSYS (narrows).
        judge: who decides about the calls that `is_open` picks; without an opinion of its own, and without a
            judge, they get what `decide` says.
        is_open: picks the calls that the judge may decide about; (arch, nr, six raw arguments) to a truth.
            None picks all that `decide` does not let pass.
        complain: let every call pass that would be refused, and record what would have happened. widens.
        enosys: calls refused with ENOSYS where `decide` says another errno, so that libc falls back; numbers
            without a name get ENOSYS too, as from an older kernel.
        audit: the log; closed at the end of `serve`.
        symbols: whether to look up function names for the records.
        backtrace: whether to look for who called the code that made a call.
        on_record: called with each distinct call at first sight, from the serving thread.
        on_trouble: called with one sentence per kind of trouble that does not end the run.
    """

    def __init__(
        self,
        decide: Decide,
        *,
        judge: Judge | None = None,
        is_open: Callable[[str, int, Sequence[int]], bool] | None = None,
        complain: bool = False,
        enosys: frozenset[str] = ENOSYS_FALLBACK,
        audit: AuditWriter | None = None,
        symbols: bool = True,
        backtrace: bool = False,
        on_record: Callable[[AuditRecord], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._decide = decide
        self._judge = judge
        self._is_open = is_open
        self._complain = complain
        self._enosys = enosys
        self._audit = audit
        self._on_trouble = on_trouble
        self._told: set[str] = set()
        self.witness = Witness(audit, on_record=on_record)
        self._callers = Callers(
            symbols=symbols, backtrace=backtrace, on_program=None if audit is None else audit.program
        )
        self._executioner = Executioner()
        self._known: dict[bytes, _Known] = {}
        self._decided: dict[tuple[int, int, tuple[int, ...]], Action] = {}
        self._interrupts = 0
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        #: The first process, None before `serve`.
        self.root: int | None = None
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
                self.root = child.pid
                if self._audit is not None:
                    self._audit.begin(child.pid)
                seccomp.set_sync_wake_up(listener)
                self._loop(listener, child)
            finally:
                os.dup2(self._stop_fd, listener, inheritable=False)
                self._executioner.close()
        except BaseException as error:
            self.error = error
            if self._audit is not None:
                self._audit.lose("supervisor_error")
            self._tell(
                "failed",
                f"the supervisor failed ({type(error).__name__}: {error}); "
                "every call it would have to answer fails with ENOSYS",
            )
            raise
        finally:
            self._callers.close()
            self._known.clear()
            self.witness.finish()
            if self._audit is not None:
                self._audit.close(denials=self.witness.total, distinct=len(self.witness.tallies))
            os.close(self._stop_fd)
            self._stop_fd = -1

    def stop(self) -> None:
        """End `serve` soon, from any thread or a signal handler; later calls of the target get ENOSYS."""
        self.interrupt()
        if self._stop_fd >= 0:
            os.eventfd_write(self._stop_fd, 1)

    def interrupt(self) -> None:
        """Have a judge that is being asked asked no longer: its call gets what it would get without one.

        From any thread or a signal handler; nothing when nobody is asked.
        """
        self._interrupts += 1

    @property
    def summary(self) -> SupervisorSummary:
        """Return what the run came to so far."""
        witness, executioner = self.witness, self._executioner
        return SupervisorSummary(
            witness.total, executioner.killed, witness.records, self.lost, executioner.by_sigkill
        )

    @property
    def lost(self) -> int:
        """Return how many audit records were lost so far; safe from any thread."""
        return self.witness.lost if self._audit is None else self._audit.lost

    def _loop(self, listener: int, child: Child) -> None:
        sizes = seccomp.notification_sizes()
        notification = bytearray(max(_NOTIF_BYTES, -(-sizes.notif // 8) * 8))
        response = bytearray(max(24, -(-sizes.resp // 8) * 8))
        zeros = bytes(len(notification))
        words, answer = memoryview(notification).cast("Q"), memoryview(response).cast("Q")
        identity = memoryview(notification)[_CALL]
        # Some ten microseconds for each call of the target that waits: all names are local, nothing is
        # decoded.
        ioctl, recv, send = fcntl.ioctl, seccomp.NOTIF_RECV, seccomp.NOTIF_SEND
        known, count, now = self._known, self.witness.count, time.time_ns
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(child, select.POLLIN)
        only_a_call = [(listener, select.POLLIN)]
        while True:
            # RECV alone waits for ever once no task is left (before Linux 6.11), and cannot be stopped.
            events = poller.poll(self._executioner.wait_ms())
            if events != only_a_call:
                if not self._is_going_on(events, child, poller):
                    return
                if not any(fd == listener and what & select.POLLIN for fd, what in events):
                    continue
            notification[:] = zeros  # the kernel insists
            try:
                ioctl(listener, recv, notification)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # its caller died before we took it, or a signal came
                fail("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", "receiving a notification", error.errno)
            entry = known.get(identity.tobytes())
            if entry is None:
                word = self._look_closely(listener, words, identity)
            elif entry.task is None:
                word = entry.word
            else:
                seen_ns = now()
                if not (0 < seen_ns - entry.seen_ns < entry.trust_ns) and not entry.task.is_same():
                    word = self._look_closely(listener, words, identity)
                else:
                    entry.seen_ns = seen_ns
                    if entry.tally is not None:
                        # Recorded before it is answered: a call that got its answer is in the log.
                        count(entry.tally, entry.task.process, seen_ns)
                    word = entry.word
            answer[0], answer[2] = words[0], word
            try:
                ioctl(listener, send, response)
            except OSError as error:
                # ENOENT: the caller has died meanwhile, or a signal took the call back.
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    fail("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", "answering a notification", error.errno)

    def _is_going_on(self, events: list[tuple[int, int]], child: Child, poller: select.poll) -> bool:
        self._executioner.press()
        for fd, what in events:
            if fd == child.fileno():
                if child.poll() is not None:
                    poller.unregister(fd)
            elif fd == self._stop_fd:
                self._tell(
                    "stopped",
                    "stopped while processes of the program still run; "
                    "every call of theirs that would have to be answered fails with ENOSYS",
                )
                return False
            elif not what & select.POLLIN:
                return False  # POLLHUP: no task uses the filter any more
        return True

    def _look_closely(self, listener: int, words: memoryview, identity: memoryview) -> int:
        """Decide about a call that is not known, do what takes more than an answer, and return the answer."""
        cookie = words[0]
        tid, code = words[1] & 0xFFFFFFFF, words[2]
        args = (words[4], words[5], words[6], words[7], words[8], words[9])
        call = seccomp.Notification(cookie, tid, 0, code & 0xFFFFFFFF, code >> 32, words[3], args)

        def waits() -> bool:
            return seccomp.id_valid(listener, cookie)

        arch = abi.arch_from_audit(call.arch, call.nr)
        action = self._decided.get((call.arch, call.nr, args))
        if action is None:
            if len(self._decided) >= _ANSWERS_KEPT:
                self._decided.clear()
            action = self._decided[(call.arch, call.nr, args)] = self._decide(arch, call.nr, args)
        caller: Caller | None = None
        task: Task | None = None
        by = "profile"
        remember = True
        if (
            self._judge is not None
            and not action.is_permitting
            and (self._is_open is None or self._is_open(arch, call.nr, args))
        ):
            caller, task = self._callers.look_at(call, waits)
            found = self._judged(self._judge, call, arch, (caller, task, str(action)), waits)
            if found is not None:
                action, remember = found
                by = self._judge.by
        answer = self._answer_for(arch, call.nr, action, by)
        tally: Tally | None = None
        if answer.event is not None:
            if caller is None:
                caller, task = self._callers.look_at(call, waits)
            process = tid if task is None else task.process
            tally = self.witness.saw(call, arch, answer.event, answer.text, by, caller, process)
        if answer.kill:
            try:
                self._executioner.kill(tid, waits)
            except KernelError as error:
                self._tell("kill", f"cannot kill thread {tid} ({error}); its calls fail with ENOSYS instead")
        elif remember and (answer.event is None or (task is not None and tally is not None)):
            if len(self._known) >= _ANSWERS_KEPT:
                self._known.clear()
            # A judge looked at who calls, so its answer holds only as long as that is the same.
            is_tied = by != "profile" or answer.event is not None
            trust_ns = _EXEC_NS if by == "profile" else 0
            self._known[identity.tobytes()] = _Known(answer.word, task if is_tied else None, tally, trust_ns)
        return answer.word

    def _judged(
        self,
        judge: Judge,
        call: seccomp.Notification,
        arch: str,
        who: tuple[Caller, Task | None, str],
        waits: Callable[[], bool],
    ) -> tuple[Action, bool] | None:
        caller, task, otherwise = who
        if task is None:
            return None  # the caller has died, or cannot be looked at
        interrupts = self._interrupts

        def is_wanted() -> bool:
            return self._interrupts == interrupts and waits()

        name = abi.syscall_name(arch, call.nr)
        risk = abi.call_risk(arch, name, call.args) if name else None
        event = CallEvent(
            arch=arch,
            nr=call.nr,
            syscall=name,
            args=call.args,
            decoded=decoded_args(arch, call.nr, call.args),
            program=caller.program.path,
            build_id=caller.program.build_id,
            pid=task.process,
            tid=call.tid,
            comm=caller.comm,
            location=caller.location,
            symbol=caller.symbol,
            severity=risk.severity if risk else None,
            risk=risk.reason if risk else None,
            otherwise=otherwise,
        )
        try:
            verdict = judge.judge(event, is_wanted)
        except AutoprofileError as error:
            # Fails closed: the call gets what it would get without a judge.
            self._tell(error.what, f"{error.what}{f' ({error.where})' if error.where else ''}")
            return None
        # The caller may have been killed while the judge thought: what never ran was not let pass.
        if verdict is None or (verdict.action.is_permitting and not waits()):
            return None
        return verdict.action, verdict.remember

    def _answer_for(self, arch: str, nr: int, action: Action, by: str) -> _Answer:
        if action.kind == "allow":
            # What the profile allows is nobody's news; what somebody else let pass is.
            return _Answer(arch, None if by == "profile" else "allow", "allow", let_continue=True, by=by)
        if action.kind == "log":
            return _Answer(arch, "log", "log", let_continue=True, by=by)
        kill = action.kind in ("kill_process", "kill_thread")
        if not kill:
            name = abi.syscall_name(arch, nr)
            if action.kind != "errno" or name is None or name in self._enosys:
                action = _ENOSYS
        if self._complain:
            return _Answer(arch, "complain", str(action), let_continue=True, by=by)
        if kill:
            # The error is what the call gets if its process outlives it.
            return _Answer(arch, "kill", "kill", error=errno.ENOSYS, kill=True, by=by)
        return _Answer(arch, "deny", str(action), error=action.data, by=by)

    def _tell(self, what: str, message: str) -> None:
        # Once for each kind: a hook that fails fails at every call.
        if what not in self._told and self._on_trouble is not None and len(self._told) < _KINDS_TOLD:
            self._told.add(what)
            self._on_trouble(message)
