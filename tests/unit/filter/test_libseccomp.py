"""Our filter and libseccomp's, of the same rules, answer every call alike."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import compile_profile
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import EDGES, MASKS, U64, WIDE_EDGES, calls
from .libseccomp import compares_different_words, compile_with_libseccomp

NAMES = ("read", "openat", "ioctl", "socket", "mmap", "futex", "clone", "prctl", "getpid", "fcntl")


@st.composite
def expressible(draw: st.DrawFn) -> Profile:
    """Draw a profile libseccomp 2.5 can express, without the shape of GHSA-4q85-33p6-j5g6.

    One comparator on an index, 64 bits wide; no rule with the default action; one action on each syscall, and several
    rules of one syscall compare by equality only: merging ordered 64-bit comparisons is what the advisory is about
    (2.5.4 lets mmap(128, …, 0x100000002) through ``mmap: errno if a0 < 129 and a2 == 2; errno if a0 > 2``).
    """
    default = draw(st.sampled_from((Action.errno(1), Action.KILL_PROCESS, Action.ALLOW, Action.TRAP)))
    rules = []
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=5)):
        action = draw(
            st.sampled_from([a for a in (Action.ALLOW, Action.errno(7), Action.LOG) if a != default])
        )
        count = draw(st.integers(1, 3))
        operators = ("eq", "in") if count > 1 else ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq")
        for _ in range(count):
            args = []
            for index in draw(st.sets(st.integers(0, 2), max_size=2)):
                op = draw(st.sampled_from(operators))
                value = st.sampled_from(EDGES + WIDE_EDGES)
                if op == "in":
                    args.append(Arg(index, op, draw(st.sets(value, min_size=1, max_size=3)), width=64))
                elif op == "masked_eq":
                    mask = draw(st.sampled_from((*MASKS, U64 & ~7, (1 << 40) + 6)))
                    args.append(Arg(index, op, draw(value) & mask, mask, 64))
                else:
                    args.append(Arg(index, op, draw(value), width=64))
            rules.append(SeccompRule(name, action, tuple(args) or ANY))
    arches = draw(st.sampled_from((("x86_64",), ("x86_64", "x32"), ("x86_64", "aarch64"))))
    return Profile(
        arch=arches,
        mode="denylist" if default.is_permitting else "allowlist",
        default=default,
        rules=tuple(rules),
    )


def strange(profile: Profile, nr: int) -> bool:
    """Say whether libseccomp and the kernel see a number differently.

    libseccomp takes every number from 0x40000000 on (but -1) for x32, the kernel those with bit 30; nothing runs for
    numbers with bit 31 either way. And libseccomp compares the low halves of x32 arguments only, though the kernel
    shows a filter all 64 bits of them.
    """
    return nr >= 0x80000000 or ("x32" in profile.arch and nr >= 0x40000000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expressible(), st.sampled_from((1, 2)))
def test_libseccomp_agrees(profile: Profile, optimize: int) -> None:
    """For every arch, number and argument value around the edges both filters give the same answer."""
    ours, theirs = compile_profile(profile), compile_with_libseccomp(profile, optimize=optimize)
    assume(theirs is not None)
    marked = compares_different_words(theirs)
    for token, nr, args in calls(profile, seed=len(ours), each=25):
        if not strange(profile, nr) and not marked:
            assert ours.simulate_ret(token, nr, args) == theirs.simulate_ret(token, nr, args)


def test_a_defect_of_libseccomp_is_known_by_its_mark() -> None:
    """What 2.5.4 lets through at optimize=2 by testing the wrong word is refused by ours, and its filter is marked."""
    rules = (
        SeccompRule("lseek", Action.ALLOW, (Arg(2, "in", {0, 1}, width=64),)),
        SeccompRule("openat", Action.ALLOW, (Arg(2, "in", {0, 0x800, 0x80000}, width=64),)),
        SeccompRule(
            "openat", Action.ALLOW, (Arg(2, "in", {0x242, 0x441}, width=64), Arg(3, "eq", 0o644, width=64))
        ),
    )
    profile = Profile(default=Action.errno(1), rules=rules)
    call = ("x86_64", 257, (3, 0, 0x242, 0))
    assert str(profile.decide_call(*call).action) == "EPERM"
    assert compile_profile(profile).simulate(*call) == Action.errno(1)
    for optimize in (1, 2):
        theirs = compile_with_libseccomp(profile, optimize=optimize)
        if theirs is not None and theirs.simulate(*call) == Action.ALLOW:
            assert compares_different_words(theirs)


def test_a_skipped_call_is_no_x32_call_to_libseccomp_either() -> None:
    """Number -1 gets the default action in both, x32 numbers the bad-arch action."""
    profile = Profile(rules=(SeccompRule("read", Action.ALLOW),), default=Action.errno(1))
    ours, theirs = compile_profile(profile), compile_with_libseccomp(profile)
    for nr in (0xFFFFFFFF, 0x40000000, 0x40000001):
        assert ours.simulate("x86_64", nr) == theirs.simulate("x86_64", nr)


@pytest.mark.parametrize("optimize", [1, 2])
def test_a_filter_of_many_names_agrees(optimize: int) -> None:
    """Three hundred names, some with one checked argument: both filters agree on every number."""
    from autoprofile.abi.syscalls import syscall_table

    rng = random.Random(optimize)
    names = [n for n in syscall_table("x86_64") if rng.random() < 0.8 and n not in ("uretprobe", "uprobe")]
    rules = [
        SeccompRule(
            n,
            Action.ALLOW,
            (Arg(rng.randrange(6), "eq", rng.randrange(9), width=64),) if at % 5 == 0 else ANY,
        )
        for at, n in enumerate(names[:300])
    ]
    rules = [r for r in rules if _known_to_libseccomp(str(r.syscall))]
    profile = replace(Profile(default=Action.errno(38)), rules=tuple(rules))
    ours, theirs = compile_profile(profile), compile_with_libseccomp(profile, optimize=optimize)
    for nr in range(600):
        for value in (0, 3, 8, 3 | 1 << 32):
            args = (value,) * 6
            assert ours.simulate_ret("x86_64", nr, args) == theirs.simulate_ret("x86_64", nr, args)


def _known_to_libseccomp(name: str) -> bool:
    from .libseccomp import library

    return library().seccomp_syscall_resolve_name(name.encode()) == syscall_nr("x86_64", name)
