"""Verdicts are remembered as they were given, and only those that settle a record hide it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import compare
from autoprofile.drift.record import KINDS
from autoprofile.drift.reviewed import Reviewed, Verdict
from autoprofile.drift.triage import VERDICTS
from autoprofile.errors import AutoprofileError
from autoprofile.learn import learn
from tests.unit.learn.traces import observed, trace_of

TEXT = st.text(max_size=12)
VERDICT = st.builds(Verdict, TEXT, st.sampled_from(VERDICTS), st.sampled_from(KINDS), TEXT, TEXT, TEXT, TEXT)


@given(st.lists(VERDICT, max_size=5))
@settings(deadline=None)
def test_what_is_written_reads_back(verdicts: list[Verdict]) -> None:
    """Writing and reading gives the same verdicts, the latest of each id."""
    reviewed = Reviewed()
    for verdict in verdicts:
        reviewed.add(verdict)
    assert Reviewed.loads(reviewed.dumps(), "x").verdicts == reviewed.verdicts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no review file"),
        ("[]", "no review file"),
        ('{"schema_version": 2, "verdicts": []}', "version 2"),
        ('{"schema_version": 1, "verdicts": [{"id": "D1", "what": "x"}]}', "unknown key 'what'"),
        (
            json.dumps({"schema_version": 1, "verdicts": [dict.fromkeys(Verdict.__slots__, "x")]}),
            "no verdict 'x'",
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
