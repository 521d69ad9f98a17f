"""The tool and its command under eBPF: Ctrl-C, passed-on signals, statuses, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprofile.errors import LaunchError
from autoprofile.observations import Trace
from autoprofile.trace.ebpf import EbpfSource
from autoprofile.trace.source import Command, Progress
from tests.conftest import TESTS
from tests.kernel.tool import start_tool, tool

pytestmark = pytest.mark.ebpf

_RUN = """
source = source_named("ebpf")
result = source.run(Command(tuple(args)))
trace = result.trace
print(json.dumps({"status": result.status, "ledger": trace.ledger.to_dict(), "events": trace.events,
                  "processes": trace.process_count, "complete": trace.is_complete}), file=sys.stderr)
sys.exit(result.status)
"""


def _ready(process) -> None:
    assert process.stdout is not None
    assert process.stdout.readline()
    assert process.stdout.readline() == "ready\n"


def test_the_first_interrupt_lets_the_program_end_by_itself(tracee):
    """Ctrl-C is the program's: what it did so far is kept, marked interrupted."""
    process = start_tool(_RUN, tracee("signals"), start_new_session=True)
    _ready(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 40 + signal.SIGINT
    assert '"interrupted": 1' in err
    assert '"complete": false' in err


def test_the_second_interrupt_kills():
    """A program that ignores Ctrl-C is killed by the second one, children included."""
    script = "trap '' INT; echo one; echo ready; while :; do sleep 0.1; done"
    process = start_tool(_RUN, "sh", "-c", script, start_new_session=True)
    _ready(process)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 137
    assert '"interrupted": 1' in err


def test_termination_is_passed_on(tracee):
    """SIGTERM sent to the tool ends the program, whose status comes back."""
    process = start_tool(_RUN, tracee("signals"))
    _ready(process)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 40 + signal.SIGTERM


def _has_left_a_daemon(tool: int, word: str) -> bool:
    """Tell whether the only program with this argument sleeps in a session of its own."""
    running = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if word.encode() in words and int(folder.name) != tool:
                in_sleep = (folder / "syscall").read_text().split()[0] == "230"  # clock_nanosleep
                running.append(in_sleep and os.getsid(int(folder.name)) == int(folder.name))
    return running == [True]


def test_interrupt_ends_what_the_program_left_behind(tracee, tmp_path):
    """After the program's own end Ctrl-C asks its daemon to end, whose last calls are still seen."""
    file = tmp_path / "said"
    process = start_tool(_RUN, tracee("daemon"), str(file), "600", start_new_session=True)
    deadline = time.monotonic() + 60
    while not _has_left_a_daemon(process.pid, str(file)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert file.read_text() == "done"


def test_nothing_is_begun_after_an_interrupt_during_start_up(tmp_path):
    """Ctrl-C while the probes load: the command is not started."""
    source = EbpfSource()
    source.is_stopped = lambda: True
    with pytest.raises(KeyboardInterrupt):
        source.run(Command(("touch", str(tmp_path / "ran"))))
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_cannot_be_run():
    """A command that is not there, or no program, is status 127 or 126, as in a shell."""
    for name, status in (("/nonexistent/program", 127), ("/etc/passwd", 126)):
        with pytest.raises(LaunchError) as caught:
            EbpfSource().run(Command((name,)))
        assert caught.value.exit_status == status


def test_stdio_and_status_are_the_programs_own():
    """What the program writes goes through, and its exit status comes back."""
    done = tool(_RUN, "sh", "-c", "echo said; exit 5")
    assert done.stdout == "said\n"
    assert done.returncode == 5
    assert '"complete": true' in done.stderr


def test_progress_is_reported_while_the_program_runs():
    """Progress comes a few times a second, with what was counted so far."""
    seen: list[Progress] = []
    EbpfSource().run(Command(("sh", "-c", "sleep 1; true")), on_progress=seen.append)
    assert len(seen) >= 2
    assert seen[-1].elapsed_s > seen[0].elapsed_s
    assert seen[-1].syscalls > 5
    assert seen[-1].processes >= 1


def test_two_runs_at_once_do_not_mix(tracee):
    """Each run has its own probes: two at the same time count their own program alone."""
    processes = [start_tool(_RUN, tracee("census"), f"forks={n}") for n in (101, 211)]
    processes_seen = []
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        processes_seen.append(int(err.split('"processes": ')[1].split(",")[0]))
    assert processes_seen == [102, 212]


def test_a_killed_tool_loses_seconds_not_the_trace(tmp_path):
    """While a command runs its trace is kept up to date: after kill -9 what was seen until then is there."""
    file = tmp_path / "t.parquet"
    words = [
        "learn",
        "-o",
        tmp_path / "p.yaml",
        "--trace",
        file,
        "--",
        "sh",
        "-c",
        "while :; do sleep 0.2; done",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "autoprofile", *words],
        cwd=TESTS.parent,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.kill()
        process.wait(timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    trace = Trace.load(file)
    assert trace.process_count >= 5
    assert not trace.is_complete
