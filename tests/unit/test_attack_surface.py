"""The list of attack primitives and what profiles are said to refuse of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi import syscall_nr
from autoprofile.learn import learn
from autoprofile.observations import Observation, ProgramId
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from tests.unit.learn.traces import observed, trace_of

_SOURCE = Path(__file__).parents[2] / "benchmarks" / "attack_surface.py"
_spec = importlib.util.spec_from_file_location("attack_surface", _SOURCE)
assert _spec is not None
assert _spec.loader is not None
surface = importlib.util.module_from_spec(_spec)
sys.modules["attack_surface"] = surface
_spec.loader.exec_module(surface)

PRIMITIVES = {one.id: one for one in surface.load_primitives()}


def _profile(*rules: SeccompRule, **header: object) -> Profile:
    return Profile(rules=rules, **header)  # type: ignore[arg-type]


def test_every_primitive_has_a_source_and_there_are_forty():
    """The list is public knowledge: each line says where it is published."""
    assert len(PRIMITIVES) >= 40
    assert all(one.source.strip() and one.gain for one in PRIMITIVES.values())


def test_the_empty_profile_refuses_everything_and_denylist_nothing():
    """Both ends of the scale are where they belong."""
    nothing = surface.measure(_profile(), list(PRIMITIVES.values()))
    assert nothing.refused == len(PRIMITIVES)
    assert nothing.share.refused == nothing.share.total
    everything = surface.measure(
        _profile(mode="denylist", default=Action.ALLOW, arch=("x86_64", "i386", "x32")),
        list(PRIMITIVES.values()),
    )
    assert everything.refused == 0
    assert everything.share == surface.Share(0, 0, everything.share.total)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SeccompRule("socket", Action.ALLOW, (Arg(0, "in", {1, 2}),)), "refused"),
        (SeccompRule("socket", Action.ALLOW, (Arg(0, "in", {1, 38}),)), "allowed"),
        (SeccompRule("socket", Action.NOTIFY, ANY), "asked"),
        (SeccompRule("socket", Action.ALLOW, (Arg(0, "lt", 38),)), "refused"),
        # compared as 64 bits, a family with a dirty upper half is greater than any family
        (SeccompRule("socket", Action.ALLOW, (Arg(0, "gt", 40, width=64),)), "allowed"),
    ],
)
def test_a_primitive_is_judged_by_every_call_that_carries_it_out(rule, expected):
    """One permitted call with the primitive's arguments, upper halves included, makes it allowed."""
    assert surface.outcome(_profile(rule), PRIMITIVES["alg-socket"]) == expected


def test_a_more_severe_rule_takes_the_primitive_out_of_an_allowed_call():
    """Rules decide in order of severity, as the kernel does."""
    allowed = SeccompRule("ioctl", Action.ALLOW, ANY)
    denied = SeccompRule("ioctl", Action.errno("EPERM"), (Arg(1, "eq", 0x5412),))
    profile = _profile(allowed, denied)
    assert surface.outcome(profile, PRIMITIVES["tiocsti"]) == "refused"
    assert surface.outcome(profile, PRIMITIVES["tioclinux"]) == "allowed"


def test_a_primitive_of_several_steps_is_refused_with_one_of_them():
    """Without execveat a memory file cannot be run by it."""
    memfd = SeccompRule("memfd_create", Action.ALLOW, ANY)
    execveat = SeccompRule("execveat", Action.ALLOW, ANY)
    assert surface.outcome(_profile(memfd), PRIMITIVES["memfd-exec"]) == "refused"
    assert surface.outcome(_profile(memfd, execveat), PRIMITIVES["memfd-exec"]) == "allowed"


def test_names_only_keeps_names_and_loses_arguments():
    """A recorder of names cannot tell a Unix socket from AF_ALG."""
    learned = _profile(SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1),)))
    assert surface.outcome(learned, PRIMITIVES["alg-socket"]) == "refused"
    assert surface.outcome(surface.names_only(learned), PRIMITIVES["alg-socket"]) == "allowed"
    assert surface.measure(learned, []).share.constrained == 1


