"""The notify source against programs that say what they did, and against the ptrace source."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.trace.notify import NotifySource
from autoprofile.trace.source import Command, source_named
from autoprofile.trace.vsyscall import vsyscall_mode
from tests.conftest import need_program
from tests.kernel.tool import start_tool, tool

pytestmark = pytest.mark.kernel

# Learns args[1:] with the source args[0] and prints, as JSON, what was recorded.
_LEARN = """
source = source_named(args[0])
result = source.run(Command(tuple(args[1:])))
trace = result.trace
print(json.dumps({
    "status": result.status,
    "events": sum(o.count for o in trace.observations),
    "processes": trace.process_count,
    "lost": trace.ledger.entries,
    "libc": trace.meta.libc,
    "libraries": sorted(trace.meta.libraries),
    "calls": [[o.program.path, o.arch, o.nr, o.args, o.count, o.processes, o.first_ns, o.last_ns]
              for o in trace.observations],
}))
"""


class Learned:
    """What `_LEARN` printed."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        *self.output, last = done.stdout.splitlines()
        data = json.loads(last)
        self.calls = data.pop("calls")
        self.__dict__.update(data)

    def count(self, name: str, program: str | None = None) -> int:
        """Return how often a syscall was made (by a program whose path ends so)."""
        return sum(
            count
            for path, arch, nr, _, count, *_ in self.calls
            if syscall_name(arch, nr) == name and (program is None or path.endswith(program))
        )

    def counted(self) -> dict[tuple[object, ...], int]:
        """Return count by (program, arch, nr, args); arguments that the call does not use are left out."""
        counts: dict[tuple[object, ...], int] = collections.Counter()
        for path, arch, nr, args, count, *_ in self.calls:
            name = syscall_name(arch, nr)
            for spec in constrained_args(arch, name) if name else ():
                if spec.used_if is not None and not spec.used_if.holds([a or 0 for a in args]):
                    args[spec.index] = None
            counts[path, arch, nr, tuple(args)] += count
        return counts


def learn(*argv: str, backend: str = "notify", **options) -> Learned:
    return Learned(tool(_LEARN, backend, *argv, **options))


@pytest.mark.parametrize("backend", ["notify", "ptrace"])
@pytest.mark.parametrize("build", [(), ("-static",), ("-m32",), ("-m32", "-static")], ids="-".join)
def test_every_call_is_recorded_as_the_program_says(tracee, build, backend):
    """Arch, number, count and typed arguments of hand-made calls agree with what the program prints of itself."""
    learned = learn(tracee("say_calls", *build), backend=backend)
    assert learned.status == 0
    assert learned.lost == {"unresolved_nr": 1}  # the number that no call has
    assert learned.processes == 1
    for line in learned.output:
        arch, nr, count, *args = line.split()
        expected = [None if a == "-" else int(a) for a in args] + [None] * 3
        found = [c[4] for c in learned.calls if (c[1], c[2], c[3]) == (arch, int(nr), expected)]
        assert found == [int(count)], line
    assert len(learned.output) >= 3


@pytest.mark.parametrize(
    "command",
    [
        ("true",),
        ("sh", "-c", "ls / | sort | wc -l; env true; (exit 3)"),
        ("busybox", "sh", "-c", "busybox uname -a | busybox cat"),
        ("sh", "-c", "test -e /nonexistent || exec sh -c 'exec ls /etc/passwd'"),
    ],
    ids=["true", "pipeline", "busybox", "execs"],
)
def test_notify_and_ptrace_see_the_same(command):
    """Both unprivileged sources record the same calls with the same arguments, as often, by the same programs."""
    need_program(command[0])
    with_notify, with_ptrace = learn(*command), learn(*command, backend="ptrace")
    assert with_notify.output == with_ptrace.output
    assert with_notify.status == with_ptrace.status
    assert with_notify.processes == with_ptrace.processes
    assert with_notify.libc == with_ptrace.libc
    assert with_notify.libraries == with_ptrace.libraries
    left, right = with_notify.counted(), with_ptrace.counted()
    assert left.keys() == right.keys()
    # A SIGCHLD may or may not interrupt the shell's wait.
    timing = {"wait4", "rt_sigreturn", "restart_syscall"}
    for key, count in left.items():
        if syscall_name(key[1], key[2]) not in timing:
            assert count == right[key], key


