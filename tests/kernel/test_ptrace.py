"""The ptrace source against real programs: what it records, and that programs do not notice."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.observations import Trace
from autoprofile.trace.ptrace import PtraceSource
from autoprofile.trace.source import Command, Progress, RunResult, source_named
from tests.conftest import need_program
from tests.kernel.tool import start_tool, tool

pytestmark = pytest.mark.kernel

_RUN = """
source = source_named("ptrace")
if "UNPRIVILEGED" in os.environ:
    drop_to_nobody()  # only now: what Python still has to import may lie in a folder of root's
result = source.run(Command(tuple(args)))
trace = result.trace
print(json.dumps({"status": result.status, "ledger": trace.ledger.to_dict(), "events": trace.events,
                  "processes": trace.process_count, "complete": trace.is_complete}), file=sys.stderr)
sys.exit(result.status)
"""


def run(*argv: str) -> RunResult:
    return PtraceSource().run(Command(argv))


def counts(trace: Trace, program: str | None = None) -> Counter[str]:
    """Return calls by name, of one program or of all."""
    found: Counter[str] = Counter()
    for o in trace.observations:
        if program is None or o.program.path == program:
            found[display_name(o.arch, o.nr)] += o.count
    return found


def test_it_is_found_by_name():
    """The source named ptrace is this one."""
    assert isinstance(source_named("ptrace"), PtraceSource)


@pytest.mark.parametrize("flags", [(), ("-m32",)])
def test_the_program_is_seen_from_its_first_instruction_to_its_last(tracee, flags):
    """A program without libraries shows exactly its own calls: no execve before, nothing missing after."""
    path = tracee("bare", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", *flags)
    result = run(path)
    assert result.status == 6
    assert counts(result.trace) == {"getppid": 5, "exit": 1}
    assert {o.arch for o in result.trace.observations} == {"i386" if flags else "x86_64"}
    assert result.trace.is_complete


@pytest.mark.parametrize("flags", [(), ("-static",), ("-m32",)])
def test_arguments_arches_and_counts_are_those_the_program_made(tracee, flags):
    """Every call a program says it made is recorded under its arch, number, arguments and prime count."""
    path = tracee("say_calls", *flags)
    said = subprocess.run([path], capture_output=True, text=True, check=True, timeout=30).stdout
    trace = run(path).trace
    recorded = Counter()
    for o in trace.observations:
        recorded[o.arch, o.nr, *("-" if a is None else str(a) for a in o.args[:3])] += o.count
    for line in said.splitlines():
        arch, nr, count, *args = line.split()
        assert recorded[arch, int(nr), *args] == int(count), line


def test_returns_are_those_the_program_got(tracee, capfd):
    """Failures, successes, restarted and interrupted calls are told apart, and none is changed by tracing."""
    trace = run(tracee("returns")).trace
    assert capfd.readouterr().out == "done\n"
    by_name = {}
    for o in trace.observations:
        by_name.setdefault(display_name(o.arch, o.nr), []).append(o)
    (close,) = by_name["close"]
    assert (close.failed, close.last_return) == (11, "EBADF")
    (getsid,) = by_name["getsid"]
    assert (getsid.count, getsid.ok, getsid.failed, getsid.last_return) == (7, 7, 0, "ok")
    (pause,) = by_name["pause"]
    assert (pause.count, pause.ok, pause.failed, pause.last_return) == (1, 0, 0, "ERESTARTNOHAND")
    (nanosleep,) = by_name["nanosleep"]
    assert (nanosleep.count, nanosleep.ok, nanosleep.failed) == (2, 0, 0)
    (restart,) = by_name["restart_syscall"]
    # Under ptrace(2) also an ignored signal (SIGCHLD here) interrupts a sleep, which then is restarted again.
    assert restart.count in (1, 2)
    assert (restart.ok, restart.failed) == (1, 0)
    exit_group = by_name["exit_group"][0]
    assert (exit_group.ok, exit_group.failed, exit_group.last_return) == (0, 0, None)


def test_job_control_and_traps_look_the_same_from_inside(tracee):
    """Stops, continuations and a program's own SIGTRAPs happen under the tracer as without it."""
    path = tracee("stops")
    plain = subprocess.run([path], capture_output=True, text=True, check=False, timeout=30)
    done = tool(_RUN, path)
    assert done.stdout == plain.stdout
    assert "traps 2" in done.stdout
    assert "killed 5" in done.stdout
    assert '"complete": true' in done.stderr


