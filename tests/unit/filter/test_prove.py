"""Proofs: what we compile is proven, and what means something else is refuted (changes: test_prove_mutants)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from autoprofile.filter import Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.filter.prove import Counterexample, prove
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
