"""A compiled filter means what its profile says, for every arch, number and argument."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr, syscall_table
from autoprofile.filter import Filter, FilterTooLarge, Program, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.filter.limits import bitmap_size
from autoprofile.filter.simulate import is_constant_allow
from autoprofile.profile import ANY, Action, Arg, Evidence, Profile, SeccompRule

from .calls import U32, U64, calls, expected, profiles, raw_of
from .paths import calls_for_every_instruction

ALLOW, EPERM = Action.ALLOW.ret, Action.errno(1).ret
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def one_rule(*args: Arg, syscall: str = "mmap") -> Program:
    """Compile an allowlist of one rule, EPERM otherwise."""
    built = Filter(default=Action.errno(1))
    built.add_rule(syscall, Action.ALLOW, *args)
    return built.compile()


@slow
@given(profiles())
def test_the_filter_answers_as_the_profile(profile: Profile) -> None:
    """On both sides of every edge the simulated filter and Profile.decide_call agree."""
    program = compile_profile(profile)
    for token, nr, args in calls(profile, seed=len(program), each=25):
        assert program.simulate_ret(token, nr, args) == expected(profile, token, nr, args)


@slow
@given(profiles())
def test_every_instruction_is_executed_and_answers_as_the_profile(profile: Profile) -> None:
    """No instruction is dead, and the calls that execute each of them are answered as the profile says."""
    program = compile_profile(profile)
    found = calls_for_every_instruction(program)
    visited: set[int] = set()
    for words in found.values():
        token, nr, args = raw_of(words)
        from autoprofile.filter.simulate import run_words

        assert run_words(program, words, visited) == expected(profile, token, nr, args)
    assert visited == set(range(len(program))), program.disassemble()


@slow
@given(profiles())
def test_layout_for_older_kernels_means_the_same(profile: Profile) -> None:
    """Weighing all calls (no bitmap) changes the order of tests, never an answer."""
    program = compile_profile(profile, bitmap=False)
    for token, nr, args in calls(profile, seed=len(program), each=5):
        assert program.simulate_ret(token, nr, args) == expected(profile, token, nr, args)


@slow
@given(profiles())
def test_constant_allows_are_answered_from_the_bitmap(profile: Profile) -> None:
    """Whatever is allowed with any arguments is found so by the kernel's own rule, as far as the bitmap has the number."""
    program = compile_profile(profile)
    for arch in profile.arch:
        for syscall in profile.syscalls(arch):
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            assert nr is not None
            rules = profile.rules_for(arch, syscall)
            if all(rule.action == Action.ALLOW for rule in rules) and any(rule.args is ANY for rule in rules):
                assert is_constant_allow(program, ARCHES[arch].audit_arch, nr)
                assert program.is_constant_allow(arch, nr) == (nr < bitmap_size(arch))


@slow
@given(profiles())
def test_compiling_twice_gives_the_same_bytes(profile: Profile) -> None:
    """The program depends on the profile alone."""
    again = Profile(
        **{f: getattr(profile, f) for f in ("arch", "mode", "default", "bad_arch")}, rules=profile.rules[::-1]
    )
    assert bytes(compile_profile(profile)) == bytes(compile_profile(again))


@pytest.mark.parametrize(
    ("arg", "allowed", "refused"),
    [
        (Arg(2, "eq", 5, width=64), [5], [4, 6, 5 | 1 << 32, 5 | 1 << 63]),
        (Arg(2, "eq", 5, width=32), [5, 5 | 1 << 32, 5 | U32 << 32], [4, 6, 4 | 5 << 32]),
        (Arg(2, "ne", 5 << 32, width=64), [0, 5, 5 << 32 | 1, 4 << 32], [5 << 32]),
        (Arg(2, "ne", 5, width=32), [4, 5 << 32], [5, 5 | 1 << 40]),
        (Arg(2, "lt", 3 << 32 | 7, width=64), [0, 3 << 32 | 6, 2 << 32 | U32], [3 << 32 | 7, 4 << 32, U64]),
        (Arg(2, "le", 3 << 32 | 7, width=64), [3 << 32 | 7, 2 << 32 | U32], [3 << 32 | 8, 4 << 32]),
        (Arg(2, "gt", 3 << 32 | 7, width=64), [3 << 32 | 8, 4 << 32, U64], [3 << 32 | 7, 2 << 32 | U32]),
        (Arg(2, "ge", 3 << 32 | 7, width=64), [3 << 32 | 7, 4 << 32], [3 << 32 | 6, 2 << 32 | U32, 8]),
        (Arg(2, "lt", 7, width=32), [6, 6 | 9 << 32], [7, U32]),
        (Arg(2, "masked_eq", 2, 3, 64), [2, 6, 2 | 1 << 40], [0, 1, 3]),
        (Arg(2, "masked_eq", 1 << 40, 1 << 40 | 1, 64), [1 << 40, 1 << 40 | 2], [1, 0, 1 << 40 | 1]),
        (Arg(2, "masked_eq", 0xF0, 0xFF, 32), [0xF0, 0x1F0, 0xF0 | U32 << 32], [0xF1, 0x70]),
        (Arg(2, "in", {1, 5, 9 << 32}, width=64), [1, 5, 9 << 32], [0, 2, 9, 9 << 32 | 1, 1 | 9 << 32]),
        (Arg(2, "any"), [0, 1, U64], []),
    ],
    ids=str,
)
def test_each_operator_at_its_edges(arg: Arg, allowed: list[int], refused: list[int]) -> None:
    """Each operator accepts its edge values and refuses their neighbours, at the width it was given."""
    program = one_rule(arg)
    assert [v for v in allowed if program.simulate_ret("x86_64", 9, (0, 0, v)) != ALLOW] == []
    assert [v for v in refused if program.simulate_ret("x86_64", 9, (0, 0, v)) != EPERM] == []


