"""The study of inference measures what it says: its parts on made-up traces, and one program for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.unit.learn.traces import observed, trace_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

from inference_study import PROGRAMS  # noqa: E402
from study.measure import as_runs, calibrate, refused_of  # noqa: E402
from study.report import BEGIN, END, document, into_page, plot, tables  # noqa: E402

from autoprofile.learn import learn  # noqa: E402


def test_workloads_are_many_and_b_is_something_else() -> None:
    """There are at least ten programs, some held out, and no task of B is one of A."""
    assert len({p.name for p in PROGRAMS}) == len(PROGRAMS) >= 10
    assert 5 <= sum(p.is_held_out for p in PROGRAMS) < len(PROGRAMS) - 5
    for program in PROGRAMS:
        assert program.a
        assert program.b
        assert not {task.argv for task in program.a} & {task.argv for task in program.b}, program.name


def test_joined_traces_keep_their_runs_apart() -> None:
    """Parts of one pass become one run; losses of any part are losses of the whole."""
    one, two = (
        trace_of(observed("getuid")),
        trace_of(observed("getgid"), lost={"map_full": 2}, complete=False),
    )
    joined = as_runs([[one, two], [one]])
    assert joined.meta.runs == 2
    assert sorted((o.run, o.nr) for o in joined.observations) == [(0, 102), (0, 104), (1, 102)]
    assert joined.ledger.total == 2
    assert not joined.is_complete


def test_what_is_refused_by_an_error_on_purpose_is_told_apart() -> None:
    """A deny rule's answer is no refusal by default, and neither is the error that a call met anyway."""
    tries = observed("keyctl", 0, ok=0, failed=1, last_return="EPERM")
    profile = learn(trace_of(tries, observed("getuid", ok=1, failed=0)), level="standard")
    works = observed("keyctl", 0, count=3, ok=3, failed=0, last_return="ok")
    assert not refused_of(profile, [tries])
    assert list(refused_of(profile, [works]).values()) == [3]
    assert not refused_of(profile, [works], by_default=True)
    assert refused_of(profile, [observed("ptrace", 0)], by_default=True)


def test_calibration_of_tasks_that_are_all_alike_sees_nothing_new() -> None:
    """Equal tasks need nothing of each other; the prediction does not claim certainty and its bound holds."""
    points = calibrate("x", [[trace_of(observed("getuid"))]] * 8)
    assert {p.level for p in points} == {"strict", "standard"}
    for p in points:
        assert p.seen == p.seen_mass == p.predicted_mass == 0
        assert 0 < p.predicted < p.upper <= 1


def test_calibration_of_tasks_that_all_differ_sees_it() -> None:
    """Where every task brings a call of its own, prediction and truth are both near one."""
    names = ("ptrace", "bpf", "mount", "setns", "reboot", "swapon", "acct", "chroot")
    for p in calibrate("x", [[trace_of(observed(name), observed("getuid"))] for name in names]):
        assert p.seen == 1
        assert p.predicted > 0.8
        assert p.seen_mass == 0.5


@pytest.mark.kernel
def test_a_short_study_of_a_real_program(tmp_path: Path) -> None:
    """One pass and one replay of grep: nothing refused at strict, tables and plot written, nothing left running."""
    need_program("grep")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    found = tmp_path / "study.json"
    command = [sys.executable, str(BENCHMARKS / "inference_study.py"), "--programs", "grep", "--passes", "2"]
    command += ["--replays", "1", "--backend", "notify", "--json", str(found), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_text())
    assert result["programs"]["grep"]["replays_refused"] == 0
    assert result["programs"]["grep"]["surface"]["standard"]["refused_unused"] >= 0.95
    assert result["calibration"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| grep |" in text
    assert (tmp_path / "inference-calibration.svg").read_text().startswith("<?xml")


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    """Tables go nowhere but between the marks."""
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="marks"):
        into_page(page, "tables")
    assert page.read_text() == "no marks"


def test_what_was_not_measured_is_named() -> None:
    """A program that is not installed is listed with the reason, not dropped."""
    from study.measure import Result

    measured = Result("here", "kind", is_held_out=False, tasks=(1, 1), b_statuses=((0,), (0,)))
    shares = {"syscalls_refused": 1, "syscalls": 2, "primitives_used": 0, "refused_unused": 1.0}
    measured.surface = {"standard": dict.fromkeys(shares, 1) | shares}
    missing = Result("gone", "kind", is_held_out=True, error="gone not installed")
    text = tables([measured, missing], [], {"Linux": "6.18"})
    assert "gone was not measured: gone not installed" in text
    assert "1 of 1" in text
    assert json.loads(document([measured, missing], [], {}))["programs"]["gone"]["error"]


def test_equal_results_plot_equal_bytes(tmp_path: Path) -> None:
    """The plot changes only with the figures."""
    points = calibrate("x", [[trace_of(observed("getuid"))]] * 5)
    for name in ("a.svg", "b.svg"):
        plot(points, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
