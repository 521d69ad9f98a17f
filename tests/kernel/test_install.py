"""enforce(): the program under its filter, its status, its signals, and its supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.tool import WITHOUT_PRIVILEGES
from tests.kernel.tool import ALLOW, KILL, NOTIFY, allow_all, answer_for, errno, start_tool, tool

pytestmark = pytest.mark.kernel

GETPPID = 110
TRAP = 0x00030000
X86_64, I386 = 0xC000003E, 0x40000003

_ENFORCE = """
try:
    status = enforce(Command(tuple(args[1:])), bytes.fromhex(args[0]))
except AutoprofileError as error:
    print(error, error.hint, sep="; ", file=sys.stderr)
    status = error.exit_status
sys.exit(status)
"""

# A supervisor that denies everything it is asked and prints what it was asked.
_SUPERVISED = """
import select
class Denies:
    def serve(self, listener, child):
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(child.pidfd, select.POLLIN)
        while True:
            events = dict(poller.poll())
            if child.pidfd in events:
                child.poll(); poller.unregister(child.pidfd)
            if events.get(listener, 0) & select.POLLIN:
                try:
                    call = seccomp.receive(listener)
                except seccomp.PendingNotification:
                    continue
                print("asked", call.nr, flush=True)
                act(listener, child, call)
            elif events.get(listener, 0) & select.POLLHUP:
                return
    def interrupt(self):
        pass
def act(listener, child, call):
    seccomp.respond(listener, call.id, error=95)
"""


def enforced(program: bytes, *argv: str, **options) -> subprocess.CompletedProcess[str]:
    return tool(_ENFORCE, program.hex(), *argv, **options)


def supervised(program: bytes, *argv: str, more: str = "") -> subprocess.CompletedProcess[str]:
    code = _SUPERVISED + more + _ENFORCE.replace("(args[0]))", "(args[0]), supervisor=Denies())")
    return tool(code, program.hex(), *argv)


@pytest.mark.parametrize(
    ("program", "command", "status"),
    [
        (allow_all, ("true",), 0),
        (allow_all, ("sh", "-c", "exit 42"), 42),
        (allow_all, ("sh", "-c", "kill -TERM $$"), 143),
        (answer_for(KILL, GETPPID), ("sh", "-c", "true"), 159),
        (answer_for(errno(1), 999), ("sh", "-c", "exit 1"), 1),
        (allow_all, ("/nonexistent/program",), 127),
        (allow_all, ("/etc/passwd",), 126),
        (b"\xff" * 8, ("true",), 125),
    ],
)
def test_statuses_are_passed_through(program, command, status):
    """The program's own status, 159 when the filter killed it, and env(1)'s numbers when it never ran."""
    done = enforced(program, *command)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""


def test_stdio_is_the_programs():
    """What goes in and comes out is the program's alone."""
    process = start_tool(_ENFORCE, allow_all.hex(), "sh", "-c", "cat; echo oops >&2")
    assert process.communicate("in and out\n", timeout=30) == ("in and out\n", "oops\n")


def test_denied_calls_fail_with_the_errno_asked_for(tracee):
    """ERRNO reaches the program, allowed calls are untouched."""
    done = enforced(answer_for(errno(95), GETPPID), tracee("refused"), "0", "2", "3")
    assert done.stdout.split("\n")[:3] == ["netlink 0 0", "unix 0 0", "parent 3 95"], done.stderr


