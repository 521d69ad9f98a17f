"""Installing a filter at the exec: the program notices nothing but the filter, or never runs."""

from __future__ import annotations

import os
import subprocess

import pytest

from autoprofile.errors import LaunchError
from autoprofile.trace.inject import install_filter
from autoprofile.trace.launch import launch
from autoprofile.trace.source import Command
from autoprofile.trace.status import shell_status
from tests.conftest import need_program
from tests.kernel.tool import ALLOW, KILL, NOTIFY, allow_all, answer_for, errno, ret, tool

pytestmark = pytest.mark.kernel

CLOSE, EXECVE, GETPPID = 3, 59, 110
CLOSE_I386, GETPPID_I386 = 6, 64
I386 = 0x40000003
BUILDS = {
    "dynamic": (),
    "static": ("-static",),
    "no-pie": ("-no-pie",),
    "i386": ("-m32",),
    "i386-static": ("-m32", "-static"),
}

# Runs args[1:] under the filter args[0] and writes its status last.
_FILTERED = """
program = bytes.fromhex(args[0])
with run_filtered(Command(tuple(args[1:])), program) as running:
    status = shell_status(running.child.wait())
print(status)
"""
# Makes our own stack grow before the limit is lowered for the program: growing later would be fatal.
_LIMIT_STACK = """
import resource
def deep(n):
    return n and max([n], key=lambda _: deep(n - 1))
deep(300)
soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
resource.setrlimit(resource.RLIMIT_STACK, (int(args.pop(0)), hard))
stopped = launch(Command(tuple(args[1:]), env={"PATH": os.environ["PATH"]}))
resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
install_filter(stopped, bytes.fromhex(open(args[0]).read()))
print(ended(stopped.pid))
"""
# The same, with a listener whose notifications all continue.
_LISTENED = """
program = bytes.fromhex(args[0])
asked = []
with run_filtered(Command(tuple(args[1:])), program, new_listener=True) as running:
    try:
        while True:
            call = seccomp.receive(running.listener)
            asked.append(call.nr)
            seccomp.respond(running.listener, call.id, let_continue=True)
    except seccomp.PendingNotification:
        pass
    status = shell_status(running.child.wait())
print(status)
"""


def filtered(program: bytes, *argv: str, code: str = _FILTERED, **options) -> tuple[list[str], int]:
    """Run a command under a filter; return its output lines and its status."""
    done = tool(code, program.hex(), *argv, **options)
    assert done.returncode == 0, done.stderr
    *lines, status = done.stdout.splitlines()
    return lines, int(status)


def refused(program: bytes, *argv: str, **options) -> LaunchError:
    """Return the error with which a filter cannot be installed, after checking that the program is gone."""
    stopped = launch(Command(argv))
    with pytest.raises(LaunchError) as caught:
        install_filter(stopped, program, **options)
    assert caught.value.exit_status == 125
    with pytest.raises(ChildProcessError):
        os.waitpid(stopped.pid, os.WNOHANG)
    return caught.value


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("code", [_FILTERED, _LISTENED], ids=["filter", "listener"])
def test_the_first_instruction_finds_what_exec_left(tracee, build, code):
    """Registers, flags, the memory below the stack and the code itself are as without autoprofile."""
    flags = [f for f in BUILDS[build] if f in ("-m32", "-no-pie")]
    path = tracee("entry_state", "-nostdlib", "-static", *flags)
    plain = subprocess.run([path], capture_output=True, text=True, timeout=30, check=True).stdout
    program = answer_for(NOTIFY, CLOSE) if code == _LISTENED else allow_all
    assert filtered(program, path, code=code) == (plain.splitlines(), 0)


@pytest.mark.parametrize("build", BUILDS)
def test_a_filter_binds_every_kind_of_image(tracee, build):
    """64- and 32-bit programs, dynamic and static, are killed by a filter that forbids what they do."""
    path = tracee("syscall_loop", *BUILDS[build])
    is_32 = "i386" in build
    nr, arch = (GETPPID_I386, I386) if is_32 else (GETPPID, 0xC000003E)
    assert filtered(answer_for(KILL, nr, arch=arch), path, "1") == ([], 159)
    assert filtered(answer_for(KILL, nr, arch=arch), path, "0") == ([], 0)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("code", [_FILTERED, _LISTENED], ids=["filter", "listener"])
def test_the_program_sees_only_its_filter(tracee, build, code):
    """No blocked signal, no listener or other file, one filter, no_new_privs."""
    path = tracee("seccomp_state", *BUILDS[build])
    plain = subprocess.run([path], capture_output=True, text=True, timeout=30, check=True)
    before = dict(line.split(":\t") for line in plain.stdout.splitlines())
    lines, status = filtered(ret(NOTIFY) if code == _LISTENED else allow_all, path, code=code)
    after = dict(line.split(":\t") for line in lines)
    assert status == 0
    assert after.pop("Seccomp_filters") == str(int(before.pop("Seccomp_filters")) + 1)
    assert after.pop("Seccomp") == "2"
    assert after.pop("NoNewPrivs") == "1"
    # Our pipes instead of the test's own: nothing but stdio may differ.
    assert after.pop("Fds") == before.pop("Fds")
    before.pop("Seccomp")
    before.pop("NoNewPrivs")
    assert after == before


