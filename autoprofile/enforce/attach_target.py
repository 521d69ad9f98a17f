"""What /proc says of a process that is to be attached to, and why it cannot be.

Reads only: whatever is refused here has not been touched. What can change between this look and the attach
(a tracer, a stop, an exec) is noticed again there.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile import kernel
from autoprofile.errors import AutoprofileError, MachineError, UsageError
from autoprofile.trace.targets import cgroup2_root, threads_of

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "AttachError",
    "ChangedError",
    "SequenceError",
    "Status",
    "image_arch",
    "permission_error",
    "refuse_arch",
    "refuse_unfit",
    "seccomp_of",
    "status_of",
    "stopped_error",
    "traced_error",
]

# include/linux/sched.h: tasks without user-space code of their own
_PF_IO_WORKER: Final = 0x10
_PF_USER_WORKER: Final = 0x4000
_PF_KTHREAD: Final = 0x00200000
_PF_EXITING: Final = 0x4
_STARTED: Final = 19  # position of starttime after the name in /proc/PID/stat, proc(5)

_YAMA: Final = Path("/proc/sys/kernel/yama/ptrace_scope")

# (EI_CLASS, e_machine) of an ELF header: elf(5); x32 is 32-bit ELF for EM_X86_64
_IMAGES: Final = {(2, 62): "x86_64", (1, 62): "x32", (1, 3): "i386"}


class AttachError(AutoprofileError):
    """Report that a process was not attached to; it is as it was unless the message says otherwise."""


class ChangedError(AttachError):
    """Report that the process changed under our hands (an exec, threads that come and go): try again."""


class SequenceError(ChangedError):
    """Report that every thread stands inside a restartable sequence: another moment will do."""


@dataclass(frozen=True, slots=True)
class Status:
    """A process or thread as /proc shows it.

    Args:
        tid: of the thread; of the process, for a process.
        tgid: the process it belongs to.
        parent: its parent process.
        comm: its name.
        state: one letter: R S D T t Z X I (proc(5)).
        tracer: the pid of its tracer, 0 without one.
        uid: its real user id.
        started: when it was started, in clock ticks after boot.
        no_new_privs: whether the attribute is set.
        seccomp: 0 disabled, 1 strict, 2 filter.
        filters: how many filters it is under; None before Linux 5.9.
        is_exiting: it is on its way out (PF_EXITING), or has ended.
        is_kernel: it has no user-space code (kernel threads).
        is_worker: it works for the kernel on behalf of a process (io_uring) and cannot be traced.
    """

    tid: int
    tgid: int
    parent: int
    comm: str
    state: str
    tracer: int
    uid: int
    started: int
    no_new_privs: bool
    seccomp: int
    filters: int | None
    is_exiting: bool
    is_kernel: bool
    is_worker: bool

    @property
    def has_ended(self) -> bool:
        """Tell whether only its exit status is left."""
        return self.state in "ZX"

    @property
    def name(self) -> str:
        """Name it for people: ``4711 (nginx)``."""
        return f"{self.tid} ({self.comm})"


def status_of(tid: int) -> Status | None:
    """Return what /proc says of a process or thread; None when there is none."""
    try:
        text = Path(f"/proc/{tid}/status").read_text(errors="replace")
        numbers = Path(f"/proc/{tid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return None
        raise AttachError(f"cannot read: {error.strerror}", where=f"/proc/{tid}/status") from error
    fields = {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    filters = fields.get("Seccomp_filters")
    flags = int(numbers[6])
    return Status(
        tid=tid,
        tgid=int(fields["Tgid"]),
        parent=int(fields["PPid"]),
        comm=fields["Name"],
        state=fields["State"][:1],
        tracer=int(fields["TracerPid"]),
        uid=int(fields["Uid"].split()[0]),
        started=int(numbers[_STARTED]),
        no_new_privs=fields.get("NoNewPrivs") == "1",
        seccomp=int(fields.get("Seccomp", "0")),
        filters=None if filters is None else int(filters),
        is_exiting=bool(flags & _PF_EXITING) or fields["State"][:1] in "ZX",
        is_kernel=bool(flags & _PF_KTHREAD),
        is_worker=bool(flags & (_PF_IO_WORKER | _PF_USER_WORKER)),
    )


def seccomp_of(tid: int) -> tuple[bool, int, int | None] | None:
    """Return the `no_new_privs`, `seccomp` and `filters` of a thread (see `Status`), and only these; fast."""
    try:
        fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.read(fd, 1 << 14)
        finally:
            os.close(fd)
    except OSError:
        return None

    def number(key: bytes) -> int | None:
        at = raw.find(key)
        return None if at < 0 else int(raw[at + len(key) : raw.index(b"\n", at + 1)])

    return (
        number(b"\nNoNewPrivs:") == 1,
        number(b"\nSeccomp:") or 0,
        number(b"\nSeccomp_filters:"),
    )


def image_arch(pid: int) -> str:
    """Return the architecture of the image a process runs.

    Raises:
        MachineError: it is none that can be attached to on this machine.
        AttachError: its file cannot be read.
        ChangedError: it has none at the moment.
    """
    if os.uname().machine != "x86_64":
        raise MachineError(
            f"attaching to running processes is built and tested for x86_64, this is {os.uname().machine}",
            hint="start the program under its filter: autoprofile enforce PROFILE -- COMMAND",
        )
    head = _head_of_image(pid)
    arch = _IMAGES.get((head[4], int.from_bytes(head[18:20], "little"))) if len(head) == 20 else None
    if head[:4] != b"\x7fELF" or arch in (None, "x32"):
        raise MachineError(
            f"process {pid} runs a program of architecture {arch or 'unknown'}; only x86_64 and i386 programs"
            " can be attached to"
        )
    assert arch is not None
    return arch


def _head_of_image(pid: int) -> bytes:
    # Of any thread: a first thread that has ended before the others has none any more.
    for tid in (pid, *threads_of(pid)):
        try:
            with open(f"/proc/{pid}/task/{tid}/exe", "rb") as file:  # noqa: PTH123
                return file.read(20)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise permission_error(pid) from error
    raise ChangedError(f"process {pid} has ended, or is executing another program")


def refuse_arch(pid: int, arch: str, arches: Collection[str] | None) -> None:
    """Refuse a process that a profile is not for: each of its calls would be one of a foreign arch.

    Raises:
        AttachError: `arch` is not among `arches`; None asks for no such check.
    """
    if arches is not None and arch not in arches:
        raise AttachError(
            f"process {pid} is a {arch} program, the profile is for {', '.join(arches)} only",
            hint=f"learn it on this arch, or add {arch} to the profile's `arch` with its rules",
        )


def refuse_unfit(pid: int, *, privileged: bool, trust_filters: bool) -> Status:
    """Refuse a process that cannot be attached to, with the reason.

    Args:
        pid: the process.
        privileged: no_new_privs is to stay unset.
        trust_filters: its present filters are believed to let prctl and seccomp through.

    Returns:
        Its state, when nothing speaks against it.

    Raises:
        UsageError: it is this very process, or not a process.
        MachineError: the kernel or our privileges do not allow it.
        AttachError: it has ended, is traced, stopped, frozen, in strict mode, or under filters that may kill.
    """
    if pid == os.getpid():
        raise UsageError("that is autoprofile's own process", hint="autoprofile does not attach to itself")
    status = status_of(pid)
    if status is None:
        raise AttachError(f"there is no process {pid}")
    if status.tgid != pid:
        raise UsageError(
            f"{pid} is a thread of process {status.tgid}, and a filter is for all threads of a process",
            hint=f"--pid {status.tgid}",
        )
    if status.is_kernel:
        raise UsageError(f"process {status.name} is a kernel thread: it makes no syscalls")
    if status.has_ended and not _living_threads(pid):
        raise AttachError(f"process {status.name} has ended already (zombie)")
    if status.tracer:
        raise traced_error(status)
    if status.state == "T":
        raise stopped_error(pid)
    frozen = _frozen_cgroup(pid)
    if frozen is not None:
        raise AttachError(
            f"process {status.name} is frozen, by its cgroup {frozen}",
            hint=f"let it go on first (echo 0 > {frozen}/cgroup.freeze; docker unpause, systemctl thaw), then"
            " attach",
        )
    if status.seccomp == 1:
        raise AttachError(
            f"process {status.name} is in seccomp's strict mode, which allows no filter besides",
            hint="strict mode already refuses all but read, write, exit and sigreturn",
        )
    if privileged and not kernel.has_cap_sys_admin(pid):
        raise MachineError(
            f"process {status.name} has no CAP_SYS_ADMIN, so its filter needs no_new_privs",
            hint="leave out --allow-new-privs",
        )
    if status.seccomp == 2 and not trust_filters and not _can_suspend_filters():
        raise MachineError(
            f"process {status.name} is under {_counted(status.filters)} already, which cannot be read or"
            " suspended with these privileges: should one kill for prctl or seccomp, the process would die",
            hint="run as root outside the container; or, if you know that they allow prctl and seccomp (as"
            " docker's default does), say --trust-filters",
        )
    return status


def traced_error(status: Status) -> AttachError:
    """Return the error for a process or thread that has a tracer."""
    tracer = status_of(status.tracer)
    by = tracer.name if tracer is not None else str(status.tracer)
    return AttachError(
        f"process {status.name} is traced by process {by} already; only one tracer is possible",
        hint="end the tracer (strace, gdb, autoprofile learn) and try again",
    )


def stopped_error(pid: int) -> AttachError:
    """Return the error for a process that a signal or its shell has stopped."""
    return AttachError(
        f"process {pid} is stopped (SIGSTOP, or Ctrl-Z in its shell)",
        hint=f"let it go on first (kill -CONT {pid}), then attach",
    )


def permission_error(pid: int) -> AutoprofileError:
    """Return the error for a process that the kernel does not let us trace, with the likeliest reason."""
    status = status_of(pid)
    if status is None:
        return AttachError(f"there is no process {pid}")
    if status.tracer:
        return traced_error(status)
    hint = "run as root"
    if status.uid != os.geteuid() and os.geteuid() != 0:
        why = f"it belongs to user {status.uid}, you are user {os.geteuid()}"
        hint = "be its owner, or root"
    elif _yama_scope() >= 3:
        why = "the kernel allows no tracing at all (yama ptrace_scope=3), until the next boot"
        hint = "start the program under its filter: autoprofile enforce PROFILE -- COMMAND"
    elif _yama_scope() == 2 and os.geteuid() != 0:
        why = "only root may trace here (yama ptrace_scope=2)"
    elif _yama_scope() == 1 and os.geteuid() != 0:
        why = "a user may trace only descendants here (yama ptrace_scope=1)"
        hint = "run as root, or let users trace their own processes: sysctl kernel.yama.ptrace_scope=0"
    elif os.geteuid() != 0:
        why = "it has more privileges than you (setuid program, capabilities), or is marked undumpable"
    else:
        why = "this root lacks CAP_SYS_PTRACE over it (a container, a user namespace, a security module)"
        hint = "run on the host, or give the container --cap-add SYS_PTRACE"
    return MachineError(f"process {status.name} cannot be traced: {why}", hint=hint)


def _frozen_cgroup(pid: int) -> Path | None:
    # Of cgroup v2: a tracee stops in it, but does not go on. (In a frozen cgroup v1 it does not even stop.)
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
        below = next(line[len("0::/") :] for line in lines if line.startswith("0::/"))
        root = cgroup2_root()
        folder = root / below
        if "frozen 1" not in (folder / "cgroup.events").read_text().splitlines():
            return None
        # It, or one above it, was told to freeze.
        while folder != root and (folder / "cgroup.freeze").read_text().strip() != "1":
            folder = folder.parent
    except (OSError, StopIteration, AutoprofileError):
        return None
    return folder


def _can_suspend_filters() -> bool:
    # PTRACE_O_SUSPEND_SECCOMP wants both (kernel/ptrace.c, check_ptrace_options).
    mine = status_of(os.getpid())
    return kernel.has_cap_sys_admin() and mine is not None and mine.seccomp == 0


def _counted(filters: int | None) -> str:
    if filters is None:
        return "seccomp filters"
    return "1 seccomp filter" if filters == 1 else f"{filters} seccomp filters"


def _living_threads(pid: int) -> list[int]:
    # A process whose first thread has ended shows as a zombie and may live on in the others.
    found = (status_of(tid) for tid in threads_of(pid))
    return [status.tid for status in found if status is not None and not status.has_ended]


def _yama_scope() -> int:
    try:
        return int(_YAMA.read_text())
    except (OSError, ValueError):
        return 0
