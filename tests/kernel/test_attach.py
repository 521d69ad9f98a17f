"""Attaching to a running process: all of it is filtered, and it notices nothing else; or it is as it was."""

from __future__ import annotations

import contextlib
import errno as errnos
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from autoprofile import kernel
from autoprofile.enforce.attach import AttachError, Attachment, attach
from autoprofile.enforce.attach_tree import AttachedProcess, attach_tree
from autoprofile.errors import AutoprofileError, MachineError, UsageError
from autoprofile.kernel import seccomp
from tests.conftest import need_program
from tests.kernel.tool import KILL, NOTIFY, ROOT, allow_all, answer_for, errno, ret, start_tool, tool

pytestmark = pytest.mark.kernel

CLOSE, GETPPID, READ, PRCTL, RESTART, SECCOMP = 3, 110, 0, 157, 219, 317
I386 = 0x40000003
LIMIT_S = 60
LONG = os.environ.get("AUTOPROFILE_LONG") == "1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_ADMIN")

ENDLESS = (
    "read",
    "poll",
    "ppoll",
    "select",
    "epoll",
    "epoll-pwait",
    "futex",
    "accept",
    "recv",
    "semop",
    "waitpid",
)
TIMED = (
    "nanosleep",
    "clock-absolute",
    "poll-timeout",
    "ppoll-timeout",
    "select-timeout",
    "epoll-timeout",
    "futex-timeout",
    "sigtimedwait",
    "semtimedop",
    "recv-timeout",
)
_SAID = {
    **dict.fromkeys(ENDLESS, "1 errno=0"),
    "futex": "0 errno=0",
    "semop": "0 errno=0",
    **dict.fromkeys(TIMED, "0 errno=0"),
    "futex-timeout": f"-1 errno={errnos.ETIMEDOUT}",
    "sigtimedwait": f"-1 errno={errnos.EAGAIN}",
    "semtimedop": f"-1 errno={errnos.EAGAIN}",
    "recv-timeout": f"-1 errno={errnos.EAGAIN}",
}


