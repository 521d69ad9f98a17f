"""What is said while a program runs counts all it did so far, also while it waits."""

from __future__ import annotations

import os

import pytest

from autoprofile.trace.source import Command, Progress, source_named

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", ["notify", "ptrace"])
def test_progress_is_not_stale_while_the_program_waits(tmp_path, backend):
    """A program that made its calls at once and then blocks: the next report has them all."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reports: list[Progress] = []

    def show(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) > 2 and reports[-1].events == reports[-2].events == reports[-3].events:
            try:
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))  # ENXIO until cat waits there
            except OSError:
                reports.clear()

    result = source_named(backend).run(Command(("cat", str(fifo))), on_progress=show)
    total = sum(seen.count for seen in result.trace.observations)
    # After the wait cat reads, closes and exits.
    assert reports[-1].events >= total - 15
    assert reports[-1].syscalls > 5
