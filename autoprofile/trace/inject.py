"""Make syscalls in a stopped tracee, and install a seccomp filter there before its first instruction runs.

In: a `Stopped` tracee at its exec. Out: the same process running filtered, registers, memory and signal mask
as exec left them; on any failure it is killed and never runs unfiltered. x86_64 and i386 images are verified;
the aarch64, riscv64 and x32 layouts are written from the kernel's headers and have not run here.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import select
import signal
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from autoprofile import kernel
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import AutoprofileError, LaunchError
from autoprofile.kernel import ptrace, seccomp
from autoprofile.kernel.process import PR_SET_NO_NEW_PRIVS
from autoprofile.trace.launch import kill_tracee
from autoprofile.trace.maps import read_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprofile.trace.launch import Stopped

__all__ = [
    "LAYOUTS",
    "RED_ZONE",
    "Injection",
    "InjectionDied",
    "RegisterLayout",
    "close_listener",
    "install_filter",
    "refused",
    "set_mode_filter",
]

RED_ZONE: Final = 128  # bytes below the stack pointer that code may use (System V ABI, x86-64 3.2.2)
_ALL_SIGNALS: Final = 2**64 - 1
_WORD: Final = 8  # of PTRACE_POKEDATA, on the 64-bit kernels this runs on


class RegisterLayout(NamedTuple):
    """Where one arch keeps a call in its NT_PRSTATUS regset.

    Args:
        word: struct format of a register.
        nr: index of the register that holds the syscall number before the call.
        args: indexes of the six argument registers.
        ip: index of the instruction pointer.
        sp: index of the stack pointer.
        instruction: the instruction that enters the kernel.
        fprog: struct format of this arch's ``struct sock_fprog``.
    """

    word: str
    nr: int
    args: tuple[int, int, int, int, int, int]
    ip: int
    sp: int
    instruction: bytes
    fprog: str


# Order of registers: struct user_regs_struct (x86 asm/user_64.h, asm/user_32.h), struct user_pt_regs
# (aarch64 and riscv64 asm/ptrace.h).
_X86_64: Final = RegisterLayout("Q", 10, (14, 13, 12, 7, 9, 8), 16, 19, b"\x0f\x05", "=H6xQ")  # syscall
#: By arch, what this module can make calls in.
LAYOUTS: Final = {
    "x86_64": _X86_64,
    "i386": RegisterLayout("I", 6, (0, 1, 2, 3, 4, 5), 12, 15, b"\xcd\x80", "=H2xI"),  # int $0x80
    # Same registers and instruction; pointers inside structs are 32 bits wide (in_compat_syscall).
    "x32": RegisterLayout("Q", 10, (14, 13, 12, 7, 9, 8), 16, 19, b"\x0f\x05", "=H2xI"),
    "aarch64": RegisterLayout("Q", 8, (0, 1, 2, 3, 4, 5), 32, 31, b"\x01\x00\x00\xd4", "=H6xQ"),  # svc #0
    "riscv64": RegisterLayout("Q", 17, (10, 11, 12, 13, 14, 15), 0, 2, b"\x73\x00\x00\x00", "=H6xQ"),  # ecall
}


class Injection:
    """Syscalls made in a tracee that stands at its exec.

    Entering moves it from the exec stop to the exit of its execve, blocks its signals and puts a syscall
    instruction under its instruction pointer; leaving undoes all of it. The tracee stays stopped throughout.
    """

    def __init__(self, stopped: Stopped) -> None:
        layout = LAYOUTS.get(stopped.arch)
        if layout is None:
            raise LaunchError(
                f"{stopped.exe_path}: cannot install a filter in a program of architecture {stopped.arch}",
                exit_status=125,
                hint=f"known: {', '.join(LAYOUTS)}",
            )
        self._pid = stopped.pid
        self._arch = stopped.arch
        self._layout = layout
        self._saved: list[tuple[int, bytes, bool]] = []
        self._runs = False  # whether it was let run and has not reported a stop since

    @property
    def tid(self) -> int:
        """Return the thread in which the calls are made."""
        return self._pid

    def beside(self, tid: int) -> Injection:
        """Return what makes calls in a stopped process of the same memory and registers; do not enter it."""
        other = copy.copy(self)
        other.__dict__.update(_pid=tid, _saved=[])
        return other

    def __enter__(self) -> Self:
        pid = self._pid
        self._mask = ptrace.ptrace_get_signal_mask(pid)
        # A signal handler must not run between our calls; what arrives meanwhile stays pending.
        ptrace.ptrace_set_signal_mask(pid, _ALL_SIGNALS)
        # At the exec stop the kernel is still inside execve, whose result would overwrite what we set.
        self._resume()
        self._syscall_stop(ptrace.SYSCALL_INFO_EXIT)
        self._registers = ptrace.ptrace_get_registers(pid)
        size = struct.calcsize("=" + self._layout.word)
        self._values = list(
            struct.unpack(f"={len(self._registers) // size}{self._layout.word}", self._registers)
        )
        self._ip: int = self._values[self._layout.ip]
        self._text = self._swap_text(self._layout.instruction)
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            return  # the tracee is about to be killed
        self._restore_memory()
        self._swap_text(self._text)
        # orig_rax included: it is not -1 and rax is no restart code, so the kernel restarts nothing.
        ptrace.ptrace_set_registers(self._pid, self._registers)
        ptrace.ptrace_set_signal_mask(self._pid, self._mask)

    def call(self, name: str, *args: int, while_blocked: Callable[[], int | None] | None = None) -> int:
        """Make one syscall in the tracee.

        Args:
            name: of the syscall, by the tracee's own arch.
            args: raw register values.
            while_blocked: called once the call has entered the kernel; what it returns, if not None, is the
                wait status it has already collected.

        Returns:
            The result; a negative errno when it failed.

        Raises:
            LaunchError: the tracee did not make exactly this call, or died in it.
        """
        nr = syscall_nr(self._arch, name)
        if nr is None:
            raise LaunchError(f"{self._arch} has no syscall {name}", exit_status=125)
        layout, values = self._layout, list(self._values)
        values[layout.ip] = self._ip
        full = (*args, *(0,) * (6 - len(args)))
        for index, value in zip(layout.args, full, strict=True):
            values[index] = value
        values[layout.nr] = nr  # last: on no arch here is it an argument register
        ptrace.ptrace_set_registers(self._pid, struct.pack(f"={len(values)}{layout.word}", *values))
        self._resume()
        entry = self._syscall_stop(ptrace.SYSCALL_INFO_ENTRY)
        if entry.nr != nr or entry.args != full:
            raise LaunchError(
                f"the tracee entered syscall {entry.nr}{entry.args} instead of {name}{full}", exit_status=125
            )
        self._resume()
        status = while_blocked() if while_blocked else None
        return self._syscall_stop(ptrace.SYSCALL_INFO_EXIT, status).rval

    def place(self, data: bytes) -> int:
        """Put data where the tracee can read it until the injection ends, and return its address.

        Below the stack pointer, so that nothing need be mapped (and unmapped under the new filter). Under a
        small ``ulimit -s`` there may be no room: then over a private mapping of the program, which nothing
        reads before it is put back.
        """
        address, is_forced = self._room(len(data))
        if is_forced:
            before = kernel.read_memory(self._pid, address, len(data))
        else:
            before = kernel.process_vm_readv(self._pid, address, len(data))
        self._saved.append((address, before, is_forced))
        self._write(address, data, is_forced=is_forced)
        return address

    def sock_fprog(self, program: bytes) -> int:
        """Place a program and the ``struct sock_fprog`` pointing to it; return the latter's address."""
        head = struct.calcsize(self._layout.fprog)
        padding = -head % 8
        address, _ = self._room(head + padding + len(program))
        fprog = struct.pack(self._layout.fprog, len(program) // 8, address + head + padding)
        placed = self.place(fprog + bytes(padding) + program)
        if placed != address:
            raise LaunchError("the tracee's memory map changed while it was stopped", exit_status=125)
        return placed

    def _room(self, size: int) -> tuple[int, bool]:
        sp: int = self._values[self._layout.sp]
        top = (sp - RED_ZONE - size) & ~15
        maps = read_maps(self._pid)
        if any(m.start <= top and sp <= m.end and m.perms[:2] == "rw" for m in maps):
            return top, False
        # "[vdso]" and its like refuse writes; a shared mapping would change the file.
        for mapping in sorted(maps, key=lambda m: m.start - m.end):
            if not mapping.is_file or mapping.perms[0] != "r" or mapping.perms[3] != "p":
                continue
            for low, high in ((mapping.start, self._ip - 64), (self._ip + 64, mapping.end)):
                start = (max(low, mapping.start) + 15) & ~15
                if start + size <= min(high, mapping.end):
                    return start, True
        raise LaunchError(
            f"no room for a filter of {size} bytes in the program's memory",
            exit_status=125,
            hint="raise the stack limit (ulimit -s)",
        )

    def _restore_memory(self) -> None:
        while self._saved:
            address, data, is_forced = self._saved.pop()
            self._write(address, data, is_forced=is_forced)

    def _write(self, address: int, data: bytes, *, is_forced: bool) -> None:
        if is_forced:
            kernel.write_memory(self._pid, address, data)
        else:
            kernel.process_vm_writev(self._pid, address, data)

    def _swap_text(self, code: bytes) -> bytes:
        # Whole aligned words, since an instruction may straddle a page whose neighbour is not mapped.
        start = self._ip & ~(_WORD - 1)
        end = (self._ip + len(code) + _WORD - 1) & ~(_WORD - 1)
        words = [ptrace.ptrace_peek(self._pid, a) for a in range(start, end, _WORD)]
        text = bytearray(struct.pack(f"={len(words)}Q", *words))
        at = self._ip - start
        before = bytes(text[at : at + len(code)])
        text[at : at + len(code)] = code
        for index, (word,) in enumerate(struct.iter_unpack("=Q", text)):
            ptrace.ptrace_poke(self._pid, start + index * _WORD, word)
        return before

    def _resume(self, signum: int = 0) -> None:
        ptrace.ptrace_syscall(self._pid, signum)
        self._runs = True

    def _wait(self) -> int:
        return ptrace.wait_for(self._pid)

    def _syscall_stop(self, op: int, status: int | None = None) -> ptrace.SyscallInfo:
        while True:
            status = self._wait() if status is None else status
            self._runs = False
            if os.WIFSIGNALED(status) or os.WIFEXITED(status):
                raise InjectionDied(status)
            if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP:
                info = ptrace.ptrace_get_syscall_info(self._pid)
                if info.op == op:
                    return info
                raise LaunchError("the tracee is not at the expected end of a syscall", exit_status=125)
            if ptrace.stop_event(status) == ptrace.EVENT_STOP:
                # A group-stop: step over it now; detaching puts the process back into it.
                self._resume()
            elif os.WSTOPSIG(status) == signal.SIGSTOP:
                self._resume(signal.SIGSTOP)  # cannot be blocked
            else:
                raise InjectionDied(os.WSTOPSIG(status))  # a forced SIGSEGV or SIGSYS: it would be fatal
            status = None


class InjectionDied(LaunchError):  # noqa: N818 - reads as the fact it states
    """Report that the tracee was ended, or is about to be, by a signal: `signum`, 0 when it exited."""

    def __init__(self, status: int) -> None:
        self.signum = 0 if os.WIFEXITED(status) else os.WTERMSIG(status)
        super().__init__(
            f"the program ended (signal {self.signum}) while its filter was being installed", exit_status=125
        )


def install_filter(
    stopped: Stopped,
    program: bytes,
    *,
    before: Sequence[bytes] = (),
    flags: int = 0,
    new_listener: bool = False,
    no_new_privs: bool = True,
    closes: Callable[[str, int], bool] | None = None,
) -> int | None:
    """Install a filter in a program stopped at its exec, and let it run.

    Args:
        stopped: from `launch`, by this same thread. Afterwards it is detached and runs; on failure, dead.
        program: the bytes of the cBPF program.
        before: programs to install first, in this order; they have to allow ``seccomp``. Of all filters the
            most severe answer counts; only `program` gets the listener.
        flags: further SECCOMP_FILTER_FLAG_* (LOG).
        new_listener: also make a listener for the calls the filter answers with USER_NOTIF.
        no_new_privs: set no_new_privs first. Without it the installing program needs CAP_SYS_ADMIN.
        closes: tells whether the filters let close(2) of a descriptor through, on an arch; the program gives
            its copy of the listener back with it. None takes it that they do.

    Returns:
        The listener, a close-on-exec fd of ours (the program keeps none), or None.

    Raises:
        LaunchError: status 125; nothing of the program has run.
    """
    listener: int | None = None
    try:
        with Injection(stopped) as injection:
            if no_new_privs:
                result = injection.call("prctl", PR_SET_NO_NEW_PRIVS, 1)
                if result < 0:
                    raise refused("prctl(PR_SET_NO_NEW_PRIVS)", result)
            with contextlib.ExitStack() as stack:
                beside = None
                if new_listener and closes is not None and not closes(stopped.arch, _next_fd(stopped.pid)):
                    from autoprofile.trace.beside import Beside  # hardly ever

                    beside = stack.enter_context(Beside(injection))
                for one in before:
                    set_mode_filter(injection, one, flags & seccomp.FLAG_LOG, new_listener=False)
                fd = set_mode_filter(injection, program, flags, new_listener=new_listener)
                if new_listener:
                    listener = _take_listener(stopped, fd)
                    if beside is None:
                        close_listener(injection, stopped, fd, listener)
                    elif (result := beside.close(fd)) < 0:
                        raise refused("close", result)
        ptrace.ptrace_detach(stopped.pid)
    except BaseException as error:
        name = stopped.exe_path
        if name == "?":  # of a program that may not be read /proc hides the path, not the name
            from autoprofile.trace.program_id import comm_of

            name = comm_of(stopped.pid)
        kill_tracee(stopped.pid)
        if listener is not None:
            os.close(listener)
        if isinstance(error, LaunchError) or not isinstance(error, AutoprofileError):
            raise
        raise LaunchError(
            f"{name}: cannot install the filter: {error.what}",
            exit_status=125,
            hint=_unreadable_hint(error) or error.hint,
        ) from error
    return listener


def _unreadable_hint(error: AutoprofileError) -> str | None:
    if isinstance(error, kernel.KernelError) and error.errno in (errno.EIO, errno.EACCES, errno.EPERM):
        return "a program that you may execute but not read cannot be filtered by you: be its owner, or root"
    return None


def set_mode_filter(
    injection: Injection, program: bytes, flags: int, *, new_listener: bool, threads: bool = False
) -> int:
    """Install a filter in all threads of a tracee; return the listener's fd there, or 0.

    Args:
        injection: in any of its threads.
        program: the bytes of the cBPF program.
        flags: further SECCOMP_FILTER_FLAG_*.
        new_listener: also make a listener.
        threads: whether there may be several threads, so that TSYNC cannot be left out.

    Raises:
        LaunchError: refused; nothing was installed.
    """
    attempts = [flags | seccomp.FLAG_TSYNC]
    if new_listener:
        wanted = flags | seccomp.FLAG_NEW_LISTENER
        both = wanted | seccomp.FLAG_TSYNC | seccomp.FLAG_TSYNC_ESRCH
        # The newer the flag, the earlier it is tried. Right after exec there is one thread, so TSYNC (which
        # excludes NEW_LISTENER before 5.7) may be left out.
        attempts = [both | seccomp.FLAG_WAIT_KILLABLE_RECV, both, *([] if threads else [wanted])]
    fprog = injection.sock_fprog(program)
    result = -errno.EINVAL
    for attempt in attempts:
        result = injection.call("seccomp", seccomp.SECCOMP_SET_MODE_FILTER, attempt, fprog)
        if result != -errno.EINVAL:
            break
    if result < 0 or (result > 0 and not new_listener):
        raise refused("seccomp(SECCOMP_SET_MODE_FILTER)", result)
    return result


_REFUSALS: Final = {
    # The tool has the capability, or would not have begun: the program has lost it by executing its file.
    errno.EACCES: "without no_new_privs the program itself needs CAP_SYS_ADMIN, and one that is set-user-ID "
    "to another user than root has lost it before its filter can go in: leave out --allow-new-privs (it then "
    "runs without that user's rights), or start it from a program that keeps root",
    errno.EBUSY: "an outer supervisor already listens to this process: only one listener may exist",
    errno.EINVAL: "the kernel does not accept this filter program",
    errno.ENOMEM: "the filter, together with those already installed, is too long for the kernel",
    errno.ENOSYS: "the kernel has no seccomp, or an outer filter hides it",
    errno.EPERM: "an outer seccomp filter refuses it",
    errno.ESRCH: "its threads are under different filters already, and cannot all be brought under one",
}


def refused(call: str, result: int) -> LaunchError:
    """Return the error for a call that failed in the tracee; a positive result of seccomp(2) is a thread."""
    if result > 0:
        why, number = f"thread {result}, by its own pid namespace, cannot be synchronised", errno.ESRCH
    else:
        why, number = os.strerror(-result), -result
    return LaunchError(f"{call} failed in the program: {why}", exit_status=125, hint=_REFUSALS.get(number))


def _next_fd(pid: int) -> int:
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208
    return next(n for n in range(len(taken) + 1) if n not in taken)


def _take_listener(stopped: Stopped, fd: int) -> int:
    pidfd = kernel.pidfd_open(stopped.pid)
    try:
        return kernel.pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)


