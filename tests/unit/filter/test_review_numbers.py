"""Rules given by number never answer another arch's calls, whatever the number."""

from __future__ import annotations

import pytest

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.errors import ProfileError, UsageError
from autoprofile.filter import Filter, compile_profile
from autoprofile.profile import ANY, Action, Profile, SeccompRule

TOKEN = ARCHES["x86_64"].audit_arch
MINUS_ONE = 0xFFFFFFFF
#: Around every border that x86_64 and x32 share: bit 30, bit 31, and -1.
NUMBERS = (
    0,
    5,
    470,
    0x3FFFFFFF,
    0x40000000,
    0x40000005,
    0x40000400,
    0x7FFFFFFF,
    0x80000000,
    0xBFFFFFFF,
    0xC0000000,
    MINUS_ONE - 1,
    MINUS_ONE,
)


@pytest.mark.parametrize("arches", [("x86_64",), ("x32",), ("x86_64", "x32")], ids="+".join)
@pytest.mark.parametrize("nr", NUMBERS, ids=hex)
def test_a_rule_by_number_leaves_the_x32_gate_in_its_place(arches: tuple[str, ...], nr: int) -> None:
    """A rule for -1 or any other unknown number of x86_64 or x32 opens nothing to the other's calls."""
    for limit in arches:
        if arch_from_audit(TOKEN, nr) != limit:
            continue  # refused, see below
        profile = Profile(
            arch=arches,
            mode="denylist",
            default=Action.ALLOW,
            rules=(SeccompRule(nr, Action.errno("EPERM"), arch=(limit,)),),
        )
        program = compile_profile(profile)
        for call in sorted(
            {*NUMBERS, *(n + 1 & MINUS_ONE for n in NUMBERS), *(n - 1 & MINUS_ONE for n in NUMBERS)}
        ):
            expected = profile.decide_call(arch_from_audit(TOKEN, call), call, ()).action
            assert program.simulate(TOKEN, call, ()) == expected, (limit, hex(call))


@pytest.mark.parametrize("limit", ["x86_64", "x32"])
def test_a_number_of_the_other_side_of_the_gate_is_refused(limit: str) -> None:
    """No profile and no filter takes a rule for a number that no call of its arch can have."""
    for nr in NUMBERS:
        rule = SeccompRule(nr, Action.ALLOW, ANY, (limit,))
        filter_ = Filter(Action.errno("EPERM"), ["x86_64", "x32"])
        if arch_from_audit(TOKEN, nr) == limit:
            filter_.add_rule(nr, Action.ALLOW, arch=limit)
            assert Profile(arch=(limit,), rules=(rule,)).rules
            continue
        with pytest.raises(ProfileError, match=f"{nr:#x} .* is no syscall number of {limit}"):
            Profile(arch=("x86_64", "x32"), rules=(rule,))
        with pytest.raises(ProfileError, match="no syscall number"):
            filter_.add_rule(nr, Action.ALLOW, arch=limit)
        assert not filter_.profile.rules


def test_a_file_with_a_number_of_another_arch_is_refused_with_its_line() -> None:
    """The error of a profile file names the line, the number and the arch that it belongs to."""
    text = (
        "autoprofile: 1\narch: [x86_64]\ndefault: EPERM\nsyscalls:\n  read: any\n"
        "syscalls_by_arch:\n  x86_64:\n    0x40000001: any\n"
    )
    with pytest.raises(ProfileError) as caught:
        Profile.loads(text, "w6.yaml")
    assert caught.value.where == "w6.yaml:8"
    assert caught.value.hint is not None
    assert "give the rule to x32" in caught.value.hint


def test_a_number_names_its_arch_itself() -> None:
    """A call by number is asked of the arch the kernel takes it for, unless the one asked for cannot have it."""
    profile = Profile(arch=("x86_64",), default=Action.errno("EPERM"))
    assert profile.encode_call(0x40000001) == ("x32", 0x40000001, [])
    assert profile.encode_call(MINUS_ONE)[0] == "x86_64"
    program = compile_profile(profile)
    for nr in NUMBERS:
        arch, number, args = profile.encode_call(nr)
        assert program.simulate(arch, number, args) == profile.decide(nr).action
    with pytest.raises(UsageError, match="no syscall number of x32"):
        profile.encode_call(1, arch="x32")
    with pytest.raises(UsageError, match="from 0 to"):
        profile.encode_call(1 << 32)
