"""Stacked filters, and the options that change what a filter answers beside its rules."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import newest_nr, syscall_nr, syscall_table
from autoprofile.filter import FilterTooLarge, compile_profile, compile_stack
from autoprofile.filter.prove import prove
from autoprofile.filter.simulate import most_severe
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import calls, expected

ALLOW = Action.ALLOW
ENOSYS = Action.errno("ENOSYS")


def large_profile(action: Action = ALLOW, default: Action = Action.KILL_PROCESS) -> Profile:
    """Make a profile that needs some 8000 instructions, with calls of two arches and names that are not checked."""
    rng = random.Random(4)
    rules = [SeccompRule(name, ALLOW) for name in ("read", "write", "close", "seccomp", "exit_group")]
    for name in list(syscall_table("x86_64"))[20:220:3]:
        values = rng.sample(range(1 << 40), 40)
        rules.append(SeccompRule(name, action, (Arg(rng.randrange(4), "in", values, width=64),)))
    return Profile(
        arch=("x86_64", "i386"),
        mode="denylist" if default.is_permitting else "allowlist",
        default=default,
        bad_arch=Action.errno(5),
        rules=tuple(r for r in rules if syscall_nr("x86_64", str(r.syscall)) is not None),
    )


def test_what_fits_one_filter_is_one_filter() -> None:
    """A stack of one is the program compile_profile gives."""
    profile = Profile(rules=(SeccompRule("read", ALLOW),))
    assert compile_stack(profile) == (compile_profile(profile),)


def test_a_large_profile_is_split_over_filters_that_mean_it_together() -> None:
    """The most severe answer of the stack is the profile's, on both sides of every edge."""
    profile = large_profile()
    with pytest.raises(FilterTooLarge):
        compile_profile(profile)
    stack = compile_stack(profile)
    assert 2 <= len(stack) <= 4
    assert max(len(program) for program in stack) <= 4096
    for token, nr, args in calls(profile, seed=1, each=6):
        assert most_severe([p.simulate_ret(token, nr, args) for p in stack]) == expected(
            profile, token, nr, args
        )


def test_a_stack_is_proven_as_a_whole() -> None:
    """The solver shows that all filters together mean the profile, and refutes a stack with one missing."""
    pytest.importorskip("z3")
    profile = replace(large_profile(default=Action.LOG, action=Action.errno(9)), arch=("x86_64",))
    stack = compile_stack(profile)
    assert prove(profile, stack).holds
    missing = prove(profile, stack[1:])
    assert missing.counterexample is not None
    assert missing.counterexample.program == ALLOW
    assert missing.counterexample.profile in (Action.errno(9), Action.LOG)


def test_a_stack_can_be_installed_one_by_one() -> None:
    """Until the last filter is there, seccomp(2) works; constant allows stay in the bitmap of every filter."""
    profile = large_profile()
    *first, _ = stack = compile_stack(profile)
    for program in first:
        for arch in ("x86_64", "i386"):
            assert program.is_constant_allow(arch, syscall_nr(arch, "seccomp") or 0)
    for program in stack:
        assert program.is_constant_allow("x86_64", 0)


def test_a_call_too_large_for_any_filter_is_named() -> None:
    """One call whose rules exceed a filter cannot be split; the error names it."""
    profile = Profile(rules=(SeccompRule("ioctl", ALLOW, (Arg(1, "in", range(0, 15_000, 3)),)),))
    with pytest.raises(FilterTooLarge) as caught:
        compile_stack(profile)
    assert "ioctl" in str(caught.value.hint)


def test_notified_calls_stay_in_one_filter() -> None:
    """Only one filter of a stack can have a listener, so only one answers NOTIFY."""
    profile = large_profile(default=Action.NOTIFY)
    with pytest.raises(FilterTooLarge):
        compile_stack(profile)  # nearly every call may be notified: nothing can be moved
    some = large_profile()
    stack = compile_stack(
        Profile(
            arch=some.arch,
            default=some.default,
            rules=(*some.rules, SeccompRule("ptrace", Action.NOTIFY, (Arg(0, "eq", 3),))),
        )
    )
    notifying = [any(i.code == 6 and i.k == Action.NOTIFY.ret for i in program) for program in stack]
    assert notifying == [False] * (len(stack) - 1) + [True]


@pytest.mark.parametrize("arch", sorted(ARCHES))
def test_numbers_beyond_the_known_calls_can_have_an_answer_of_their_own(arch: str) -> None:
    """With beyond=ENOSYS unknown newer numbers get it; known calls, older gaps and listed numbers do not."""
    bit = ARCHES[arch].nr_bit
    rules = (SeccompRule("getpid", ALLOW), SeccompRule(5000 | bit, Action.errno("E2BIG"), ANY, (arch,)))
    profile = Profile(arch=(arch,), default=Action.errno(1), rules=rules)
    program = compile_profile(profile, beyond=ENOSYS)
    newest = newest_nr(arch)
    answers = {
        nr: str(program.simulate(arch, nr)) for nr in (newest, newest + 1, 4999 | bit, 5000 | bit, 5001 | bit)
    }
    assert list(answers.values()) == ["EPERM", "ENOSYS", "ENOSYS", "E2BIG", "ENOSYS"]
    getpid = syscall_nr(arch, "getpid")
    assert getpid is not None
    assert program.is_constant_allow(arch, getpid)
    for nr in syscall_table(arch).values():
        assert str(program.simulate(arch, nr)) == ("allow" if nr == getpid else "EPERM")


def test_the_answer_beyond_is_proven_too() -> None:
    """The solver shows where the answer beyond begins, x32 and the skipped call -1 included."""
    pytest.importorskip("z3")
    for arches in (("x86_64",), ("x86_64", "x32"), ("x32",), ("arm", "aarch64"), ("x86_64", "i386")):
        profile = Profile(arch=arches, default=Action.errno(1), rules=(SeccompRule("getpid", ALLOW),))
        program = compile_profile(profile, beyond=ENOSYS)
        assert prove(profile, program, beyond=ENOSYS).holds
        refuted = prove(profile, program)
        assert refuted.counterexample is not None
        assert refuted.counterexample.program == ENOSYS
