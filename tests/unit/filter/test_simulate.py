"""The interpreter and the validity check behave as the kernel's."""

from __future__ import annotations

import pytest

from autoprofile.errors import AutoprofileError
from autoprofile.filter import FilterInvalid, Program, SockFilter, simulate
from autoprofile.filter import opcodes as op

X86_64 = 0xC000003E
U32 = 0xFFFFFFFF
ADD_X = 0x0C


def answer(*instructions: tuple[int, int, int, int], args: tuple[int, ...] = (), nr: int = 7) -> int:
    """Run instructions on one call of x86_64."""
    program = Program(SockFilter(*i) for i in instructions)
    return program.simulate_data(simulate.pack_data(X86_64, nr, args, ip=0x1122334455667788))


RET_A = (op.RET_A, 0, 0, 0)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, 7),
        (4, X86_64),
        (8, 0x55667788),
        (12, 0x11223344),
        (16, 0xDDCCBBAA),
        (20, 0x1),
        (56, 0),
        (60, 0x80000000),
    ],
)
def test_every_word_is_found_at_its_offset(offset: int, expected: int) -> None:
    """A load reads the little-endian word of struct seccomp_data at its byte offset."""
    args = (0x1DDCCBBAA, 0, 0, 0, 0, 0x8000000000000000)
    assert answer((op.LD_ABS, 0, 0, offset), RET_A, args=args) == expected


@pytest.mark.parametrize(
    ("operation", "operand", "expected"),
    [
        (0x00, 5, 3),
        (0x10, 5, 0xFFFFFFF9),
        (0x20, 3, 0xFFFFFFFA),
        (0x30, 16, 0x0FFFFFFF),
        (0x40, 1, 0xFFFFFFFF),
        (0x50, 0xFF, 0xFE),
        (0x60, 4, 0xFFFFFFE0),
        (0x70, 4, 0x0FFFFFFF),
        (0xA0, 0xFF, 0xFFFFFF01),
    ],
)
def test_arithmetic_is_32_bit_and_alike_for_constants_and_x(
    operation: int, operand: int, expected: int
) -> None:
    """Each operation wraps at 32 bits, with a constant as with X."""
    start = 0xFFFFFFFE
    assert answer((op.LD_IMM, 0, 0, start), (4 | operation, 0, 0, operand), RET_A) == expected
    assert (
        answer((op.LDX_IMM, 0, 0, operand), (op.LD_IMM, 0, 0, start), (12 | operation, 0, 0, 0), RET_A)
        == expected
    )


def test_division_by_an_x_of_zero_kills_the_thread() -> None:
    """A division by X = 0 ends the filter with 0, which is SECCOMP_RET_KILL_THREAD."""
    assert answer((op.LD_IMM, 0, 0, 9), (op.DIV_X, 0, 0, 0), RET_A) == 0


def test_negation_moves_and_memory() -> None:
    """NEG, TAX, TXA, the scratch memory and the length load do what their names say."""
    assert answer((op.LD_IMM, 0, 0, 1), (op.NEG, 0, 0, 0), RET_A) == U32
    assert (
        answer((op.LD_IMM, 0, 0, 5), (op.TAX, 0, 0, 0), (op.LD_IMM, 0, 0, 0), (op.TXA, 0, 0, 0), RET_A) == 5
    )
    assert (
        answer((op.LD_IMM, 0, 0, 5), (op.ST, 0, 0, 15), (op.LD_IMM, 0, 0, 0), (op.LD_MEM, 0, 0, 15), RET_A)
        == 5
    )
    memory = ((op.LDX_IMM, 0, 0, 6), (op.STX, 0, 0, 1), (op.LDX_IMM, 0, 0, 0), (op.LDX_MEM, 0, 0, 1))
    assert answer(*memory, (op.TXA, 0, 0, 0), RET_A) == 6
    assert answer((op.LD_LEN, 0, 0, 0), RET_A) == 64
    assert answer((op.LDX_LEN, 0, 0, 0), (op.TXA, 0, 0, 0), RET_A) == 64


def test_a_and_x_start_at_zero() -> None:
    """Both registers are 0 before the first instruction."""
    assert answer((ADD_X, 0, 0, 0), RET_A) == 0


@pytest.mark.parametrize("a", [0, 4, 5, 6, U32])
@pytest.mark.parametrize("from_x", [False, True])
def test_jumps_compare_unsigned(a: int, from_x: bool) -> None:
    """JEQ, JGT, JGE and JSET compare A with a constant or X, unsigned."""
    expected = {op.JEQ_K: a == 5, op.JGT_K: a > 5, op.JGE_K: a >= 5, op.JSET_K: bool(a & 5)}
    for code, holds in expected.items():
        jump = (code | 8 if from_x else code, 0, 1, 0 if from_x else 5)
        program = (
            (op.LDX_IMM, 0, 0, 5),
            (op.LD_IMM, 0, 0, a),
            jump,
            (op.RET_K, 0, 0, 1),
            (op.RET_K, 0, 0, 2),
        )
        assert answer(*program) == (1 if holds else 2)


