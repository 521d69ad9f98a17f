"""Shifted frequencies are claimed by effect, not by sample size."""

from __future__ import annotations

import pytest

from autoprofile.drift import compare
from autoprofile.drift.shift import share_shift
from autoprofile.learn import learn
from autoprofile.profile import Action, Arg, Evidence, Profile, SeccompRule
from tests.unit.learn.traces import observed, trace_of


def test_g_agrees_with_a_table_worked_by_hand() -> None:
    """For [[10, 20], [30, 5]] G is 19.72 and Pearson's chi-squared 18.73."""
    shift = share_shift(10, 30, 30, 35)
    assert shift.g == pytest.approx(19.72, abs=0.01)
    assert shift.cramers_v**2 * 65 == pytest.approx(18.73, abs=0.01)
    assert shift.p == pytest.approx(8.98e-6, rel=0.01)


def test_equal_shares_show_no_shift() -> None:
    """The same proportions give G = 0 however many calls there are."""
    shift = share_shift(1000, 10000, 2000, 20000)
    assert shift.g == pytest.approx(0, abs=1e-6)
    assert shift.cramers_v == pytest.approx(0, abs=1e-9)


def test_few_calls_tell_nothing() -> None:
    """Below five expected calls in a cell the approximation does not hold, and nothing is claimed."""
    assert share_shift(1, 10, 3, 10) is None
    assert share_shift(0, 0, 3, 10) is None


def test_a_changed_mix_is_reported_with_its_effect() -> None:
    """A program that now mostly does what it rarely did has shifted; test and effect are in the record."""
    profile = learn(trace_of(observed("read", count=900), observed("write", count=100)))
    report = compare(profile, [trace_of(observed("read", count=100), observed("write", count=900))])
    assert {r.kind for r in report} == {"shifted"}
    assert {r.syscall for r in report} == {"read", "write"}
    record = report.records[0]
    assert record.severity == "info"
    assert record.witness["cramers_v"] > 0.5
    assert "Cramér's V" in record.why


def test_a_significant_but_tiny_change_is_not_reported() -> None:
    """A million calls make any difference significant; the effect decides."""
    profile = learn(trace_of(observed("read", count=500_000), observed("write", count=500_000)))
    report = compare(profile, [trace_of(observed("read", count=510_000), observed("write", count=490_000))])
    assert len(report) == 0


def test_calls_that_two_rules_count_are_no_shift() -> None:
    """Counts of rules that hold of the same calls add up to more than there were, and are not compared."""
    calls = trace_of(observed("mmap", 0, 4096, 3, 0x22, -1, 0, count=900), observed("read", count=400))
    rules = [
        SeccompRule("mmap", Action.ALLOW, args=[Arg(2, "masked_eq", 0, mask=4)], evidence=Evidence(900, 1)),
        SeccompRule(
            "mmap", Action.ALLOW, args=[Arg(3, "masked_eq", 0x20, mask=0x20)], evidence=Evidence(900, 1)
        ),
        SeccompRule("read", Action.ALLOW, evidence=Evidence(400, 1)),
    ]
    assert len(compare(Profile(rules=tuple(rules)), [calls])) == 0
    apart = [
        SeccompRule("mmap", Action.ALLOW, args=[Arg(3, "eq", f)], evidence=Evidence(900, 1))
        for f in (0x22, 2)
    ]
    report = compare(Profile(rules=(*apart, rules[2])), [calls])
    assert "shifted" in {r.kind for r in report}
