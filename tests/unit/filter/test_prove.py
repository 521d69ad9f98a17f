"""Proofs: what we compile is proven, and what means something else is refuted (changes: test_prove_mutants)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from autoprofile.filter import Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.filter.prove import Counterexample, ProofUndecided, prove
from autoprofile.profile import Action, Arg, Profile, SeccompRule

from .calls import profiles

pytest.importorskip("z3")

ALLOW = Action.ALLOW
SMALL = Profile(
    rules=(
        SeccompRule("read", ALLOW),
        SeccompRule("socket", ALLOW, (Arg(0, "eq", 1), Arg(1, "in", {1, 0x80001}))),
        SeccompRule("mprotect", ALLOW, (Arg(2, "masked_eq", 0, mask=0xFFFFFFFC),)),
        SeccompRule("clone3", Action.errno("ENOSYS")),
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(profiles())
def test_every_compiled_profile_is_proven(profile: Profile) -> None:
    """The compiler's output for a random profile is proven for every call there can be."""
    proof = prove(profile, compile_profile(profile))
    assert proof.holds, proof.counterexample


def test_a_wider_program_is_refuted_by_the_call_it_lets_through() -> None:
    """The counterexample names the call, with the argument that makes the difference."""
    others = [rule for rule in SMALL.rules if rule.syscall != "socket"]
    wider = Profile(rules=(*others, SeccompRule("socket", ALLOW)))
    proof = prove(SMALL, compile_profile(wider))
    assert proof.counterexample is not None
    assert str(proof.counterexample).startswith("x86_64 socket(")
    assert proof.counterexample.program == ALLOW
    assert proof.counterexample.profile == SMALL.default


def test_a_counterexample_reads_as_a_call() -> None:
    """Constants have their names; what the kernel never looks at, and calls nobody knows, are shown raw."""

    def shown(arch: str, nr: int, *args: int) -> str:
        full = (*args, *(0,) * (6 - len(args)))
        return str(Counterexample(arch, nr, full, Action.KILL_PROCESS, ALLOW)).partition(":")[0]

    assert shown("x86_64", 41, 1, 2, 6) == "x86_64 socket(AF_UNIX, SOCK_DGRAM, IPPROTO_TCP)"
    assert shown("x86_64", 41, 1 | 1 << 32, 2) == "x86_64 socket(0x100000001, SOCK_DGRAM, 0)"
    assert shown("x86_64", 39) == "x86_64 getpid()"
    assert shown("x86_64", 39, 0, 7) == "x86_64 getpid(0x0, 0x7)"
    assert shown("0x80000015", 5, 1) == "0x80000015 5(0x1, 0x0, 0x0, 0x0, 0x0, 0x0)"


def gated(*code: SockFilter) -> Program:
    """Make a filter that kills for all but x86_64's own calls, for which the code decides."""
    x32 = [SockFilter(op.JSET_K, 0, 2, 1 << 30), SockFilter(op.JEQ_K, 1, 0, 0xFFFFFFFF)]
    return Program(
        [
            SockFilter(op.LD_ABS, 0, 0, op.ARCH_OFFSET),
            SockFilter(op.JEQ_K, 1, 0, 0xC000003E),
            SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
            SockFilter(op.LD_ABS, 0, 0, op.NR_OFFSET),
            *x32,
            SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
            *code,
        ]
    )


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        ("allow", [SockFilter(op.RET_K, 0, 0, 0x7FFF0005)]),
        ("allow", [SockFilter(op.LD_IMM, 0, 0, 0x7FFF0009), SockFilter(op.RET_A, 0, 0, 0)]),
        ("log", [SockFilter(op.RET_K, 0, 0, 0x7FFC0001)]),
        ("kill", [SockFilter(op.RET_K, 0, 0, 0x8000004D)]),
        ("kill", [SockFilter(op.RET_K, 0, 0, 0x12340000)]),
        ("errno(4095)", [SockFilter(op.RET_K, 0, 0, 0x50000 | 5000)]),
        (
            "errno(4095)",  # worked out: errno of 4096 and more from an argument
            [
                SockFilter(op.LD_ABS, 0, 0, op.ARGS_OFFSET),
                SockFilter(op.AND_K, 0, 0, 0x0FFF),
                SockFilter(0x44, 0, 0, 0x51000),  # A |= k
                SockFilter(op.RET_A, 0, 0, 0),
            ],
        ),
    ],
)
def test_answers_are_compared_as_the_kernel_reads_them(profile: str, code: list[SockFilter]) -> None:
    """Data that the kernel ignores, errors that it caps and actions that it does not know make no difference."""
    default = Action.parse(profile)
    mode = "denylist" if default.is_permitting else "allowlist"
    meant, program = Profile(mode=mode, default=default), gated(*code)
    assert prove(meant, program).counterexample is None
    wrong = [*program[:-1], SockFilter(op.RET_K, 0, 0, Action.trap(1).ret)]
    assert not prove(meant, Program(wrong)).holds


