"""What a trace's runs say about further ones, and which rules nobody saw a need for, in words."""

from __future__ import annotations

from autoprofile.learn import infer, learn
from autoprofile.report import html
from autoprofile.report.completeness import completeness_facts, completeness_text, curve_text, estimate_of
from autoprofile.report.facts import left_out_text
from autoprofile.report.text import Style
from autoprofile.report.unobserved import observed_only, unobserved_document, unobserved_only, unobserved_text
from tests.unit.learn.traces import observed, trace_of

STYLE = Style(80, False)


def _trace():
    calls = [observed("read", run=run) for run in range(5)]
    return trace_of(*calls, observed("socket", 2, 1, 0, run=4), observed("mount", run=4))


def test_the_run_that_would_have_met_denials_is_told_with_them():
    """As issue trackers quote it: had the others been enforced, this run would have met these."""
    estimate = infer(_trace()).completeness
    text = " ".join(completeness_text(estimate, STYLE).split())
    assert "had runs 1\N{EN DASH}4 been enforced, run 5 would have met 2 denials: " in text
    assert "mount" in text
    assert "socket(family=AF_INET, type=SOCK_STREAM, protocol=0)" in text
    assert dict(completeness_facts(estimate))["another run"].endswith("25.0%")


def test_one_run_says_nothing_of_others_and_when_its_calls_came():
    """There is no estimate; how discovery went over time there is."""
    calls = [observed("read", first_ns=1_000_000), observed("write", first_ns=2_000_000)]
    estimate = infer(trace_of(*calls, observed("close", first_ns=3_000_000_000))).completeness
    facts = dict(completeness_facts(estimate))
    assert facts["another run"].startswith("unknown: one run")
    assert "half had come after 0.002 s" in facts["over time"]
    assert facts["over time"].endswith("the last new one after 3 s")


def test_the_page_of_a_trace_tells_it_too():
    """The report shows what show does."""
    trace = _trace()
    page = html.trace_page(trace, source="t.parquet", completeness=infer(trace).completeness)
    assert "would have met 2 denials" in page
    assert "left out" in html.profile_page(learn(trace), source="p.yaml", findings=())


def test_several_runs_and_many_calls_are_counted():
    """What is cut off is counted, never lost."""
    calls = ("a()", "b()", "and 3 more")
    text = left_out_text({2: calls, 3: ("c()",), 4: ("d()",), 5: ("e()",)}, 6)
    assert "run 2 would have met 5 denials: a(), b(), and 3 more" in text
    assert "run 3 would have met 1 denial: c()" in text
    assert text.endswith("and 1 other run some as well")
    assert left_out_text({}, 3).startswith("none of the 3 runs")


def test_a_long_discovery_curve_is_thinned_and_keeps_its_end():
    """Eight points at most, the last one always."""
    text = curve_text(tuple((run, float(run * 10)) for run in range(1, 101)))
    assert text.count(" after ") <= 8
    assert text.endswith("1000 after 100")


def test_unobserved_rules_are_told_apart_and_grouped_by_reason():
    """Both halves make the whole; the list gives every rule its reason."""
    profile = learn(_trace(), level="permissive")
    seen, added = observed_only(profile), unobserved_only(profile)
    assert len(seen.rules) + len(added.rules) == len(profile.rules)
    assert all(rule.evidence and rule.evidence.count for rule in seen.rules)
    document = unobserved_document(profile)
    assert len(document) == len(added.rules)
    assert all(one["reason"] for one in document)
    text = unobserved_text(profile, STYLE)
    assert "baseline: a thread ends through it" in text
    assert f"{len(added.rules)} rules of {len(profile.rules)}" in text


def test_a_trace_that_nothing_can_be_learned_from_has_no_estimate():
    """It is shown all the same."""
    assert estimate_of(trace_of()) is None
    assert estimate_of(_trace()) == infer(_trace()).completeness
