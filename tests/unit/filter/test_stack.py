"""Stacked filters, and the options that change what a filter answers beside its rules."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import display_name, newest_nr, syscall_nr, syscall_table
from autoprofile.filter import (
    FilterTooLarge,
    Program,
    compile_asking,
    compile_profile,
    compile_stack,
    compiler,
)
from autoprofile.filter.argdag import ArgumentCompiler, Weighted
from autoprofile.filter.assemble import assemble
from autoprofile.filter.divide import divided
from autoprofile.filter.graph import Graph
from autoprofile.filter.limits import MOST_CONVERTED, stacked_length
from autoprofile.filter.lower import lower_arch
from autoprofile.filter.prove import prove
from autoprofile.filter.simulate import most_severe
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import calls, expected

ALLOW = Action.ALLOW
ENOSYS = Action.errno("ENOSYS")


def large_profile(action: Action = ALLOW, default: Action = Action.KILL_PROCESS) -> Profile:
    """Make a profile that needs some 5500 instructions, with calls of two arches and names that are not checked."""
    rng = random.Random(4)
    rules = [SeccompRule(name, ALLOW) for name in ("read", "write", "close", "seccomp", "exit_group")]
    for name in list(syscall_table("x86_64"))[20:220:3]:
        values = rng.sample(range(1 << 40), 26)
        rules.append(SeccompRule(name, action, (Arg(rng.randrange(4), "in", values, width=64),)))
    return Profile(
        arch=("x86_64", "i386"),
        mode="denylist" if default.is_permitting else "allowlist",
        default=default,
        bad_arch=Action.errno(5),
        rules=tuple(r for r in rules if syscall_nr("x86_64", str(r.syscall)) is not None),
    )


@functools.cache
def large_stack() -> tuple[Program, ...]:
    """Compile the large profile, once."""
    return compile_stack(large_profile())


def test_what_fits_one_filter_is_one_filter() -> None:
    """A stack of one is the program compile_profile gives."""
    profile = Profile(rules=(SeccompRule("read", ALLOW),))
    assert compile_stack(profile) == (compile_profile(profile),)


def test_a_large_profile_is_split_over_filters_that_mean_it_together() -> None:
    """The most severe answer of the stack is the profile's, on both sides of every edge."""
    profile = large_profile()
    with pytest.raises(FilterTooLarge):
        compile_profile(profile)
    stack = large_stack()
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
    *first, _ = stack = large_stack()
    for program in first:
        for arch in ("x86_64", "i386"):
            assert program.is_constant_allow(arch, syscall_nr(arch, "seccomp") or 0)
    for program in stack:
        assert program.is_constant_allow("x86_64", 0)


def joint_rules(count: int) -> tuple[SeccompRule, ...]:
    """Make rules of one call that look at three arguments, with three answers."""
    return tuple(
        SeccompRule(
            "ioctl",
            (ALLOW, Action.LOG, Action.errno(7))[n % 3],
            (
                Arg(1, "in", {n * 7919 % 100_003, n * 104_729 % 1_299_709}, width=32),
                Arg(2, "masked_eq", n << 33 & 0xFFFF00000000, 0xFFFF00000001, 64),
                Arg(4, "le", n * n, width=64),
            ),
        )
        for n in range(1, count)
    )


def test_one_call_too_large_for_a_filter_is_divided_by_its_values() -> None:
    """Each filter decides some of the values and allows the others; together they mean all rules."""
    values = (n * 0x1_0000_0007 for n in range(2500))
    rules = (SeccompRule("lseek", Action.errno(3), (Arg(1, "in", values, width=64),)),)
    profile = Profile(arch=("x86_64", "i386"), rules=rules)
    stack = compile_stack(profile)
    assert 2 <= len(stack) <= 8
    assert stacked_length(stack) <= MOST_CONVERTED
    assert max(len(program) for program in stack) <= 4096
    for token, nr, args in calls(profile, seed=3, each=1500):
        assert most_severe([p.simulate_ret(token, nr, args) for p in stack]) == expected(
            profile, token, nr, args
        )


