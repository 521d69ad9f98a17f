"""When learning goes on: windows of a watch count distinct calls, whoever made them."""

from __future__ import annotations

import re

from autoprofile.cli.learning import How
from autoprofile.cli.stability import Windows
from autoprofile.observations import Observation, ProgramId
from autoprofile.profile import Action
from tests.unit.learn.traces import observed, trace_of


class _Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def _by_three(syscall: str) -> list[Observation]:
    return [observed(syscall, program=ProgramId(f"/bin/{n}")) for n in range(3)]


def test_a_call_that_three_programs_made_is_one_new_call() -> None:
    """No more calls are new than there are."""
    output = _Notes()
    windows = Windows(output, How(), 0.05, 1.0)  # type: ignore[arg-type]
    assert windows.wants_more(trace_of(*_by_three("getpid")))
    assert windows.wants_more(trace_of(*_by_three("getpid"), *_by_three("getuid"), observed("read")))
    counts = [tuple(map(int, re.findall(r"\d+", text.partition(":")[2]))) for text in output.said]
    assert counts == [(1, 1), (3, 2, 2)]


def test_a_default_of_log_makes_no_window_quiet() -> None:
    """What the profile so far would only log is a surprise as well."""
    output = _Notes()
    windows = Windows(output, How(action=Action.LOG), 0.3, 1.0)  # type: ignore[arg-type]
    assert windows.wants_more(trace_of(observed("getpid")))
    assert windows.wants_more(trace_of(observed("getpid"), observed("getuid")))
    assert len(output.said) == 2