def test_threads_and_an_exec_by_one_of_them(tracee):
    """Calls of all threads count for their process, and an exec by any thread moves it to the new program."""
    path, true = tracee("threads"), os.path.realpath(need_program("true"))
    result = run(path, true)
    assert result.status == 0
    mine = counts(result.trace, path)
    assert (mine["getppid"], mine["execve"]) == (35, 2)
    execs = [o for o in result.trace.observations if display_name(o.arch, o.nr) == "execve"]
    assert [(o.ok, o.failed) for o in execs] == [(1, 1)]
    assert counts(result.trace, true)["exit_group"] == 1
    assert result.trace.process_count == 1
    assert result.trace.is_complete


def test_vfork_and_exec_are_followed(tracee):
    """Each of seven vforked children shows under its own program, one process each."""
    path, true = tracee("vforks"), os.path.realpath(need_program("true"))
    result = run(path, "7", true)
    assert result.status == 0
    assert counts(result.trace, path)["execve"] == 7
    ends = [o for o in result.trace.observations if display_name(o.arch, o.nr) == "exit_group"]
    assert {(o.program.path, o.count, o.processes) for o in ends} == {(path, 1, 1), (true, 7, 7)}
    assert result.trace.process_count == 8


def test_a_crowd_of_short_processes_is_counted():
    """Hundreds of processes that come and go are each seen once."""
    sh = need_program("sh")
    result = run(sh, "-c", "i=0; while [ $i -lt 211 ]; do (:); i=$((i+1)); done")
    assert result.trace.process_count == 212
    assert counts(result.trace)["exit_group"] == 212
    assert result.trace.is_complete


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)],
)
def test_the_status_is_the_shells(script, status):
    """Exit codes come through, signals as 128 + N; a killed program is still a complete trace."""
    result = run("sh", "-c", script)
    assert result.status == status
    assert result.trace.meta.exit_status == status
    assert result.trace.is_complete


def test_the_trace_says_where_it_comes_from(tracee):
    """Command, kernel, libc, libraries, build-ids and times are in the trace."""
    path = tracee("syscall_loop")
    before_s = time.time()
    trace = run(path, "23").trace
    assert trace.meta.backend == "ptrace"
    assert trace.meta.argv == (path, "23")
    assert trace.meta.kernel == os.uname().release
    assert trace.meta.libc is not None
    assert trace.meta.start_time_s is not None
    assert before_s <= trace.meta.start_time_s <= time.time()
    assert any("libc" in name for name in trace.meta.libraries)
    assert all(o.program.path == path and o.program.build_id for o in trace.observations)
    assert all(0 <= o.first_ns <= o.last_ns <= trace.meta.duration_ns for o in trace.observations)


def test_a_process_left_behind_is_followed_to_its_end(tracee, tmp_path):
    """A daemon's calls are seen although the program that left it has ended long before."""
    path, file = tracee("daemon"), tmp_path / "said"
    result = run(path, str(file), "1")
    assert result.status == 0
    assert file.read_text() == "done"
    assert counts(result.trace)["getppid"] == 17
    assert result.trace.process_count == 2


@pytest.mark.parametrize("how", ["clone", "clone3"])
def test_an_untraceable_child_is_a_loss(tracee, how):
    """A child started with CLONE_UNTRACED is not seen, and the trace says so."""
    result = run(tracee("untraced"), how)
    assert result.status == 0
    assert result.trace.ledger.entries == {"missed_fork": 1}
    assert not result.trace.is_complete


def test_progress_is_reported_while_the_program_runs():
    """Progress comes a few times a second, and time goes on while the program sleeps."""
    seen: list[Progress] = []
    PtraceSource().run(Command(("sleep", "1")), on_progress=seen.append)
    assert len(seen) >= 2
    assert seen[-1].elapsed_s > seen[0].elapsed_s
    assert seen[-1].syscalls > 5
    assert seen[-1].processes == 1


def test_other_children_of_the_caller_do_not_delay_the_end():
    """The run ends with the command although another child of the same thread lives on."""
    sleeper = subprocess.Popen(["sleep", "30"])
    try:
        started = time.monotonic()
        assert run("true").status == 0
        assert time.monotonic() - started < 15
    finally:
        sleeper.kill()
        sleeper.wait()


