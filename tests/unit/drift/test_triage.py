"""A verdict changes what it says and nothing else."""

from __future__ import annotations

import pytest

from autoprofile.drift import compare
from autoprofile.drift.triage import apply, generalised_rules, verdicts_for
from autoprofile.errors import AutoprofileError
from autoprofile.learn import learn
from autoprofile.profile import Action, Profile
from tests.unit.learn.traces import observed, trace_of

BASE = trace_of(observed("openat", 0, 0, 0x80000, 0), observed("getpid", count=3))
LATER = trace_of(
    *BASE.observations,
    observed("openat", 0, 0, 0x80241, 0o644, count=4),
    observed("socket", 1, 1, 0, count=2),
    observed("ptrace", 16, count=1),
)


def record_of(profile: Profile, syscall: str):
    (record,) = [r for r in compare(profile, [LATER]) if r.syscall == syscall]
    return record


@pytest.mark.parametrize("syscall", ["openat", "socket", "ptrace"])
@pytest.mark.parametrize("verdict", ["accept", "generalise"])
def test_what_is_accepted_or_generalised_is_no_drift_any_more(syscall: str, verdict: str) -> None:
    """After either verdict the same evidence no longer holds the record, and the others are as before."""
    profile = learn(BASE)
    record = record_of(profile, syscall)
    if verdict not in verdicts_for(profile, record):
        assert syscall == "ptrace", "only what is a risk whatever its arguments has no middle way"
        return
    edited = apply(profile, record, verdict)
    left = {r.id for r in compare(edited, [LATER]).denials}
    assert left == {r.id for r in compare(profile, [LATER]).denials} - {record.id}


def test_generalising_keeps_the_other_risk_classes_out() -> None:
    """A Unix socket generalised does not open netlink, packet or kernel crypto sockets."""
    profile = learn(BASE)
    edited = apply(profile, record_of(profile, "socket"), "generalise")
    assert edited.decide("socket", "AF_UNIX", "SOCK_DGRAM", 0).action == Action.ALLOW
    for family in ("AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"):
        assert edited.decide("socket", family, "SOCK_RAW", 0).action != Action.ALLOW, family


def test_a_call_that_is_a_risk_in_itself_is_never_generalised() -> None:
    """A call like ptrace can be accepted as seen or denied, but has no wider form."""
    profile = learn(BASE)
    record = record_of(profile, "ptrace")
    assert generalised_rules(profile, record) == ()
    with pytest.raises(AutoprofileError, match="cannot be answered with generalise"):
        apply(profile, record, "generalise")


def test_denying_a_new_syscall_changes_only_how_it_is_refused() -> None:
    """Where the default refuses, a new call is denied with the errno whatever its arguments."""
    profile = learn(BASE)
    edited = apply(profile, record_of(profile, "socket"), "deny", errno="EACCES")
    assert edited.decide("socket", "AF_UNIX", "SOCK_STREAM", 0).action == Action.errno("EACCES")
    assert edited.decide("socket", "AF_INET", "SOCK_DGRAM", 0).action == Action.errno("EACCES")
    assert edited.decide("getpid").action == Action.ALLOW


def test_denying_new_arguments_leaves_the_others_alone() -> None:
    """A denied tuple is refused with the errno; what was allowed of the call stays allowed."""
    profile = learn(BASE)
    edited = apply(profile, record_of(profile, "openat"), "deny")
    assert edited.decide("openat", 0, 0, 0x80241, 0o644).action == Action.errno("EPERM")
    assert edited.decide("openat", 0, 0, 0x80000, 0).action == Action.ALLOW


def test_removing_takes_out_the_unused_rule_and_no_other() -> None:
    """The verdict on an unused rule removes exactly that rule."""
    profile = learn(BASE)
    report = compare(profile, [trace_of(observed("openat", 0, 0, 0x80000, 0))])
    (record,) = [r for r in report if r.kind == "unused_rule"]
    assert verdicts_for(profile, record) == ("remove", "keep")
    edited = apply(profile, record, "remove")
    assert set(profile.rules) - set(edited.rules) == {record.rule}
    with pytest.raises(AutoprofileError, match="no longer has this rule"):
        apply(edited, record, "remove")


def test_keeping_changes_nothing() -> None:
    """Keep returns the profile as it is."""
    profile = learn(BASE)
    assert apply(profile, record_of(profile, "socket"), "keep") == profile
