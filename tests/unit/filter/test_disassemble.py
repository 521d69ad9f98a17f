"""The disassembly names what the instructions are about."""

from __future__ import annotations

from hypothesis import given, settings

from autoprofile.filter import Filter, Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.profile import Action, Arg, Profile, SeccompRule

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
        "nr == read (0); allow read",
        "args[1].lo (cmd); ioctl",
        "args[1].lo == 0x5401 (cmd == TCGETS)",
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


def test_the_rules_stand_before_the_code_that_checks_them() -> None:
    """A profile's listing has each checked call's rules; values have their symbols, as far as all calls there agree."""
    profile = Profile(
        arch=("x86_64", "i386"),
        rules=(
            SeccompRule("openat", Action.ALLOW, (Arg(2, "in", {0, 0o2000000}),)),
            SeccompRule("mmap", Action.ALLOW, (Arg(2, "masked_eq", 0, mask=~0x3 & 0xFFFFFFFF),), ("x86_64",)),
            *(
                SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", n), Arg(1, "eq", n + 1)))
                for n in range(1, 20)
            ),
            SeccompRule("close", Action.ALLOW),
        ),
    )
    program = compile_profile(profile)
    lines = program.disassemble(profile).splitlines()
    rules = [line.strip() for line in lines if line.startswith("  ") and line.strip().startswith(";")]
    assert "; openat(flags in {O_RDONLY, O_RDONLY|O_CLOEXEC}): allow" in rules
    assert rules.count("; and 11 more rules of socket") == 1, "shared by both arches, and said once"
    assert not any("close" in rule for rule in rules)
    assert [line for line in lines if line.strip() not in rules] == program.disassemble().splitlines()
    text = "\n".join(lines)
    for part in (
        "(family)",
        "type == SOCK_DGRAM",
        "prot & ~(PROT_READ|PROT_WRITE)",
        "nr == close (3) or args[1].lo == 0x3 (type == SOCK_RAW); allow close",
    ):
        assert part in text, part
    assert all(len(rule) < 110 for rule in rules)


def test_calls_that_get_to_one_place_by_ranges_are_known() -> None:
    """Names come from what the tests of the number leave, whichever they are; where calls disagree there are none."""
    program = Program(
        [
            SockFilter(op.LD_ABS, 0, 0, op.ARCH_OFFSET),
            SockFilter(op.JEQ_K, 0, 7, 0xC000003E),
            SockFilter(op.LD_ABS, 0, 0, op.NR_OFFSET),
            SockFilter(op.JGE_K, 0, 4, 41),
            SockFilter(0x25, 3, 0, 42),  # jgt: socket and connect are left
            SockFilter(op.LD_ABS, 0, 0, op.ARGS_OFFSET),
            SockFilter(op.JEQ_K, 0, 1, 1),
            SockFilter(op.RET_K, 0, 0, Action.LOG.ret),
            SockFilter(op.RET_K, 0, 0, Action.ALLOW.ret),
            SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
        ]
    )
    lines = program.disassemble().splitlines()
    assert "nr >= socket (41); allow read, write, open, close, stat, fstat, lstat, poll …" in lines[
        3
    ].replace("  ", " ")
    assert "args[0].lo (family/fd)" in lines[5]
    assert lines[6].endswith("args[0].lo == 0x1")


@settings(max_examples=60, deadline=None)
@given(profiles())
def test_every_filter_has_a_text(profile: Profile) -> None:
    """Every compiled filter is rendered, one line an instruction, and nothing in it is unreachable."""
    program = compile_profile(profile)
    text = program.disassemble()
    assert len(text.splitlines()) == len(program)
    assert "never reached" not in text
