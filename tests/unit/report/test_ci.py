"""What build servers are given is well-formed, complete, and safe whatever programs are called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.drift import SEVERITIES, DriftReport, compare
from autoprofile.learn import learn
from autoprofile.observations import ProgramId
from autoprofile.printable import printable
from autoprofile.report.ci import drift_junit, drift_markdown, drift_sarif, fails
from tests.unit.learn.traces import observed, trace_of

HOSTILE = ProgramId("/tmp/|`<img src=x>\x1b[31m\n# heading", "aa")
BASE = trace_of(observed("getpid"), observed("getuid"))
REPORT = compare(
    learn(BASE),
    [
        trace_of(
            observed("getpid"),
            observed("ptrace", 16, program=HOSTILE),
            observed("socket", 1, 1, 0, program=HOSTILE),
            lost={"map_full": 3},
        )
    ],
)


def test_the_example_holds_every_severity_and_a_loss() -> None:
    """The report these tests look at has high, medium, low and info records."""
    assert {r.severity for r in REPORT} == set(SEVERITIES)


@pytest.mark.parametrize("fail_on", SEVERITIES)
def test_junit_fails_what_is_severe_enough_and_passes_the_rest(fail_on: str) -> None:
    """One case per record and one for the comparison; failures are exactly the records that fail."""
    suite = Xml.fromstring(drift_junit(REPORT, "web.yaml", fail_on=fail_on))
    failing = [r for r in REPORT if fails(r, fail_on)]
    cases = suite.findall(".//testcase")
    assert len(cases) == len(REPORT) + 1 == int(suite.attrib["tests"])
    assert len(suite.findall(".//failure")) == len(failing) == int(suite.attrib["failures"])
    assert {
        c.attrib["name"].rpartition(" [")[2].rstrip("]") for c in cases if c.find("failure") is not None
    } == {r.id for r in failing}


def test_sarif_holds_every_record_under_its_stable_id() -> None:
    """Each result has a rule of the driver, a level, and the record's id as fingerprint."""
    log = json.loads(json.dumps(drift_sarif(REPORT, "web.yaml", version="1")))
    (run,) = log["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert [r["partialFingerprints"]["autoprofile/v1"] for r in run["results"]] == [r.id for r in REPORT]
    assert {r["ruleId"] for r in run["results"]} == rules
    assert {r["level"] for r in run["results"]} == {"error", "warning", "note"}


def test_markdown_cannot_be_broken_by_a_program_name() -> None:
    """A name with markup, line ends and control characters stays one cell of the table."""
    text = drift_markdown(REPORT, "web.yaml", fail_on="high")
    assert "\x1b" not in text
    assert "\n# heading" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + sum(r.kind != "unused_rule" for r in REPORT)
    assert "to accept it" in text.lower()
    assert "Not used: `getuid()`" in text or "Not used: `getuid`" in text


NASTY = st.text(
    st.sampled_from("`|<>&[]()!*_#\\\n\t\x00\x1b\x85\x9b\u202e\u2066\udcff\ufffe\uffff") | st.characters(),
    max_size=30,
)


@settings(max_examples=40)
@given(NASTY, NASTY)
def test_no_name_breaks_out_of_a_document(program: str, name: str) -> None:
    """Whatever a program is called, XML stays well-formed, a table row one row, and no control goes raw."""
    found = replace(
        next(r for r in REPORT if r.kind == "new_syscall" and r.edit),
        program=program,
        why=f"{program} did it",
        edit=f"x: {program}",
        witness={"location": program},
    )
    report = DriftReport((found,), calls=1)
    root = Xml.fromstring(drift_junit(report, name, fail_on="info"))
    assert len(root.findall(".//failure")) == 1
    text = drift_markdown(report, name, fail_on="info")
    assert text == printable(text)
    lines = text.split("\n")
    start = lines.index("|---|---|---|---|---|---|")
    assert lines[start + 1].startswith("| ")
    assert lines[start + 2] == ""
    assert (
        len(re.findall(r"(?<!\\)\|", lines[start + 1])) == 7
    )  # a backslash before a bar makes it text (GFM)
    assert lines[0].startswith("### Drift of ")
    fence = next(line.removesuffix("yaml") for line in lines if re.fullmatch("`{3,}yaml", line))
    assert sum(line == fence for line in lines) == 1
    assert text.rstrip().endswith("</details>")
