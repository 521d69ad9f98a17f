"""Start a command and stop it before its first instruction, traced, so that it can be filtered or followed.

The child stays in our process group and terminal and inherits stdio and inheritable fds, as from a shell.
Should we die at any moment before the tracee is let go, it dies too and has run nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from autoprofile import kernel
from autoprofile.abi.arch import arch_from_audit
from autoprofile.errors import LaunchError, UsageError
from autoprofile.kernel import ptrace

if TYPE_CHECKING:
    from autoprofile.trace.source import Command

__all__ = ["LAUNCH_OPTIONS", "Stopped", "kill_tracee", "launch"]

LAUNCH_OPTIONS = ptrace.TraceOption.TRACEEXEC | ptrace.TraceOption.EXITKILL | ptrace.TraceOption.TRACESYSGOOD

_GO = b"g"
_REPORT = struct.Struct("=Bi")  # stage, errno
_CHDIR, _EXEC = 1, 2

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT)
_CANNOT_EXECUTE = {
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "not a program this kernel can run",
    errno.EISDIR: "is a directory",
}


class Stopped(NamedTuple):
    """A tracee in its PTRACE_EVENT_EXEC stop: the new image is mapped, nothing of it has run.

    Args:
        pid: the process, our child, seized by the calling thread with `LAUNCH_OPTIONS` and those asked for.
        exe_path: the image (of a script, its interpreter); "?" when /proc does not tell.
        arch: name of the image's architecture ("x86_64", "i386", "x32", …).
    """

    pid: int
    exe_path: str
    arch: str


def launch(command: Command, *, options: int = 0) -> Stopped:
    """Start a command and return it stopped at its exec, seized.

    Every later ptrace request must come from the thread that called this.

    Args:
        command: what to run; `argv[0]` is searched in the PATH the command gets, as execvp(3) does.
        options: further PTRACE_O_* options.

    Raises:
        LaunchError: 127 not found, 126 cannot be executed, 125 cannot be traced, 128+N ended by signal N
            before it could start.
        UsageError: no command given.
    """
    if not command.argv or not command.argv[0]:
        raise UsageError("no command given", hint="give it after --")
    env = dict(os.environ if command.env is None else command.env)
    argv = [os.fsencode(a) for a in command.argv]
    if any(b"\0" in a for a in argv):
        raise UsageError("an argument of the command holds a NUL byte")
    candidates = _candidates(command.argv[0], env.get("PATH"))
    ignores_children = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if ignores_children:
        # Inherited from whoever started us: the kernel would reap our children, and their status be lost.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    # A signal between fork and exec must find either our handlers in us, or none in the child.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            if ignores_children:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the program inherits what we did
            _child(candidates, argv, env, command.cwd, (go_read, go_write, report_write), mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(go_read)
        os.close(report_write)
    try:
        return _follow_to_exec(pid, command, options, go_write, report_read)
    except BaseException:
        kill_tracee(pid)
        raise
    finally:
        os.close(report_read)


def kill_tracee(pid: int) -> None:
    """Kill and reap a child of ours, traced or not; nothing happens when it has been reaped already."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        # Fails unless the pid is still our child, so that a reused one is never hit.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(pid, signal.SIGKILL)
        while True:
            status = os.waitpid(pid, ptrace.WALL)[1]
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return


def _candidates(name: str, path: str | None) -> list[str]:
    if "/" in name:
        return [name]
    return [os.path.join(d or ".", name) for d in (os.defpath if path is None else path).split(":")]  # noqa: PTH118


def _child(
    candidates: list[str],
    argv: list[bytes],
    env: dict[str, str],
    cwd: str | None,
    fds: tuple[int, int, int],
    mask: set[int | signal.Signals],
) -> NoReturn:
    # Runs between fork and exec: nothing here may return, print, or run a handler of the tool.
    stage, number = _EXEC, 0
    go_read, go_write, report = fds
    try:
        os.close(go_write)
        # Handlers become default by execve; until then they must not run. SIGPIPE and SIGXFSZ are ignored by
        # Python itself, which execve would hand down.
        for signum in signal.valid_signals():
            if callable(signal.getsignal(signum)):
                signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.read(go_read, 1) != _GO:
            os._exit(125)  # the tool is gone
        stage = _CHDIR
        if cwd is not None:
            os.chdir(cwd)
        stage = _EXEC
        number = _exec(candidates, argv, env)
    except OSError as error:
        number = error.errno or errno.EIO
    finally:
        with contextlib.suppress(OSError):
            os.write(report, _REPORT.pack(stage, number))
        os._exit(125)