def _wait_for(condition, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_the_first_interrupt_lets_the_program_end_by_itself(tracee):
    """Ctrl-C is the program's: it ends in its own way, and what it did so far is kept, marked interrupted."""
    process = start_tool(_RUN, tracee("signals"), start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 40 + signal.SIGINT
    assert '"interrupted": 1' in err
    assert '"complete": false' in err


def test_the_second_interrupt_kills():
    """A program that ignores Ctrl-C is killed by the second one, children included."""
    script = "trap '' INT; echo ready; while :; do sleep 0.1; done"
    process = start_tool(_RUN, "sh", "-c", script, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 137
    assert '"interrupted": 1' in err


def test_interrupt_ends_what_the_program_left_behind(tracee, tmp_path):
    """After the program's own end Ctrl-C asks its daemon to end, whose last calls are still seen."""
    file = tmp_path / "said"
    process = start_tool(_RUN, tracee("daemon"), str(file), "60", start_new_session=True)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert file.read_text() == "done"


def test_termination_is_passed_on(tracee):
    """SIGTERM sent to the tool ends the program, whose status comes back."""
    process = start_tool(_RUN, tracee("signals"))
    assert process.stdout is not None
    assert process.stdout.readline()
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 40 + signal.SIGTERM


def _ended(pid: str) -> bool:
    """Whether a process is gone, or a zombie that only waits for an init that is slow to reap or never does."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def test_nobody_survives_a_killed_tool(tmp_path):
    """Kill -9 of the tool takes the program and its children with it."""
    pids = tmp_path / "pids"
    script = f"sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    process = start_tool(_RUN, "sh", "-c", script)
    assert _wait_for(pids.exists)
    process.kill()
    process.wait(timeout=10)
    for pid in pids.read_text().split():
        assert _wait_for(lambda pid=pid: _ended(pid)), f"{pid} survived"


@pytest.fixture
def raised():
    """Return a function that copies ``id`` with a mode and an owner, where everybody can run it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a set-uid program of another user")
    place = Path("/tmp") / f"autoprofile-setuid-{os.getpid()}"
    place.mkdir(mode=0o755)
    if os.statvfs(place).f_flag & os.ST_NOSUID:
        pytest.skip("/tmp is mounted nosuid")

    def copy(mode: int, owner: int = 0, group: int = 0) -> str:
        program = place / "id"
        shutil.copy(need_program("id"), program)
        os.chown(program, owner, group)
        program.chmod(mode)
        return str(program)

    yield copy
    shutil.rmtree(place)


def test_a_set_uid_program_without_its_rights_is_noted(monkeypatch, raised):
    """Under an unprivileged tracer the kernel ignores the set-uid bit: the trace is not called complete."""
    monkeypatch.setenv("UNPRIVILEGED", "1")
    done = tool(_RUN, raised(0o4755), "-u")
    assert done.stdout == "65534\n", done.stderr
    assert '"setuid_ignored": 1' in done.stderr


@pytest.mark.parametrize(("mode", "option"), [(0o4755, "-u"), (0o2755, "-g")])
def test_root_without_the_capability_to_trace_is_no_exception(raised, mode, option):
    """Not the user id but CAP_SYS_PTRACE lets set-uid and set-gid programs have their rights under a tracer."""
    setpriv = need_program("setpriv", package="util-linux")
    program = raised(mode, owner=65534, group=65534)
    lesser = (setpriv, "--bounding-set=-all", "--inh-caps=-all")
    done = tool(_RUN, program, option, wrapper=lesser)
    assert done.stdout == "0\n", done.stderr
    assert '"setuid_ignored": 1' in done.stderr
    done = tool(_RUN, program, option)
    assert done.stdout == "65534\n", done.stderr
    assert '"complete": true' in done.stderr


def test_file_capabilities_without_effect_are_noted(monkeypatch, raised):
    """A program whose capabilities the kernel withholds is noted; one that has them is not."""
    program = raised(0o755)
    magic, cap_net_raw = 0x02000001, 1 << 13  # VFS_CAP_REVISION_2 with the effective bit
    try:
        os.setxattr(program, "security.capability", struct.pack("<5I", magic, cap_net_raw, 0, 0, 0))
    except OSError as error:
        pytest.skip(f"no file capabilities here: {error.strerror}")
    done = tool(_RUN, program, "-u")
    assert '"complete": true' in done.stderr
    monkeypatch.setenv("UNPRIVILEGED", "1")
    done = tool(_RUN, program, "-u")
    assert done.stdout == "65534\n", done.stderr
    assert '"setuid_ignored": 1' in done.stderr


def test_it_works_unprivileged(monkeypatch):
    """Tracing needs no root: nobody can trace a pipeline of his own."""
    monkeypatch.setenv("UNPRIVILEGED", "1")
    done = tool(_RUN, "sh", "-c", "echo one | cat")
    assert done.stdout == "one\n", done.stderr
    assert '"complete": true' in done.stderr