@contextlib.contextmanager
def running(*argv: str, until: str = "ready", **options):
    """Run a program that says when it is ready, with pipes for stdio; it is killed afterwards."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        while until and process.stdout.readline() != f"{until}\n":
            assert process.poll() is None, process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(LIMIT_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def finish(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Close the stdin of a program and return what it still says, and its status."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert not err
    return out, process.returncode


def field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    raise AssertionError(f"no {name}")


def wait_for_state(tid: int, *states: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while field(tid, "State")[0] not in states:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_call(pid: int) -> None:
    """Wait until a process sleeps in a syscall, two looks in a row."""
    seen = 0
    deadline = time.monotonic() + LIMIT_S
    while seen < 3:
        assert time.monotonic() < deadline
        seen = seen + 1 if field(pid, "State")[0] == "S" else 0
        time.sleep(0.01)


def attached(pid: int, *programs: bytes, **options) -> Attachment:
    attachment = attach(pid, list(programs or [allow_all]), **options)
    os.close(attachment.pidfd)
    return attachment


def refused(process: subprocess.Popen[str], *programs: bytes, kind=AttachError, **options) -> str:
    """Return the reason why a process cannot be attached to, after checking that it is as it was."""
    names = ("Seccomp", "Seccomp_filters", "NoNewPrivs", "TracerPid", "SigBlk")
    before = [field(process.pid, name) for name in names]
    with pytest.raises(kind) as caught:
        attached(process.pid, *programs, **options)
    assert [field(process.pid, name) for name in names] == before
    return f"{caught.value}; {caught.value.hint}"


class Answering:
    """Answers a listener with one errno until nobody uses it any more, and counts."""

    def __init__(self, attachment: Attachment, error: int) -> None:
        self.counts: Counter[int] = Counter()
        self._listener, self._error = attachment.listener, error
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        while True:
            ((_, events),) = poller.poll()
            if not events & select.POLLIN:
                return
            with contextlib.suppress(seccomp.PendingNotification):
                call = seccomp.receive(self._listener)
                self.counts[call.nr] += 1
                seccomp.respond(self._listener, call.id, error=self._error)

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        os.close(self._listener)


# What a process that waits notices.


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("new_listener", [False, True], ids=["filter", "listener"])
def test_a_waiting_call_goes_on(tracee, kind, new_listener):
    """A call that waits without a timeout is restarted, and ends as it would have."""
    with running(tracee("waits"), kind) as process:
        wait_for_call(process.pid)
        attachment = attached(process.pid, answer_for(NOTIFY, GETPPID), new_listener=new_listener)
        assert attachment.filters_before == 0
        wait_for_call(process.pid)
        assert finish(process) == (f"{kind}: {_SAID[kind]} late filters=1\n", 0)
        if attachment.listener is not None:
            os.close(attachment.listener)


@pytest.mark.parametrize("new_listener", [False, True], ids=["filter", "listener"])
def test_a_wait_with_a_timeout_ends_by_it(tracee, new_listener):
    """A wait with a timeout goes on too, whatever call it is, and never ends before its time."""
    with contextlib.ExitStack() as stack:
        waiting = {kind: stack.enter_context(running(tracee("waits"), kind)) for kind in TIMED}
        for process in waiting.values():
            wait_for_call(process.pid)
            attachment = attached(process.pid, answer_for(NOTIFY, GETPPID), new_listener=new_listener)
            if attachment.listener is not None:
                stack.callback(os.close, attachment.listener)
        # Their stdin stays open: nothing else ends the wait.
        said = {kind: process.stdout.readline() for kind, process in waiting.items()}
        assert said == {kind: f"{kind}: {_SAID[kind]} late filters=1\n" for kind in TIMED}


@pytest.mark.parametrize("kind", ["read", "nanosleep", "epoll"])
def test_i386_programs_go_on_too(tracee, kind):
    """The same for a 32-bit program, whose calls are made with int $0x80."""
    with running(tracee("waits", "-m32"), kind) as process:
        wait_for_call(process.pid)
        attachment = attached(process.pid, answer_for(KILL, GETPPID), arches=("x86_64", "i386"))
        assert attachment.arch == "i386"
        if kind != "nanosleep":
            process.stdin.close()
        assert process.stdout.readline() == f"{kind}: {_SAID[kind]} late filters=1\n"


def test_a_signal_still_interrupts_a_restarted_wait(tracee):
    """A handler set without SA_RESTART makes epoll_wait fail with EINTR after an attach as before one."""
    code = (
        "import ctypes, signal, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "signal.siginterrupt(signal.SIGUSR1, True)\n"
        "event = ctypes.create_string_buffer(12)\n"
        "print('ready', flush=True)\n"
        "print(libc.epoll_wait(libc.epoll_create1(0), event, 1, -1), ctypes.get_errno())\n"
    )
    with running(sys.executable, "-c", code) as process:
        wait_for_call(process.pid)
        attached(process.pid)
        wait_for_call(process.pid)
        process.send_signal(signal.SIGUSR1)
        assert finish(process) == (f"-1 {errnos.EINTR}\n", 0)


def test_restart_syscall_is_asked_for_before_anything_is_done(tracee):
    """Where the new filter forbids restart_syscall, a nanosleep in progress would be fatal: refused instead."""
    killing = answer_for(KILL, RESTART)
    with running(tracee("waits"), "nanosleep") as process:
        wait_for_call(process.pid)
        assert "restart_syscall" in refused(process, killing)
        assert process.stdout.readline() == "nanosleep: 0 errno=0 late filters=0\n"
    for kind in ("poll", "read"):  # these go on without it
        with running(tracee("waits"), kind) as process:
            wait_for_call(process.pid)
            attached(process.pid, killing)
            assert finish(process)[0] == f"{kind}: 1 errno=0 late filters=1\n"


def test_a_call_in_progress_that_would_be_fatal_is_named(tracee):
    """A process that waits in a call which the filter kills for is not attached to, and goes on."""
    with running(tracee("waits"), "read") as process:
        wait_for_call(process.pid)
        assert "waits in read" in refused(process, answer_for(KILL, READ))
        # A supervisor's answer counts as the filter's does.
        from autoprofile.profile import Action

        reason = refused(process, answer_for(NOTIFY, READ), judge=lambda *_: Action.KILL_PROCESS)
        assert "waits in read" in reason
        assert finish(process) == ("read: 1 errno=0 late filters=0\n", 0)


# What a busy process notices.


@pytest.mark.parametrize("new_listener", [False, True], ids=["filter", "listener"])
def test_a_busy_process_loses_nothing(tracee, new_listener):
    """Registers, stacks, signals, threads and children of a program under load are right, however often."""
    attempts = 1000 if LONG else 25
    with running(tracee("busy"), "4") as process:
        for n in range(1 if new_listener else attempts):
            attachment = attached(process.pid, answer_for(NOTIFY, GETPPID), new_listener=new_listener)
            assert attachment.filters_before == n
            for thread in os.listdir(f"/proc/{process.pid}/task"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    assert field(int(thread), "Seccomp_filters") == str(n + 1)
                    assert field(int(thread), "NoNewPrivs") == "1"
        assert finish(process) == ("well: yes\n", 0)
        if attachment.listener is not None:
            os.close(attachment.listener)


def test_a_program_that_executes_itself_from_any_thread_is_no_trap(tracee):
    """While one thread kills the others by execve the kernel waits for us and we for it: nothing hangs."""
    rounds = 300 if LONG else 40
    outcomes: Counter[str] = Counter()
    with running(tracee("becomes"), str(rounds), until="") as process:
        while process.poll() is None:
            try:
                attached(process.pid)
                outcomes["attached"] += 1
            except AttachError as error:
                outcomes[str(error)] += 1
        assert finish(process) == ("done\n", 0)
    assert outcomes["attached"], outcomes


@pytest.mark.skipif(not LONG, reason="needs minutes; AUTOPROFILE_LONG=1 runs it")
@pytest.mark.parametrize("language", ["go", "rust"])
def test_other_runtimes_lose_nothing(language, tmp_path):
    """Go's scheduler and collector, and Rust's threads and channels, compute the same under 700 attaches."""
    source = ROOT / "tests" / "tracees" / {"go": "busy.go", "rust": "busy.rs"}[language]
    program = tmp_path / "busy"
    if language == "go":
        build = [need_program("go", "golang-go"), "build", "-o", str(program), str(source)]
    else:
        build = [need_program("rustc"), "-O", "-o", str(program), str(source)]
    subprocess.run(build, check=True, timeout=300, env={**os.environ, "GO111MODULE": "off"})
    with running(str(program)) as process:
        for _ in range(700):
            attached(process.pid, answer_for(errno(1), GETPPID))
        assert finish(process) == ("well: true\n", 0)


def test_nothing_of_the_process_changes(tracee):
    """Its map, open files, blocked signals and the bytes of its stack are afterwards what they were."""
    with running(tracee("waits"), "read") as process:
        wait_for_call(process.pid)

        def state() -> tuple[object, ...]:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            fds = sorted(os.listdir(f"/proc/{process.pid}/fd"))
            stack = next(line.split()[0] for line in maps.splitlines() if line.endswith("[stack]"))
            start, end = (int(word, 16) for word in stack.split("-"))
            with Path(f"/proc/{process.pid}/mem").open("rb") as memory:
                memory.seek(start)
                content = memory.read(end - start)
            return maps, fds, field(process.pid, "SigBlk"), field(process.pid, "SigPnd"), content

        before = state()
        big = ret(0x7FFF0000) * 4000  # 32,000 bytes
        attached(process.pid, big, answer_for(NOTIFY, GETPPID), new_listener=False)
        wait_for_call(process.pid)
        assert state() == before
        assert finish(process)[1] == 0


# What the filter does.


def test_every_thread_and_later_child_is_filtered(tracee):
    """The filter answers in threads that ran before, and in those and the children that come later."""
    with running(tracee("busy"), "3") as process:
        attachment = attached(process.pid, answer_for(errno(95), GETPPID))
        assert attachment.threads >= 5
        assert finish(process) == ("well: yes\n", 0)
    code = "import os\nprint('ready', flush=True)\ninput()\nprint(os.fork() and os.wait()[1])\nos.getppid()\n"
    with running(sys.executable, "-c", code) as process:
        attached(process.pid, answer_for(KILL, GETPPID))
        out, _ = process.communicate("\n", timeout=LIMIT_S)
        assert process.returncode == -signal.SIGSYS
        assert int(out.split()[-1]) & 0x7F == signal.SIGSYS


def test_a_supervisor_answers_and_its_end_fails_closed(tracee):
    """The listener is ours alone: calls are answered by us, and once we are gone they fail with ENOSYS."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        f"    print(libc.syscall({GETPPID}), ctypes.get_errno(), flush=True)\n"
    )
    with running(sys.executable, "-c", code) as process:
        fds = sorted(os.listdir(f"/proc/{process.pid}/fd"))
        attachment = attached(process.pid, answer_for(NOTIFY, GETPPID, CLOSE), new_listener=True)
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == fds
        reason = "an outer supervisor already listens"
        with pytest.raises(AttachError) as caught:
            attached(process.pid, answer_for(NOTIFY, GETPPID), new_listener=True)
        assert reason in (caught.value.hint or "")
        asked = threading.Thread(target=lambda: process.stdin.write("x\n") and process.stdin.flush())
        asked.start()
        call = seccomp.receive(attachment.listener)
        assert (call.nr, call.tid) == (GETPPID, process.pid)
        seccomp.respond(attachment.listener, call.id, error=95)
        assert process.stdout.readline() == "-1 95\n"
        asked.join()
        os.close(attachment.listener)
        process.stdin.write("x\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"-1 {errnos.ENOSYS}\n"


def test_a_whole_stack_of_filters_is_installed(tracee):
    """Several filters are installed in order, as a profile too large for one needs."""
    with running(tracee("waits"), "read") as process:
        programs = [answer_for(errno(number), GETPPID) for number in (1, 2, 3)]
        assert attached(process.pid, *programs).filters_before == 0
        assert field(process.pid, "Seccomp_filters") == "3"
        if os.geteuid() == 0:
            foreign = attached(process.pid).foreign
            assert foreign is not None
            assert [bytes(program) for program in foreign] == programs


def test_a_tree_is_attached_to_whole_and_once(tracee):
    """Parents, children and grandchildren get the filter, each once; --no-descendants leaves children alone."""
    script = "sleep 600 & sh -c 'sleep 600 & echo ready; wait' & wait"
    with running("sh", "-c", script, start_new_session=True) as process:
        try:
            seen: list[Attachment] = []
            attach_tree(process.pid, [allow_all], on_attached=seen.append, on_refused=lambda *_: None)
            assert len(seen) == 4
            for attachment in seen:
                assert field(attachment.pid, "Seccomp_filters") == "1"
                os.close(attachment.pidfd)
            alone: list[Attachment] = []
            attach_tree(
                process.pid,
                [allow_all],
                on_attached=alone.append,
                on_refused=lambda *_: None,
                descendants=False,
            )
            os.close(alone[0].pidfd)
            counts = sorted(field(a.pid, "Seccomp_filters") for a in seen)
            assert counts == ["1", "1", "1", "2"]
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_descendant_that_cannot_be_attached_to_is_named(tracee):
    """The rest of a tree is attached to although one of it is stopped, and that one is reported."""
    script = "sleep 600 & echo $!; sleep 600 & wait"
    with running("sh", "-c", script, until="", start_new_session=True) as process:
        try:
            stopped = int(process.stdout.readline())
            os.kill(stopped, signal.SIGSTOP)
            wait_for_state(stopped, "T")
            wait_for_call(process.pid)
            seen: list[Attachment] = []
            errors: dict[int, AutoprofileError] = {}
            attach_tree(process.pid, [allow_all], on_attached=seen.append, on_refused=errors.__setitem__)
            for attachment in seen:
                os.close(attachment.pidfd)
            assert stopped not in {a.pid for a in seen}
            assert list(errors) == [stopped]
            assert "is stopped" in str(errors[stopped])
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_an_attached_process_is_watched_by_its_pidfd(tracee):
    """Its end is seen without being its parent, and signals reach it alone."""
    with running(tracee("waits"), "read") as process:
        handle = AttachedProcess(attach(process.pid, [allow_all]))
        assert handle.poll() is None
        handle.kill()
        assert handle.poll() == 0
        assert not handle.send_signal(signal.SIGTERM)
        handle.close()
        assert process.wait(LIMIT_S) == -signal.SIGKILL


# Who may attach to whom.


# Imports come first: an ordinary user may be unable to read where we are installed.
_IMPORTS = """
import subprocess
from autoprofile.enforce.attach import attach
from autoprofile.abi.syscalls import syscall_nr
syscall_nr("x86_64", "close")
"""
_AS_NOBODY = """
program, options = bytes.fromhex(args[0]), json.loads(args[1])
target = subprocess.Popen(args[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
target.stdout.readline()
time.sleep(0.05)
try:
    attachment = attach(target.pid, [program], **options)
    print(open(f"/proc/{target.pid}/status").read().split("Seccomp_filters:")[1].split()[0])
    if attachment.listener is not None:
        threading.Thread(target=lambda: os.close(attachment.listener)).start()
except AutoprofileError as error:
    print(error.exit_status, error, error.hint)
out, _ = target.communicate()
print(out.strip(), target.returncode)
"""


def as_nobody(*argv: str, program: bytes = allow_all, before: str = "", **options) -> list[str]:
    """Attach as an unprivileged user to a program of that user; return what came of it."""
    for parent in Path(argv[0]).parents:
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "tracees", "plain")):
            parent.chmod(0o755)  # pytest's folders are for the user who runs it
    code = _IMPORTS + "drop_to_nobody()\n" + before + _AS_NOBODY
    done = tool(code, program.hex(), json.dumps(options), *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("new_listener", [False, True], ids=["filter", "listener"])
def test_a_user_attaches_to_own_processes(tracee, new_listener):
    """Without any privilege, a process of the same user is filtered, and its close is answered for."""
    program = answer_for(NOTIFY, CLOSE) if new_listener else allow_all
    lines = as_nobody(tracee("waits"), "read", program=program, new_listener=new_listener)
    assert lines == ["1", "read: 1 errno=0 late filters=1 0"]


def test_a_profile_that_kills_for_close_is_refused_where_that_would_be_fatal(tracee):
    """The listener is given back with close under the new filter, unless filters can be suspended (root)."""
    lines = as_nobody(tracee("waits"), "read", program=answer_for(KILL, CLOSE), new_listener=True)
    assert lines[0].startswith("1 the profile answers close with kill")
    assert lines[1:] == ["read: 1 errno=0 late filters=0 0"]
    if os.geteuid() == 0:
        with running(tracee("waits"), "read") as process:
            attachment = attached(process.pid, answer_for(KILL, CLOSE), new_listener=True)
            os.close(attachment.listener)
            assert finish(process)[1] in (0, -signal.SIGSYS)  # it closes files itself at its end


def under(*programs: bytes) -> list[str]:
    """Return a command that runs its arguments under filters."""
    code = (
        "import os, sys\nfrom autoprofile import kernel\nfrom autoprofile.kernel import seccomp\n"
        "kernel.set_no_new_privs()\n"
        "for program in sys.argv[1].split(','):\n"
        "    seccomp.seccomp_set_mode_filter(bytes.fromhex(program))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    return [sys.executable, "-c", code, ",".join(p.hex() for p in programs)]


HOSTILE = answer_for(KILL, PRCTL, SECCOMP)


@needs_root
def test_foreign_filters_are_suspended_for_our_calls_alone(tracee):
    """Root attaches to a process whose own filters kill for prctl and seccomp; they bind it afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running(*under(HOSTILE), tracee("waits"), "read", env=environment) as process:
        attachment = attached(process.pid)
        assert attachment.filters_before == 1
        assert [bytes(p) for p in attachment.foreign] == [HOSTILE]
        assert finish(process) == ("read: 1 errno=0 late filters=2\n", 0)
    call = (
        f"import ctypes\nprint('ready', flush=True)\ninput()\nctypes.CDLL(None).syscall({SECCOMP}, 9, 0, 0)"
    )
    with running(*under(HOSTILE), sys.executable, "-c", call, env=environment) as process:
        attached(process.pid)
        process.communicate("\n", timeout=LIMIT_S)
        assert process.returncode == -signal.SIGSYS


def test_a_user_is_told_of_foreign_filters(tracee):
    """What cannot be read or suspended may be fatal: refused, until the user says that it is known to be safe."""
    harmless = answer_for(errno(1), GETPPID).hex()
    before = f"kernel.set_no_new_privs()\nseccomp.seccomp_set_mode_filter(bytes.fromhex('{harmless}'))\n"
    lines = as_nobody(tracee("waits"), "read", before=before)
    assert lines[0].startswith("4 process ")
    assert "is under 1 seccomp filter already" in lines[0]
    assert "--trust-filters" in lines[0]
    assert lines[1] == "read: 1 errno=0 late filters=1 0"
    lines = as_nobody(tracee("waits"), "read", before=before, trust_filters=True)
    assert lines == ["2", "read: 1 errno=0 late filters=2 0"]
    # One that answers our calls with an errno is no danger, and is told apart.
    refusing = answer_for(errno(1), SECCOMP).hex()
    before = f"kernel.set_no_new_privs()\nseccomp.seccomp_set_mode_filter(bytes.fromhex('{refusing}'))\n"
    lines = as_nobody(tracee("waits"), "read", before=before, trust_filters=True)
    assert "an outer seccomp filter refuses it" in lines[0]
    assert lines[1] == "read: 1 errno=0 late filters=1 0"


@needs_root
def test_no_new_privs_stays_unset_only_where_asked_and_possible(tracee):
    """Asked to, it leaves no_new_privs unset in a process with CAP_SYS_ADMIN and is refused for any other."""
    with running(tracee("waits"), "read") as process:
        attached(process.pid, privileged=True)
        assert field(process.pid, "NoNewPrivs") == "0"
        attached(process.pid)
        assert field(process.pid, "NoNewPrivs") == "1"
    with running("setpriv", "--reuid=65534", "--clear-groups", tracee("waits"), "read") as process:
        assert "has no CAP_SYS_ADMIN" in refused(process, kind=MachineError, privileged=True)
        attached(process.pid)


@needs_root
def test_processes_of_others_are_refused(tracee):
    """A user gets neither root's processes nor a reason other than that."""
    with running(tracee("waits"), "read") as process:
        code = _IMPORTS + "drop_to_nobody()\n"
        code += "try: attach(int(args[0]), [bytes.fromhex(args[1])])\n"
        code += "except AutoprofileError as error: print(error.exit_status, error)\n"
        done = tool(code, str(process.pid), allow_all.hex())
        assert done.stdout == (
            f"4 process {process.pid} (waits) cannot be traced: it belongs to user 0, you are user 65534\n"
        ), done.stderr
        assert field(process.pid, "Seccomp_filters") == "0"


# What cannot be attached to.


def test_threads_apart_are_refused(tracee):
    """Threads that have filters of their own cannot be brought under one, and are left as they are."""
    with running(tracee("apart"), "0", "1") as process:
        options = {} if os.geteuid() == 0 else {"trust_filters": True}
        assert "under different filters" in refused(process, **options)
        assert finish(process) == ("", 0)
    with running(tracee("apart"), "1", "1") as process:
        # As many, but not the same: only the kernel can tell.
        options = {} if os.geteuid() == 0 else {"trust_filters": True}
        assert "cannot be synchronised" in refused(process, **options)
        assert "different filters" in refused(process, new_listener=True, **options)
        assert finish(process) == ("", 0)


def test_a_traced_process_is_refused_with_its_tracer(tracee):
    """One tracer is possible: the other is named, and goes on tracing."""
    with running(tracee("waits"), "read") as process:
        code = "ptrace.ptrace_seize(int(args[0])); print('ready', flush=True); sys.stdin.read()"
        tracer = start_tool(code, str(process.pid))
        try:
            assert tracer.stdout.readline() == "ready\n"
            reason = refused(process)
            assert f"is traced by process {tracer.pid} " in reason
        finally:
            tracer.communicate("", timeout=LIMIT_S)
        attached(process.pid)
        assert finish(process)[1] == 0


def test_stopped_ended_and_foreign_tasks_are_refused(tracee):
    """Each kind of task that cannot be attached to is refused for its own reason."""
    with running(tracee("waits"), "read") as process:
        process.send_signal(signal.SIGSTOP)
        wait_for_state(process.pid, "T")
        assert "is stopped" in refused(process)
        process.send_signal(signal.SIGCONT)
        assert finish(process)[1] == 0
    with pytest.raises(AttachError, match="there is no process"):
        attach(process.pid, [allow_all])
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_for_state(child, "Z")
    with pytest.raises(AttachError, match="ended already"):
        attach(child, [allow_all])
    os.waitpid(child, 0)
    with pytest.raises(UsageError, match="own process"):
        attach(os.getpid(), [allow_all])
    with pytest.raises(UsageError, match="kernel thread"):
        attach(2, [allow_all])
    with running(tracee("busy"), "2") as process:
        thread = max(int(name) for name in os.listdir(f"/proc/{process.pid}/task"))
        with contextlib.suppress(AttachError), pytest.raises(UsageError, match="is a thread of process"):
            attach(thread, [allow_all])  # a brief one may have ended by now


def test_strict_mode_is_refused():
    """SECCOMP_MODE_STRICT takes no filter besides."""
    code = (
        "import ctypes, os\nprint('ready', flush=True)\n"
        "ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)\nos.read(0, 1)\nctypes.CDLL(None).syscall(60, 0)\n"
    )
    with running(sys.executable, "-c", code) as process:
        deadline = time.monotonic() + LIMIT_S
        while field(process.pid, "Seccomp") != "1":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert "strict mode" in refused(process, trust_filters=True)


def test_other_arches_are_refused(tracee):
    """A profile for x86_64 is not put on an i386 program, all of whose calls it would kill."""
    with running(tracee("waits", "-m32"), "read") as process:
        wait_for_call(process.pid)
        assert "is a i386 program" in refused(process, arches=("x86_64",))
        assert finish(process) == ("read: 1 errno=0 late filters=0\n", 0)


def test_a_thread_that_does_not_stop_is_let_go(tracee):
    """The parent of a vfork waits in a way nothing interrupts: refused after the time given, and it goes on."""
    with running(tracee("patient_parent"), until="ready") as process:
        wait_for_state(process.pid, "D")
        reason = refused(process, timeout_s=0.3)
        assert "does not stop (state D)" in reason
        assert finish(process) == ("went on\n", 0)


@needs_root
def test_a_reused_pid_is_not_taken_for_the_process_meant(tracee):
    """With a pidfd, a new process that got the number of an ended one is refused and left alone."""
    process = subprocess.Popen(["sleep", "600"])
    pid, pidfd = process.pid, kernel.pidfd_open(process.pid)
    process.kill()
    process.wait()
    last = Path("/proc/sys/kernel/ns_last_pid")
    other = None
    for _ in range(200):
        last.write_text(str(pid - 1))
        other = subprocess.Popen(["sleep", "600"])
        if other.pid == pid:
            break
        other.kill()
        other.wait()
    try:
        if other is None or other.pid != pid:
            pytest.skip("the number was taken by somebody else each time")
        with pytest.raises(AttachError, match="has ended"):
            attach(pid, [allow_all], pidfd=pidfd)
        assert field(pid, "Seccomp_filters") == "0"
        assert field(pid, "TracerPid") == "0"
    finally:
        other.kill()
        other.wait()
        os.close(pidfd)


def test_a_process_that_ends_meanwhile_is_an_error_and_no_hang(tracee):
    """Killed at any moment of the attach, it is reported as ended, and nothing of it is left traced."""
    outcomes: Counter[str] = Counter()
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        with running(tracee("busy"), "2") as process:
            # Not process.kill: it would wait for the process first, and take a stop from the tracer.
            killer = threading.Timer(delay_s, os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            try:
                attached(process.pid)
                outcomes["attached"] += 1
            except AttachError as error:
                outcomes["ended" if "ended" in str(error) else str(error)] += 1
            killer.join()
            process.wait(LIMIT_S)  # its status may have been reported to the tracer, which is us
            assert not Path(f"/proc/{process.pid}").exists()
    assert set(outcomes) <= {"attached", "ended"}, outcomes


def test_a_killed_tool_leaves_nothing_behind(tracee):
    """The tool killed at any moment: the process lives on untraced, or died with it; it is never left askew."""
    code = """
from autoprofile.enforce.attach import attach
print("ready", flush=True)
while True:
    os.close(attach(int(args[0]), [bytes.fromhex(args[1])]).pidfd)
"""
    for delay_s in (0.02, 0.05, 0.08):
        with running(tracee("busy"), "2") as process:
            attacher = start_tool(code, str(process.pid), allow_all.hex())
            assert attacher.stdout.readline() == "ready\n"
            time.sleep(delay_s)
            attacher.kill()
            attacher.communicate(timeout=LIMIT_S)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(LIMIT_S)
            assert process.returncode in (0, -signal.SIGKILL), process.stderr.read()
            if process.returncode == 0:
                assert process.stdout.read() == "well: yes\n"


# In containers, nested, and from the command line.


@needs_root
def test_a_container_is_attached_to_from_outside(tmp_path):
    """A process in its own pid and mount namespace, under the runtime's filter, gets ours on top of it."""
    runc = need_program("runc")
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    for folder in ("tmp", "proc", "dev"):
        (bundle / "rootfs" / folder).mkdir()
    shutil.copy(need_program("busybox", "busybox-static"), bundle / "rootfs" / "bin" / "busybox")
    subprocess.run([runc, "spec"], cwd=bundle, check=True, timeout=LIMIT_S)
    config = json.loads((bundle / "config.json").read_text())
    script = "echo ready; read x; busybox mkdir /tmp/x && echo made || echo refused"
    config["process"] |= {
        "args": ["/bin/busybox", "sh", "-c", script],
        "terminal": False,
        "env": ["PATH=/bin"],
    }
    config["root"]["readonly"] = False
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["seccomp"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"attach-{os.getpid()}"
    state = str(tmp_path / "state")
    with running(runc, "--root", state, "run", name, cwd=bundle) as process:
        listed = subprocess.run(
            [runc, "--root", state, "state", name],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        pid = json.loads(listed.stdout)["pid"]
        attachment = attached(pid, answer_for(errno(1), 83, 258))  # mkdir, mkdirat
        assert attachment.filters_before
        out, err = process.communicate("\n", timeout=LIMIT_S)
        assert out == "refused\n", err


@needs_root
def test_a_tool_that_is_filtered_itself_says_so(tracee):
    """Under a filter of its own (in a container) root can suspend nobody's: it is treated as a user is."""
    harmless = answer_for(errno(1), GETPPID).hex()
    before = f"kernel.set_no_new_privs()\nseccomp.seccomp_set_mode_filter(bytes.fromhex('{harmless}'))\n"
    done = tool(_IMPORTS + before + _AS_NOBODY, allow_all.hex(), "{}", tracee("waits"), "read")
    lines = done.stdout.splitlines()
    assert "--trust-filters" in lines[0], done.stderr
    assert lines[1] == "read: 1 errno=0 late filters=1 0"


PROFILE = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  getppid: {action}
"""
ASKS_ITS_PARENT = (
    "import ctypes, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "print('ready', flush=True)\n"
    "for line in sys.stdin:\n"
    f"    print(libc.syscall({GETPPID}), ctypes.get_errno(), flush=True)\n"
)


def start_enforce(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoprofile", "enforce", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def enforce(*args: object) -> tuple[int, str]:
    """Run `autoprofile enforce` to its end; return its status and what it said."""
    process = start_enforce(*args)
    out, err = process.communicate(timeout=LIMIT_S)
    assert not out
    return process.returncode, err


def ask(process: subprocess.Popen[str]) -> str:
    process.stdin.write("x\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def profile(folder: Path, action: str) -> Path:
    file = folder / f"{action}.yaml"
    file.write_text(PROFILE.format(action=action))
    return file


def test_the_command_is_done_once_the_filter_is_in_place(tmp_path):
    """Without a supervisor `enforce --pid` ends with status 0, and the process is under the profile."""
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        status, said = enforce(profile(tmp_path, "EACCES"), "--pid", process.pid)
        assert (status, said) == (
            0,
            f"process {process.pid} ({field(process.pid, 'Name')}): 1 thread filtered\n",
        )
        assert ask(process) == f"-1 {errnos.EACCES}"
        if os.geteuid() == 0:  # a second profile comes on top, and the first is shown
            status, said = enforce(profile(tmp_path, "EPERM"), "--pid", process.pid)
            assert status == 0
            assert "on top of 1 filter (" in said
            assert ask(process) == f"-1 {errnos.EPERM}"


def test_the_command_supervises_until_the_end_of_the_process(tmp_path):
    """With an audit log it stays, records what is refused with the arguments, and ends with the process."""
    log = tmp_path / "a.jsonl"
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--audit", log, "--pid", process.pid)
        assert "1 thread filtered" in tool.stderr.readline()
        assert "Ctrl-C ends this, not the process" in tool.stderr.readline()
        assert ask(process) == ask(process) == f"-1 {errnos.EACCES}"
        process.stdin.close()
        _, said = tool.communicate(timeout=LIMIT_S)
        assert tool.returncode == 0, said
        assert "2 calls refused, 1 distinct" in said
    (deny,) = [e for e in map(json.loads, log.read_text().splitlines()) if e.get("event") == "deny"]
    assert (deny["syscall"], deny["pid"]) == ("getppid", process.pid)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_command_leaves_the_process_failing_closed(tmp_path, signum):
    """Ctrl-C ends the supervisor with status 0; what it would have answered fails with ENOSYS from then on."""
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--complain", "--pid", process.pid)
        assert "1 thread filtered" in tool.stderr.readline()
        assert "nothing passes" in tool.stderr.readline()
        assert ask(process) == f"{os.getpid()} 0"
        tool.send_signal(signum)
        _, said = tool.communicate(timeout=LIMIT_S)
        assert (tool.returncode, "1 call not allowed but let pass" in said) == (0, True), said
        assert ask(process) == f"-1 {errnos.ENOSYS}"


def test_the_command_supervises_a_whole_tree(tmp_path):
    """Each process of a tree is answered for, and the tool ends with the last of them."""
    code = (
        "import os\nprint('ready', flush=True)\ninput()\n"
        f"import ctypes\nprint(ctypes.CDLL(None).syscall({GETPPID}), flush=True)\n"
    )
    parent = f"import os, sys\nif os.fork() == 0:\n    os.execv(sys.executable, [sys.executable, '-c', {code!r}])\nos.wait()"
    with running(sys.executable, "-c", parent) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--on-violation", "notify", "--pid", process.pid)
        assert "filtered" in tool.stderr.readline()
        assert "filtered" in tool.stderr.readline()
        assert "Ctrl-C" in tool.stderr.readline()
        assert ask(process) == "-1"
        _, said = tool.communicate(timeout=LIMIT_S)
        assert (tool.returncode, "1 call refused" in said) == (0, True), said


def test_what_cannot_be_attached_to_has_its_status(tmp_path):
    """1: there is no such process; 2: that makes no sense; 4: we may not. Each with a reason."""
    rules = profile(tmp_path, "EACCES")
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert enforce(rules, "--pid", ended.pid) == (1, f"error: there is no process {ended.pid}\n")
    for words, status, said in (
        (["--pid", 2], 2, "is a kernel thread"),
        (["--pid", os.getpid(), "--", "true"], 2, "exclude each other"),
        (["--no-descendants", "--", "true"], 2, "say something of --pid"),
    ):
        got, text = enforce(rules, *words)
        assert (got, said in text) == (status, True), text
    log = tmp_path / "folder" / "a.jsonl"
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        status, said = enforce(rules, "--audit", log, "--pid", process.pid)
        assert status == 1, said  # found out before anything was done to the process
        assert field(process.pid, "Seccomp_filters") == "0"


@needs_root
def test_autoprofile_attaches_to_what_autoprofile_runs(tmp_path):
    """What `enforce` or `learn` runs gets a profile on top, if another listener or tracer does not prevent it."""
    rules = profile(tmp_path, "EACCES")
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(PROFILE.replace("getppid: {action}", "seccomp: kill\n  prctl: kill"))

    def inside(tool: subprocess.Popen[str]) -> int:
        assert tool.stdout.readline() == "ready\n"
        (child,) = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
        return int(child)

    command = [sys.executable, "-m", "autoprofile"]
    program = ["--", sys.executable, "-c", ASKS_ITS_PARENT]
    for words, can_filter, can_supervise in (
        (["enforce", str(hostile)], True, True),
        (["enforce", str(rules), "--complain"], True, False),
        (["learn", "--backend", "notify", "-o", str(tmp_path / "n.yaml")], True, False),
        (["learn", "--backend", "ptrace", "-o", str(tmp_path / "p.yaml")], False, False),
    ):
        with running(*command, *words, *program, until="", cwd=ROOT) as tool:
            pid = inside(tool)
            status, said = enforce(rules, "--pid", pid)
            assert (status == 0) == can_filter, said
            if not can_filter:
                assert "is traced by process" in said
            elif can_supervise:
                second = start_enforce(rules, "--complain", "--pid", pid)
                assert "filtered" in second.stderr.readline()
                second.send_signal(signal.SIGINT)
                second.communicate(timeout=LIMIT_S)
            else:
                status, said = enforce(rules, "--complain", "--pid", pid)
                assert (status, "already listens" in said) == (1, True), said
            if can_filter:
                assert ask(tool) == f"-1 {errnos.EACCES}"  # of all filters' answers the most severe counts
            tool.stdin.close()
            assert tool.wait(LIMIT_S) == 0, tool.stderr.read()