def _exec(candidates: list[str], argv: list[bytes], env: dict[str, str]) -> int:
    # execvp(3): go on past what is not there, remember what may not be run, give sh what is no program.
    remembered = errno.ENOENT
    for path in candidates:
        try:
            os.execve(path, argv, env)  # noqa: S606
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve("/bin/sh", [b"sh", os.fsencode(path), *argv[1:]], env)  # noqa: S606
            if error.errno == errno.EACCES:
                remembered = errno.EACCES
            elif error.errno not in (
                errno.ENOENT,
                errno.ENOTDIR,
                errno.ENODEV,
                errno.ESTALE,
                errno.ETIMEDOUT,
            ):
                return error.errno or errno.EIO
    return remembered


def _follow_to_exec(pid: int, command: Command, options: int, go_write: int, report_read: int) -> Stopped:
    try:
        try:
            ptrace.ptrace_seize(pid, LAUNCH_OPTIONS | options)
        except kernel.KernelError as error:
            raise LaunchError(
                f"{command.argv[0]}: cannot be traced: {error.what}", exit_status=125, hint=error.hint
            ) from error
        with contextlib.suppress(BrokenPipeError):
            os.write(go_write, _GO)
    finally:
        os.close(go_write)
    while True:
        status = ptrace.wait_for(pid)
        if os.WIFSIGNALED(status):
            signum = os.WTERMSIG(status)
            raise LaunchError(
                f"{command.argv[0]}: ended by signal {signum} before it started", exit_status=128 + signum
            )
        if os.WIFEXITED(status):
            raise _launch_error(command, os.read(report_read, _REPORT.size))
        event = ptrace.stop_event(status)
        if event == ptrace.EVENT_EXEC:
            return _stopped(pid)
        if event == ptrace.EVENT_STOP:
            ptrace.ptrace_listen(pid)
        else:
            # A signal on its way to the child; other options' events (none before exec) are let pass.
            ptrace.ptrace_cont(pid, 0 if event else os.WSTOPSIG(status))


def _stopped(pid: int) -> Stopped:
    info = ptrace.ptrace_get_syscall_info(pid)
    arch = arch_from_audit(info.arch, _pending_nr(pid))
    try:
        exe_path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    except OSError:
        exe_path = "?"
    return Stopped(pid, exe_path, arch)


def _pending_nr(pid: int) -> int:
    # Only x86 needs it: the kernel marks an x32 image by the x32 bit in orig_rax of its own execve
    # (arch/x86/kernel/process_64.c, __set_personality_x32); GET_SYSCALL_INFO shows no nr at an exec stop.
    registers = ptrace.ptrace_get_registers(pid)
    if len(registers) != 27 * 8 or os.uname().machine != "x86_64":
        return 0
    (orig_rax,) = struct.unpack_from("=Q", registers, 15 * 8)
    return int(orig_rax) & 0xFFFFFFFF


def _launch_error(command: Command, report: bytes) -> LaunchError:
    if len(report) != _REPORT.size:
        return LaunchError(f"{command.argv[0]}: ended before it started", exit_status=125)
    stage, number = _REPORT.unpack(report)
    if stage == _CHDIR:
        return LaunchError(
            f"cannot enter directory: {os.strerror(number)}", where=command.cwd, exit_status=125
        )
    if number == errno.ENOENT:
        if "/" in command.argv[0] and os.path.exists(os.path.join(command.cwd or "", command.argv[0])):  # noqa: PTH110, PTH118
            what = f"{command.argv[0]}: its interpreter or dynamic loader is not there"
            return LaunchError(what, exit_status=127)
        return LaunchError(f"{command.argv[0]}: command not found", exit_status=127)
    why = _CANNOT_EXECUTE.get(number, os.strerror(number).lower())
    return LaunchError(f"{command.argv[0]}: cannot execute: {why}", exit_status=126)