def test_a_jump_always_skips_its_distance() -> None:
    """JA k skips k instructions."""
    assert answer((op.JA, 0, 0, 1), (op.RET_K, 0, 0, 1), (op.RET_K, 0, 0, 2)) == 2


@pytest.mark.parametrize(
    ("instructions", "complaint"),
    [
        ([], "at least one"),
        ([(op.LD_IMM, 0, 0, 0)], "last instruction"),
        ([(op.RET_K, 0, 0, 0)] * 4097, "at most 4096"),
        ([(op.LD_ABS, 0, 0, 64), RET_A], "offset 64"),
        ([(op.LD_ABS, 0, 0, 2), RET_A], "offset 2"),
        ([(0x28, 0, 0, 0), RET_A], "opcode 0x28"),  # half-word load
        ([(0x94, 0, 0, 3), RET_A], "opcode 0x94"),  # BPF_MOD is not for seccomp
        ([(0x0E, 0, 0, 0), RET_A], "opcode 0x0e"),  # RET X
        ([(op.DIV_K, 0, 0, 0), RET_A], "division"),
        ([(op.LSH_K, 0, 0, 32), RET_A], "shift"),
        ([(op.JA, 0, 0, 1), RET_A], "beyond the end"),
        ([(op.JEQ_K, 0, 1, 0), RET_A], "beyond the end"),
        ([(op.ST, 0, 0, 16), RET_A], "scratch word 16"),
        ([(op.LD_MEM, 0, 0, 3), RET_A], "before it is written"),
        ([(op.JEQ_K, 1, 0, 0), (op.ST, 0, 0, 3), (op.LD_MEM, 0, 0, 3), RET_A], "before it is written"),
        ([(op.JEQ_K, 256, 0, 0), RET_A], "does not fit"),
    ],
)
def test_what_the_kernel_refuses_is_refused(
    instructions: list[tuple[int, int, int, int]], complaint: str
) -> None:
    """A program the kernel would answer with EINVAL is refused, and the message says why."""
    with pytest.raises(FilterInvalid, match=complaint):
        Program(SockFilter(*i) for i in instructions)


def test_4096_instructions_are_accepted() -> None:
    """The limit itself is still valid."""
    assert len(Program([SockFilter(op.RET_K, 0, 0, 0)] * 4096)) == 4096


def test_memory_written_on_both_paths_may_be_read() -> None:
    """A scratch word that every path writes may be read where they meet."""
    both = [
        (op.JEQ_K, 0, 2, 0),
        (op.ST, 0, 0, 3),
        (op.JA, 0, 0, 1),
        (op.ST, 0, 0, 3),
        (op.LD_MEM, 0, 0, 3),
        RET_A,
    ]
    assert answer(*both) == 0


def test_bytes_round_trip() -> None:
    """Program.from_bytes(bytes(p)) == p, and the layout is that of struct sock_filter."""
    program = Program([SockFilter(op.JEQ_K, 1, 2, 0x11223344), *[SockFilter(op.RET_K, 0, 0, 0)] * 3])
    assert bytes(program)[:8] == bytes([0x15, 0x00, 1, 2, 0x44, 0x33, 0x22, 0x11])
    assert Program.from_bytes(bytes(program)) == program


@pytest.mark.parametrize("raw", [b"", b"1234567"])
def test_bytes_of_another_length_are_refused(raw: bytes) -> None:
    """Bytes that are no array of struct sock_filter are refused."""
    with pytest.raises(AutoprofileError, match="no filter"):
        Program.from_bytes(raw)


def test_constant_allow_needs_nr_and_arch_alone() -> None:
    """The bitmap rule holds for an ALLOW after tests of nr and arch, and fails once an argument is loaded."""
    allow, kill = SockFilter(op.RET_K, 0, 0, 0x7FFF0000), SockFilter(op.RET_K, 0, 0, 0)
    plain = Program([SockFilter(op.LD_ABS, 0, 0, 0), SockFilter(op.JEQ_K, 0, 1, 7), allow, kill])
    assert plain.is_constant_allow("x86_64", 7)
    assert not plain.is_constant_allow("x86_64", 8)
    looks = Program([SockFilter(op.LD_ABS, 0, 0, 16), allow])
    assert not looks.is_constant_allow("x86_64", 7)
    computes = Program([SockFilter(op.LD_ABS, 0, 0, 0), SockFilter(ADD_X, 0, 0, 0), allow])
    assert not computes.is_constant_allow("x86_64", 7)
    log = Program([SockFilter(op.RET_K, 0, 0, 0x7FFC0000)])
    assert not log.is_constant_allow("x86_64", 7)