def test_comparators_on_one_argument_all_have_to_hold() -> None:
    """Two comparators on one index are AND'ed: a range, not a union."""
    program = one_rule(Arg(1, "ge", 10), Arg(1, "le", 20))
    assert [v for v in range(30) if program.simulate_ret("x86_64", 9, (0, v)) == ALLOW] == list(range(10, 21))


def test_a_rule_that_contradicts_itself_matches_nothing() -> None:
    """A comparator pair no value satisfies leaves only the default."""
    program = one_rule(Arg(1, "ge", 10), Arg(1, "lt", 10))
    assert {program.simulate_ret("x86_64", 9, (0, v)) for v in range(30)} == {EPERM}


@pytest.mark.parametrize("reverse", [False, True])
def test_the_most_severe_matching_rule_wins(reverse: bool) -> None:
    """Where rules with different actions match, severity decides, not the order of adding."""
    added = [
        (Action.ALLOW, ()),
        (Action.errno(13), (Arg(0, "ge", 5),)),
        (Action.LOG, (Arg(0, "ge", 3),)),
        (Action.KILL_PROCESS, (Arg(0, "ge", 7),)),
    ]
    built = Filter(default=Action.errno(1))
    for action, args in reversed(added) if reverse else added:
        built.add_rule("getpid", action, *args)
    program = built.compile()
    answers = [str(program.simulate("x86_64", 39, (v,))) for v in (2, 3, 5, 7)]
    assert answers == ["allow", "log", "EACCES", "kill"]


def test_the_arch_is_checked_before_anything_else() -> None:
    """The first instruction loads arch, and a foreign arch gets the bad-arch action at once."""
    program = one_rule(Arg(0, "eq", 1))
    assert program[0] == (op.LD_ABS, 0, 0, op.ARCH_OFFSET)
    assert program[1] == (op.JEQ_K, program[1].jt, program[1].jf, ARCHES["x86_64"].audit_arch)
    assert str(program.simulate("i386", 9, (1,))) == "kill"
    assert program[program[1].jf + 2].code == op.RET_K


def test_x32_calls_are_a_foreign_arch_unless_listed() -> None:
    """With x86_64 alone a number with bit 30 gets the bad-arch action, allowed number or not."""
    built = Filter(default=Action.errno(1), bad_arch=Action.KILL_PROCESS)
    built.add_rule("read", Action.ALLOW)
    program = built.compile()
    assert str(program.simulate("x86_64", 0)) == "allow"
    assert str(program.simulate("x86_64", 0x40000000)) == "kill"
    assert str(program.simulate("x86_64", 0x40000000 | 515)) == "kill"
    assert str(program.simulate("x86_64", U32)) == "EPERM"  # -1: a call a tracer skipped, no x32 call


def test_x32_has_rules_of_its_own() -> None:
    """With x32 listed its numbers, bit included, follow the rules limited to it."""
    built = Filter(default=Action.errno(1), arch=["x86_64", "x32"])
    built.add_rule("read", Action.ALLOW, arch="x32")
    built.add_rule("ioctl", Action.ALLOW)
    program = built.compile()
    assert str(program.simulate("x32", 0x40000000)) == "allow"
    assert str(program.simulate("x86_64", 0)) == "EPERM"
    assert str(program.simulate("x32", 0x40000000 | 514)) == "allow"  # ioctl has another number there
    assert str(program.simulate("x86_64", 16)) == "allow"
    assert str(program.simulate("x86_64", U32)) == "EPERM"


def test_x32_alone_refuses_x86_64() -> None:
    """With x32 alone, plain x86_64 numbers get the bad-arch action, and so does -1."""
    built = Filter(default=Action.errno(1), arch=["x32"])
    built.add_rule("read", Action.ALLOW)
    program = built.compile()
    assert [str(program.simulate("x86_64", nr)) for nr in (0, 0x40000000, 0x40000001, U32)] == [
        "kill",
        "allow",
        "EPERM",
        "kill",
    ]


