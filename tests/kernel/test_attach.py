"""Attaching to a running process: all of it is filtered, and it notices nothing else."""

from __future__ import annotations

import contextlib
import errno as errnos
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autoprofile import kernel
from autoprofile.enforce.attach import AttachError, Attachment, attach
from autoprofile.enforce.attach_inject import injectable
from autoprofile.enforce.attach_threads import Frozen, StoppedThreads
from autoprofile.enforce.attach_tree import AttachedProcess, attach_tree
from autoprofile.errors import AutoprofileError
from autoprofile.kernel import seccomp
from tests.conftest import need_program
from tests.kernel.attaching import (
    CLOSE,
    GETPPID,
    LIMIT_S,
    LONG,
    READ,
    RESTART,
    attached,
    field,
    finish,
    refused,
    running,
    wait_for_call,
    wait_for_state,
)
from tests.kernel.tool import KILL, NOTIFY, ROOT, allow_all, answer_for, errno, ret

EPOLL_WAIT = 232

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900 if LONG else 180)]

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
    # Here the stop alone, which was needed to see this, would have made the call fail with EINTR.
    with running(tracee("waits"), "epoll") as process:
        wait_for_call(process.pid)
        assert "waits in epoll_wait" in refused(process, answer_for(KILL, EPOLL_WAIT))
        assert finish(process) == ("epoll: 1 errno=0 late filters=0\n", 0)


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
            time.sleep(0.01)  # stopped over and over, the program would not get on
        assert finish(process) == ("done\n", 0)
    assert outcomes, "the program was done before anything was tried"


def test_no_call_is_made_inside_a_restartable_sequence(tracee):
    """Its end would go unnoticed (rseq(2)): another thread is taken; the only one is taken out of it by its abort."""
    with running(tracee("sequence")) as process:
        attached(process.pid, answer_for(errno(1), GETPPID))
        assert finish(process) == ("aborted: yes\n", 0)
    with running(tracee("sequence"), "alone") as process:
        pidfd = kernel.pidfd_open(process.pid)

        def look() -> bool:
            threads = StoppedThreads(process.pid, pidfd, deadline=deadline, is_cancelled=lambda: False)
            try:
                (thread,) = threads.stop()
                return injectable([thread], "x86_64").ip != thread.ip
            finally:
                threads.release()

        deadline = time.monotonic() + LIMIT_S
        for number in range(1, 11):
            is_inside = False
            while not is_inside:  # the next attach finds it there too, but for the odd moment
                assert time.monotonic() < deadline
                with ThreadPoolExecutor(1) as tracer:  # lets go of everything when it ends
                    is_inside = tracer.submit(look).result()
            attached(process.pid, answer_for(errno(1), GETPPID))
            assert field(process.pid, "Seccomp_filters") == str(number)
        os.close(pidfd)
        process.send_signal(signal.SIGUSR1)
        assert finish(process) == ("aborted: yes\n", 0)


@pytest.mark.parametrize(("arch", "words", "ip"), [("x86_64", "=27Q", 16), ("i386", "=17I", 12)])
def test_a_thread_is_moved_to_any_address(arch, words, ip):
    """Its instruction pointer is set, in the upper half of the address space too, and no other register."""
    registers = struct.pack(words, *range(struct.calcsize(words) // struct.calcsize(words[-1])))
    thread = Frozen(0, arch, registers, 0, -1, (0,) * 6, ip, 0)
    moved = thread.moved(0xF7001234)
    assert moved.ip == 0xF7001234
    values = list(struct.unpack(words, registers))
    values[ip] = 0xF7001234
    assert struct.unpack(words, moved.registers) == tuple(values)


if LONG:  # needs a minute each, and the compilers

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


def test_a_child_whose_parent_ends_during_the_attach_is_attached_to(monkeypatch):
    """A child found while its parent stood still is filtered, although init is its parent by the time."""
    monkeypatch.setattr("autoprofile.enforce.attach_tree.descendants_of", lambda _: set())
    script = "sleep 600 & echo ready; wait"
    with running("sh", "-c", script, start_new_session=True) as process:
        seen: list[Attachment] = []

        def on_attached(attachment: Attachment) -> None:
            seen.append(attachment)
            if attachment.pid == process.pid:
                process.kill()
                process.wait(LIMIT_S)

        try:
            errors: dict[int, AutoprofileError] = {}
            attach_tree(process.pid, [allow_all], on_attached=on_attached, on_refused=errors.__setitem__)
            for attachment in seen:
                os.close(attachment.pidfd)
            assert not errors
            (child,) = seen[0].children
            assert [a.pid for a in seen] == [process.pid, child]
            assert field(child, "Seccomp_filters") == "1"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("exiting", [True, False])
def test_no_filters_are_believed_of_ended_threads_only(monkeypatch, tracee, exiting):
    """A thread that shows no filters afterwards is taken for killed if it is, else the attach fails."""
    from autoprofile.enforce import attach as module

    real = module.seccomp_of
    asked: list[int] = []

    def seccomp_of(tid: int):
        asked.append(tid)
        state = real(tid)
        return state if len(asked) == 1 else (state[0], state[1], 0)

    monkeypatch.setattr(module, "seccomp_of", seccomp_of)
    if exiting:
        monkeypatch.setattr(module, "_is_exiting", lambda _: True)
    with running(tracee("waits"), "read") as process:
        if exiting:
            os.close(attach(process.pid, [allow_all]).pidfd)
        else:
            with pytest.raises(AttachError, match="0 filters instead of 1"):
                attach(process.pid, [allow_all])


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
