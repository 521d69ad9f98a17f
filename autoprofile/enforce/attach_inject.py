"""Make syscalls in a running process that stands still, and put everything back.

In: one of its stopped threads. The call is made with a syscall instruction that the process has anyway, so no
code is written; the filter lies below a stack pointer, where nothing is alive, until the bytes are put back.
Afterwards the thread is stopped as it was: registers, signal mask, memory; nothing touches its FPU.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from autoprofile import kernel
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.enforce.attach_target import AttachError, SequenceError
from autoprofile.enforce.attach_threads import SEIZE_OPTIONS, Frozen
from autoprofile.errors import LaunchError
from autoprofile.kernel import KernelError, ptrace
from autoprofile.trace.inject import LAYOUTS, RED_ZONE, Injection, InjectionDied
from autoprofile.trace.launch import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprofile.trace.maps import Mapping

__all__ = ["RunningInjection", "find_instruction", "injectable"]

# Not SIGSYS: a foreign filter's TRAP, or Syscall User Dispatch, would find it blocked, and then the kernel
# takes the program's handler away (force_sig_info_to_task() in kernel/signal.c).
_MASK: Final = (2**64 - 1) & ~(1 << (signal.SIGSYS - 1))

_CHUNK: Final = 1 << 20
_SPIN: Final = 200  # looks before the first sleep: most calls take microseconds


def find_instruction(pid: int, arch: str, maps: Sequence[Mapping]) -> int:
    """Return the address of an instruction in a process that enters the kernel; in the vDSO where it has one.

    Raises:
        AttachError: it has none that can be read.
    """
    code = LAYOUTS[arch].instruction
    code_maps = [m for m in maps if m.is_executable and m.perms[0] == "r" and m.path != "[vsyscall]"]
    for mapping in sorted(code_maps, key=lambda m: (m.path != "[vdso]", not m.is_file)):
        for start in range(mapping.start, mapping.end, _CHUNK):
            # One byte more than a chunk, for an instruction that straddles two.
            size = min(_CHUNK + len(code) - 1, mapping.end - start)
            with suppress(KernelError):  # beyond the end of a file
                at = kernel.read_memory(pid, start, size).find(code)
                if at >= 0:
                    return start + at
    raise AttachError(f"process {pid} has no syscall instruction in memory that can be read")


def injectable(threads: Sequence[Frozen], arch: str) -> Frozen:
    """Return the thread in which to make the calls: one that stands in a syscall, if there is one.

    Others stand anywhere in their own code, also inside a restartable sequence (rseq(2)), in which no call
    may be made: its end would no longer be noticed. Where all do, one is returned as the kernel is about to
    leave it: at the handler of its abort.

    Raises:
        SequenceError: there is none at the moment.
        AttachError: all of them run code of another arch.
    """
    fitting = [t for t in threads if t.arch == arch]
    if not fitting:
        raise AttachError(
            f"all threads run {threads[0].arch} code in a program of arch {arch}; nothing was changed",
            hint="try again when one of them runs the program's own code",
        )
    for thread in sorted(fitting, key=lambda t: t.nr == -1):
        if thread.nr != -1 or _sequence_of(thread) is None:
            return thread
    for thread in fitting:
        sequence = _sequence_of(thread)
        if sequence is not None and sequence.abort_ip:
            # A thread that was preempted, as every stopped one was, is aborted when it goes on
            # (rseq_ip_fixup() in kernel/rseq.c). To do so now is no more than the program has to expect.
            return thread.moved(sequence.abort_ip)
    raise SequenceError("every thread stands inside a restartable sequence")


class _Sequence(NamedTuple):
    # A restartable sequence that a thread stands in; abort_ip 0: the kernel would not abort it.
    abort_ip: int


def _sequence_of(thread: Frozen) -> _Sequence | None:
    # include/uapi/linux/rseq.h. struct rseq: rseq_cs at byte 8, flags at 16; struct rseq_cs: version, flags,
    # start_ip, post_commit_offset, abort_ip. The flags, of old kernels, are all of the kind "do not abort".
    try:
        configuration = ptrace.ptrace_get_rseq(thread.tid)
        if configuration is None or not configuration[0]:
            return None
        address, signature = configuration
        section, area_flags = struct.unpack("=QI", kernel.read_memory(thread.tid, address + 8, 12))
        if not section:
            return None
        version, flags, start, length, abort_ip = struct.unpack(
            "=IIQQQ", kernel.read_memory(thread.tid, section, 32)
        )
        if not start <= thread.ip < start + length:
            return None
        before = kernel.read_memory(thread.tid, abort_ip - 4, 4) if abort_ip >= 4 else b""
    except KernelError:
        return _Sequence(0)
    is_sound = before == struct.pack("=I", signature) and not start <= abort_ip < start + length
    return _Sequence(abort_ip if is_sound and not (version or flags or area_flags) else 0)


class RunningInjection(Injection):
    """Syscalls made in a stopped thread of a running process, all of whose threads are stopped.

    While the registers are not its own the thread dies with the tool (PTRACE_O_EXITKILL): should the tool be
    killed in that millisecond, the process ends rather than run on from somewhere else.

    Args:
        thread: where; in PTRACE_EVENT_STOP.
        exe_path: the program, for messages.
        instruction: see `find_instruction`.
        maps: of the process, as it stands still.
        stacks: the stack pointers below which there may be room, the preferred one first.
        go_on: the registers to leave it with.
        deadline: monotonic time at which to give up.
        suspend: have its present filters suspended for these calls; needs CAP_SYS_ADMIN.
    """

    def __init__(
        self,
        thread: Frozen,
        exe_path: str,
        *,
        instruction: int,
        maps: Sequence[Mapping],
        stacks: Sequence[int],
        go_on: bytes,
        deadline: float,
        suspend: bool,
    ) -> None:
        super().__init__(Stopped(thread.tid, exe_path, thread.arch))
        self._thread = thread
        self._instruction = instruction
        self._maps = maps
        self._stacks = stacks
        self._go_on = go_on
        self._deadline = deadline
        self._suspend = suspend
        self.is_suspended = False

    def __enter__(self) -> Self:
        pid = self._pid
        word = self._layout.word
        clean = self._thread.without_call()
        self._registers = self._go_on
        self._values = list(struct.unpack(f"={len(clean) // struct.calcsize('=' + word)}{word}", clean))
        self._ip = self._instruction
        self._mask = ptrace.ptrace_get_signal_mask(pid)
        options = SEIZE_OPTIONS | ptrace.TraceOption.EXITKILL
        if self._suspend:
            try:
                ptrace.ptrace_set_options(pid, options | ptrace.TraceOption.SUSPEND_SECCOMP)
                self.is_suspended = True
            except KernelError:
                self._suspend = False
        if not self._suspend:
            ptrace.ptrace_set_options(pid, options)
        # Handlers must not run between our calls; what arrives meanwhile stays pending, for this thread or,
        # if it is for the process, for any.
        ptrace.ptrace_set_signal_mask(pid, _MASK)
        return self

    def __exit__(self, *exception: object) -> None:
        # Only a thread that stands in a signal stop restarts an interrupted call when it goes on
        # (arch_do_signal_or_restart()); from the exit of our own call it would return -ERESTARTSYS to the
        # program. So it is interrupted once more, there its registers are set, and there it is let go.
        self._back_to_trap()
        self._restore_memory()
        ptrace.ptrace_set_registers(self._pid, self._registers)
        ptrace.ptrace_set_signal_mask(self._pid, self._mask)
        ptrace.ptrace_set_options(self._pid, SEIZE_OPTIONS)

    def call(self, name: str, *args: int, while_blocked: Callable[[], int | None] | None = None) -> int:
        """Make one syscall in the process (see `Injection.call`).

        Raises:
            InjectionDied: with SIGSYS, which a foreign filter's TRAP has sent; it will not be delivered.
        """
        result = super().call(name, *args, while_blocked=while_blocked)
        # TRAP takes the call back, so its number is the result (__seccomp_filter(), syscall_rollback()).
        if result == syscall_nr(self._arch, name) and self._has_pending(signal.SIGSYS):
            self._cont()
            self._wait()  # in the delivery of the signal, which `__exit__` ends without it
            self._runs = False
            raise InjectionDied(signal.SIGSYS)
        return result

    def _has_pending(self, signum: int) -> bool:
        for line in Path(f"/proc/{self._pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("SigPnd:"):
                return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
        return False

    def _back_to_trap(self) -> None:
        pid = self._pid
        self._deadline = max(self._deadline, time.monotonic() + 5)
        ptrace.ptrace_interrupt(pid)
        if not self._runs:
            self._leave_entry()
            self._cont()
        while True:
            status = self._wait()
            self._runs = False
            if os.WIFSIGNALED(status) or os.WIFEXITED(status):
                raise InjectionDied(status)
            if ptrace.stop_event(status) == ptrace.EVENT_STOP:
                return
            if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP:
                self._leave_entry()
                self._cont()
            else:
                # SIGSYS: the answer to a call of ours, not meant for the program.
                signum = os.WSTOPSIG(status)
                self._cont(0 if signum == signal.SIGSYS or ptrace.stop_event(status) else signum)

    def _leave_entry(self) -> None:
        # A call of ours that has not begun is skipped.
        if ptrace.ptrace_get_syscall_info(self._pid).op == ptrace.SYSCALL_INFO_ENTRY:
            ptrace.ptrace_set_registers(self._pid, Frozen.of(self._pid).without_call())

    def _cont(self, signum: int = 0) -> None:
        ptrace.ptrace_cont(self._pid, signum)
        self._runs = True

    def _wait(self) -> int:
        looks, pause_s = 0, 0.00005
        while True:
            try:
                got, status = os.waitpid(self._pid, os.WNOHANG | ptrace.WALL)
            except ChildProcessError:
                raise InjectionDied(signal.SIGKILL) from None
            if got:
                return status
            looks += 1
            if looks < _SPIN:
                continue
            if time.monotonic() > self._deadline:
                raise LaunchError(
                    "a call made in the program does not return: an outer supervisor does not answer it, or"
                    " its cgroup is frozen",
                    exit_status=125,
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.005)

    def _room(self, size: int) -> tuple[int, bool]:
        # All threads stand still, so memory that is put back before they go on was never seen changed.
        # Below the stack pointer nothing is alive anyway: best on the first thread's own stack, which no
        # runtime parcels out; else on the thread's, which in Go may be a piece of the heap.
        for sp in self._stacks:
            top = (sp - RED_ZONE - size) & ~15
            if any(_holds(m, top, sp) for m in self._maps):
                return top, False
        return super()._room(size)


def _holds(mapping: Mapping, top: int, sp: int) -> bool:
    return mapping.start <= top and sp <= mapping.end and mapping.perms == "rw-p"
