"""Another profile as evidence shows exactly what it allows and this one refuses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import accept, compare
from autoprofile.drift.compare import reduced
from autoprofile.drift.triage import verdicts_for
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


TIGHT = """\
autoprofile: 1
arch: [x86_64]
default: kill
syscalls:
  mmap: [{prot: PROT_READ, flags: any}]
  socket: [{family: AF_UNIX, type: any, protocol: any}]
  ioctl: [{cmd: TCGETS}]
"""
LOOSE = """\
autoprofile: 1
arch: [x86_64]
default: kill
syscalls:
  mmap: [{prot: {mask: [PROT_READ, PROT_WRITE, PROT_EXEC]}, flags: any}]
  socket: [{family: [AF_UNIX, AF_INET, AF_PACKET], type: any, protocol: any}]
  ioctl: any
  clone: any
"""


def test_a_rule_of_another_profile_is_rated_by_the_worst_call_it_adds() -> None:
    """W^X, packet sockets, terminal injection and new namespaces are high, whatever call happens to prove them."""
    report = compare(Profile.loads(TIGHT), profiles={"loose.yaml": Profile.loads(LOOSE)})
    assert {r.syscall: r.severity for r in report} == dict.fromkeys(
        ("mmap", "socket", "ioctl", "clone"), "high"
    )


def test_a_risk_that_this_profile_takes_already_is_no_news() -> None:
    """Only what the other profile adds is rated."""
    mine = Profile.loads(TIGHT.replace("family: AF_UNIX", "family: AF_PACKET"))
    other = Profile.loads(TIGHT.replace("family: AF_UNIX", "family: [AF_UNIX, AF_PACKET]"))
    (record,) = compare(mine, profiles={"o": other})
    assert record.severity == "low"


def test_a_rule_of_another_profile_is_told_without_invented_values() -> None:
    """What differs is said with the rules of both; a call is named only to show a risk."""
    tight, loose = Profile.loads(TIGHT), Profile.loads(TIGHT.replace("TCGETS", "[TCGETS, FIONBIO]"))
    (record,) = compare(tight, profiles={"o": loose})
    assert record.call == "ioctl(cmd={TCGETS, FIONBIO})"
    assert "this one only ioctl(cmd = TCGETS); default kill" in record.why
    (whole,) = [r for r in compare(tight, profiles={"o": Profile.loads(LOOSE)}) if r.syscall == "ioctl"]
    assert whole.call == "ioctl(cmd=any)"
    assert "CDROM" not in whole.why
    assert "ioctl(cmd=TIOCSTI): types into" in whole.why


def test_a_rule_of_another_profile_is_not_denied_with_what_is_allowed() -> None:
    """Deny is not offered where it would refuse a call that the profile allows."""
    tight = Profile.loads(TIGHT)
    report = compare(tight, profiles={"o": Profile.loads(LOOSE)})
    offered = {r.syscall: verdicts_for(tight, r) for r in report}
    assert offered["ioctl"] == ("accept", "keep")
    assert offered["clone"] == ("accept", "deny", "keep")


def test_a_deny_rule_in_the_way_of_another_profile_is_divided_for_it() -> None:
    """Accepting a whole rule also clears the deny rule that was found in its way."""
    deny = SeccompRule("socket", Action.errno("EPERM"), (Arg(0, "eq", 16),))
    mine = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, ANY), deny))
    other = Profile(arch=("x86_64",), rules=(SeccompRule("socket", Action.ALLOW, ANY),))
    accepted = accept(mine, compare(mine, profiles={"o": other}))
    assert accepted.decide("socket", "AF_NETLINK", "SOCK_RAW", 0).action == Action.ALLOW
