"""A version is what a profile means, and its history loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprofile.errors import AutoprofileError
from autoprofile.profile import Action, Evidence, Learned, Profile, SeccompRule
from autoprofile.profile.history import History, content_hash

PROFILE = Profile(arch=("x86_64",), rules=(SeccompRule("read", Action.ALLOW),))
WIDER = replace(PROFILE, rules=(*PROFILE.rules, SeccompRule("getpid", Action.ALLOW)))


def test_evidence_and_origin_are_no_part_of_a_version() -> None:
    """Learning the same rules again, from other runs, is the same version; another rule is not."""
    rule = SeccompRule("read", Action.ALLOW, evidence=Evidence(count=7))
    again = replace(PROFILE, rules=(rule,), learned=Learned(runs=3, processes=4, events=99))
    assert content_hash(again) == content_hash(PROFILE)
    assert content_hash(WIDER) != content_hash(PROFILE)
    assert content_hash(replace(PROFILE, default=Action.LOG)) != content_hash(PROFILE)


def test_each_version_names_its_parent_and_an_unchanged_profile_is_none() -> None:
    """Versions form a chain; a profile that is the newest version adds nothing; texts read back."""
    first = History().next(PROFILE, time="t1", who="me", why="start")
    assert first is not None
    assert first.parent is None
    history = History((first,))
    assert history.next(PROFILE, time="t2", who="me", why="again") is None
    second = history.next(WIDER, time="t2", who="you", why="")
    assert second is not None
    assert second.parent == first.version
    text = first.to_line() + second.to_line()
    read = History.loads(text, "h")
    assert read.versions == (first, second)
    assert Profile.loads(read.find(second.version[:6]).text) == WIDER


def test_a_torn_last_line_costs_that_line_only() -> None:
    """What a crash left without its end is skipped; a broken line before it is an error with its number."""
    first = History().next(PROFILE, time="t", who="me", why="")
    assert first is not None
    line = first.to_line()
    assert History.loads(line + line[:20], "h").versions == (first,)
    with pytest.raises(AutoprofileError, match=r"h:2"):
        History.loads(line + line[:20] + "\n" + line, "h")
    with pytest.raises(AutoprofileError, match="no version 'ffff'"):
        History((first,)).find("ffff")
