"""Another profile as evidence shows exactly what it allows and this one refuses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import accept, compare
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

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


def test_the_record_names_the_profile_and_offers_its_rule() -> None:
    """The witness is the other file and the edit is the other profile's rule."""
    mine = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1),)),))
    other = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "in", {1, 2}),)),))
    (record,) = compare(mine, profiles={"other.yaml": other})
    assert (record.kind, record.syscall, record.args[0]) == ("new_argument", "socket", 2)
    assert record.witness == {"source": "profile", "profile": "other.yaml"}
    assert "AF_INET" in record.edit
    assert compare(accept(mine, [record]), profiles={"other.yaml": other}).records == ()