def test_compat_arches_have_numbers_of_their_own() -> None:
    """One rule by name follows each arch's number; int parameters and 32-bit arches compare low halves."""
    built = Filter(default=Action.errno(1), arch=["x86_64", "i386"])
    built.add_rule("futex", Action.ALLOW, Arg(1, "in", {0, 1, 128, 129}), Arg(2, "lt", 64, width=32))
    program = built.compile()
    assert str(program.simulate("x86_64", 202, (0, 128, 3, 0, 0, 0))) == "allow"
    assert str(program.simulate("i386", 240, (0, 129, 63))) == "allow"
    assert str(program.simulate("i386", 202, (0, 129, 63))) == "EPERM"
    assert str(program.simulate("x86_64", 202, (0, 128, 64))) == "EPERM"


def test_calls_seen_often_are_answered_early() -> None:
    """The measured counts order the tests: a call seen a million times costs fewer instructions than one seen once."""
    rules = [
        SeccompRule(
            name,
            Action.ALLOW,
            (Arg(1, "eq", 7, width=32),),
            evidence=Evidence(10**6 if name == "ioctl" else 1),
        )
        for name in ("read", "write", "openat", "ioctl", "fcntl", "socket", "prctl", "mmap", "futex")
    ]
    program = compile_profile(Profile(rules=tuple(rules)))

    def executed(nr: int) -> int:
        visited: set[int] = set()
        from autoprofile.filter.simulate import pack_data

        program.simulate_data(pack_data(ARCHES["x86_64"].audit_arch, nr, (0, 7)), visited)
        return len(visited)

    assert executed(16) <= 7  # ld arch, jeq, ld nr, jeq, ld arg, jeq, ret
    assert executed(16) < executed(41)


def test_equal_rules_of_several_calls_share_their_code() -> None:
    """Calls whose arguments are decided alike lead to one piece of code."""

    def size(*names: str) -> int:
        built = Filter()
        for name in names:
            built.add_rule(name, Action.ALLOW, Arg(0, "in", range(1, 40, 3), width=64))
        return len(built.compile())

    assert size("read", "write", "close") < size("read") + 8


def test_a_filter_above_the_limit_names_the_costliest_calls() -> None:
    """More than 4096 instructions is an error that names where they go."""
    built = Filter(default=Action.errno(1))
    built.add_rule("ioctl", Action.ALLOW, Arg(1, "in", range(0, 15_000, 3)))
    built.add_rule("read", Action.ALLOW)
    with pytest.raises(FilterTooLarge, match=r"instructions.* 4096") as caught:
        built.compile()
    assert "ioctl" in str(caught.value.hint)
    assert "read" not in str(caught.value.hint)


def test_long_programs_still_answer_rightly() -> None:
    """A filter of thousands of instructions, whose jumps exceed eight bits, answers every value rightly."""
    built = Filter(default=Action.errno(1))
    names = list(syscall_table("x86_64"))[:300]
    for at, name in enumerate(names):
        built.add_rule(
            name, Action.ALLOW if at % 2 else Action.errno(at), Arg(at % 6, "eq", at * 7, width=64)
        )
    program = built.compile()
    assert len(program) > 1000
    for at, name in enumerate(names):
        nr = syscall_nr("x86_64", name)
        assert nr is not None
        args = [0] * 6
        args[at % 6] = at * 7
        assert program.simulate("x86_64", nr, args) == (Action.ALLOW if at % 2 else Action.errno(at))
        args[at % 6] += 1 << 32
        assert program.simulate_ret("x86_64", nr, args) == EPERM


def test_unknown_syscalls_and_arches_are_refused_when_added() -> None:
    """A misspelt rule raises at add_rule and leaves the filter as it was."""
    from autoprofile.errors import AutoprofileError

    built = Filter(default=Action.errno(1))
    built.add_rule("read", Action.ALLOW)
    before = built.compile()
    with pytest.raises(AutoprofileError, match="reda"):
        built.add_rule("reda", Action.ALLOW)
    with pytest.raises(AutoprofileError):
        built.add_rule("read", Action.ALLOW, arch="i386")
    with pytest.raises(AutoprofileError):
        Filter(arch="vax")
    assert built.compile() == before


def test_big_endian_arches_are_refused() -> None:
    """Arches whose halves lie the other way round are not known, so no filter can be made for them."""
    from autoprofile.errors import AutoprofileError

    for arch in ("s390x", "ppc64", "mips"):
        with pytest.raises(AutoprofileError):
            Filter(arch=arch)
    assert all(a.audit_arch & 0x40000000 for a in ARCHES.values())  # __AUDIT_ARCH_LE


def test_from_profile_keeps_rules_and_actions() -> None:
    """Filter.from_profile compiles to the bytes of compile_profile."""
    profile = Profile(rules=(SeccompRule("read", Action.ALLOW, (Arg(0, "lt", 3),)),), default=Action.TRAP)
    assert bytes(Filter.from_profile(profile).compile()) == bytes(compile_profile(profile))
    assert Filter.from_profile(profile).decide("read", 5).action == Action.TRAP


def test_the_default_can_be_replaced_at_compile_time() -> None:
    """compile_profile(default=…) answers unmatched calls with that action; rules stay."""
    profile = Profile(rules=(SeccompRule("read", Action.ALLOW),))
    program = compile_profile(profile, default=Action.NOTIFY)
    assert [str(program.simulate("x86_64", nr)) for nr in (0, 1)] == ["allow", "notify"]
