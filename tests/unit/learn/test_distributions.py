"""Each argument has its own estimate, from the runs that made the call."""

from __future__ import annotations

import pytest

from autoprofile.learn import infer
from autoprofile.report.completeness import completeness_facts
from tests.unit.learn.traces import observed, trace_of


def _found(*calls: tuple[int, str, tuple[int, ...]], runs: int) -> dict[object, object]:
    seen = [observed(name, *args, run=run) for run, name, args in calls]
    # each run does something of its own: equal ones would count once
    seen += [observed(name, run=n) for n, name in enumerate(["getpid", "getuid", "getgid", "gettid"][:runs])]
    found = infer(trace_of(*seen, runs=runs)).completeness
    assert found.to_dict()["distributions"] == [one.to_dict() for one in found.distributions]
    return {(one.syscall, one.argument): one for one in found.distributions}


def test_each_argument_and_the_joint_tuple_are_estimated() -> None:
    """The family was the same in every run, the type differed each time: only that is open."""
    calls = [(run, "socket", (1, kind, 0)) for run, kind in enumerate([1, 2, 3, 5])]
    found = _found(*calls, runs=4)
    assert {argument for _, argument in found} == {None, "family", "type", "protocol"}
    family, kind, joint = (found["socket", one] for one in ("family", "type", None))
    assert (family.runs, family.observed, family.unseen_mass, family.richness) == (4, 1, 0.0, 1.0)
    # four singletons of four incidences; Chao2 without doubletons: 4 + 3/4 * 4*3/2
    assert (kind.observed, kind.unseen_mass) == (4, 1.0)
    assert kind.richness == pytest.approx(8.5)
    assert (joint.observed, joint.unseen_mass, joint.richness) == (4, 1.0, kind.richness)


def test_the_unit_is_a_run_that_made_the_call() -> None:
    """A call of one run says nothing about others, however many runs there were; calls without arguments are out."""
    found = _found((0, "lseek", (0, 0, 1)), (1, "lseek", (0, 0, 1)), (2, "madvise", (0, 0, 4)), runs=4)
    assert found["lseek", "whence"].runs == 2
    assert found["lseek", "whence"].unseen_mass == 0.0
    assert (found["madvise", "behavior"].runs, found["madvise", "behavior"].richness) == (1, None)
    assert not any(name == "getpid" for name, _ in found)


def test_the_report_names_what_varies_most() -> None:
    """A reader sees which argument is far from shown."""
    seen = [observed("socket", 1, kind, 0, run=run) for run, kind in enumerate([1, 2, 3, 5])]
    facts = dict(completeness_facts(infer(trace_of(*seen)).completeness))
    assert "socket type: 100% new, 4 seen of at least 8" in facts["varies most"]
    assert "family" not in facts["varies most"]
