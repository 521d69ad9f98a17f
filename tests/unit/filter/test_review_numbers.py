"""Rules given by number never answer another arch's calls, whatever the number."""

from __future__ import annotations

import pytest

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.filter import compile_profile
from autoprofile.profile import Action, Profile, SeccompRule

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
