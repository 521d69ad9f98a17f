"""The instruction set of classic BPF as seccomp accepts it: names of the opcodes and of the machine's limits.

Values are those of ``linux/bpf_common.h``, ``linux/filter.h`` and ``linux/seccomp.h``; nothing here computes.
"""

from __future__ import annotations

__all__ = [
    "ALU_OPERATIONS",
    "AND_K",
    "ARCH_OFFSET",
    "ARGS_OFFSET",
    "DATA_SIZE",
    "DIV_K",
    "DIV_X",
    "JA",
    "JEQ_K",
    "JEQ_X",
    "JGE_K",
    "JGE_X",
    "JGT_K",
    "JGT_X",
    "JSET_K",
    "JSET_X",
    "JUMP_NAMES",
    "LDX_IMM",
    "LDX_LEN",
    "LDX_MEM",
    "LD_ABS",
    "LD_IMM",
    "LD_LEN",
    "LD_MEM",
    "LSH_K",
    "MAX_INSTRUCTIONS",
    "MEMORY_WORDS",
    "NEG",
    "NR_OFFSET",
    "RET_A",
    "RET_K",
    "RSH_K",
    "SECCOMP_OPCODES",
    "ST",
    "STX",
    "TAX",
    "TXA",
    "word_name",
]

# Instruction classes, sizes, modes and operations composed as in linux/bpf_common.h (BPF_W is 0).
LD_IMM, LD_ABS, LD_MEM, LD_LEN = 0x00, 0x20, 0x60, 0x80
LDX_IMM, LDX_MEM, LDX_LEN = 0x01, 0x61, 0x81
ST, STX = 0x02, 0x03
JA = 0x05
JEQ_K, JGT_K, JGE_K, JSET_K = 0x15, 0x25, 0x35, 0x45
JEQ_X, JGT_X, JGE_X, JSET_X = 0x1D, 0x2D, 0x3D, 0x4D
RET_K, RET_A = 0x06, 0x16
TAX, TXA = 0x07, 0x87
DIV_K, DIV_X = 0x34, 0x3C
AND_K = 0x54
LSH_K, RSH_K = 0x64, 0x74
NEG = 0x84

# Arithmetic by operation: (mnemonic, sign to print). The K form is 4 + operation, the X form 12 + operation.
# BPF_MOD is classic BPF but not seccomp's: seccomp_check_filter() leaves it out.
ALU_OPERATIONS = {
    0x00: ("add", "+"),
    0x10: ("sub", "-"),
    0x20: ("mul", "*"),
    0x30: ("div", "/"),
    0x40: ("or", "|"),
    0x50: ("and", "&"),
    0x60: ("lsh", "<<"),
    0x70: ("rsh", ">>"),
    0xA0: ("xor", "^"),
}

JUMP_NAMES = {
    JEQ_K: "jeq",
    JGT_K: "jgt",
    JGE_K: "jge",
    JSET_K: "jset",
    JEQ_X: "jeq",
    JGT_X: "jgt",
    JGE_X: "jge",
    JSET_X: "jset",
}

SECCOMP_OPCODES = frozenset(
    {LD_IMM, LD_ABS, LD_MEM, LD_LEN, LDX_IMM, LDX_MEM, LDX_LEN, ST, STX, JA, RET_K, RET_A, TAX, TXA, NEG}
    | set(JUMP_NAMES)
    | {operation | source for operation in ALU_OPERATIONS for source in (0x04, 0x0C)}
)

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MEMORY_WORDS = 16  # BPF_MEMWORDS

# struct seccomp_data: int nr, u32 arch, u64 instruction_pointer, u64 args[6].
NR_OFFSET, ARCH_OFFSET, ARGS_OFFSET = 0, 4, 16
DATA_SIZE = 64


def word_name(offset: int, byteorder: str = "little") -> str:
    """Name the word of ``struct seccomp_data`` at a byte offset; every arch we know is little-endian."""
    if offset == NR_OFFSET:
        return "nr"
    if offset == ARCH_OFFSET:
        return "arch"
    half = "hi" if bool(offset & 4) == (byteorder == "little") else "lo"
    if offset < ARGS_OFFSET:
        return f"ip.{half}"
    return f"args[{(offset - ARGS_OFFSET) // 8}].{half}"
