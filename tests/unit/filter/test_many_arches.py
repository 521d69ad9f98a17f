"""Several arches in one filter: each has its own numbers, what is not listed gets the bad-arch action."""

from __future__ import annotations

import pytest

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, arch_from_audit
from autoprofile.abi.syscalls import syscall_nr, syscall_table
from autoprofile.filter import compile_profile
from autoprofile.filter.prove import prove
from autoprofile.filter.simulate import run_words
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import calls, expected, raw_of
from .paths import calls_for_every_instruction

ALLOW, ENOSYS = Action.ALLOW, Action.errno("ENOSYS")
FAMILIES = (
    ("x86_64", "i386", "x32"),
    ("aarch64", "arm"),
    ("x86_64", "x32"),
    ("x32",),
    ("i386", "x32"),
    ("arm",),
    tuple(ARCHES),
)
BAD = Action.errno("EBADE")
# Tokens of arches nobody here knows, big-endian ones among them.
FOREIGN = (0, 3, 0x3E, 0x8000003E, 0x4000003E, 0x80000015, 0x80000016, 0xC0000102, 0xFFFFFFFF)


def family(arches: tuple[str, ...]) -> Profile:
    """Make a profile with rules for all of some arches, for one of them, and with fallbacks."""
    rules = [
        SeccompRule("read", ALLOW),
        SeccompRule("write", ALLOW),
        SeccompRule("openat", ALLOW, (Arg(2, "masked_eq", 0, 0x3),)),
        SeccompRule("ioctl", ALLOW, (Arg(1, "in", {0x5401, 0x5421}),)),
        SeccompRule("lseek", ALLOW, (Arg(1, "lt", 1 << 20),)),
        SeccompRule("clone3", ENOSYS),
        SeccompRule("futex", ALLOW, (Arg(1, "in", {0, 1, 128, 129}),), arches[:1]),
        SeccompRule("prctl", Action.errno("EINVAL"), ANY, arches[-1:]),
    ]
    return Profile(arch=arches, bad_arch=BAD, rules=tuple(rules))


@pytest.mark.parametrize("arches", FAMILIES, ids="+".join)
def test_every_arch_gets_its_own_rules_and_others_the_bad_arch_action(arches: tuple[str, ...]) -> None:
    """All numbers of all tables, of listed and other arches, get the profile's answer; foreign tokens the bad-arch one."""
    profile = family(arches)
    program = compile_profile(profile)
    for arch in ARCHES:
        token = ARCHES[arch].audit_arch
        for nr in syscall_table(arch).values():
            for args in ((0,) * 6, (0, 0x5401, 1, 0, 0, 0), (0, 128, 0, 0, 0, 0)):
                said = expected(profile, token, nr, args)
                assert program.simulate_ret(token, nr, args) == said, (arch, nr)
                assert arch in arches or said == BAD.ret
        if arch in arches:
            # The bitmap has no numbers of x32.
            assert program.is_constant_allow(arch, syscall_nr(arch, "read") or 0) == (arch != "x32")
    for token in FOREIGN:
        for nr in (0, 1, 3, 63, 257, X32_SYSCALL_BIT, 0xFFFFFFFF):
            assert program.simulate(token, nr) == BAD
    for token, nr, args in calls(profile, seed=2, each=40):
        assert program.simulate_ret(token, nr, args) == expected(profile, token, nr, args)


@pytest.mark.parametrize("bitmap", [True, False])
@pytest.mark.parametrize("arches", FAMILIES, ids="+".join)
def test_every_instruction_is_executed_and_right(arches: tuple[str, ...], bitmap: bool) -> None:
    """For each instruction a call is found that executes it, and is answered as the profile says."""
    profile = family(arches)
    program = compile_profile(profile, bitmap=bitmap)
    visited: set[int] = set()
    for words in calls_for_every_instruction(program).values():
        assert run_words(program, words, visited) == expected(profile, *raw_of(words))
    assert visited == set(range(len(program)))


@pytest.mark.parametrize("arches", FAMILIES[:2] + FAMILIES[-1:], ids="+".join)
def test_families_are_proven(arches: tuple[str, ...]) -> None:
    """The solver finds no call of any arch that is answered otherwise, with and without an answer to newer numbers."""
    pytest.importorskip("z3")
    profile = family(arches)
    for beyond in (None, ENOSYS):
        proof = prove(profile, compile_profile(profile, beyond=beyond), beyond=beyond)
        assert proof.holds, proof.counterexample


@pytest.mark.parametrize("arches", FAMILIES[:2], ids="+".join)
def test_an_arch_too_many_or_too_few_is_refuted(arches: tuple[str, ...]) -> None:
    """The filter of fewer arches is no proof for more, nor the other way round; the counterexample is of that arch."""
    pytest.importorskip("z3")
    everywhere = tuple(rule for rule in family(arches).rules if rule.arch is None)
    more, fewer = (Profile(arch=some, bad_arch=BAD, rules=everywhere) for some in (arches, arches[:1]))
    for claimed, given in ((more, fewer), (fewer, more)):
        found = prove(claimed, compile_profile(given)).counterexample
        assert found is not None
        assert found.arch in arches[1:]
        assert arch_from_audit(ARCHES[found.arch].audit_arch, found.nr) == found.arch


def test_equal_numbers_of_different_arches_share_their_code() -> None:
    """An argument check that several arches need is written once: adding an arch adds its numbers only."""
    rule = SeccompRule("ioctl", ALLOW, (Arg(1, "in", range(0x5400, 0x5500, 3)),))
    one, three = (
        len(compile_profile(Profile(arch=arches, rules=(rule,))))
        for arches in (("x86_64",), ("x86_64", "i386", "x32"))
    )
    assert three - one <= 12