def test_busybox_and_scripts_run_filtered(tmp_path):
    """A static busybox and a script, which starts in its interpreter, are bound from their first instruction."""
    busybox = need_program("busybox", "busybox-static")
    assert filtered(allow_all, busybox, "echo", "hello") == (["hello"], 0)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\ngrep Seccomp: /proc/self/status\nexit 3\n")
    script.chmod(0o755)
    assert filtered(allow_all, str(script)) == (["Seccomp:\t2"], 3)


def test_execve_need_not_be_allowed():
    """The program starts under a filter that kills execve, and dies at its own first execve."""
    assert filtered(answer_for(KILL, EXECVE), "sh", "-c", "echo hello") == (["hello"], 0)
    assert filtered(answer_for(KILL, EXECVE), "sh", "-c", "echo hello; exec true") == (["hello"], 159)


def test_threads_are_bound_and_synchronised(tracee):
    """Every thread of the program is under the filter."""
    assert filtered(answer_for(KILL, GETPPID), tracee("threads"))[1] == 159
    assert filtered(answer_for(errno(1), GETPPID), tracee("threads"))[1] == 0


def test_int80_from_64_bit_code_is_filtered_by_its_own_arch(tracee):
    """A filter for the i386 entry binds 64-bit code that uses it, and that alone."""
    path = tracee("say_calls")
    assert filtered(answer_for(KILL, GETPPID_I386, arch=I386), path)[1] == 159
    assert filtered(answer_for(KILL, GETPPID_I386), path)[1] == 0  # on x86_64, 64 is semget


@pytest.fixture
def longest(tmp_path):
    """Return a file with the longest filter there can be, in hexadecimal."""
    file = tmp_path / "longest"
    file.write_text((ret(ALLOW) * 4096).hex())
    return str(file)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("limit_kib", [16, 40, 64, 8192])
def test_a_small_stack_leaves_the_program_intact(tracee, longest, build, limit_kib):
    """Where the stack has no room the filter lies over the program's own pages, and these are put back."""
    command = (tracee("vforks", *BUILDS[build]), "3", "/bin/true")
    done = tool(_LIMIT_STACK, str(limit_kib * 1024), longest, *command)
    assert done.stdout.split() == ["3", "0"], done.stderr


def test_an_unlimited_stack_is_no_exception(tracee, longest):
    """An unlimited stack changes the memory layout, not the outcome."""
    for build in BUILDS.values():
        done = tool(_LIMIT_STACK, "-1", longest, tracee("vforks", *build), "3", "/bin/true")
        assert done.stdout.split() == ["3", "0"], done.stderr


@pytest.mark.parametrize(
    ("program", "options", "words"),
    [
        (b"", {}, "does not accept"),
        (b"\xff" * 8, {}, "does not accept"),
        (ret(ALLOW) * 4097, {}, "does not accept"),
        (answer_for(errno(13), CLOSE), {"new_listener": True}, "allow close"),
        (answer_for(KILL, CLOSE), {"new_listener": True}, "allow close"),
        (answer_for(0, CLOSE), {"new_listener": True}, "allow close"),
        (answer_for(0x00030000, CLOSE), {"new_listener": True}, "allow close"),
    ],
    ids=["empty", "garbage", "too-long", "close-EACCES", "close-kill", "close-kill-thread", "close-trap"],
)
def test_a_program_whose_filter_cannot_be_installed_never_runs(tmp_path, program, options, words):
    """The error names the reason, the program is dead and has done nothing."""
    witness = tmp_path / "it-ran"
    error = refused(program, "touch", str(witness), **options)
    assert words in (error.hint or "")
    assert not witness.exists()


def test_a_filter_that_allows_close_needs_no_answer(tmp_path):
    """With a listener, close may be allowed outright; files keep their numbers either way."""
    for program in (answer_for(NOTIFY, GETPPID), ret(NOTIFY)):
        lines, status = filtered(program, "sh", "-c", "exec 3</dev/null; echo $?", code=_LISTENED)
        assert (lines, status) == (["0"], 0)


def test_a_second_listener_is_refused_with_the_reason():
    """Under an outer listener the kernel allows no other; the message says so."""
    code = """
inner = '''
from autoprofile.trace.source import Command
from autoprofile.trace.launch import launch
from autoprofile.trace.inject import install_filter
stopped = launch(Command(("true",)))
try:
    install_filter(stopped, bytes.fromhex("06000000" + "0000ff7f"), new_listener=True)
except Exception as error:
    print(error.exit_status, error.hint)
'''
with run_filtered(Command((sys.executable, "-c", inner)), bytes.fromhex(args[0]), new_listener=True) as running:
    print(shell_status(running.child.wait()))
"""
    done = tool(code, answer_for(NOTIFY, 999).hex())
    assert "125 an outer supervisor already listens" in done.stdout, done.stderr


