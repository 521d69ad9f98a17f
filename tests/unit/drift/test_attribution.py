"""Attribution says what changed between learning and now, and claims sameness only where both sides are known."""

from __future__ import annotations

import pytest

from autoprofile.drift.attribution import CHANGED, SAME, UNKNOWN, attribute
from autoprofile.profile import Learned, Profile, Program

LIBC = "/lib/libc.so.6"
CHILD = "/bin/child"
PROFILE = Profile(
    program=Program("/bin/main", "aa"),
    learned=Learned(
        1, 1, 1, kernel="6.18", libc="glibc 2.36", binaries={"/bin/main": "aa", LIBC: "11", CHILD: "cc"}
    ),
)
NOW = {
    "program": "/bin/main",
    "build_id": "aa",
    "libc": "glibc 2.36",
    "kernel": "6.18",
    "binaries": {LIBC: "11"},
}


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, SAME, "same binaries, new behaviour"),
        ({"build_id": "ab"}, CHANGED, "/bin/main was rebuilt (aa → ab)"),
        ({"binaries": {LIBC: "12"}}, CHANGED, "libc.so.6 was rebuilt (11 → 12)"),
        ({"libc": "glibc 2.37"}, CHANGED, "libc glibc 2.36 → glibc 2.37"),
        ({"kernel": "6.19"}, CHANGED, "kernel 6.18 → 6.19"),
        ({"program": CHILD, "build_id": "cc"}, SAME, "same binaries"),
        ({"program": CHILD, "build_id": "cd"}, CHANGED, "/bin/child was rebuilt (cc → cd)"),
        ({"program": "/bin/other"}, UNKNOWN, "records no build of /bin/other"),
        ({"libc": None}, UNKNOWN, "libc is not known on both sides"),
        ({"binaries": {"/lib/new.so": "77"}}, CHANGED, "new.so was not there when it was learned"),
        ({"elsewhere": {"/lib/new.so": "77"}}, UNKNOWN, "new.so was not there when it was learned, and may"),
        ({"binaries": {"/lib/new.so": ""}}, UNKNOWN, "new.so has no build-id"),
        ({"binaries": {"/lib/\x07.so": "77"}}, UNKNOWN, "has no build-id"),
        ({"binaries": {LIBC: ""}}, UNKNOWN, "the build-id of libc.so.6 is not known now"),
        ({"elsewhere": {LIBC: "11", CHILD: "cc"}}, SAME, "same binaries"),
    ],
)
def test_the_cause_is_what_changed(change: dict[str, object], verdict: str, says: str) -> None:
    """One changed fact is named as the cause, code that was not there too; a missing one makes it unknown."""
    found = attribute(PROFILE, **{**NOW, **change})
    assert found.verdict == verdict
    assert says in found.text


def test_many_rebuilt_libraries_are_counted() -> None:
    """After a system upgrade three rebuilt libraries are named and the others counted."""
    paths = [f"/lib/l{n}.so" for n in range(7)]
    profile = Profile(learned=Learned(1, 1, 1, binaries=dict.fromkeys(paths, "1")))
    found = attribute(
        profile, program=None, build_id=None, libc=None, kernel=None, binaries=dict.fromkeys(paths, "2")
    )
    assert found.verdict == CHANGED
    assert not found.is_new_behaviour
    assert found.text.count("was rebuilt") == 3
    assert "4 more libraries" in found.text


def test_new_code_alone_is_new_behaviour_and_beside_a_rebuild_it_is_not() -> None:
    """A library that somebody put into known binaries explains nothing; one that came with an upgrade does."""
    injected = {LIBC: "11", "/tmp/pre.so": "77"}
    assert attribute(PROFILE, **{**NOW, "binaries": injected}).is_new_behaviour
    assert not attribute(PROFILE, **{**NOW, "binaries": {**injected, LIBC: "12"}}).is_new_behaviour
    assert attribute(PROFILE, **NOW).is_new_behaviour


def test_a_profile_that_knows_no_libraries_claims_nothing_about_them() -> None:
    """Where learning noted only the program, a library is neither new nor doubtful."""
    alone = Profile(
        program=Program("/bin/main", "aa"),
        learned=Learned(1, 1, 1, libc="glibc 2.36", binaries={"/bin/main": "aa"}),
    )
    assert attribute(alone, **{**NOW, "binaries": {"/lib/new.so": "77"}}).verdict == SAME
