"""Verdicts are remembered as they were given, and only those that settle a record hide it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import accept, compare
from autoprofile.drift.record import KINDS, record_id
from autoprofile.drift.reviewed import Reviewed, Verdict
from autoprofile.drift.shift import shifted_records
from autoprofile.drift.triage import VERDICTS
from autoprofile.errors import AutoprofileError
from autoprofile.learn import learn
from autoprofile.observations import ProgramId
from autoprofile.report.summary import drift_summary
from tests.unit.learn.traces import PROGRAM, observed, trace_of

TEXT = st.text(max_size=12)
VERDICT = st.builds(
    Verdict,
    TEXT,
    st.sampled_from(VERDICTS),
    st.sampled_from(KINDS),
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.none() | st.lists(TEXT, max_size=3).map(tuple),
    st.none() | st.integers(0, 99) | st.floats(0, 1),
)


if TYPE_CHECKING:
    from autoprofile.drift import DriftRecord

OLD_KEYS = ("id", "verdict", "kind", "call", "time", "who", "why")


@given(st.lists(VERDICT, max_size=5))
@settings(deadline=None)
def test_what_is_written_reads_back(verdicts: list[Verdict]) -> None:
    """Writing and reading gives the same verdicts, the latest of each id."""
    reviewed = Reviewed()
    for verdict in verdicts:
        reviewed.add(verdict)
    assert Reviewed.loads(reviewed.dumps(), "x").verdicts == reviewed.verdicts


def test_what_version_1_wrote_is_read_and_holds_for_all_programs() -> None:
    """A review file of an earlier release still settles what it settled, under the ids it gave."""
    base = trace_of(observed("socket", 1, 1, 0))
    (record,) = compare(learn(base), [trace_of(*base.observations, observed("socket", 16, 3, 0))])
    old = record_id("new_argument", "x86_64", "socket", (16, 3, 0, None, None, None))
    assert old != record.id
    entry = {**dict.fromkeys(OLD_KEYS, "x"), "id": old, "verdict": "keep", "kind": "new_argument"}
    reviewed = Reviewed.loads(json.dumps({"schema_version": 1, "verdicts": [entry]}), "x")
    assert reviewed.is_settled(record)
    # a later verdict takes the place of the old one: it must not go on settling what was accepted since
    reviewed.add(Verdict.of(record, "accept", time="t", who="me"), record.former_ids)
    assert list(reviewed.verdicts) == [record.id]
    assert not reviewed.is_settled(record)


def test_accepting_one_call_leaves_the_id_of_its_sibling() -> None:
    """A call keeps its id, so its verdict, when the profile gets its first rule of that syscall."""
    base = trace_of(observed("getpid"))
    later = trace_of(observed("getpid"), observed("socket", 2, 1, 0), observed("socket", 16, 3, 0))
    profile = learn(base)
    before = {r.args[0]: r for r in compare(profile, [later])}
    accepted = accept(profile, [before[2]])
    (left,) = compare(accepted, [later])
    assert (before[16].kind, left.kind) == ("new_syscall", "new_argument")
    assert left.id == before[16].id


def test_a_verdict_holds_for_the_programs_it_was_given_on() -> None:
    """What is kept for one program is open again when another one, known or not, makes the same call."""
    base = trace_of(observed("getpid"))
    profile = learn(base)

    def seen(*paths: str) -> DriftRecord:
        made = [observed("getuid", program=ProgramId(path, "b1")) for path in paths]
        return next(
            r for r in compare(profile, [trace_of(observed("getpid"), *made)]) if r.syscall == "getuid"
        )

    mine, evil, hidden = (seen(path) for path in (PROGRAM.path, "/tmp/evil", "?"))
    assert mine.id == evil.id == hidden.id
    reviewed = Reviewed()
    reviewed.add(Verdict.of(mine, "keep", time="t", who="me"))
    assert reviewed.is_settled(seen(PROGRAM.path))
    assert not reviewed.is_settled(evil)
    assert not reviewed.is_settled(hidden)
    (told,) = reviewed.open([seen(PROGRAM.path, "/tmp/evil")])
    assert told.why.startswith("kept by me on t, but not for /tmp/evil; ")
    reviewed.add(Verdict.of(evil, "keep", time="u", who="me"))
    assert reviewed.is_settled(seen(PROGRAM.path, "/tmp/evil")), "settling for another keeps the first"
    assert Reviewed.loads(reviewed.dumps(), "x").is_settled(evil)


def test_a_verdict_on_a_loss_holds_for_no_more_than_was_lost() -> None:
    """Keeping a loss of five does not hide one of six."""
    profile = learn(trace_of(observed("getpid")))
    five, six = (
        compare(profile, [trace_of(observed("getpid"), lost={"map_full": n})]).records[0] for n in (5, 6)
    )
    reviewed = Reviewed()
    reviewed.add(Verdict.of(five, "keep", time="t", who="me"))
    assert reviewed.is_settled(five)
    assert not reviewed.is_settled(six)


@pytest.mark.parametrize(("share", "is_settled"), [(910, True), (915, True), (800, True), (990, False)])
def test_a_verdict_on_a_shift_holds_for_about_that_shift(share: int, is_settled: bool) -> None:
    """A share that wanders a little, or back, stays settled; one that goes on to shift does not."""
    profile = learn(trace_of(observed("getpid", count=500), observed("getppid", count=500)))

    def shifted(of_1000: int) -> DriftRecord:
        now = trace_of(observed("getppid", count=of_1000), observed("getpid", count=1000 - of_1000))
        return next(r for r in shifted_records(profile, [now]) if r.syscall == "getppid")

    reviewed = Reviewed()
    reviewed.add(Verdict.of(shifted(910), "keep", time="t", who="me"))
    assert reviewed.is_settled(shifted(share)) is is_settled


def test_what_is_settled_is_not_called_allowed() -> None:
    """A report without its settled differences says that they are there, and how many calls were refused."""
    base = trace_of(observed("getpid"))
    report = compare(learn(base), [trace_of(observed("getpid"), observed("getuid", count=3))])
    reviewed = Reviewed()
    reviewed.add(Verdict.of(report.records[0], "keep", time="t", who="me"))
    left = reviewed.without_settled(report)
    assert (len(left), left.to_dict()["settled"]) == (0, 1)
    text = drift_summary(left)
    assert "1 difference settled by review (3 calls not allowed)" in text
    assert text == "no open drift: 4 calls compared, 1 difference settled by review (3 calls not allowed)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no review file"),
        ("[]", "no review file"),
        ('{"schema_version": 3, "verdicts": []}', "version 3"),
        ('{"schema_version": 1, "verdicts": [{"id": "D1", "what": "x"}]}', "unknown key 'what'"),
        (
            json.dumps({"schema_version": 1, "verdicts": [dict.fromkeys(OLD_KEYS, "x")]}),
            "no verdict 'x'",
        ),
        (
            json.dumps({"schema_version": 2, "verdicts": [{**dict.fromkeys(OLD_KEYS, "x"), "programs": 1}]}),
            "programs of a verdict is a list",
        ),
        (
            json.dumps(
                {"schema_version": 2, "verdicts": [{**dict.fromkeys(OLD_KEYS, "x"), "programs": [1]}]}
            ),
            "every value of a verdict is text",
        ),
        (
            json.dumps({"schema_version": 2, "verdicts": [{**dict.fromkeys(OLD_KEYS, "x"), "size": "1"}]}),
            "size of a verdict is a number",
        ),
    ],
)
def test_anything_else_is_one_clear_error(text: str, says: str) -> None:
    """A broken or foreign file is refused with its name, never read in part."""
    with pytest.raises(AutoprofileError, match=says) as caught:
        Reviewed.loads(text, "web.review.json")
    assert "web.review.json" in str(caught.value)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_deny_and_keep_hide_a_record(verdict: str) -> None:
    """A record that was accepted shows again should the call be refused again; one that was kept does not."""
    base = trace_of(observed("getpid"))
    report = compare(learn(base), [trace_of(observed("getpid"), observed("getuid"))])
    (record,) = report
    reviewed = Reviewed()
    reviewed.add(Verdict(record.id, verdict, record.kind, record.call, "t", "me"))
    assert reviewed.open(report) == (() if verdict in ("deny", "keep") else (record,))
