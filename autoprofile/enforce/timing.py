"""Time syscalls under a filter: loops in machine code, in a child that makes no other call once filtered.

In: a filter and calls. Out: ticks per call, the least of several short loops. The caller answers for the
calls being harmless: either they do nothing, or the filter refuses them (`refusing`), so that they never run.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from autoprofile import kernel
from autoprofile.errors import AutoprofileError, MachineError
from autoprofile.filter import Program, SockFilter
from autoprofile.filter import opcodes as op
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["REFUSED", "SCRATCH", "ZEROS", "Clock", "TimedCall", "refusing", "time_calls", "time_mix"]

REFUSED: Final = -4095
"""What a call returns under a filter made by `refusing`: the largest errno, which no call answers with."""

ZEROS: Final = 1 << 64
"""As an argument: the address of 64 bytes that are 0, such as an empty path."""

SCRATCH: Final = ZEROS + 1
"""As an argument: the address of 1024 bytes that the call may write to."""

_LOOP: Final = 256  # calls between two looks at the clock: some 40 µs, short against a slice of the scheduler
_LOOPS: Final = 3  # loops of each call in one child; the least counts
_LIMIT_S: Final = 60  # a child that has not ended by then made a call that waits

# One call to time: nr and six arguments, how often; and what the machine code answers: ticks, last result.
_RECORD: Final = struct.Struct("=8QQq")

# stub(records, number of records, struct sock_fprog *, result), which never returns; behind it ticks().
# It installs the filter (when there is one) by itself, so that the interpreter, whose calls the filter may
# refuse, does nothing between that and the loops; then it waits to be killed, since exit may be refused too.
# x86_64 (counter: rdtsc; the assembler's source in the comments):
_X86_64: Final = bytes.fromhex(
    "4889fb 4889f5 4989cf"  # mov rbx, rdi; mov rbp, rsi; mov r15, rcx
    "4885d2 7413"  # test rdx, rdx; jz next
    "b83d010000 bf01000000 31f6 0f05"  # seccomp(SECCOMP_SET_MODE_FILTER, 0, rdx)
    "4885c0 755f"  # test rax, rax; jnz fail
    "4885ed 7455"  # next: test rbp, rbp; jz done
    "4c8b6338"  # mov r12, [rbx+56]
    "0faee8 0f31 48c1e220 4809d0 4989c5"  # lfence; rdtsc; r13 = rdx << 32 | rax
    "488b03 488b7b08 488b7310 488b5318"  # loop: mov rax, [rbx]; rdi, rsi, rdx: the arguments
    "4c8b5320 4c8b4328 4c8b4b30 0f05"  # r10, r8, r9; syscall
    "49ffcc 75de"  # dec r12; jnz loop
    "48894348"  # mov [rbx+72], rax
    "0faee8 0f31 48c1e220 4809d0 4c29e8 48894340"  # lfence; rdtsc; [rbx+64] = now - r13
    "4883c350 48ffcd eba6"  # add rbx, 80; dec rbp; jmp next
    "b801000000"  # done: mov eax, 1
    "498907 f390 ebfc"  # fail: mov [r15], rax; spin: pause; jmp spin
    "0faee8 0f31 48c1e220 4809d0 c3"  # ticks: lfence; rdtsc; rax |= rdx << 32; ret
)
_AARCH64_WORDS: Final = (
    *(0xAA0003F3, 0xAA0103F4, 0xAA0303F9),  # mov x19, x0; mov x20, x1; mov x25, x3
    0xB40000C2,  # cbz x2, next
    *(0xD28022A8, 0xD2800020, 0xD2800001, 0xD4000001),  # seccomp(SECCOMP_SET_MODE_FILTER, 0, x2)
    0xB5000280,  # cbnz x0, fail
    *(0xB4000254, 0xF9401E75),  # next: cbz x20, done; ldr x21, [x19, 56]
    *(0xD5033FDF, 0xD53BE056),  # isb; mrs x22, cntvct_el0
    0xF9400268,  # loop: ldr x8, [x19]
    *(0xA9408660, 0xA9418E62, 0xA9429664, 0xD4000001),  # ldp x0 to x5, the arguments; svc 0
    *(0xF10006B5, 0x54FFFF41),  # subs x21, x21, 1; b.ne loop
    *(0xD5033FDF, 0xD53BE049, 0xCB160129, 0xA9040269),  # isb; x9 = cntvct - x22; stp x9, x0, [x19, 64]
    *(0x91014273, 0xD1000694, 0x17FFFFEF),  # add x19, x19, 80; sub x20, x20, 1; b next
    *(0xD2800020, 0xF9000320),  # done: mov x0, 1; fail: str x0, [x25]
    *(0xD503203F, 0x17FFFFFF),  # spin: yield; b spin
    *(0xD5033FDF, 0xD53BE040, 0xD65F03C0),  # ticks: isb; mrs x0, cntvct_el0; ret
)
_STUBS: Final = {  # by `uname -m`: the code, and where ticks() is in it
    "x86_64": (_X86_64, 0x87),
    "aarch64": (struct.pack(f"<{len(_AARCH64_WORDS)}I", *_AARCH64_WORDS), 0x7C),
}
_DONE: Final = 1
_ZEROS_AT, _SCRATCH_AT, _HEAD = 8, 8 + 64, 8 + 64 + 1024  # in the memory shared with the child


class TimedCall(NamedTuple):
    """A call to time: its number and raw arguments, of which `ZEROS` and `SCRATCH` stand for addresses."""

    nr: int
    args: tuple[int, ...]


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _Code:
    # The machine code, executable; made when first needed.

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in _STUBS or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise MachineError(
                f"calls cannot be timed on {machine}",
                hint=f"there is machine code for 64-bit {' and '.join(_STUBS)} only",
            )
        code, ticks = _STUBS[machine]
        try:
            self._pages = mmap.mmap(
                -1,
                len(code),
                flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
            )
        except OSError as error:
            raise MachineError(
                f"no memory to run the timing loops in: {error.strerror}",
                hint="the system forbids memory that is writable and executable (SELinux: execmem)",
            ) from error
        self._pages.write(code)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self.run = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p, ctypes.c_size_t) * 2)(start)
        self.ticks = ctypes.CFUNCTYPE(ctypes.c_uint64)(start + ticks)


_code: _Code | None = None


def _the_code() -> _Code:
    global _code
    if _code is None:
        _code = _Code()
    return _code


class Clock:
    """The processor's counter against the system's clock, from its making to each use."""

    def __init__(self) -> None:
        self._ticks = _the_code().ticks
        self._start: tuple[int, int] = time.perf_counter_ns(), self._ticks()

    def ns_per_tick(self) -> float:
        """Give the length of one tick; the longer the clock has run, the more exact."""
        ns = time.perf_counter_ns() - self._start[0]
        ticks = int(self._ticks()) - self._start[1]
        return ns / max(1, ticks)


def refusing(program: Program) -> Program:
    """Give the same filter, but with a refusal in place of every answer, so that no call runs under it.

    It executes the same instructions as the other for every call; the kernel then answers with `REFUSED`
    instead of running the call. Calls with any effect can be timed so. The bitmap never answers, as nothing
    is allowed.

    Raises:
        AutoprofileError: the filter returns what it has computed.
    """
    if any(i.code == op.RET_A for i in program):
        raise AutoprofileError("a filter that returns what it computes cannot be timed")
    refusal = Action.errno(-REFUSED).ret
    return Program(i if i.code != op.RET_K else SockFilter(i.code, i.jt, i.jf, refusal) for i in program)


def time_calls(program: Program | None, calls: Sequence[TimedCall]) -> list[tuple[float, int]]:
    """Time calls in a child, under a filter or none.

    Args:
        program: the filter, installed with no_new_privs; it may refuse everything. None for no filter.
        calls: what to time; each is made several hundred times. They must be harmless under this filter,
            must not wait and must not end the child.

    Returns:
        For each call the ticks (see `Clock`) of one, the least of several loops, and what the last returned.

    Raises:
        MachineError: this machine has no way to do so.
        AutoprofileError: the child did not get through: the filter killed it, or a call waited.
    """
    found = _time(program, [call for call in calls for _ in range(_LOOPS)], _LOOP)
    loops = [found[at : at + _LOOPS] for at in range(0, len(found), _LOOPS)]
    return [(min(ticks for ticks, _ in several) / _LOOP, several[-1][1]) for several in loops]


def time_mix(program: Program | None, calls: Sequence[TimedCall]) -> float:
    """Time calls one by one in this order, so that the processor cannot know which will be next.

    Args:
        program: as of `time_calls`.
        calls: as of `time_calls`; each is made as often as it is in the list, and all of them twice.

    Returns:
        The mean ticks of a call, looking at the clock included, in the second pass and without the slowest
        tenth of them: interrupts.

    Raises:
        MachineError, AutoprofileError: as `time_calls`.
    """
    ticks = sorted(ticks for ticks, _ in _time(program, [*calls, *calls], 1)[len(calls) :])
    kept = ticks[: max(1, len(ticks) * 9 // 10)]
    return sum(kept) / len(kept)


def _time(program: Program | None, calls: Sequence[TimedCall], times: int) -> list[tuple[int, int]]:
    # The ticks of so many of each call, and what the last of them returned.
    code = _the_code()
    with mmap.mmap(-1, _HEAD + len(calls) * _RECORD.size) as shared:
        start = _address(shared)
        places = {ZEROS: start + _ZEROS_AT, SCRATCH: start + _SCRATCH_AT}
        for at, (nr, args) in enumerate(calls):
            full = [places.get(arg, arg) for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
            _RECORD.pack_into(shared, _HEAD + at * _RECORD.size, nr, *full, times, 0, 0)
        _run(code, program, shared, len(calls))
        result = _result(shared)
        if result != _DONE:
            raise MachineError(
                f"the filter to time cannot be installed: {os.strerror(-result)}",
                hint="an outer filter may refuse seccomp(2)",
            )
        return [_RECORD.unpack_from(shared, _HEAD + at * _RECORD.size)[8:] for at in range(len(calls))]


def _address(shared: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(shared))


def _result(shared: mmap.mmap) -> int:
    return int.from_bytes(shared[:8], sys.byteorder, signed=True)


def _run(code: _Code, program: Program | None, shared: mmap.mmap, count: int) -> None:
    raw = b"" if program is None else bytes(program)
    instructions = ctypes.create_string_buffer(raw, max(1, len(raw)))
    fprog = _SockFprog(len(raw) // 8, ctypes.addressof(instructions))
    start = _address(shared)
    pid = os.fork()
    if pid == 0:
        _child(code, start + _HEAD, count, ctypes.addressof(fprog) if raw else 0, start)
    deadline = time.monotonic() + _LIMIT_S
    status: int | None = None
    try:
        while _result(shared) == 0 and time.monotonic() < deadline:
            ended, found = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = found
                break
            time.sleep(0.0005)
    finally:
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if status is not None or _result(shared) == 0:
        how = "a call waited" if status is None else f"it ended with {os.waitstatus_to_exitcode(status)}"
        raise AutoprofileError(f"calls could not be timed: {how}", hint="please report this with the profile")


def _child(code: _Code, records: int, count: int, fprog: int, result: int) -> NoReturn:
    # Between fork and the loops: nothing here may return or print.
    try:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(_LIMIT_S)  # should the parent be killed, nobody else would end the waiting
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the counters of processors may differ
        kernel.set_no_new_privs()
        code.run(records, count, fprog, result)
    finally:
        os._exit(1)