def test_the_first_and_the_last_call_are_seen(tracee):
    """From the loader's first brk to exit_group; execve itself came before the first instruction."""
    learned = learn(tracee("syscall_loop"), "5")
    assert learned.count("getppid") == 5
    assert learned.count("exit_group") == 1
    assert learned.count("brk") >= 1
    assert learned.count("execve") == 0
    static = learn(tracee("entry_state", "-nostdlib", "-static"))
    assert [syscall_name(c[1], c[2]) for c in static.calls] == ["write", "exit"]


def test_threads_belong_to_their_process(tracee):
    """Calls of all threads are counted, in one process."""
    learned = learn(tracee("threads"))
    assert learned.count("getppid") == 35
    assert learned.processes == 1


def test_exec_by_a_thread_changes_the_program_for_all(tracee):
    """A thread that is not the leader execs: what follows belongs to the new program, what others did to the old."""
    loop = tracee("syscall_loop")
    for backend in ("notify", "ptrace"):
        learned = learn(tracee("threads"), loop, "31", backend=backend)
        assert learned.status == 0
        assert learned.processes == 1
        assert learned.count("getppid", "/threads") == 35
        assert learned.count("getppid", "/syscall_loop") == 31
        assert learned.count("getpgrp", "/threads") > 0
        assert learned.count("getpgrp", "/syscall_loop") == 0
        assert learned.count("getuid", "/threads") == 1  # made after an execve that failed
        assert learned.count("execve", "/threads") == 2
        assert learned.count("execve", "/syscall_loop") == 0
        assert learned.count("exit_group", "/threads") == 0
        assert learned.count("exit_group", "/syscall_loop") == 1


