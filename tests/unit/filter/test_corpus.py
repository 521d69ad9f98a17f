"""The filters of sixteen real learned profiles: right, fully answered by the bitmap, and cheaper than libseccomp's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import compile_profile
from autoprofile.filter.cost import filter_cost
from autoprofile.filter.simulate import run_words
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import calls, expected, raw_of
from .libseccomp import compile_with_libseccomp, library
from .paths import calls_for_every_instruction

CORPUS = sorted((Path(__file__).parent.parent.parent / "data" / "profiles").glob("*.yaml"))
corpus = pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)


def for_libseccomp(profile: Profile) -> Profile:
    """Say the rules as libseccomp can: 64-bit comparisons, and only calls it knows."""
    lib = library()
    rules = []
    for rule in profile.rules:
        number = lib.seccomp_syscall_resolve_name(str(rule.syscall).encode())
        if number == syscall_nr("x86_64", str(rule.syscall)):
            args = tuple(Arg(a.index, a.op, a.value, a.mask, 64) for a in rule.comparators if a.op != "any")
            rules.append(SeccompRule(rule.syscall, rule.action, args or ANY, rule.arch, rule.evidence))
    return replace(profile, rules=tuple(rules))


def test_there_are_at_least_twelve_profiles_with_counts() -> None:
    """The corpus is large enough to measure on, and its rules carry the counts of real runs."""
    assert len(CORPUS) >= 12
    for path in CORPUS:
        profile = Profile.load(path)
        assert filter_cost(profile, compile_profile(profile)).is_measured


@corpus
def test_filter_and_profile_agree(path: Path) -> None:
    """Around every edge of the profile, and on the calls that execute each instruction, both answer alike."""
    profile = Profile.load(path)
    program = compile_profile(profile)
    for token, nr, args in calls(profile, seed=1, each=40):
        assert program.simulate_ret(token, nr, args) == expected(profile, token, nr, args)
    visited: set[int] = set()
    for words in calls_for_every_instruction(program).values():
        assert run_words(program, words, visited) == expected(profile, *raw_of(words))
    assert visited == set(range(len(program)))


@corpus
def test_filter_is_proven(path: Path) -> None:
    """The solver finds no call, of any arch, number and arguments, that the filter answers differently."""
    pytest.importorskip("z3")
    from autoprofile.filter.prove import prove

    profile = Profile.load(path)
    proof = prove(profile, compile_profile(profile))
    assert proof.holds, proof.counterexample


@corpus
def test_all_unconstrained_allows_come_from_the_bitmap(path: Path) -> None:
    """Every call that is allowed with any arguments is a constant allow by the kernel's own rule."""
    profile = Profile.load(path)
    program = compile_profile(profile)
    for syscall in profile.syscalls("x86_64"):
        nr = syscall_nr("x86_64", str(syscall))
        assert nr is not None
        unconstrained = all(
            r.args is ANY and r.action == Action.ALLOW for r in profile.rules_for("x86_64", nr)
        )
        assert program.is_constant_allow("x86_64", nr) == unconstrained


def test_cheaper_than_libseccomp_on_every_profile() -> None:
    """Under the recorded counts ours never executes more instructions than optimise=2, and 1.5 times fewer on average.

    Average is the geometric mean over the corpus. Both filters are judged on the same calls, with the bitmap.
    """
    ratios = []
    for path in CORPUS:
        profile = Profile.load(path)
        ours = filter_cost(profile, compile_profile(profile)).expected()
        expressible = for_libseccomp(profile)
        compiled = compile_with_libseccomp(expressible, optimize=2)
        assert compiled is not None
        theirs = filter_cost(expressible, compiled).expected()
        assert ours <= theirs, path.stem
        ratios.append(theirs / ours)
    assert math.prod(ratios) ** (1 / len(ratios)) >= 1.5, ratios


def test_older_kernels_are_served_better_by_their_own_layout() -> None:
    """Without the bitmap, bitmap=False costs less than the layout made for the bitmap, and less than libseccomp."""
    for path in CORPUS:
        profile = Profile.load(path)
        older = filter_cost(profile, compile_profile(profile, bitmap=False)).expected(bitmap=False)
        newer = filter_cost(profile, compile_profile(profile)).expected(bitmap=False)
        assert older <= newer + 1e-9, path.stem
        expressible = for_libseccomp(profile)
        compiled = compile_with_libseccomp(expressible, optimize=2)
        assert compiled is not None
        assert older <= filter_cost(expressible, compiled).expected(bitmap=False), path.stem


def test_the_most_expensive_calls_come_first() -> None:
    """filter_cost lists calls by what they cost in total; constant allows are last and cost nothing."""
    profile = Profile.load(CORPUS[0])
    cost = filter_cost(profile, compile_profile(profile))
    totals = [c.count * c.instructions for c in cost.calls if not c.is_constant]
    assert totals == sorted(totals, reverse=True)
    assert [c.is_constant for c in cost.calls] == sorted(c.is_constant for c in cost.calls)
    assert 0 < cost.expected() < cost.expected(bitmap=False)