def close_listener(injection: Injection, stopped: Stopped, fd: int, listener: int) -> None:
    """Close the tracee's own copy of its listener, answering for the filter where that asks us.

    The program must not keep it: fd numbers would shift, and with a listener still open its calls would
    hang, not fail, once the supervisor is gone. close(2) is already subject to the filter.

    Raises:
        LaunchError: the filter refuses close.
    """
    nr = syscall_nr(stopped.arch, "close")

    def answer() -> int | None:
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        while True:
            pid, status = os.waitpid(stopped.pid, os.WNOHANG | ptrace.WALL)
            if pid:
                return status  # the filter decided without asking
            if not poller.poll(1):
                continue
            with contextlib.suppress(seccomp.PendingNotification):
                asked = seccomp.receive(listener)
                if (asked.tid, asked.nr, asked.args[0]) != (stopped.pid, nr, fd):
                    raise LaunchError(
                        f"unexpected syscall {asked.nr} before the program started", exit_status=125
                    )
                seccomp.respond(listener, asked.id, let_continue=True)
                return None

    try:
        result = injection.call("close", fd, while_blocked=answer)
    except InjectionDied as error:
        raise _close_refused(f"signal {error.signum}") from error
    if result < 0:
        raise _close_refused(errno.errorcode.get(-result, str(-result)))
    if result > 0:
        # KILL and TRAP restore the registers of the call, whence its number as the result, and leave SIGSYS
        # pending (kernel/seccomp.c, __seccomp_filter).
        raise _close_refused("it is fatal")


def _close_refused(how: str) -> LaunchError:
    return LaunchError(
        f"the filter refuses close() ({how}), with which the program gives up the supervisor's listener",
        exit_status=125,
        hint="allow close in the profile, or enforce it without a supervisor",
    )
