"""Run a filter as the kernel would: its validity check, its interpreter and its always-allowed shortcut.

Takes instructions and a ``struct seccomp_data``; gives the 32-bit return value. Pure, and independent of the
compiler, so that what it says about a compiled filter is evidence.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError
from autoprofile.filter import opcodes as op

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.filter.program import SockFilter

__all__ = [
    "FilterInvalid",
    "check",
    "is_constant_allow",
    "most_severe",
    "pack_data",
    "run",
    "run_words",
    "words_of_call",
]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_RET_ALLOW = 0x7FFF0000


class FilterInvalid(AutoprofileError):  # noqa: N818 - reads as the fact it states
    """Report instructions the kernel would refuse with EINVAL; the message names the instruction."""


def pack_data(arch: int, nr: int, args: Sequence[int], ip: int = 0) -> bytes:
    """Pack a ``struct seccomp_data``; missing arguments are 0, negative numbers wrap as in C.

    All arches autoprofile knows are little-endian, so the low half of an argument comes first.
    """
    full = [a & _U64 for a in args] + [0] * (6 - len(args))
    return struct.pack("<IIQ6Q", nr & _U32, arch & _U32, ip & _U64, *full)


def words_of_call(arch: int, nr: int, args: Sequence[int], ip: int = 0) -> tuple[int, ...]:
    """Give the sixteen 32-bit words a filter can load for one call."""
    words = [nr & _U32, arch & _U32, ip & _U32, (ip >> 32) & _U32]
    for arg in args:
        words += (arg & _U32, (arg >> 32) & _U32)
    return (*words, *[0] * (16 - len(words)))


def run(program: Sequence[SockFilter], data: bytes, visited: set[int] | None = None) -> int:
    """Return what the filter answers for one packed ``struct seccomp_data``.

    Args:
        program: instructions that pass `check`.
        data: the 64 bytes of the structure.
        visited: collects the indexes of the executed instructions, when given.
    """
    if len(data) != op.DATA_SIZE:
        raise AutoprofileError(f"struct seccomp_data has {op.DATA_SIZE} bytes, not {len(data)}")
    return run_words(program, struct.unpack("<16I", data), visited)


def run_words(program: Sequence[SockFilter], words: Sequence[int], visited: set[int] | None = None) -> int:
    """Return what the filter answers for the sixteen words of a ``struct seccomp_data``."""
    a = x = 0  # bpf_convert_filter() clears both first
    memory = [0] * op.MEMORY_WORDS
    pc = 0
    while True:
        code, jt, jf, k = program[pc]
        if visited is not None:
            visited.add(pc)
        pc += 1
        # The frequent ones first; the order has no meaning.
        if code == op.JEQ_K:
            pc += jt if a == k else jf
        elif code == op.LD_ABS:
            a = words[k >> 2]
        elif code == op.JGE_K:
            pc += jt if a >= k else jf
        elif code == op.JGT_K:
            pc += jt if a > k else jf
        elif code == op.JSET_K:
            pc += jt if a & k else jf
        elif code == op.RET_K:
            return k
        elif code == op.JA:
            pc += k
        elif code == op.AND_K:
            a &= k
        elif code == op.RET_A:
            return a
        elif code & 7 == 4:
            result = _arithmetic(code, a, x if code & 8 else k)
            if result is None:
                return 0  # a division by an X of 0 ends the filter with 0: SECCOMP_RET_KILL_THREAD
            a = result
        elif code in op.JUMP_NAMES:
            holds = {op.JEQ_X: a == x, op.JGT_X: a > x, op.JGE_X: a >= x, op.JSET_X: a & x != 0}[code]
            pc += jt if holds else jf
        else:
            a, x = _move(code, k, a, x, memory)


def _arithmetic(code: int, a: int, operand: int) -> int | None:
    operation = code & 0xF0
    if code == op.NEG:
        return -a & _U32
    if operation == 0x30:
        return a // operand if operand else None
    # Shifts by X use its low five bits: the eBPF interpreter masks them since Linux 5.14 ("bpf: Fix up
    # register-based shifts in interpreter to silence KUBSAN"), the processors' JITs always did.
    result = {
        0x00: a + operand,
        0x10: a - operand,
        0x20: a * operand,
        0x40: a | operand,
        0x50: a & operand,
        0x60: a << (operand & 31),
        0x70: a >> (operand & 31),
        0xA0: a ^ operand,
    }[operation]
    return result & _U32


def _move(code: int, k: int, a: int, x: int, memory: list[int]) -> tuple[int, int]:
    # Loads, stores and register moves; returns the new (A, X).
    if code == op.ST:
        memory[k] = a
    elif code == op.STX:
        memory[k] = x
    elif code == op.TAX:
        x = a
    elif code == op.TXA:
        a = x
    elif code == op.LD_IMM:
        a = k
    elif code == op.LDX_IMM:
        x = k
    elif code == op.LD_MEM:
        a = memory[k]
    elif code == op.LDX_MEM:
        x = memory[k]
    elif code == op.LD_LEN:
        a = op.DATA_SIZE
    elif code == op.LDX_LEN:
        x = op.DATA_SIZE
    else:
        raise FilterInvalid(f"opcode {code:#04x} is not one a seccomp filter may use")
    return a, x


def check(program: Sequence[SockFilter]) -> None:
    """Refuse what the kernel refuses (bpf_check_classic(), seccomp_check_filter(), check_load_and_stores()).

    Raises:
        FilterInvalid: naming the first offending instruction.
    """
    size = len(program)
    if size == 0:
        raise FilterInvalid("a filter needs at least one instruction")
    if size > op.MAX_INSTRUCTIONS:
        raise FilterInvalid(f"{size} instructions; the kernel takes at most {op.MAX_INSTRUCTIONS}")
    for index, instruction in enumerate(program):
        fault = _fault(instruction, size - index - 1)
        if fault:
            raise FilterInvalid(f"instruction {index}: {fault}")
    if program[-1].code not in (op.RET_K, op.RET_A):
        raise FilterInvalid(f"instruction {size - 1}: the last instruction must be a return")
    _check_memory(program)


def _fault(instruction: SockFilter, following: int) -> str | None:
    # Why the kernel refuses this instruction when `following` others come after it.
    code, jt, jf, k = instruction
    if not (0 <= code <= 0xFFFF and 0 <= jt <= 0xFF and 0 <= jf <= 0xFF and 0 <= k <= _U32):
        return "a field does not fit struct sock_filter"
    if code not in op.SECCOMP_OPCODES:
        return f"opcode {code:#04x} is not one a seccomp filter may use"
    if code == op.LD_ABS and (k >= op.DATA_SIZE or k & 3):
        return f"load at offset {k}: only aligned words inside struct seccomp_data can be read"
    if code == op.JA and k >= following:
        return "jump beyond the end"
    if code in op.JUMP_NAMES and max(jt, jf) >= following:
        return "jump beyond the end"
    if code == op.DIV_K and k == 0:
        return "division by zero"
    if code in (op.LSH_K, op.RSH_K) and k >= 32:
        return f"shift by {k} bits"
    if code in (op.LD_MEM, op.LDX_MEM, op.ST, op.STX) and k >= op.MEMORY_WORDS:
        return f"scratch word {k} does not exist"
    return None


def _check_memory(program: Sequence[SockFilter]) -> None:
    # As check_load_and_stores(): a scratch word is read only where every path has written it.
    everything = (1 << op.MEMORY_WORDS) - 1
    reaching = [everything] * len(program)
    written = 0
    for pc, (code, jt, jf, k) in enumerate(program):
        written &= reaching[pc]
        if code in (op.ST, op.STX):
            written |= 1 << k
        elif code in (op.LD_MEM, op.LDX_MEM):
            if not written & (1 << k):
                raise FilterInvalid(f"instruction {pc}: scratch word {k} may be read before it is written")
        elif code == op.JA:
            reaching[pc + 1 + k] &= written
            written = everything
        elif code in op.JUMP_NAMES:
            reaching[pc + 1 + jt] &= written
            reaching[pc + 1 + jf] &= written
            written = everything


def most_severe(returns: Sequence[int]) -> int:
    """Give what the kernel makes of the answers of stacked filters, the oldest first.

    The most severe action wins; of equal ones the newest filter's data counts (seccomp_run_filters()).
    """
    return min(reversed(returns), key=lambda ret: (ret & 0xFFFF0000) ^ 0x80000000)


def is_constant_allow(program: Sequence[SockFilter], arch: int, nr: int) -> bool:
    """Say whether Linux ≥ 5.11 answers this call from its bitmap, without running the filter.

    Mirrors seccomp_is_const_allow() (Linux kernel commit 8e01b51a31a1, 'seccomp/cache: Add "emulator" to
    check if filter is constant allow', in v5.11): every load on the way to ALLOW is of nr or arch. The kernel
    keeps such a bitmap for the native arch and one compat arch, for numbers inside their tables; x32 calls
    have none.
    """
    a = 0
    pc = 0
    while pc < len(program):
        code, jt, jf, k = program[pc]
        pc += 1
        if code == op.LD_ABS:
            if k == op.NR_OFFSET:
                a = nr & _U32
            elif k == op.ARCH_OFFSET:
                a = arch
            else:
                return False
        elif code == op.RET_K:
            return k == _RET_ALLOW
        elif code == op.JA:
            pc += k
        elif code == op.AND_K:
            a &= k
        elif code == op.JEQ_K:
            pc += jt if a == k else jf
        elif code == op.JGE_K:
            pc += jt if a >= k else jf
        elif code == op.JGT_K:
            pc += jt if a > k else jf
        elif code == op.JSET_K:
            pc += jt if a & k else jf
        else:
            return False
    return False