def test_vforked_children_are_told_apart(tracee):
    """What a vforked child does before its exec belongs to the parent's program, after it to its own."""
    learned = learn(tracee("vforks"), "13", tracee("syscall_loop"), "3")
    assert learned.output == ["13"]
    assert learned.processes == 14
    assert learned.count("getppid", "/syscall_loop") == 39
    assert learned.count("execve", "/vforks") == 13
    assert learned.count("wait4", "/vforks") == 13
    assert learned.count("exit_group", "/syscall_loop") == 13
    (processes,) = {c[5] for c in learned.calls if c[0].endswith("/syscall_loop") and c[2] == 110}
    assert processes == 13


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace")
def test_reused_pids_are_told_apart(tracee):
    """Where pids come round again and again, no call is counted for a program that had the id before."""
    unshare = need_program("unshare", "util-linux")
    first, second = tracee("syscall_loop"), tracee("syscall_loop", "-static")
    command = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child"]
    probe = subprocess.run(
        [*command, "sh", "-c", "echo 350 > /proc/sys/kernel/pid_max && cat /proc/1/comm"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    outer = int(Path("/proc/sys/kernel/pid_max").read_text())
    if probe.returncode or outer == 350:
        Path("/proc/sys/kernel/pid_max").write_text(str(max(outer, 32768)))
        pytest.skip("pid_max is not a pid namespace's own here (needs Linux 6.14)")
    script = f"i=0; while [ $i -lt 300 ]; do {first} 3 & {second} 5 & {first} 3; wait; i=$((i+1)); done"
    done = tool(
        _LEARN,
        "notify",
        "sh",
        "-c",
        script,
        wrapper=[*command, "sh", "-c", 'echo 350 > /proc/sys/kernel/pid_max && exec "$@"', "sh"],
    )
    learned = Learned(done)
    assert learned.processes == 901
    assert learned.count("getppid", f"{first}") == 1800
    assert learned.count("getppid", f"{second}") == 1500
    assert learned.count("exit_group", f"{first}") == 600
    assert learned.count("exit_group", f"{second}") == 300


def test_times_lie_within_the_run(tracee):
    """first_ns and last_ns count from the start of the run and are in order."""
    started = time.monotonic_ns()
    result = NotifySource().run(Command((tracee("syscall_loop"), "1000")))
    elapsed = time.monotonic_ns() - started
    assert result.trace.meta.duration_ns <= elapsed
    for seen in result.trace.observations:
        assert 0 <= seen.first_ns <= seen.last_ns <= result.trace.meta.duration_ns
    loop = next(o for o in result.trace.observations if o.count == 1000)
    assert loop.last_ns - loop.first_ns > 1_000_000  # a thousand notifications take longer than a millisecond


def test_older_kernels_are_served_by_polling(tracee):
    """The loop for kernels before 6.11, which poll before each notification, records the same."""
    path = tracee("vforks")
    traces = []
    for is_polled in (False, True):
        source = NotifySource()
        source._is_polled = is_polled
        result = source.run(Command((path, "3", "/bin/true")))
        assert result.status == 0
        traces.append({(o.program.path, o.nr, o.args): o.count for o in result.trace.observations})
    assert traces[0] == traces[1]


def test_what_a_program_leaves_behind_is_followed(tracee, tmp_path):
    """Learning goes on until the last process has ended; it keeps its own new parent."""
    witness = tmp_path / "done"
    learned = learn(tracee("daemon"), str(witness), "1")
    assert learned.status == 0
    assert witness.read_text() == "done"
    assert learned.count("getppid") == 17
    assert learned.count("setsid") == 1
    assert learned.processes == 2
    assert learned.lost == {}


def test_ctrl_c_asks_what_was_left_behind_to_end(tracee, tmp_path):
    """After the program's own end the first Ctrl-C sends SIGTERM to its daemon; the trace says interrupted."""
    witness = tmp_path / "done"
    process = start_tool(_LEARN, "notify", tracee("daemon"), str(witness), "60", start_new_session=True)
    _until(lambda: _descendants_sleep(process.pid))
    process.send_signal(signal.SIGINT)
    learned = Learned(_finish(process))
    assert learned.lost == {"interrupted": 1}
    assert witness.read_text() == "done"


def test_the_second_ctrl_c_kills_what_was_left_behind(tracee, tmp_path):
    """A daemon that ignores SIGTERM is killed by the second Ctrl-C."""
    process = start_tool(
        _LEARN,
        "notify",
        "sh",
        "-c",
        "(trap '' TERM; setsid sleep 60) >/dev/null & exit 5",
        start_new_session=True,
    )
    _until(lambda: _descendants_sleep(process.pid))
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    learned = Learned(_finish(process))
    assert learned.status == 5
    assert learned.lost == {"interrupted": 1}


def test_ctrl_c_reaches_the_program_and_ends_the_run(tracee):
    """SIGINT to the group ends the program as it likes, and the trace is kept, marked interrupted."""
    process = start_tool(_LEARN, "notify", tracee("signals"), start_new_session=True)
    assert [process.stdout.readline(), process.stdout.readline()][1] == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    learned = Learned(_finish(process))
    assert learned.status == 42
    assert learned.lost == {"interrupted": 1}
    assert learned.count("rt_sigprocmask") >= 1


def test_the_second_ctrl_c_kills():
    """A program that ignores SIGINT is killed by the second one."""
    process = start_tool(
        _LEARN, "notify", "sh", "-c", "trap '' INT; echo ready; sleep 60; sleep 60", start_new_session=True
    )
    process.stdout.readline()
    _until(lambda: _descendants_sleep(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    learned = Learned(_finish(process))
    assert learned.status == 137
    assert learned.lost == {"interrupted": 1}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_to_the_tool_reach_the_program(tracee, signum):
    """SIGTERM and others sent to the tool alone are passed on, and the program's status comes back."""
    process = start_tool(_LEARN, "notify", tracee("signals"))
    assert [process.stdout.readline(), process.stdout.readline()][1] == "ready\n"
    process.send_signal(signum)
    learned = Learned(_finish(process))
    assert learned.status == 40 + signum
    assert learned.lost == {}


def test_interrupt_is_ctrl_c_from_within():
    """interrupt() counts like SIGINT: the second call kills, and both mark the trace."""
    code = _LEARN.replace(
        "result =",
        """
def twice():
    time.sleep(1); source.interrupt(); time.sleep(0.1); source.interrupt()
threading.Thread(target=twice).start()
result =""",
    )
    learned = Learned(tool(code, "notify", "sleep", "60"))
    assert learned.status == 137
    assert learned.lost == {"interrupted": 1}


def test_a_killed_supervisor_leaves_the_program_failing_closed(tracee, tmp_path):
    """Once the tool is killed every further call fails with ENOSYS; none runs unwatched, and none hangs."""
    witness = tmp_path / "ran"
    script = 'echo $$; i=0; while [ $i -lt 300000000 ]; do i=$((i+1)); done; touch "$0"'
    process = start_tool(_LEARN, "notify", "sh", "-c", script, str(witness))
    pid = int(process.stdout.readline())
    process.kill()
    process.wait(timeout=10)
    # The shell counts without a call; speed it up to its next call, which must fail and end it.
    os.kill(pid, signal.SIGTERM)
    _until(lambda: not Path(f"/proc/{pid}").exists())
    process.communicate()
    assert not witness.exists()


def test_a_program_killed_by_a_signal_is_reported(tracee):
    """The status is 128 + N, and the trace holds what was seen until then."""
    learned = learn("sh", "-c", "kill -KILL $$")
    assert learned.status == 137
    assert learned.count("kill") == 1


def test_processes_killed_in_the_middle_do_no_harm(tracee):
    """Callers that die between notification and answer neither end nor hang the learning."""
    learned = learn(tracee("leaver"), "30")
    assert learned.status == 0
    assert learned.processes == 31
    assert learned.count("exit_group", "/leaver") >= 10


def test_an_unprivileged_user_can_learn(tracee):
    """The notify source works without any privilege."""
    done = tool("drop_to_nobody()\n" + _LEARN, "notify", "sh", "-c", "id -u; exit 3")
    learned = Learned(done)
    assert learned.status == 3
    assert learned.output == ["65534" if os.geteuid() == 0 else str(os.geteuid())]
    assert learned.count("geteuid", "/id") >= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a setuid program")
def test_setuid_programs_are_noted_as_seen_without_their_rights(tracee, tmp_path):
    """A trace in which a setuid program could not gain its rights says so, and is not complete."""
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    program = tmp_path / "setuid"
    shutil.copy(tracee("seccomp_state"), program)
    program.chmod(0o4755)
    learned = Learned(tool("drop_to_nobody()\n" + _LEARN, "notify", "sh", "-c", f"{program}; {program}"))
    assert learned.output.count("Euid:\t65534") == 2
    assert learned.lost == {"setuid_ignored": 1}
    assert learn(str(program)).lost == {}  # root has nothing to gain


def test_progress_is_reported_while_the_program_runs(tracee):
    """on_progress sees growing numbers, and time goes on while the program sleeps."""
    seen = []
    source = source_named("notify")
    source.run(Command(("sh", "-c", "sleep 1; ls / >/dev/null; sleep 1")), on_progress=seen.append)
    assert len(seen) >= 4
    assert [p.elapsed_s for p in seen] == sorted(p.elapsed_s for p in seen)
    assert seen[-1].events >= seen[0].events
    assert seen[-1].syscalls > 5


def test_many_processes_at_once_need_no_more_files_than_allowed(tracee):
    """More live processes than the soft limit of open files are followed; the program keeps that limit."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))\n" + _LEARN
    script = (
        "ulimit -n; for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do sleep 2 & done; done; wait"
    )
    learned = Learned(tool(code, "notify", "sh", "-c", script))
    assert learned.output == ["64"]
    assert learned.processes == 82


def _finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"the tool hung\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def _descendants_sleep(session: int) -> bool:
    # The processes under the tool's filter sleep in a syscall they were let continue.
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == session:
            continue
        try:
            environment = (entry / "environ").read_bytes()
            if "nanosleep" in (entry / "wchan").read_text() and b"PYTHONPATH" in environment:
                return True
        except OSError:
            continue
    return False


def test_calls_through_the_vsyscall_page_are_seen_or_said_to_be_missed(tracee):
    """Calls of the vsyscall page go by seccomp, so notify counts them; ptrace says that it sees none."""
    if vsyscall_mode() == "none":
        pytest.skip("this kernel has no vsyscall page: nobody can call it")
    program = tracee("vsyscalls")
    by_notify, by_ptrace = learn(program, "23"), learn(program, "23", backend="ptrace")
    assert by_notify.output == by_ptrace.output == ["23"]
    assert (by_notify.count("time"), by_notify.lost) == (23, {})
    assert (by_ptrace.count("time"), by_ptrace.lost) == (0, {"vsyscall": 1})


def test_a_signal_may_interrupt_a_call_that_waits_for_its_answer(tracee):
    """Under notify a handler without SA_RESTART makes any call fail with EINTR; what got through is counted."""
    program, made = tracee("interrupted"), 3001
    natively = subprocess.run([program, str(made)], capture_output=True, text=True, timeout=60, check=True)
    by_ptrace = learn(program, str(made), backend="ptrace")
    assert (natively.stdout, by_ptrace.output, by_ptrace.count("getppid")) == ("0\n", ["0"], made)
    by_notify = learn(program, str(made))
    interrupted = int(by_notify.output[0])
    assert made - interrupted <= by_notify.count("getppid") <= made
