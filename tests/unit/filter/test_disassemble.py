"""The disassembly names what the instructions are about."""

from __future__ import annotations

from hypothesis import given, settings

from autoprofile.filter import Filter, Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.profile import Action, Arg, Profile

from .calls import profiles


def test_a_small_filter_reads_like_its_rules() -> None:
    """Arches, syscalls, argument halves and actions are named; rules annotate the code that checks them."""
    built = Filter(default=Action.errno(1))
    built.add_rule("read", Action.ALLOW)
    built.add_rule("ioctl", Action.ALLOW, Arg(1, "eq", 0x5401))
    text = built.compile().disassemble()
    for part in (
        "; arch",
        "arch == AUDIT_ARCH_X86_64",
        "nr == ioctl (16)",
        "args[1].lo; ioctl",
        "args[1].lo == 0x5401",
        "ret   allow",
        "ret   EPERM",
        "ret   kill",
    ):
        assert part in text
    assert len(text.splitlines()) == len(built.compile())


def test_filters_of_others_are_read_too() -> None:
    """Opcodes our compiler never emits, dead code and odd return values are shown as what they are."""
    program = Program(
        [
            SockFilter(op.LD_LEN, 0, 0, 0),
            SockFilter(op.TAX, 0, 0, 0),
            SockFilter(op.LD_ABS, 0, 0, 8),
            SockFilter(0x0C, 0, 0, 0),
            SockFilter(op.NEG, 0, 0, 0),
            SockFilter(op.ST, 0, 0, 3),
            SockFilter(op.LDX_MEM, 0, 0, 3),
            SockFilter(op.JSET_X, 0, 1, 0),
            SockFilter(op.JA, 0, 0, 1),
            SockFilter(op.RET_A, 0, 0, 0),
            SockFilter(op.RET_K, 0, 0, 0x12345678),
            SockFilter(op.RET_K, 0, 0, 0x7FFF0000),
        ]
    )
    lines = program.disassemble().splitlines()
    assert "ld    len" in lines[0]
    assert "ip.lo" in lines[2]
    assert "A += x" in lines[3]
    assert "jset  x" in lines[7]
    assert "ja    10" in lines[8]
    assert "ret   kill" in lines[10]
    assert "0x12345678" in lines[10]
    assert "never reached" in lines[11]


def test_a_name_is_given_only_where_the_arch_is_known() -> None:
    """A number tested before the arch has no name: it means another call on each arch."""
    program = Program(
        [
            SockFilter(op.LD_ABS, 0, 0, 0),
            SockFilter(op.JEQ_K, 0, 0, 16),
            SockFilter(op.RET_K, 0, 0, 0),
        ]
    )
    assert "nr == 16" in program.disassemble()


@settings(max_examples=60, deadline=None)
@given(profiles())
def test_every_filter_has_a_text(profile: Profile) -> None:
    """Every compiled filter is rendered, one line an instruction, and nothing in it is unreachable."""
    program = compile_profile(profile)
    text = program.disassemble()
    assert len(text.splitlines()) == len(program)
    assert "never reached" not in text