def test_data_that_the_program_sees_makes_a_difference() -> None:
    """An error number, and what a trap tells its handler, are not ignored."""
    for word, default in (
        (0x50001, Action.errno(2)),
        (0x30001, Action.trap(2)),
        (0x7FF00001, Action("trace", 2)),
    ):
        meant = Profile(mode="hybrid", default=default)
        assert not prove(meant, gated(SockFilter(op.RET_K, 0, 0, word))).holds
        assert prove(meant, gated(SockFilter(op.RET_K, 0, 0, word + 1))).holds


def test_an_unknown_action_of_a_stack_is_weighed_by_its_word() -> None:
    """Beside an errno an unknown action is the less severe answer, though alone it kills."""
    stack = [gated(SockFilter(op.RET_K, 0, 0, word)) for word in (0x12340000, 0x50001)]
    assert prove(Profile(default=Action.errno(1)), stack).holds
    assert not prove(Profile(), stack).holds
    assert prove(Profile(), [stack[0], gated(SockFilter(op.RET_K, 0, 0, ALLOW.ret))]).holds


#: Hundreds of products of arguments, one of the other: no solver gets through them while a test waits.
HARD = [
    SockFilter(op.LD_ABS, 0, 0, op.ARGS_OFFSET + 8),
    SockFilter(op.TAX, 0, 0, 0),
    SockFilter(op.LD_ABS, 0, 0, op.ARGS_OFFSET),
    *[SockFilter(0x2C, 0, 0, 0), SockFilter(0x0C, 0, 0, 0), SockFilter(0xAC, 0, 0, 0)] * 500,  # A *= X …
    SockFilter(op.JEQ_K, 0, 1, 12345),
    SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
    SockFilter(op.RET_K, 0, 0, ALLOW.ret),
]


def test_what_cannot_be_decided_in_time_is_said() -> None:
    """A question too hard for the time there is ends the proof, as neither proven nor refuted, and names the call."""
    permits = Profile(mode="denylist", default=ALLOW)
    with pytest.raises(ProofUndecided, match="x86_64 read could not be decided in time"):
        prove(permits, gated(*HARD), seconds_left=lambda: 0.05)
    with pytest.raises(ProofUndecided):
        prove(SMALL, compile_profile(SMALL), seconds_left=lambda: 0.0)
    assert prove(SMALL, compile_profile(SMALL), seconds_left=lambda: 3600.0).holds


def test_programs_with_every_instruction_are_understood() -> None:
    """Scratch memory, X and arithmetic of other people's filters are proven as well."""
    by_hand = [
        SockFilter(op.LD_ABS, 0, 0, op.ARCH_OFFSET),
        SockFilter(op.ST, 0, 0, 3),
        SockFilter(op.LD_IMM, 0, 0, 0x60000000),
        SockFilter(op.TAX, 0, 0, 0),
        SockFilter(op.LD_MEM, 0, 0, 3),
        SockFilter(0x1C, 0, 0, 0),  # A -= X
        SockFilter(op.JEQ_K, 1, 0, 0x6000003E),
        SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
        SockFilter(op.LD_ABS, 0, 0, op.NR_OFFSET),
        SockFilter(op.JEQ_K, 0, 1, 0),
        SockFilter(op.RET_K, 0, 0, ALLOW.ret),
        SockFilter(op.RET_K, 0, 0, Action.KILL_PROCESS.ret),
    ]
    only_read = Profile(rules=(SeccompRule("read", ALLOW),))
    assert prove(only_read, Program(by_hand)).holds
    by_hand[9] = SockFilter(op.JEQ_K, 0, 1, 1)
    assert not prove(only_read, Program(by_hand)).holds
