"""The completeness figures say what the runs support, and no more."""

from __future__ import annotations

from math import nan

import pytest

from autoprofile.errors import UsageError
from autoprofile.learn import infer
from autoprofile.learn.completeness import MAX_LEFT_OUT, Completeness
from autoprofile.profile import Action
from tests.unit.learn.traces import observed, trace_of


def estimate(*runs: tuple[str, ...], **how: object) -> Completeness:
    """Return the completeness after runs that made these calls."""
    level = how.pop("level", "strict")
    found = [observed(name, run=run) for run, names in enumerate(runs) for name in names]
    return infer(trace_of(*found, runs=len(runs), **how), level=level).completeness


def test_one_run_says_nothing_about_the_next() -> None:
    """With one run the estimates are absent and the bound is one."""
    found = estimate(("getpid",))
    assert found.unseen is None
    assert found.unseen_mass is None
    assert found.richness is None
    assert found.unseen_upper == 1.0
    assert found.left_out == ()


def test_runs_that_add_nothing_lower_the_estimate() -> None:
    """Equal runs give Jeffreys' estimate for no hit, falling with their number."""
    for runs in (2, 3, 10):
        found = estimate(*[("getpid", "getuid")] * runs)
        assert found.unseen == pytest.approx(0.5 / (runs + 1))
        assert found.unseen_mass == 0
        assert found.observed == found.richness == 2
    assert estimate(*[("getpid",)] * 10).unseen < estimate(*[("getpid",)] * 3).unseen


def test_leave_one_out_names_the_denials() -> None:
    """Had the other runs been enforced, the run with a call of its own would have met its denial."""
    found = estimate(("getpid",), ("getpid",), ("getpid", "getuid"))
    assert [(o.run, o.denials) for o in found.left_out] == [(0, ()), (1, ()), (2, (("getuid()", 1),))]
    assert found.unseen == pytest.approx(1.5 / 4)


def test_leave_one_out_uses_the_level_that_was_asked_for() -> None:
    """What standard would have allowed anyway is no denial there."""
    runs = [observed("lseek", 0, 0, whence, run=whence) for whence in range(3)]
    strict = infer(trace_of(*runs)).completeness
    standard = infer(trace_of(*runs), level="standard").completeness
    assert all(o.denials for o in strict.left_out)
    assert not any(o.denials for o in standard.left_out)
    assert standard.unseen < strict.unseen


def test_the_discovery_curve_ends_at_what_was_observed() -> None:
    """The curve rises to the number of distinct tuples and does not depend on the order of the runs."""
    found = estimate(("getpid",), ("getpid", "getuid"), ("getpid", "getgid"))
    assert found.discovery[-1] == (3, 3)
    counts = [n for _, n in found.discovery]
    assert counts == sorted(counts)
    assert found.discovery == estimate(("getpid", "getgid"), ("getpid", "getuid"), ("getpid",)).discovery


def test_discovery_over_time_counts_new_tuples_of_the_first_run() -> None:
    """Each point is a moment at which something new was seen."""
    found = infer(
        trace_of(
            observed("getpid", first_ns=0),
            observed("getuid", first_ns=2_000_000_000),
            observed("getgid", first_ns=2_000_000_000),
        )
    ).completeness
    assert found.discovery_time == ((0.0, 1), (2.0, 3))


def test_losses_cap_the_claim() -> None:
    """Anything lost keeps the estimate above the lost share and the trace incomplete."""
    found = estimate(*[("getpid",)] * 10, lost={"map_full": 90})
    assert not found.complete
    assert found.lost == 90
    assert found.unseen >= 0.9


def test_an_unfollowed_run_is_not_complete() -> None:
    """A program that was not followed to its end was not seen whole."""
    assert not estimate(("getpid",), ("getpid",), complete=False).complete


def test_many_runs_are_sampled() -> None:
    """Beyond the limit only some runs are left out, evenly spread."""
    found = estimate(*[("getpid",)] * (MAX_LEFT_OUT * 2))
    assert len(found.left_out) == MAX_LEFT_OUT
    assert found.left_out[-1].run == MAX_LEFT_OUT * 2 - 2


@pytest.mark.parametrize("mode", ["allowlist", "hybrid"])
def test_what_a_default_of_log_lets_pass_counts_as_unseen(mode: str) -> None:
    """A trial that refuses nothing is as incomplete as the profile that will: the estimates are equal."""
    seen = [observed("getpid"), observed("getuid", run=1), observed("read", run=2), observed("write", run=3)]
    log, kill = (
        infer(trace_of(*seen), mode=mode, default=action).completeness
        for action in (Action.LOG, Action.KILL_PROCESS)
    )
    assert log.unseen == kill.unseen
    assert log.left_out == kill.left_out
    assert all(one.denials for one in log.left_out)


def test_a_denylist_that_logs_refuses_only_what_it_names() -> None:
    """There the default permits: what no rule names is not missing."""
    seen = [observed("getpid"), observed("getuid", run=1), observed("read", run=2)]
    found = infer(trace_of(*seen), mode="denylist", default=Action.LOG).completeness
    assert not any(one.denials for one in found.left_out)


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": nan}, {"worth": nan}, {"worth": -1.0}])
def test_a_threshold_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """What compares with nothing decides nothing."""
    with pytest.raises(UsageError):
        infer(trace_of(observed("getuid")), **wrong)


def test_confidence_moves_the_bound_only() -> None:
    """A higher confidence gives a higher upper bound and the same estimate."""
    trace = trace_of(*[observed("getpid", run=run) for run in range(5)])
    low, high = (infer(trace, confidence=c).completeness for c in (0.8, 0.99))
    assert low.unseen == high.unseen
    assert low.unseen_upper < high.unseen_upper
