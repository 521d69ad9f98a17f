"""Fewer forms for the same calls."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi import constrained_args, kernel_value
from autoprofile.drift import compare
from autoprofile.drift.joint import joint_forms
from autoprofile.drift.triage import apply, generalised_rules
from autoprofile.learn import learn
from autoprofile.learn.calls import CallGroup, SeenTuple
from autoprofile.learn.generalise import Policy, open_shapes
from autoprofile.learn.shapes import Masked, covers
from autoprofile.profile import Action
from tests.unit.learn.traces import observed, trace_of

SOCKET = constrained_args("x86_64", "socket")
SIDE = st.one_of(
    st.none(),
    st.frozensets(st.integers(0, 3), min_size=1),
    st.builds(lambda m, v: Masked(m, v & m), st.integers(1, 3), st.integers(0, 3)),
)
SET = st.frozensets(st.integers(0, 3), min_size=1)
SHAPES = st.lists(st.one_of(st.tuples(SET, SIDE, SIDE), st.tuples(SIDE, st.none(), SET)), max_size=5)
CALLS = list(product(range(5), repeat=3))


@given(SHAPES)
@settings(deadline=None, max_examples=200)
def test_joint_forms_hold_the_same_calls(shapes: list[tuple[object, ...]]) -> None:
    """Where no field has to be named, not a call comes or goes, and there are no more forms than before."""
    # protocol has no named field here, and the masks of these shapes are none of SOCK_*
    fewer = joint_forms("x86_64", (SOCKET[2],) * 3, shapes, (None,) * 3)
    assert len(fewer) <= len(shapes)
    for call in CALLS:
        assert any(covers(s, call) for s in fewer) == any(covers(s, call) for s in shapes), call


def generalised(*call: object) -> tuple[list[object], list[object], tuple[int | None, ...]]:
    one = observed(*call)
    specs = constrained_args("x86_64", str(call[0]))
    values = tuple(None if one.args[s.index] is None else kernel_value(s, one.args[s.index]) for s in specs)
    seen = SeenTuple(values, 1, {(0, "x"): 1}, 0)
    shapes = open_shapes(CallGroup("x86_64", one.nr, str(call[0]), tuple(specs), (seen,)), Policy())
    return shapes, joint_forms("x86_64", specs, shapes, values), values


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (("socket", 1, 1, 0), 3),
        (("socket", 2, 0o2000001, 6), 3),
        (("setsockopt", 3, 1, 2), 4),
        (("prctl", 15), 4),
    ],
    ids=str,
)
def test_a_generalised_call_is_said_in_few_rules(call: tuple[object, ...], most: int) -> None:
    """Sockets and socket options take a rule for each joint form, not one for each value."""
    shapes, forms, values = generalised(*call)
    assert len(forms) <= min(most, len(shapes))
    assert any(covers(form, values) for form in forms)


def test_only_socket_types_without_a_name_are_left_out() -> None:
    """Families, protocols, flags and named types stay as they were; types 0 and 7 are for no socket."""
    shapes, forms, _ = generalised("socket", 1, 1, 0)
    for family, kind, flags, protocol in product(range(46), range(16), (0, 0o4000, 0o2004000), (0, 6, 132)):
        call = (family, kind | flags, protocol)
        before, after = (any(covers(s, call) for s in which) for which in (shapes, forms))
        assert before >= after
        assert before == after or kind not in (1, 2, 3, 4, 5, 6, 10), call


def test_the_profile_of_a_generalised_socket_is_short_and_keeps_risks_out() -> None:
    """What is written for a Unix socket fits a screen and opens no raw socket."""
    base = trace_of(observed("getpid"))
    profile = learn(base)
    (record,) = compare(profile, [trace_of(observed("getpid"), observed("socket", 1, 1, 0))])
    assert len(generalised_rules(profile, record)) <= 3
    edited = apply(profile, record, "generalise")
    decide = edited.decide
    assert decide("socket", "AF_UNIX", "SOCK_SEQPACKET|SOCK_CLOEXEC", 0).action == Action.ALLOW
    assert decide("socket", "AF_INET", "SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC", 6).action == Action.ALLOW
    for kind in ("SOCK_RAW", "SOCK_PACKET", "SOCK_RAW|SOCK_CLOEXEC"):
        assert decide("socket", "AF_INET", kind, 6).action != Action.ALLOW, kind
