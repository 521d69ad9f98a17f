"""Random valid programs with every instruction a seccomp filter may have, as other people's compilers might write."""

from __future__ import annotations

import random

from autoprofile.filter import opcodes as op
from autoprofile.filter.program import Program, SockFilter

CONSTANTS = (0, 1, 2, 3, 7, 16, 31, 0x40, 0xFFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xC000003E, 0xFFFFFFFF)
EXIT_GROUP = 231


def random_program(rng: random.Random, size: int) -> Program:
    """Make a program that allows exit_group and answers every other call with an error number worked out on the way."""
    code = [
        SockFilter(op.LD_ABS, 0, 0, op.NR_OFFSET),
        SockFilter(op.JEQ_K, 0, 1, EXIT_GROUP),
        SockFilter(op.RET_K, 0, 0, 0x7FFF0000),
    ]
    # All scratch words are written first, so that any may be read.
    code += [SockFilter(rng.choice((op.ST, op.STX)), 0, 0, k) for k in range(op.MEMORY_WORDS)]
    opcodes = sorted(op.SECCOMP_OPCODES - {op.RET_K, op.RET_A})
    for at in range(size):
        opcode, k = rng.choice(opcodes), rng.choice((*CONSTANTS, rng.randrange(1 << 32)))
        left = size - at  # instructions from here to the end, of the random part
        jt = jf = 0
        if opcode in op.JUMP_NAMES:
            jt, jf = (min(rng.randrange(6), left - 1) for _ in range(2))
        elif opcode == op.JA:
            k = min(rng.randrange(4), left - 1)
        elif opcode == op.LD_ABS:
            k = rng.choice((0, 4, *range(16, 64, 4)))  # all words but the caller's address
        elif opcode in (op.LD_MEM, op.LDX_MEM, op.ST, op.STX):
            k = rng.randrange(op.MEMORY_WORDS)
        elif opcode in (op.LSH_K, op.RSH_K):
            k = rng.randrange(32)
        elif opcode == op.DIV_K:
            k = k or 5
        code.append(SockFilter(opcode, jt, jf, k))
    # What is left in A and X becomes the error number.
    code += [
        SockFilter(0x0C, 0, 0, 0),  # A += X
        SockFilter(op.ST, 0, 0, 0),
        SockFilter(op.RSH_K, 0, 0, 13),
        SockFilter(op.LDX_MEM, 0, 0, 0),
        SockFilter(0xAC, 0, 0, 0),  # A ^= X
        SockFilter(op.AND_K, 0, 0, 0xFFF),
        SockFilter(0x44, 0, 0, 0x00050000),  # A |= SECCOMP_RET_ERRNO
        SockFilter(op.RET_A, 0, 0, 0),
    ]
    return Program(code)