def test_a_primitive_is_used_when_the_program_was_seen_to_make_its_calls():
    """Only exactly these arguments count as use."""

    def call(family: int) -> Observation:
        nr = syscall_nr("x86_64", "socket")
        assert nr is not None
        return Observation(0, ProgramId("/p"), "x86_64", nr, (family, 5, 0, None, None, None), 1, 0, 0, 1)

    assert surface.uses([call(38)], PRIMITIVES["alg-socket"])
    assert not surface.uses([call(1)], PRIMITIVES["alg-socket"])
    measured = surface.measure(_profile(), list(PRIMITIVES.values()), [call(38)])
    assert measured.used == frozenset({"alg-socket"})
    assert measured.refused_unused == 1.0


def test_a_denylist_refuses_what_hardly_any_program_needs():
    """keyctl, modify_ldt and netlink are refused unless seen, and routes stay: resolvers ask for them."""
    profile = learn(trace_of(observed("getuid")), mode="denylist")
    refused = ("keyring-refcount", "add-key", "modify-ldt", "crypto-netlink", "netfilter-netlink", "set-mm")
    assert {surface.outcome(profile, PRIMITIVES[name]) for name in refused} == {"refused"}
    assert profile.decide("socket", "AF_NETLINK", "SOCK_RAW", "NETLINK_ROUTE").action == Action.ALLOW
    seen = learn(trace_of(observed("keyctl", 1), observed("socket", 16, 3, 6)), mode="denylist")
    assert seen.decide("keyctl", 1).action == Action.ALLOW
    assert seen.decide("socket", "AF_NETLINK", "SOCK_RAW", "NETLINK_XFRM").action == Action.ALLOW


VALUES = st.sampled_from([0, 1, 2, 16, 17, 38, 40, 41, 0x100000026, 0x5412, 0xFFFFFFFF])
RULES = st.builds(
    lambda name, action, args: SeccompRule(name, action, tuple(args) or ANY),
    st.sampled_from(["socket", "ioctl", "ptrace"]),
    st.sampled_from([Action.ALLOW, Action.errno("EPERM"), Action.NOTIFY, Action.KILL_PROCESS]),
    st.lists(
        st.builds(
            lambda index, op, value, width: Arg(index, op, value, 0xFF if op == "masked_eq" else None, width),
            st.integers(0, 2),
            st.sampled_from(["eq", "ne", "lt", "gt", "masked_eq"]),
            st.sampled_from([0, 1, 16, 38, 40, 0x5412]),
            st.sampled_from([32, 64]),
        ),
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(RULES, max_size=5), st.lists(VALUES, min_size=3, max_size=3), st.booleans())
def test_what_is_said_to_be_refused_has_no_call_that_is_allowed(rules, call, asks):
    """Whatever call of a primitive is tried, the profile does not answer it more mildly than was said."""
    profile = _profile(*rules, mode="hybrid", default=Action.NOTIFY if asks else Action.KILL_PROCESS)
    order = ["refused", "asked", "allowed"]
    for name in ("alg-socket", "packet-socket", "tiocsti", "ptrace-attach", "raw-socket"):
        (step,) = PRIMITIVES[name].steps
        nr = syscall_nr("x86_64", step.syscall)
        assert nr is not None
        said = surface.outcome(profile, PRIMITIVES[name])
        for region in step.regions:
            args = list(call)
            for one in region:
                keep = one.mask or (0xFFFFFFFF if one.width == 32 else 0xFFFFFFFFFFFFFFFF)
                args[one.index] = args[one.index] & ~keep | one.values[0]
            assert all(one.match(args[one.index]) for one in region)
            action = profile.decide_call("x86_64", nr, args).action
            got = "allowed" if action.is_permitting else "refused" if action.is_refusing else "asked"
            assert order.index(got) <= order.index(said), (name, args)
