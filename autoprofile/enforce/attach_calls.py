"""What the calls do that a stop has interrupted, once their threads go on, possibly under a new filter.

Most waits are restarted by the kernel itself: the stopped thread holds -ERESTART* in its result register. Two
kinds need help. Some calls answer a stop with EINTR although no signal came (signal(7), "Interruption of
system calls and library functions by stop signals"); they are told to restart instead. And what goes on
through ``restart_syscall`` needs that call allowed. Pure, but for reading two bytes of the stopped thread.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from autoprofile import kernel
from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_name, syscall_nr
from autoprofile.enforce.attach_target import AttachError
from autoprofile.filter.simulate import most_severe
from autoprofile.kernel import KernelError
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from autoprofile.enforce.attach_threads import Frozen
    from autoprofile.filter.program import Program

__all__ = ["Judge", "begun_anew", "registers_to_go_on", "registers_unharmed"]

#: What will be done to a call: (arch, nr, six raw arguments) to an action.
Judge: TypeAlias = Callable[[str, int, Sequence[int]], Action]

# include/linux/errno.h: results that never reach a program
_ERESTARTSYS: Final = -512
_ERESTARTNOINTR: Final = -513
_ERESTARTNOHAND: Final = -514
_ERESTART_RESTARTBLOCK: Final = -516
_RESTARTED: Final = frozenset({_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND})

# Waits that a stop alone makes fail with EINTR; each has done nothing yet when it does, so it may begin anew.
# Sockets are among them for the sake of SO_RCVTIMEO and SO_SNDTIMEO (sock_intr_errno() in net/sock.h).
_INTERRUPTED_BY_STOPS: Final = frozenset(
    word
    for line in (
        "epoll_wait epoll_pwait epoll_pwait2 epoll_wait_old rt_sigtimedwait rt_sigtimedwait_time64",
        "semop semtimedop semtimedop_time64 io_getevents io_pgetevents io_pgetevents_time64 io_uring_enter",
        "futex_wait futex_waitv read readv recvfrom recv recvmsg accept accept4 connect write writev send",
        "sendto sendmsg msgrcv msgsnd",
    )
    for word in line.split()
)

# The instructions that enter the kernel: syscall, int $0x80 (also where sysenter's calls are restarted).
_ENTRIES: Final = (b"\x0f\x05", b"\xcd\x80")
_FATAL: Final = frozenset({"kill_process", "kill_thread", "trap"})

_FUTEX_WAIT: Final = 0
_FUTEX_COMMAND: Final = 0x7F


@dataclass(frozen=True, slots=True)
class _Resumption:
    # The call with which a thread goes on, and its registers when they have to be changed for that.
    nr: int
    args: tuple[int, ...]
    registers: bytes | None = None


def registers_to_go_on(pid: int, thread: Frozen, judge: Judge) -> bytes:
    """Return the registers with which a stopped thread goes on as if it had not been stopped.

    Args:
        pid: its process.
        thread: as it was stopped.
        judge: what its filters, the new one included, do to a call.

    Raises:
        AttachError: going on, its call would end the process, or would not go on as it was.
    """
    resumption = _resumption(pid, thread, judge)
    if resumption is None:
        return thread.registers
    action = judge(thread.arch, resumption.nr, resumption.args)
    if action.kind in _FATAL:
        name = syscall_name(thread.arch, resumption.nr) or f"syscall {resumption.nr}"
        raise AttachError(
            f"thread {thread.tid} of process {pid} waits in {name}, which the profile answers with {action}:"
            " the process would end as soon as it went on; nothing was changed",
            hint=f"allow {name} in the profile, or look first: --complain --audit A.jsonl",
        )
    return thread.registers if resumption.registers is None else resumption.registers


def registers_unharmed(pid: int, thread: Frozen, filters: Callable[[], Sequence[Program]]) -> bytes | None:
    """Return the registers with which a thread goes on under its old filters as if it had not been stopped.

    Args:
        pid: its process.
        thread: as it was stopped.
        filters: gives the filters that it is under, where they can be read.

    Returns:
        None when those that it has do.
    """
    if thread.nr != -1 and thread.result == _ERESTART_RESTARTBLOCK:
        restart = syscall_nr(thread.arch, "restart_syscall")
        token = ARCHES[thread.arch].audit_arch
        answers = [p.simulate_ret(token, restart or 0, thread.args) for p in filters()]
        # Its own filters would not let it go on: that the wait lasts longer is better than its end.
        is_fatal = answers and not Action.from_ret(most_severe(answers)).is_permitting
        return begun_anew(thread) if is_fatal else None
    resumption = _resumption(pid, thread, lambda *_: Action.ALLOW)
    return None if resumption is None else resumption.registers


def begun_anew(thread: Frozen) -> bytes:
    """Return the registers with which the kernel makes an interrupted call once more.

    Not by setting the instruction pointer back: a signal that did come, and has a handler, must still make
    the call fail with EINTR; -ERESTARTNOHAND leaves that to the kernel. A timeout begins anew: how much of it
    is over, the kernel does not tell.
    """
    return thread.with_result(_ERESTARTNOHAND)


def _resumption(pid: int, thread: Frozen, judge: Judge) -> _Resumption | None:
    if thread.nr == -1:
        return None
    if thread.result in _RESTARTED:
        return _Resumption(thread.nr, thread.args)
    if thread.result == _ERESTART_RESTARTBLOCK:
        return _restart_block(pid, thread, judge)
    if (
        thread.result == -errno.EINTR
        and thread.call_name in _INTERRUPTED_BY_STOPS
        and _follows_entry(pid, thread)
    ):
        return _Resumption(thread.nr, thread.args, begun_anew(thread))
    return None


def _restart_block(pid: int, thread: Frozen, judge: Judge) -> _Resumption:
    restart = syscall_nr(thread.arch, "restart_syscall")
    # Its arguments are those of the interrupted call: registers are not cleared.
    if restart is not None and judge(thread.arch, restart, thread.args).is_permitting:
        return _Resumption(restart, thread.args)
    if _is_endless_or_absolute(thread):
        return _Resumption(thread.nr, thread.args, begun_anew(thread))
    raise AttachError(
        f"thread {thread.tid} of process {pid} waits in {thread.call_name}, which goes on with"
        " restart_syscall, and that its filters do not allow; nothing was changed",
        hint="add `restart_syscall: any` to the profile",
    )


def _is_endless_or_absolute(thread: Frozen) -> bool:
    # Whether to begin the call anew is to go on with it.
    name, args = thread.call_name, thread.args
    if name == "poll":
        return args[2] & 0x80000000 != 0
    if name in ("futex", "futex_time64"):
        return args[1] & _FUTEX_COMMAND != _FUTEX_WAIT  # the others take the time at which to end
    return False


def _follows_entry(pid: int, thread: Frozen) -> bool:
    # Whether the result is fresh: a handler that has just been entered still shows the number of the call.
    with suppress(KernelError):
        return kernel.process_vm_readv(pid, thread.ip - 2, 2) in _ENTRIES
    return False
