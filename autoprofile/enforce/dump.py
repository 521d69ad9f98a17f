"""Read the seccomp filters of a running process or thread, as the kernel got them.

In: a pid or tid. Out: its classic-BPF programs in the order of installation. The thread is stopped for an
instant (PTRACE_SECCOMP_GET_FILTER asks for it) and always let go: whatever happens here, it runs on.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from autoprofile import kernel
from autoprofile.enforce.attach_calls import registers_unharmed
from autoprofile.enforce.attach_threads import Frozen
from autoprofile.errors import AutoprofileError, MachineError
from autoprofile.filter import Program
from autoprofile.kernel import KernelError, ptrace, seccomp

__all__ = ["InstalledFilter", "ThreadState", "installed_filters", "thread_state", "unlike_threads"]

_STOP_S: Final = 30  # a thread in an uninterruptible sleep does not stop

MODES: Final = {0: "none", 1: "strict", 2: "filter"}


class ThreadState(NamedTuple):
    """What /proc/TID/status says of a thread's seccomp: mode (``none strict filter``), and how many filters.

    `filters` is None before Linux 5.9; `tracer` is the pid of its tracer, 0 without one.
    """

    mode: str
    filters: int | None
    tracer: int


@dataclass(frozen=True, slots=True)
class InstalledFilter:
    """One filter of a running thread.

    Args:
        index: 0 for the one installed first.
        program: its instructions.
        is_logged: whether the kernel logs its refusals (SECCOMP_FILTER_FLAG_LOG); None where it does not say.
    """

    index: int
    program: Program
    is_logged: bool | None


def thread_state(tid: int) -> ThreadState:
    """Say what a thread's seccomp mode is, without touching it.

    Raises:
        AutoprofileError: there is no such process or thread, or it has ended.
    """
    try:
        text = Path(f"/proc/{tid}/status").read_text(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise AutoprofileError(f"there is no process {tid}") from None
        raise AutoprofileError(f"cannot read: {error.strerror}", where=f"/proc/{tid}/status") from error
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    if fields.get("State", "")[:1] in ("Z", "X"):
        raise AutoprofileError(
            f"process {tid} has ended, or its main thread has",
            hint=f"threads that still run are in /proc/{tid}/task; each has filters of its own",
        )
    if "Seccomp" not in fields:
        raise MachineError("this kernel has no seccomp", hint="it was built without CONFIG_SECCOMP")
    count = fields.get("Seccomp_filters")
    mode = int(fields["Seccomp"])
    return ThreadState(
        MODES.get(mode, str(mode)), None if count is None else int(count), int(fields.get("TracerPid", "0"))
    )


def unlike_threads(pid: int) -> tuple[int, ...]:
    """Return the other threads of a process that are filtered otherwise: another mode, or another count.

    None of a process that has ended.
    """
    states: dict[int, tuple[str, int | None]] = {}
    for tid in (int(task.name) for task in _tasks(pid)):
        with suppress(AutoprofileError):  # it has ended meanwhile
            states[tid] = thread_state(tid)[:2]
    return tuple(tid for tid in sorted(states) if pid in states and states[tid] != states[pid])


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def installed_filters(tid: int) -> tuple[InstalledFilter, ...]:
    """Read the filters of a thread, the oldest first; () when it has none (`thread_state` tells why).

    The thread stops for well under a millisecond, and a call it waits in goes on. On x86 that is seen to:
    what a stop makes fail with EINTR (``epoll_wait``, signal(7)) is restarted, and a sleep that would go on
    through ``restart_syscall``, which its filters refuse, begins anew: it lasts longer, where it would have
    died.

    Raises:
        MachineError: without CAP_SYS_ADMIN, under a filter of our own, or on a kernel built without
            CONFIG_CHECKPOINT_RESTORE.
        AutoprofileError: no such process, it is traced by someone else or does not stop, or one of its
            filters is no classic BPF.
    """
    state = thread_state(tid)
    if state.mode != "filter":
        return ()
    if not kernel.has_cap_sys_admin():
        raise MachineError(
            "reading the filters of a process needs CAP_SYS_ADMIN in the initial user namespace",
            hint="run it as root, on the host",
        )
    if thread_state(os.getpid()).mode != "none":
        raise MachineError(
            "autoprofile itself runs under a seccomp filter, so the kernel lets it read none",
            hint="run it outside the container or service that filters it",
        )
    if state.tracer:
        raise AutoprofileError(
            f"process {tid} is traced by process {state.tracer} already; only one tracer is possible",
            hint="end the tracer (strace, gdb, autoprofile learn) and try again",
        )
    # In a thread of its own: when a tracer ends, the kernel lets go of what it traced, in whatever state
    # that is. So nothing that happens here can leave the process traced.
    with ThreadPoolExecutor(1) as tracer:
        return tracer.submit(_read, tid).result()


def _read(tid: int) -> tuple[InstalledFilter, ...]:
    try:
        ptrace.ptrace_seize(tid)
        ptrace.ptrace_interrupt(tid)
    except KernelError as error:
        if error.errno == errno.ESRCH:
            raise AutoprofileError(f"process {tid} has ended") from None
        raise
    signum = _wait_for_stop(tid)
    try:
        filters = _filters(tid)
        _spare_restart(tid, filters)
    finally:
        with suppress(KernelError):  # killed meanwhile
            ptrace.ptrace_detach(tid, signum)
    return filters


def _wait_for_stop(tid: int) -> int:
    # Returns the signal that was on its way to the thread, to be passed on.
    deadline = time.monotonic() + _STOP_S
    pause_s = 0.0001
    while True:
        try:
            got, status = os.waitpid(tid, os.WNOHANG | ptrace.WALL)
        except ChildProcessError:
            raise AutoprofileError(f"process {tid} has ended") from None
        if got:
            break
        if time.monotonic() > deadline:
            raise AutoprofileError(
                f"process {tid} does not stop: it is in a wait that nothing interrupts (state D)",
                hint="try again when what it waits for (a disk, a network file system, a vfork) is over",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
    if not os.WIFSTOPPED(status):
        raise AutoprofileError(f"process {tid} has ended")
    return 0 if ptrace.stop_event(status) else os.WSTOPSIG(status)


def _filters(tid: int) -> tuple[InstalledFilter, ...]:
    filters: list[InstalledFilter] = []
    try:
        while (raw := ptrace.ptrace_seccomp_get_filter(tid, len(filters))) is not None:
            flags = ptrace.ptrace_seccomp_get_flags(tid, len(filters))
            is_logged = None if flags is None else bool(flags & seccomp.FLAG_LOG)
            program = Program.from_bytes(raw, sys.byteorder)
            filters.append(InstalledFilter(len(filters), program, is_logged))
    except KernelError as error:
        if error.errno == errno.EMEDIUMTYPE:
            raise AutoprofileError(
                f"the kernel has kept no classic BPF of filter {len(filters) + 1} of process {tid}"
            ) from error
        if error.errno == errno.ESRCH:
            raise AutoprofileError(f"process {tid} has ended") from None
        raise
    return tuple(filters)


def _spare_restart(tid: int, filters: tuple[InstalledFilter, ...]) -> None:
    if os.uname().machine != "x86_64":
        return
    registers = registers_unharmed(tid, Frozen.of(tid), lambda: [one.program for one in filters])
    if registers is not None:
        ptrace.ptrace_set_registers(tid, registers)