def test_pending_signals_wait_for_the_program(tracee):
    """A signal that arrives during the installation is delivered to the program afterwards, once."""
    code = """
stopped = launch(Command((args[0],)))
for signum in (signal.SIGUSR1, signal.SIGSTOP, signal.SIGCONT):
    os.kill(stopped.pid, signum)
install_filter(stopped, bytes.fromhex("06000000" + "0000ff7f"))
print(ended(stopped.pid))
"""
    done = tool(code, tracee("signals"))
    assert done.stdout.split()[-1] == str(128 + 10), done.stderr  # before it could catch it


def test_a_stopped_program_stays_stopped(tracee):
    """SIGSTOP during the installation stops the program as soon as it is let go, until SIGCONT."""
    code = """
stopped = launch(Command((args[0], "0")))
os.kill(stopped.pid, signal.SIGSTOP)
install_filter(stopped, bytes.fromhex("06000000" + "0000ff7f"))
_, status = os.waitpid(stopped.pid, os.WUNTRACED)
print(os.WIFSTOPPED(status))
os.kill(stopped.pid, signal.SIGCONT)
print(ended(stopped.pid))
"""
    done = tool(code, tracee("syscall_loop"))
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_a_killed_program_is_reported():
    """SIGKILL from outside during the installation is an error, not a hang."""
    stopped = launch(Command(("sleep", "60")))
    os.kill(stopped.pid, 9)
    with pytest.raises(LaunchError):
        install_filter(stopped, allow_all)


def test_an_unprivileged_user_can_install(tracee):
    """Everything works without any privilege."""
    for code in (_FILTERED, _LISTENED):
        done = tool(
            "drop_to_nobody()\n" + code, ret(NOTIFY if code == _LISTENED else ALLOW).hex(), "id", "-u"
        )
        uid = "65534" if os.geteuid() == 0 else str(os.geteuid())
        assert done.stdout.split() == [uid, "0"], done.stderr


def test_privilege_is_needed_to_leave_no_new_privs_unset(tracee):
    """privileged=True leaves no_new_privs unset as root, and is refused otherwise before anything starts."""
    code = _FILTERED.replace("program)", "program, privileged=True)")
    path = tracee("seccomp_state")
    if os.geteuid() == 0:
        lines, _ = filtered(allow_all, path, code=code)
        assert "NoNewPrivs:\t0" in lines
    done = tool("drop_to_nobody()\n" + code, allow_all.hex(), "true")
    assert "needs CAP_SYS_ADMIN" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other owners")
def test_programs_one_may_not_read_are_refused_not_run_unfiltered(tracee, tmp_path):
    """An execute-only program cannot be filtered by others: 125 with the reason, and it never runs."""
    import shutil

    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    program = tmp_path / "secret"
    shutil.copy(tracee("seccomp_state"), program)
    program.chmod(0o711)
    code = """
drop_to_nobody()
try:
    with run_filtered(Command((args[1],)), bytes.fromhex(args[0])) as running:
        print("ran")
except LaunchError as error:
    print(error.exit_status, error.hint, error, sep="\\n")
"""
    done = tool(code, allow_all.hex(), str(program))
    status, hint, what = done.stdout.splitlines()
    assert status == "125", done.stderr
    assert hint.startswith("a program that you may execute but not read")
    assert what.startswith("secret: cannot install the filter")  # /proc hides its path, not its name


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a setuid program")
def test_setuid_programs_gain_nothing_for_an_unprivileged_user(tracee, tmp_path):
    """Started by nobody, a setuid-root program runs as nobody, under its filter."""
    import shutil

    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    program = tmp_path / "setuid"
    shutil.copy(tracee("seccomp_state"), program)
    program.chmod(0o4755)
    done = tool("drop_to_nobody()\n" + _FILTERED, allow_all.hex(), str(program))
    assert "Euid:\t65534" in done.stdout, done.stderr
    assert "Seccomp:\t2" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a setuid program")
def test_a_program_setuid_to_another_user_is_refused_with_the_reason(tracee, tmp_path):
    """Executing it takes root's capability away before the filter goes in: the hint says so, and what to do."""
    import shutil

    program = tmp_path / "setuid"
    shutil.copy(tracee("seccomp_state"), program)
    os.chown(program, 65534, -1)
    program.chmod(0o4755)
    code = """
try:
    with run_filtered(Command((args[1],)), bytes.fromhex(args[0]), privileged=True) as running:
        print("ran")
except LaunchError as error:
    print(error.exit_status, error.hint)
"""
    done = tool(code, allow_all.hex(), str(program))
    assert done.stdout.startswith("125 "), done.stderr
    assert "set-user-ID to another user than root" in done.stdout
    assert "leave out --allow-new-privs" in done.stdout


def test_statuses_are_the_shells():
    """run_filtered gives the program's status whatever ends it."""
    for script, status in (("exit 4", 4), ("kill -HUP $$", 129)):
        assert filtered(allow_all, "sh", "-c", script)[1] == status
    assert shell_status(0x8B) == 139  # core dump flag