@pytest.mark.parametrize("most", [30, 100, 400])
def test_pieces_of_a_decision_mean_it_together(most: int) -> None:
    """Joint tuples, masks and ranges over three arguments, cut into few or many pieces, decide as the whole."""
    profile = Profile(rules=joint_rules(60))
    nr = syscall_nr("x86_64", "ioctl")
    decision = lower_arch(profile, "x86_64", profile.default)[nr].decision
    pieces = [piece for piece, _ in divided(decision, 700, most)]
    assert len(pieces) >= 700 // most
    graph = Graph()
    compiler = ArgumentCompiler(graph)
    programs = [
        Program(assemble(graph, compiler.build(Weighted(one, (0.0,) * len(one.cases), 0.0)))[0])
        for one in pieces
    ]
    assert max(len(program) for program in programs) <= most * 1.2 + 20
    for _, number, args in calls(profile, seed=4, each=3000):
        if number == nr:
            answers = [program.simulate_ret("x86_64", nr, args) for program in programs]
            assert most_severe(answers) == profile.decide_call("x86_64", nr, args).action.ret


def test_what_no_stack_can_hold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above what the kernel takes in all filters of a process the error names the calls that cost most."""
    monkeypatch.setattr(compiler, "MOST_CONVERTED", 9000)
    values = range(0, 15_000, 3)
    profile = Profile(rules=(SeccompRule("ioctl", ALLOW, (Arg(1, "in", values),)),))
    with pytest.raises(FilterTooLarge) as caught:
        compile_stack(profile)
    assert "ioctl" in str(caught.value.hint)
    assert "9000" in str(caught.value)


def test_calls_that_do_not_fit_a_listeners_filter_are_asked_about_whole() -> None:
    """With the supervisor deciding as the profile, the one filter and it together mean the profile."""
    profile, small = large_profile(default=Action.NOTIFY), Profile(rules=joint_rules(4))
    program, asked = compile_asking(profile)
    assert 0 < len(asked) < 60
    for token, nr, args in calls(profile, seed=5, each=6):
        said = Action.from_ret(program.simulate_ret(token, nr, args))
        name = display_name(arch_from_audit(token, nr), nr)
        assert said.ret == expected(profile, token, nr, args) or (said == Action.NOTIFY and name in asked)
    assert compile_asking(small) == (compile_profile(small), ())


def test_what_only_a_filter_can_answer_is_not_asked_about() -> None:
    """Rules that trap, kill or fail cannot be handed over, so what they need is an error when it does not fit."""
    with pytest.raises(FilterTooLarge):
        compile_asking(large_profile(default=Action.NOTIFY, action=Action.TRAP))


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
    assert program.is_constant_allow(arch, getpid) == (arch != "x32")  # whose numbers the bitmap has not
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


@pytest.mark.parametrize(("values", "filters"), [(3000, 2), (9000, 4)])
def test_a_stack_has_no_more_filters_than_its_instructions_fill(values: int, filters: int) -> None:
    """One large set is dealt out evenly, the last filter, which has the default, takes its part too."""
    numbers = random.Random(values).sample(range(1 << 32), values)
    profile = Profile(rules=(SeccompRule("ioctl", Action.ALLOW, (Arg(1, "in", frozenset(numbers)),)),))
    stack = compile_stack(profile)
    assert len(stack) == filters
    assert sum(map(len, stack)) > (filters - 1) * 4096
    token = ARCHES["x86_64"].audit_arch
    for value in (*numbers[::39], *(n + 1 for n in numbers[::39]), 0, 0xFFFFFFFF, numbers[0] | 1 << 32):
        answers = [program.simulate_ret(token, 16, (0, value)) for program in stack]
        assert most_severe(answers) == profile.decide_call("x86_64", 16, (0, value)).action.ret, value
    for nr in (0, 17, 600):
        assert most_severe([program.simulate_ret(token, nr) for program in stack]) == profile.default.ret
