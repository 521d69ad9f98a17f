"""Which process and program a thread id in a notification stands for, kept right across exec and pid reuse.

Asking /proc for each call would cost more than the call, so answers are cached per thread id, by three rules:

* **exec**: from the moment a thread calls execve until the outcome is seen, nothing of its process is
  answered from the cache. A successful execve by a thread that is not the leader makes it take the leader's
  id and ends all others; so the outcome is read from ``/proc/TGID/task`` at the next call of any of them.
* **reuse**: a new task can only come from a fork-like call, which we see. From then until the caller's next
  call (by then the new id is taken) every lookup first drops the processes whose pidfds say they have ended.
  A thread id goes at ``exit``, all of a process at ``exit_group``. What is left: a thread killed by a signal
  whose id, after a whole round of the pid space, comes back before the rest of its process has died.
* **truth**: what was read under a thread id counts only if its notification is still valid afterwards.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from autoprofile import kernel
from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.observations import call_code
from autoprofile.trace.privilege import lacks_rights_of_its_file
from autoprofile.trace.program_id import loaded_objects, program_of, thread_group_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.observations import Counter, Recorder

__all__ = ["Calls", "Entry", "Process", "Processes"]

Entry: TypeAlias = "tuple[Any, Callable[[Any], Any] | None, dict[Any, Any], Counter]"
"""``(cell, pick, cells, count)``: the cell of a call without constrained arguments; else how to pick those
out of a notification, the cells by what was picked, and what counts a tuple not seen before."""

Calls: TypeAlias = dict[int, Entry]

_U32: Final = 0xFFFFFFFF


def _codes(*names: str) -> frozenset[int]:
    return frozenset(
        call_code(arch, nr) for arch in ARCHES for name in names if (nr := syscall_nr(arch, name)) is not None
    )


class Process:
    """One thread group.

    Attributes:
        tgid: its id.
        count: where its calls are counted under its current program.
        calls: what the fast path knows of it; replaced when the program changes.
        pidfd: readable at its end; -1 when it could not be opened.
    """

    __slots__ = ("calls", "count", "executing", "pidfd", "program", "tgid", "tids")

    def __init__(self, tgid: int, pidfd: int, program: int, count: Counter) -> None:
        self.tgid = tgid
        self.pidfd = pidfd
        self.program = program
        self.count = count
        self.calls: Calls = {}
        self.tids: set[int] = set()
        self.executing: set[int] = set()


class Processes:
    """All processes under one listener.

    Attributes:
        fast: thread id -> what its process's fast path knows; empty while ids may be changing hands. Read it
            again after every `find` and `entering`.
        libraries: path -> build-id of what processes had mapped when they ended.
    """

    def __init__(self, recorder: Recorder, *, is_privileged: bool) -> None:
        self.libraries: dict[str, str] = {}
        self._recorder = recorder
        self._is_privileged = is_privileged
        self._cache: dict[int, Calls] = {}
        self._nothing: dict[int, Calls] = {}
        self.fast = self._cache
        self._threads: dict[int, Process] = {}
        self._processes: dict[int, Process] = {}
        self._by_pidfd: dict[int, Process] = {}
        self._forking: set[int] = set()
        self._noted: set[int] = set()
        self._epoll = select.epoll()
        self._forks = _codes("fork", "vfork", "clone", "clone3")
        self._execs = _codes("execve", "execveat")
        self._exits = _codes("exit")
        self._group_exits = _codes("exit_group")
        self.special = self._forks | self._execs | self._exits | self._group_exits

    def find(self, tid: int, is_valid: Callable[[], bool]) -> Process | None:
        """Return the process whose thread `tid` waits in a notification; None when it died meanwhile."""
        if self._forking:
            self._drop_ended()
            self._forking.discard(tid)
            if not self._forking:
                self.fast = self._cache
        process = self._threads.get(tid)
        if process is not None and process.executing:
            process = self._after_exec(process, tid)
        if process is None:
            process = self._identify(tid, is_valid)
            if process is None:
                return None
        elif not is_valid():
            return None
        if not process.executing:
            self._cache[tid] = process.calls
        return process

    def entering(self, process: Process, tid: int, code: int) -> None:
        """Note that a thread is about to make one of the `special` calls, before it continues."""
        if code in self._forks:
            self._forking.add(tid)
            self.fast = self._nothing
            return
        if code in self._execs:
            process.executing.add(tid)
            for other in process.tids:
                self._cache.pop(other, None)
            return
        if code in self._group_exits or len(process.tids) == 1:
            for loaded in loaded_objects(process.tgid):
                self.libraries.setdefault(loaded.path, loaded.build_id or "")
        for other in tuple(process.tids) if code in self._group_exits else (tid,):
            self._forget_thread(process, other)

    def send_signal(self, signum: int) -> bool:
        """Send a signal to every process known to be alive; False when there is none."""
        sent = [kernel.pidfd_send_signal(pidfd, signum) for pidfd in tuple(self._by_pidfd)]
        return any(sent)

    def close(self) -> None:
        """Close all pidfds."""
        for pidfd in self._by_pidfd:
            os.close(pidfd)
        self._by_pidfd.clear()
        self._epoll.close()

    def _identify(self, tid: int, is_valid: Callable[[], bool]) -> Process | None:
        tgid = thread_group_of(tid)
        if tgid is None:
            if not is_valid():
                return None
            tgid = tid  # /proc does not show it to us, but it waits for an answer
        process = self._processes.get(tgid)
        if process is None:
            identity = program_of(tgid)
            pidfd = -1
            # Out of file descriptors, or a leader that has ended before its threads: then only the pid itself
            # tells, and its reuse goes unnoticed.
            with contextlib.suppress(kernel.KernelError):
                pidfd = kernel.pidfd_open(tgid)
            if not is_valid():
                if pidfd >= 0:
                    os.close(pidfd)
                return None
            program = self._recorder.program(identity.path, identity.build_id)
            self._note_privilege(tgid, program)
            process = Process(tgid, pidfd, program, self._recorder.counter(program, tgid))
            self._processes[tgid] = process
            if pidfd >= 0:
                self._by_pidfd[pidfd] = process
                self._epoll.register(pidfd, select.EPOLLIN)
        elif not is_valid():
            return None
        process.tids.add(tid)
        self._threads[tid] = process
        return process

    def _after_exec(self, process: Process, tid: int) -> Process | None:
        if (thread_group_of(tid) or tid) != process.tgid:
            self._forget_thread(process, tid)  # ended by the execve of another thread, and its id reused
            return None
        process.executing.discard(tid)
        with contextlib.suppress(OSError):
            alive = {int(t) for t in os.listdir(f"/proc/{process.tgid}/task")}  # noqa: PTH208
            for gone in process.tids - alive:
                self._forget_thread(process, gone)
        identity = program_of(process.tgid)
        program = self._recorder.program(identity.path, identity.build_id)
        if program != process.program:
            self._note_privilege(process.tgid, program)
            process.program = program
            process.count = self._recorder.counter(program, process.tgid)
            process.calls = {}
        return process

    def _drop_ended(self) -> None:
        for pidfd, _ in self._epoll.poll(0):
            process = self._by_pidfd.pop(pidfd)
            self._epoll.unregister(pidfd)
            os.close(pidfd)
            for tid in tuple(process.tids):
                self._forget_thread(process, tid)
            del self._processes[process.tgid]
            self._recorder.close_process(process.tgid)

    def _forget_thread(self, process: Process, tid: int) -> None:
        process.tids.discard(tid)
        process.executing.discard(tid)
        self._threads.pop(tid, None)
        self._cache.pop(tid, None)
        self._forking.discard(tid)
        if not self._forking:
            self.fast = self._cache

    def _note_privilege(self, tgid: int, program: int) -> None:
        # Under no_new_privs execve ignores set-uid and capabilities.
        if self._is_privileged or program in self._noted:
            return
        self._noted.add(program)
        if lacks_rights_of_its_file(tgid):
            path = program_of(tgid).path
            self._recorder.ledger.add("setuid_ignored", detail=f"{path} ran without the rights it asks for")
