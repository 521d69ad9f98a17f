"""Launching: what the program starts with, what cannot be started, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autoprofile.errors import LaunchError, UsageError
from autoprofile.kernel import ptrace
from autoprofile.trace.launch import kill_tracee, launch
from autoprofile.trace.source import Command
from autoprofile.trace.status import shell_status
from tests.conftest import need_program
from tests.kernel.tool import start_tool, tool

pytestmark = pytest.mark.kernel

_RUN = """
stopped = launch(Command(tuple(args)))
ptrace.ptrace_detach(stopped.pid)
sys.exit(ended(stopped.pid))
"""


def run(*argv: str, **options) -> int:
    """Launch in this process, let go, and return the shell status."""
    stopped = launch(Command(argv, **options))
    ptrace.ptrace_detach(stopped.pid)
    return shell_status(os.waitpid(stopped.pid, 0)[1])


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_status_is_the_shells(script, status):
    """Exit codes come through, signals as 128 + N."""
    assert run("sh", "-c", script) == status


def test_the_image_is_described(tracee):
    """Path and arch of the new image are known at its exec, for 64 and 32 bits, dynamic and static."""
    for name, flags, arch in (
        ("syscall_loop", (), "x86_64"),
        ("syscall_loop", ("-static",), "x86_64"),
        ("syscall_loop", ("-m32",), "i386"),
        ("syscall_loop", ("-m32", "-static"), "i386"),
    ):
        path = tracee(name, *flags)
        stopped = launch(Command((path,)))
        kill_tracee(stopped.pid)
        assert (stopped.exe_path, stopped.arch) == (os.path.realpath(path), arch)


def test_the_program_stays_in_our_process_group():
    """The terminal's signals reach tool and program alike."""
    stopped = launch(Command(("true",)))
    try:
        assert os.getpgid(stopped.pid) == os.getpgrp()
        assert os.getsid(stopped.pid) == os.getsid(0)
    finally:
        kill_tracee(stopped.pid)


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (None, 127, "not found"),
        ("text without permission", 126, "permission denied"),
        ("directory", 126, "permission denied"),
        ("#!/nonexistent/interpreter\n", 127, "interpreter"),
        ("#!/bin/true --", 0, ""),
        ("exit 5\n", 5, ""),
        ("\x7fELF garbage", 126, "not a program"),
    ],
)
def test_what_cannot_be_started_says_so(make, status, words, tmp_path):
    """Missing: 127; unusable: 126; a script without #! runs under sh, as execvp(3) has it."""
    file = tmp_path / "program"
    if make == "directory":
        file.mkdir()
    elif make is not None:
        file.write_text(make)
        file.chmod(0o644 if "without permission" in make else 0o755)
    if not words:
        assert run(str(file)) == status
        return
    if make is not None and make.startswith("\x7fELF"):
        # sh gets what is no program, and decides.
        assert run(str(file)) in (2, 126, 127)
        return
    with pytest.raises(LaunchError) as caught:
        run(str(file))
    assert caught.value.exit_status == status
    assert words in str(caught.value)


def test_nothing_is_left_of_a_failed_launch(tmp_path):
    """After a failure there is no child and no open file more than before."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError):
        run("/nonexistent/program")
    with pytest.raises(LaunchError):
        run("true", cwd=str(tmp_path / "nowhere"))
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_command_is_a_usage_error():
    """An empty command, or one with a NUL byte, is refused before anything is started."""
    for argv in ((), ("",), ("true", "a\0b")):
        with pytest.raises(UsageError):
            launch(Command(argv))


def test_path_is_that_of_the_command(tmp_path):
    """The program is searched where the command's own environment says, past what may not be executed."""
    hidden = tmp_path / "one"
    shown = tmp_path / "two"
    for folder, mode in ((hidden, 0o644), (shown, 0o755)):
        folder.mkdir()
        (folder / "greet").write_text("#!/bin/sh\nexit 6\n")
        (folder / "greet").chmod(mode)
    assert run("greet", env={"PATH": f"{tmp_path}/none:{hidden}:{shown}"}) == 6
    with pytest.raises(LaunchError) as caught:
        run("greet", env={"PATH": str(hidden)})
    assert caught.value.exit_status == 126
    with pytest.raises(LaunchError) as caught:
        run("greet")
    assert caught.value.exit_status == 127


def test_directory_and_environment_are_those_given(tmp_path):
    """Working directory and environment reach the program whole."""
    command = ("/bin/sh", "-c", 'test "$PWD $A" = "$0 b" && test "$(env | grep -c HOME)" = 0', str(tmp_path))
    assert run(*command, cwd=str(tmp_path), env={"A": "b", "PATH": os.environ["PATH"]}) == 0


def test_signal_dispositions_are_as_from_a_shell(tracee):
    """No signal is blocked, and none ignored that Python ignores for itself."""
    assert _first_line(start_tool(_RUN, tracee("signals"), start_new_session=True)) == "0 0\n"


def test_an_ignored_signal_stays_ignored(tracee):
    """Under nohup the program ignores SIGHUP too."""
    nohup = need_program("nohup", "coreutils")
    direct = [nohup, tracee("signals")]
    expected = _first_line(
        subprocess.Popen(
            direct, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    )
    program = start_tool(
        _RUN,
        tracee("signals"),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert _first_line(program) == expected


def test_ignored_children_are_waited_for_all_the_same(tracee):
    """Started with SIGCHLD ignored, the tool still learns the status, and the program inherits the disposition."""
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    assert tool(_RUN, "sh", "-c", "exit 7", **ignoring).returncode == 7
    program = start_tool(_RUN, tracee("signals"), start_new_session=True, **ignoring)
    assert _first_line(program) == f"0 {1 << (signal.SIGCHLD - 1):x}\n"


def _first_line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)  # the tool, and the program it has let go
    process.communicate()
    return line


def test_only_inheritable_files_are_inherited(tracee):
    """The program gets stdio and what was meant for it, none of the tool's own files."""
    code = """
mine = open("/dev/null"); theirs = os.open("/dev/null", os.O_RDONLY); os.set_inheritable(theirs, True)
"""
    done = tool(code + _RUN, tracee("seccomp_state"))
    without = tool(_RUN, tracee("seccomp_state"))
    count = [int(x.stdout.split("Fds:\t")[1].split()[0]) for x in (done, without)]
    assert count[0] == count[1] + 1, done.stderr


def test_the_program_dies_with_the_tool():
    """A tool killed while the program stands at its exec leaves no process behind."""
    program = start_tool(
        """
stopped = launch(Command(("sleep", "60")))
print(stopped.pid, flush=True)
time.sleep(60)
"""
    )
    pid = int(program.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    program.kill()
    program.communicate()
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_killing_is_idempotent():
    """kill_tracee ends a child once and never touches a pid that is no child of ours."""
    stopped = launch(Command(("sleep", "60")))
    kill_tracee(stopped.pid)
    kill_tracee(stopped.pid)
    kill_tracee(1)
