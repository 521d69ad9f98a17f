"""Bring a running process under a filter: all its threads at once, by TSYNC, from one of them.

In: a pid and the filters. Out: the process runs on, filtered, as if nothing else had happened; or an error,
and it runs on as before. All its threads stand still for the few milliseconds this takes. What can be noticed
afterwards: a wait of epoll_wait, semtimedop or sigtimedwait with a timeout began anew.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile import kernel
from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.enforce.attach_calls import registers_to_go_on
from autoprofile.enforce.attach_inject import RunningInjection, find_instruction, injectable
from autoprofile.enforce.attach_target import (
    AttachError,
    ChangedError,
    SequenceError,
    image_arch,
    refuse_arch,
    refuse_unfit,
    seccomp_of,
    status_of,
)
from autoprofile.enforce.attach_threads import Frozen, StoppedThreads, filters_of
from autoprofile.errors import AutoprofileError, LaunchError, MachineError
from autoprofile.filter.program import Program
from autoprofile.filter.simulate import most_severe
from autoprofile.kernel import KernelError, ptrace, seccomp
from autoprofile.kernel.process import PR_SET_NO_NEW_PRIVS
from autoprofile.profile.action import Action
from autoprofile.trace.inject import InjectionDied, close_listener, refused, set_mode_filter
from autoprofile.trace.launch import Stopped
from autoprofile.trace.maps import read_maps
from autoprofile.trace.targets import threads_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autoprofile.enforce.attach_calls import Judge
    from autoprofile.trace.maps import Mapping as MemoryMapping

__all__ = ["ATTACH_TIMEOUT_S", "AttachError", "Attachment", "attach"]

ATTACH_TIMEOUT_S: Final = 30.0
_ATTEMPTS: Final = 50
_PAUSE_S: Final = 0.002
_STUCK_S: Final = 0.2  # after which our own thread may be waiting for threads that an execve has killed
_PASSABLE: Final = frozenset({"allow", "log", "notify"})  # answers to close with which it goes through


@dataclass(frozen=True)
class Attachment:
    """A process that has been brought under filters.

    Args:
        pid: the process.
        pidfd: of it, close-on-exec, for the caller to close.
        listener: its listener, close-on-exec, for the caller to close; None when none was asked for.
        arch: of its program.
        threads: how many it had.
        filters_before: how many filters it was under; None where the kernel does not tell (before Linux 5.9).
        foreign: those filters, the oldest first, where they could be read (CAP_SYS_ADMIN); else None.
        children: its child processes of that moment, which run on as they were; later ones are filtered.
            Each with the time it was started, in clock ticks after boot, which tells it from a later one.
        stopped_s: how long its threads stood still, in seconds.
    """

    pid: int
    pidfd: int
    listener: int | None
    arch: str
    threads: int
    filters_before: int | None
    foreign: tuple[Program, ...] | None
    children: Mapping[int, int]
    stopped_s: float


def attach(
    pid: int,
    programs: Sequence[bytes],
    *,
    pidfd: int | None = None,
    flags: int = 0,
    new_listener: bool = False,
    privileged: bool = False,
    arches: Collection[str] | None = None,
    judge: Judge | None = None,
    trust_filters: bool = False,
    timeout_s: float = ATTACH_TIMEOUT_S,
) -> Attachment:
    """Install filters in all threads of a running process, on top of those it may have.

    If it is a child of ours, nobody else in this process may wait for it meanwhile (`subprocess.Popen.poll`,
    `send_signal` and `kill` do): a tracee's stops would be reported to them.

    Args:
        pid: the process.
        programs: bytes of cBPF programs, in the order of installation.
        pidfd: of the process meant, so that another one with the same number is refused; kept open.
        flags: further SECCOMP_FILTER_FLAG_* (LOG).
        new_listener: make a listener with the last program. From then on somebody has to serve it.
        privileged: leave no_new_privs unset; the process needs CAP_SYS_ADMIN. Otherwise it is set in all
            threads (seccomp_sync_threads() hands it on), and stays set.
        arches: those the profile is for; a process of another is refused.
        judge: what will become of a call, where the programs alone do not say it.
        trust_filters: believe that present filters that can be neither read nor suspended let prctl,
            seccomp and close through. narrows: should one kill for them, the process dies.
        timeout_s: how long its threads may take to stop.

    Raises:
        UsageError: this is our own process, a thread, or a kernel thread.
        MachineError: the kernel or our privileges do not allow it.
        AttachError: anything else; the process is as it was, but where the message says otherwise.
    """
    refuse_unfit(pid, privileged=privileged, trust_filters=trust_filters)
    own = kernel.pidfd_open(pid) if pidfd is None else os.dup(pidfd)
    try:
        compiled = tuple(Program.from_bytes(p) for p in programs)
        deadline = time.monotonic() + timeout_s
        attempt = 0
        while True:
            try:
                arch = image_arch(pid)
                refuse_arch(pid, arch, arches)
                return _Attempt(
                    _Request(
                        pid=pid,
                        pidfd=own,
                        arch=arch,
                        programs=compiled,
                        flags=flags,
                        new_listener=new_listener,
                        privileged=privileged,
                        arches=arches,
                        judge=judge,
                        trust_filters=trust_filters,
                        deadline=deadline,
                    )
                ).run()
            except SequenceError:
                # Leaving the sequence takes the thread no more than a moment, which chance has to find.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            except ChangedError:
                # Each attempt keeps the process from what it is doing: fewer and fewer of them.
                attempt += 1
                if attempt == _ATTEMPTS or time.monotonic() > deadline:
                    raise
                time.sleep(0.001 * attempt)
    except BaseException:
        os.close(own)
        raise


@dataclass(frozen=True)
class _Request:
    pid: int
    pidfd: int
    arch: str
    programs: tuple[Program, ...]
    flags: int
    new_listener: bool
    privileged: bool
    arches: Collection[str] | None
    judge: Judge | None
    trust_filters: bool
    deadline: float


@dataclass(frozen=True)
class _Seccomp:
    # What all threads have in common before.
    no_new_privs: bool
    is_filtered: bool
    filters: int | None


class _Attempt:
    # One try, in a thread of its own: when a tracer ends, the kernel lets go of whatever it still traces.

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._cancelled = threading.Event()
        self._threads = StoppedThreads(
            request.pid, request.pidfd, deadline=request.deadline, is_cancelled=self._cancelled.is_set
        )
        self._result: Attachment | None = None
        self._error: BaseException | None = None
        self._listener: int | None = None
        self._changes = ""  # what a failure leaves behind

    def run(self) -> Attachment:
        worker = threading.Thread(target=self._work, name="attach", daemon=True)
        worker.start()
        try:
            self._follow(worker)
        except KeyboardInterrupt:
            self._cancelled.set()
            self._follow(worker)
            if self._result is None:  # else it was done already, and saying so is the truth
                raise
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _follow(self, worker: threading.Thread) -> None:
        begin = time.monotonic()
        while worker.is_alive():
            worker.join(0.02)
            if time.monotonic() - begin > _STUCK_S:
                for tid in tuple(self._threads.seized):
                    _reap(tid)
        # Python is done with the thread a little before the kernel is: only then is all let go.
        while os.path.exists(f"/proc/self/task/{worker.native_id}"):  # noqa: PTH110
            time.sleep(0.0001)

    def _work(self) -> None:
        begin = time.monotonic()
        try:
            try:
                result = self._install()
            except (AutoprofileError, OSError) as error:
                self._error = self._explained(error)
                return
            finally:
                self._threads.release()
            self._result = replace(result, stopped_s=time.monotonic() - begin)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the thread that asked
            self._error = error

    def _explained(self, error: AutoprofileError | OSError) -> BaseException:
        # A process that was killed meanwhile fails everywhere, each time otherwise.
        pid = self._request.pid
        if self._threads.have_died():
            return AttachError(f"process {pid} ended meanwhile")
        if isinstance(error, InjectionDied) and error.signum == signal.SIGSYS:
            return AttachError(
                f"process {pid}: a filter of its own, or its syscall user dispatch, answers our calls with"
                f" SIGSYS{self._changes or '; nothing was changed'}"
            )
        if isinstance(error, LaunchError):
            return AttachError(f"process {pid}: {error.what}{self._changes}", hint=error.hint)
        return error

    def _install(self) -> Attachment:
        request = self._request
        frozen = self._threads.stop()
        state = self._common_state(frozen)
        foreign = filters_of(frozen[0].tid) if state.is_filtered else ()
        for thread in frozen:
            refuse_arch(request.pid, thread.arch, request.arches)
        chosen = injectable(frozen, request.arch)
        frozen = [chosen if t.tid == chosen.tid else t for t in frozen]
        judge = self._judge(foreign or ())
        go_on = {t.tid: registers_to_go_on(request.pid, t, judge) for t in frozen}
        self._threads.is_vetted = True
        maps = read_maps(request.pid)
        injection = RunningInjection(
            chosen,
            f"process {request.pid}",
            instruction=find_instruction(chosen.tid, request.arch, maps),
            maps=maps,
            stacks=_stacks(maps, frozen, chosen),
            go_on=go_on[chosen.tid],
            deadline=request.deadline,
            # The kernel's own suspension also spares us the new filter's answer to close.
            suspend=state.is_filtered or request.new_listener,
        )
        try:
            with injection:
                if state.is_filtered and not injection.is_suspended and not request.trust_filters:
                    raise MachineError(
                        f"the filters of process {request.pid} cannot be suspended",
                        hint="that takes root outside any user namespace, and CONFIG_CHECKPOINT_RESTORE; or,"
                        " if you know that they allow prctl and seccomp, say --trust-filters",
                    )
                if request.new_listener and not injection.is_suspended:
                    self._check_close()
                self._set_filters(injection, state, is_alone=len(frozen) == 1)
            self._expect_filters(frozen, state)
        except BaseException:
            if self._listener is not None:
                os.close(self._listener)
            raise
        for thread in frozen:
            if thread is not chosen and go_on[thread.tid] is not thread.registers:
                with suppress(KernelError):  # killed meanwhile
                    ptrace.ptrace_set_registers(thread.tid, go_on[thread.tid])
        return Attachment(
            pid=request.pid,
            pidfd=request.pidfd,
            listener=self._listener,
            arch=request.arch,
            threads=len(frozen),
            filters_before=state.filters,
            foreign=foreign,
            children=_children_of(request.pid),
            stopped_s=0.0,
        )

    def _common_state(self, frozen: Sequence[Frozen]) -> _Seccomp:
        found = [(t.tid, state) for t in frozen if (state := seccomp_of(t.tid)) is not None]
        if len(found) != len(frozen):
            raise ChangedError(f"threads of process {self._request.pid} ended meanwhile")
        (first, (_, mode, filters)), *others = found
        for tid, (_, other_mode, other_filters) in others:
            if (other_mode, other_filters) != (mode, filters):
                # TSYNC would refuse this, or bring all threads under the filters of one.
                raise AttachError(
                    f"the threads of process {self._request.pid} are under different filters: thread {first}"
                    f" under {filters}, thread {tid} under {other_filters}; nothing was changed",
                    hint="it filters single threads itself; start it under the profile instead:"
                    " autoprofile enforce PROFILE -- COMMAND",
                )
        return _Seccomp(all(state[0] for _, state in found), mode == 2, filters)

    def _expect_filters(self, frozen: Sequence[Frozen], before: _Seccomp) -> None:
        # What the kernel promised, seen from outside; nobody is let go on an assumption.
        if before.filters is None:
            return
        expected = before.filters + len(self._request.programs)
        for thread in frozen:
            state = seccomp_of(thread.tid)
            if state is None or state[2] == expected:
                continue
            # A thread gives its filters back as it ends (seccomp_filter_release()), and then it shows none.
            if state[2] != 0 or not _is_exiting(thread.tid):
                raise AttachError(
                    f"thread {thread.tid} of process {self._request.pid} is under {state[2]} filters instead"
                    f" of {expected}: this kernel did not do what it said"
                )

    def _judge(self, foreign: Sequence[Program]) -> Judge:
        # Each distinct one once: which of two equal answers counts makes no difference here.
        programs = tuple({id(p): p for p in (*foreign, *self._request.programs)}.values())

        def judge(arch: str, nr: int, args: Sequence[int]) -> Action:
            token = ARCHES[arch].audit_arch
            action = Action.from_ret(most_severe([p.simulate_ret(token, nr, args) for p in programs]))
            if action.kind == "notify" and self._request.judge is not None:
                return self._request.judge(arch, nr, args)
            return action

        return judge

    def _check_close(self) -> None:
        # The process gives its copy of the listener back with close, under the new filter already.
        pid, arch = self._request.pid, self._request.arch
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208
        free = next(n for n in range(len(taken) + 1) if n not in taken)
        nr = syscall_nr(arch, "close")
        assert nr is not None
        token = ARCHES[arch].audit_arch
        for program in self._request.programs:
            action = Action.from_ret(program.simulate_ret(token, nr, (free,)))
            if action.kind not in _PASSABLE:
                raise AttachError(
                    f"the profile answers close with {action}, and the process has to close its copy of the"
                    " supervisor's listener; nothing was changed",
                    hint="allow close in the profile, enforce it without a supervisor, or run as root",
                )

    def _set_filters(self, injection: RunningInjection, state: _Seccomp, *, is_alone: bool) -> None:
        request = self._request
        # No program at all: EFAULT, if only the kernel and the present filters let us get so far. Once
        # no_new_privs is set it stays set, so this is found out before.
        flags = request.flags | seccomp.FLAG_TSYNC
        needs_both = request.new_listener and not is_alone
        if needs_both:
            flags |= seccomp.FLAG_NEW_LISTENER | seccomp.FLAG_TSYNC_ESRCH
        result = injection.call("seccomp", seccomp.SECCOMP_SET_MODE_FILTER, flags, 0)
        if needs_both and result == -errno.EINVAL:
            raise MachineError(
                "supervising a running process of several threads needs Linux 5.7; nothing was changed",
                hint="attach without a supervisor: --on-violation errno or kill, no --audit, no --complain",
            )
        if result != -errno.EFAULT:
            raise refused("seccomp(SECCOMP_SET_MODE_FILTER)", result)
        if not request.privileged and not state.no_new_privs:
            result = injection.call("prctl", PR_SET_NO_NEW_PRIVS, 1)
            if result < 0:
                raise refused("prctl(PR_SET_NO_NEW_PRIVS)", result)
            self._changes = "; no_new_privs is set now, which cannot be undone"
        for index, program in enumerate(request.programs):
            is_last = index == len(request.programs) - 1
            fd = set_mode_filter(
                injection,
                bytes(program),
                request.flags,
                new_listener=request.new_listener and is_last,
                threads=not is_alone,
            )
            self._changes = f"; {index + 1} of {len(request.programs)} filters are in place"
            if request.new_listener and is_last:
                self._listener = kernel.pidfd_getfd(request.pidfd, fd)
                stopped = Stopped(injection.tid, f"process {request.pid}", request.arch)
                close_listener(injection, stopped, fd, self._listener)


def _stacks(maps: Sequence[MemoryMapping], frozen: Sequence[Frozen], chosen: Frozen) -> list[int]:
    # Where there may be room: on the first thread's own stack, if it is on it just now; else on the chosen's.
    own = [m for m in maps if m.path == "[stack]"]
    first = [t.sp for t in frozen if any(m.start <= t.sp <= m.end for m in own)]
    return [*first, chosen.sp]


def _reap(tid: int) -> None:
    # PTRACE_SEIZE waits while any thread is in execve, execve waits until the threads that it has killed are
    # reaped, and those that we trace are ours to reap (fs/exec.c, de_thread()). A stop is left for the tracer
    # to see: of a tracee it would be reported, and taken, whatever one waits for (wait_task_stopped()).
    with suppress(ChildProcessError):
        options = os.WEXITED | os.WNOHANG | ptrace.WALL
        seen = os.waitid(os.P_PID, tid, options | os.WNOWAIT)
        if seen is not None and seen.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            os.waitid(os.P_PID, tid, options)


def _is_exiting(tid: int) -> bool:
    status = status_of(tid)
    return status is None or status.is_exiting


def _children_of(pid: int) -> dict[int, int]:
    # For a process that stands still: what it has started stays its child for as long.
    found: dict[int, int] = {}
    for tid in threads_of(pid):
        # Without CONFIG_PROC_CHILDREN there is no such file.
        with suppress(OSError):
            for child in map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split()):
                status = status_of(child)
                if status is not None and status.parent == pid:
                    found[child] = status.started
    return found
