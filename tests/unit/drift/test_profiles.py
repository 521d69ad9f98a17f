"""Another profile as evidence shows exactly what it allows and this one refuses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import accept, compare
from autoprofile.drift.compare import reduced
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from tests.unit.learn.traces import observed, trace_of

VALUES = st.integers(0, 7)
ARGS = st.one_of(
    st.just(ANY),
    st.builds(lambda v: (Arg(0, "eq", v),), VALUES),
    st.builds(lambda a, b: (Arg(0, "in", frozenset({a, b})), Arg(1, "le", b)), VALUES, VALUES),
    st.builds(lambda m, v: (Arg(1, "masked_eq", v & m, mask=m),), VALUES, VALUES),
)
RULES = st.lists(
    st.builds(
        SeccompRule,
        st.sampled_from(["socket", "madvise", "getpid"]),
        st.sampled_from([Action.ALLOW, Action.ALLOW, Action.errno("EPERM")]),
        ARGS,
    ),
    max_size=4,
)
PROFILES = RULES.map(lambda rules: Profile(arch=("x86_64",), rules=tuple(rules)))


@given(PROFILES, PROFILES)
@settings(deadline=None)
def test_every_call_allowed_there_and_refused_here_has_a_record(mine: Profile, other: Profile) -> None:
    """No call that the other profile allows and this one refuses goes without a record of its syscall."""
    report = compare(mine, profiles={"other.yaml": other})
    differing = {
        nr
        for nr in (41, 28, 39)
        for a in range(8)
        for b in range(9)
        if other.decide_call("x86_64", nr, (a, b, 0, 0, 0, 0)).action == Action.ALLOW
        and mine.decide_call("x86_64", nr, (a, b, 0, 0, 0, 0)).action != Action.ALLOW
    }
    assert {r.nr for r in report} >= differing
    assert report.undecided == 0


@given(PROFILES, PROFILES)
@settings(deadline=None)
def test_accepting_all_records_accepts_all_that_the_other_profile_allows(
    mine: Profile, other: Profile
) -> None:
    """After accepting what another profile showed, a second comparison finds nothing but its own deny rules."""
    accepted = accept(mine, compare(mine, profiles={"o": other}))
    again = compare(accepted, profiles={"o": other})
    assert all("remove" in r.edit for r in again)


CALLS = [(nr, (a, b, 0, 0, 0, 0)) for nr in (41, 28, 39) for a in range(9) for b in range(9)]


@given(PROFILES, st.sampled_from([c for c in CALLS if c[0] == 41]))
@settings(deadline=None)
def test_accepting_one_call_accepts_no_other(profile: Profile, call: tuple[int, tuple[int, ...]]) -> None:
    """Whatever deny rules are in the way: the accepted tuple is let through, every other call answered as before."""
    nr, args = call
    report = compare(profile, [trace_of(observed(nr, *args))])
    accepted = accept(profile, report.denials)
    known = reduced("x86_64", nr, args)
    for other, values in CALLS:
        is_it = (other, reduced("x86_64", other, values)) == (nr, known)
        before = profile.decide_call("x86_64", other, values).action
        after = accepted.decide_call("x86_64", other, values).action
        assert after == (Action.ALLOW if is_it else before), (other, values)


def test_accepting_in_a_denylist_leaves_the_rest_denied() -> None:
    """One accepted Unix socket opens neither other sockets nor the other arch of a profile that denies them all."""
    deny = SeccompRule("socket", Action.errno("EPERM"), ANY)
    profile = Profile(arch=("x86_64", "i386"), mode="denylist", default=Action.ALLOW, rules=(deny,))
    accepted = accept(profile, compare(profile, [trace_of(observed("socket", 1, 1, 0))]).denials)
    decide = accepted.decide
    assert decide("socket", "AF_UNIX", "SOCK_STREAM", 0, arch="x86_64").action == Action.ALLOW
    assert decide("socket", "AF_UNIX", "SOCK_STREAM", 0, arch="i386").action == Action.errno("EPERM")
    for family in ("AF_PACKET", "AF_NETLINK", "AF_INET"):
        assert decide("socket", family, "SOCK_RAW", 0, arch="x86_64").action == Action.errno("EPERM"), family
    assert Profile.loads(accepted.dumps()) == accepted


def test_the_record_names_the_profile_and_offers_its_rule() -> None:
    """The witness is the other file and the edit is the other profile's rule."""
    mine = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1),)),))
    other = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "in", {1, 2}),)),))
    (record,) = compare(mine, profiles={"other.yaml": other})
    assert (record.kind, record.syscall, record.args[0]) == ("new_argument", "socket", 2)
    assert record.witness == {"source": "profile", "profile": "other.yaml"}
    assert "AF_INET" in record.edit
    assert compare(accept(mine, [record]), profiles={"other.yaml": other}).records == ()
