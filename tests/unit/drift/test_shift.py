"""Shifted frequencies are claimed by effect, not by sample size."""

from __future__ import annotations

import pytest

from autoprofile.drift import compare
from autoprofile.drift.shift import share_shift
from autoprofile.learn import learn
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
