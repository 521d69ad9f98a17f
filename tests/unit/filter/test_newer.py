"""Numbers newer than a profile get ENOSYS, from the kernel on that the profile was learned on; nothing is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprofile.abi._tables import source_line
from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.history import since
from autoprofile.abi.syscalls import newest_nr, syscall_nr, syscall_table
from autoprofile.filter import compile_profile
from autoprofile.filter.newer import (
    TABLE_KERNEL,
    action_for,
    answer_beyond,
    is_beyond,
    newest_known,
    with_fallbacks,
)
from autoprofile.filter.prove import prove
from autoprofile.profile import ANY, Action, Arg, Learned, Profile, SeccompRule

from .calls import calls, profiles

ENOSYS = Action.errno("ENOSYS")
KERNELS = (None, "4.19", "5.10.0-30-amd64", "6.1", "6.18.44", "7.3")


def on(kernel: str | None, profile: Profile) -> Profile:
    """Say on which kernel a profile was learned."""
    return replace(profile, learned=Learned(1, 1, 1, kernel=kernel))


def test_the_learned_kernel_says_where_new_numbers_begin() -> None:
    """Learned on 6.1, cachestat (6.5) is newer; learned on 6.18 or nowhere, it is a known call."""
    plain = Profile(rules=(SeccompRule("read", Action.ALLOW),))
    cachestat = syscall_nr("x86_64", "cachestat")
    assert cachestat is not None
    assert newest_known(on("6.1", plain), "x86_64") == syscall_nr("x86_64", "set_mempolicy_home_node")
    assert is_beyond(on("6.1", plain), "x86_64", cachestat)
    for profile in (plain, on(None, plain), on("6.18.2", plain), on("9.9", plain)):
        assert newest_known(profile, "x86_64") == newest_nr("x86_64")
        assert not is_beyond(profile, "x86_64", cachestat)
        assert is_beyond(profile, "x86_64", 9999)
    assert not is_beyond(
        on("6.1", replace(plain, rules=(SeccompRule("cachestat", Action.LOG),))), "x86_64", 451
    )


def test_the_table_is_of_the_kernel_it_is_said_to_be() -> None:
    """No call of the table is newer than TABLE_KERNEL, which the table's own source line names."""
    newest = max(
        tuple(map(int, (since(n) or "0.0").split(".")[:2])) for a in ARCHES for n in syscall_table(a)
    )
    assert newest <= TABLE_KERNEL
    assert f"calls newer than Linux {TABLE_KERNEL[0]}.{TABLE_KERNEL[1]} left out" in source_line(
        "syscalls.tsv"
    )


def test_only_refusing_defaults_are_replaced() -> None:
    """What permits or asks by default goes on to; what refuses answers ENOSYS to newer numbers."""
    for default in ("kill", "kill_thread", "trap", "EPERM", "errno(0)"):
        assert answer_beyond(Profile(default=Action.parse(default))) == ENOSYS
    for default in ("allow", "log", "notify", "trace"):
        mode = "denylist" if default in ("allow", "log") else "allowlist"
        assert answer_beyond(Profile(default=Action.parse(default), mode=mode)) is None


@pytest.mark.parametrize("arch", sorted(ARCHES))
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_number_gets_what_the_definition_says(arch: str, kernel: str | None) -> None:
    """From -1 down to 0 the filter and action_for agree, private calls of arm included; no number is allowed."""
    bit = ARCHES[arch].nr_bit
    rules = (
        SeccompRule("getpid", Action.ALLOW),
        SeccompRule(newest_nr(arch) + 40, Action.KILL_PROCESS, ANY, (arch,)),
        SeccompRule(newest_nr(arch) + 41, Action.errno("E2BIG"), ANY, (arch,)),
    )
    profile = on(kernel, Profile(arch=(arch,), rules=rules))
    program = compile_profile(profile, beyond=ENOSYS)
    numbers = {*range(bit, bit + 620), *syscall_table(arch).values(), bit | 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF}
    for nr in sorted(numbers | {0, 512, 0x40000000}):
        token = ARCHES[arch].audit_arch
        said = action_for(profile, arch_from_audit(token, nr), nr, (), ENOSYS)
        assert program.simulate(token, nr) == said, nr
        assert (said == Action.ALLOW) == (nr == syscall_nr(arch, "getpid"))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(profiles(), st.sampled_from(KERNELS))
def test_random_profiles_agree_with_the_definition(profile: Profile, kernel: str | None) -> None:
    """For random profiles, kernels and calls the filter answers as action_for."""
    profile = on(kernel, profile)
    program = compile_profile(profile, beyond=ENOSYS)
    for token, nr, args in calls(profile, seed=7, each=10):
        said = action_for(profile, arch_from_audit(token, nr), nr, args, ENOSYS)
        assert program.simulate_ret(token, nr, args) == said.ret, hex(nr)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(profiles(most=5), st.sampled_from(KERNELS))
def test_the_border_is_proven(profile: Profile, kernel: str | None) -> None:
    """The solver finds no number at which the filter begins elsewhere than the definition."""
    pytest.importorskip("z3")
    profile = on(kernel, profile)
    proof = prove(profile, compile_profile(profile, beyond=ENOSYS), beyond=ENOSYS)
    assert proof.holds, proof.counterexample


def test_an_errno_default_leaves_libc_its_older_ways() -> None:
    """Calls with an older way get ENOSYS where no rule names them and the default is an errno, on each arch that has them."""
    rules = (SeccompRule("statx", Action.ALLOW, (Arg(2, "eq", 0),)), SeccompRule("read", Action.ALLOW))
    profile = Profile(arch=("x86_64", "i386"), default=Action.errno("EPERM"), rules=rules)
    taken = with_fallbacks(profile)
    for arch in profile.arch:
        for name, nr in syscall_table(arch).items():
            before, after = (p.decide_call(arch, nr, (1, 1, 1)).action for p in (profile, taken))
            falls_back = name in ENOSYS_FALLBACK and name != "statx"
            assert after == (ENOSYS if falls_back else before), (arch, name)
    assert with_fallbacks(taken) == taken
    for other in ("kill", "trap", "notify"):
        literal = Profile(default=Action.parse(other), rules=rules)
        assert with_fallbacks(literal) is literal