def test_a_killed_tool_leaves_the_program_filtered(tracee, tmp_path):
    """Without a supervisor the program needs the tool no more: it goes on under its filter."""
    witness = tmp_path / "filtered"
    script = 'echo ready; read x; grep Seccomp: /proc/self/status > "$0"'
    process = start_tool(_ENFORCE, allow_all.hex(), "sh", "-c", script, str(witness))
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait(timeout=10)
    process.stdin.write("go\n")
    process.stdin.close()
    deadline = time.monotonic() + 10
    while not (witness.exists() and witness.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert witness.read_text() == "Seccomp:\t2\n"
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_to_the_tool_reach_the_program(tracee, signum):
    """What is sent to the tool alone ends the program as the program likes."""
    process = start_tool(_ENFORCE, allow_all.hex(), tracee("signals"))
    assert [process.stdout.readline(), process.stdout.readline()][1] == "ready\n"
    process.send_signal(signum)
    assert process.wait(timeout=30) == 40 + signum
    process.communicate()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_terminal_signals_are_for_the_program_to_answer(tracee, signum):
    """Ctrl-C reaches the program once; the tool waits for it, as often as it comes."""
    process = start_tool(_ENFORCE, allow_all.hex(), tracee("signals"), start_new_session=True)
    assert [process.stdout.readline(), process.stdout.readline()][1] == "ready\n"
    for _ in range(3):
        process.send_signal(signum)  # to the tool alone: the program has not heard, and goes on
    time.sleep(0.2)
    assert process.poll() is None
    os.killpg(process.pid, signum)
    assert process.wait(timeout=30) == 40 + signum
    process.communicate()


def test_a_supervisor_answers_for_the_kernel(tracee):
    """Calls that the filter hands over are decided by the supervisor, in every process, to the last one."""
    done = supervised(answer_for(NOTIFY, GETPPID), tracee("refused"), "0", "0", "3")
    assert done.stdout.splitlines() == ["asked 110"] * 3 + ["netlink 0 0", "unix 0 0", "parent 3 95"], (
        done.stderr
    )
    assert done.returncode == 0
    done = supervised(answer_for(NOTIFY, GETPPID), tracee("crowd"), "children", "5", "2")
    assert done.stdout.splitlines() == ["asked 110"] * 10 + ["failed 0"], done.stderr  # of EPERM


@pytest.mark.parametrize("answer", [TRAP, KILL, errno(38)], ids=["trap", "kill", "ENOSYS"])
@pytest.mark.parametrize(
    ("flags", "arch", "parent", "close"),
    [((), X86_64, GETPPID, 3), (("-m32",), I386, 64, 6)],
    ids=["64", "32"],
)
def test_a_filter_need_not_allow_close(tracee, answer, flags, arch, parent, close):
    """Where filters refuse close the program is supervised all the same, keeps no listener, and nobody is left beside."""
    asks, refuses = answer_for(NOTIFY, parent, arch=arch), answer_for(answer, close, arch=arch)
    more = """
def act(listener, child, call):
    print(os.listdir(f"/proc/{call.tid}/fd"), len(open("/proc/thread-self/children").read().split()))
    seccomp.respond(listener, call.id, error=95)
"""
    code = (
        _SUPERVISED + more + _ENFORCE.replace("(args[0]))", "(args[0]), before=filters, supervisor=Denies())")
    )
    code = "filters = [bytes.fromhex(args.pop(1))]\n" + code
    program = tracee("bare", "-nostdlib", "-static", "-ffreestanding", *flags)
    done = tool(code, asks.hex(), refuses.hex(), program, wrapper=tuple(WITHOUT_PRIVILEGES))
    assert done.stdout.splitlines() == [f"asked {parent}", "['0', '1', '2'] 1"] * 5, done.stderr
    assert done.returncode == 6, done.stderr


def test_a_supervisor_may_kill(tracee):
    """child.kill() ends the program with 137."""
    done = supervised(
        answer_for(NOTIFY, GETPPID),
        tracee("syscall_loop"),
        "3",
        more="def act(listener, child, call): child.kill()\n",
    )
    assert done.stdout.splitlines() == ["asked 110"]
    assert done.returncode == 137


def test_a_failing_supervisor_ends_the_program(tracee):
    """An error in the supervisor leaves no program behind that nobody answers."""
    done = supervised(
        answer_for(NOTIFY, GETPPID),
        tracee("syscall_loop"),
        "3",
        more="def act(listener, child, call):\n    print(child.pid)\n    raise AutoprofileError('disk full')\n",
    )
    assert done.returncode == 1
    assert "disk full" in done.stderr
    assert not Path(f"/proc/{done.stdout.split()[-1]}").exists()


def test_a_killed_supervisor_leaves_the_program_failing_closed(tracee, tmp_path):
    """With its supervisor killed, calls that need an answer fail with ENOSYS, at once and for ever."""
    result = tmp_path / "result"
    code = _SUPERVISED + _ENFORCE.replace("(args[0]))", "(args[0]), supervisor=Denies())")
    process = start_tool(
        code.replace("    seccomp.respond(listener, call.id, error=95)", "    time.sleep(60)"),
        answer_for(NOTIFY, GETPPID).hex(),
        tracee("outlive"),
        str(result),
    )
    assert process.stdout.readline() == "asked 110\n"
    process.kill()
    process.wait(timeout=10)
    deadline = time.monotonic() + 10
    while not result.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert result.read_text().startswith("ENOSYS after 0 other failures, 0 successes")
    process.communicate()


def test_programs_need_no_bytes_of_their_own():
    """Anything that bytes() understands is a filter program."""

    class Program:
        def __bytes__(self) -> bytes:
            return allow_all

    code = _ENFORCE.replace(
        "bytes.fromhex(args[0])", "type('P', (), {'__bytes__': lambda s: bytes.fromhex(args[0])})()"
    )
    assert tool(code, bytes(Program()).hex(), "sh", "-c", "exit 6").returncode == 6


def test_enforcement_starts_quickly():
    """Launch and installation themselves take a few milliseconds."""
    code = """
took = []
for _ in range(7):
    before = time.perf_counter()
    with run_filtered(Command(("true",)), bytes.fromhex(args[0])) as running:
        took.append(time.perf_counter() - before)
        running.child.wait()
print(sorted(took)[3])
"""
    done = tool(code, answer_for(ALLOW, 1).hex())
    assert float(done.stdout) < 0.05, done.stderr
