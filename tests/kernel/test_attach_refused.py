"""Who may attach to whom, and what cannot be attached to: it is as it was, and the reason is said."""

from __future__ import annotations

import contextlib
import json
import os
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
from autoprofile.enforce.attach import AttachError, attach
from autoprofile.errors import AutoprofileError, MachineError, UsageError
from autoprofile.trace.targets import cgroup2_root
from tests.conftest import kernel_thread, need_program
from tests.kernel.attaching import (
    AS_NOBODY,
    CLOSE,
    GETPPID,
    IMPORTS,
    LIMIT_S,
    PRCTL,
    RESTART,
    SECCOMP,
    as_nobody,
    attached,
    field,
    finish,
    needs_root,
    refused,
    remove_cgroup,
    running,
    wait_for_call,
    wait_for_state,
)
from tests.kernel.tool import KILL, NOTIFY, ROOT, allow_all, answer_for, errno, start_tool, tool

pytestmark = pytest.mark.kernel

# Who may attach to whom.


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


@needs_root
def test_a_stop_is_not_the_end_of_a_process_whose_own_filter_forbids_its_restart(tracee):
    """Under a foreign filter without restart_syscall a stop would be fatal: the wait begins anew instead."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running(*under(answer_for(KILL, RESTART)), tracee("waits"), "nanosleep", env=environment) as process:
        wait_for_call(process.pid)
        assert "restart_syscall" in refused(process)
        assert process.stdout.readline() == "nanosleep: 0 errno=0 late filters=1\n"


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


def test_a_trap_is_told_from_an_end(tracee):
    """A foreign filter that answers our calls with SIGSYS is refused, and the signal never gets to the program."""
    trap = answer_for(0x00030000, SECCOMP).hex()
    before = f"kernel.set_no_new_privs()\nseccomp.seccomp_set_mode_filter(bytes.fromhex('{trap}'))\n"
    lines = as_nobody(tracee("waits"), "read", before=before, trust_filters=True)
    assert "answers our calls with SIGSYS; nothing was changed" in lines[0]
    assert lines[1] == "read: 1 errno=0 late filters=1 0"


@needs_root
def test_setuid_programs_are_not_a_users_to_filter(tracee, tmp_path):
    """A user who started a setuid program may not trace it, so it cannot be brought under a filter by them."""
    program = Path(tracee("waits")).with_name("waits-setuid")
    shutil.copy(tracee("waits"), program)
    program.chmod(0o4755)
    lines = as_nobody(str(program), "read")
    assert lines[0].startswith("4 process ")
    assert "cannot be traced" in lines[0]
    assert lines[1] == "read: 1 errno=0 late filters=0 0"


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
        code = IMPORTS + "drop_to_nobody()\n"
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
    if (thread := kernel_thread()) is not None:
        with pytest.raises(UsageError, match="kernel thread"):
            attach(thread, [allow_all])
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


def test_32_bit_code_of_a_64_bit_program_is_refused(tracee):
    """A thread that runs code of the other mode makes calls of another arch: a filter for one would kill it."""
    with running(tracee("long_jump")) as process:
        reason = refused(process, answer_for(KILL, PRCTL), arches=("x86_64",))
        assert "is a i386 program, the profile is for x86_64 only" in reason
        assert "all threads run i386 code" in refused(process)


@needs_root
def test_a_frozen_process_is_refused_with_its_cgroup(tracee):
    """What its cgroup has frozen could not go on under a filter: refused at once, the frozen cgroup is named."""
    try:
        group = cgroup2_root() / f"autoprofile-{os.getpid()}"
        inner = group / "inner"
        inner.mkdir(parents=True)
    except (AutoprofileError, OSError) as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        with running(tracee("waits"), "read") as process:
            (inner / "cgroup.procs").write_text(str(process.pid))
            try:
                (group / "cgroup.freeze").write_text("1")
            except OSError as error:
                pytest.skip(f"this kernel cannot freeze a cgroup v2: {error}")
            deadline = time.monotonic() + LIMIT_S
            while "frozen 1" not in (group / "cgroup.events").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert f"is frozen, by its cgroup {group};" in refused(process)
            (group / "cgroup.freeze").write_text("0")
            assert finish(process) == ("read: 1 errno=0 late filters=0\n", 0)
    finally:
        for folder in (inner, group):
            remove_cgroup(folder)


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ("1", "4 process {} (sleep) cannot be traced: a user may trace only descendants here"),
        ("2", "4 process {} (sleep) cannot be traced: only root may trace here (yama ptrace_scope=2)"),
        ("3", "4 process {} (sleep) cannot be traced: the kernel allows no tracing at all"),
    ],
)
def test_yama_is_named_as_the_reason(scope, says, tmp_path):
    """Where the kernel lets nobody trace, the reason given is the scope that yama has been set to."""
    # The setting is the machine's: what is read of it is stood in for, here as for other refusals of the kernel.
    (tmp_path / "ptrace_scope").write_text(f"{scope}\n")
    code = IMPORTS + "from autoprofile.enforce import attach_target\nfrom pathlib import Path\n"
    code += "yama = Path(args[0]).read_text()\ndrop_to_nobody()\n"
    code += "attach_target._YAMA = type('Scope', (), {'read_text': lambda self: yama})()\n"
    code += "target = subprocess.Popen(['sleep', '600'])\n"
    code += "while open(f'/proc/{target.pid}/comm').read() != 'sleep\\n': time.sleep(0.001)\n"
    code += "error = attach_target.permission_error(target.pid)\n"
    code += "print(target.pid, error.exit_status, error)\ntarget.kill()\ntarget.wait()\n"
    done = tool(code, str(tmp_path / "ptrace_scope"))
    pid, _, text = done.stdout.partition(" ")
    assert text.startswith(says.format(pid)), (done.stdout, done.stderr)


def test_yama_keeps_a_user_from_processes_of_others_making(tracee):
    """Under yama's ptrace_scope 1 a user's own process that is no descendant is refused, and the scope named."""
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        pytest.skip("this kernel has no yama")
    if scope != "1":
        pytest.skip(f"yama's ptrace_scope is {scope} here, not 1")
    user = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with running(*user, tracee("waits"), "read") as process:
        code = IMPORTS + "drop_to_nobody()\n"
        code += "try: attach(int(args[0]), [bytes.fromhex(args[1])])\n"
        code += "except AutoprofileError as error: print(error.exit_status, error)\n"
        done = tool(code, str(process.pid), allow_all.hex())
        assert done.stdout.startswith("4 "), (done.stdout, done.stderr)
        assert "yama ptrace_scope=1" in done.stdout
        assert field(process.pid, "Seccomp_filters") == "0"


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
    if not os.access(last, os.W_OK):
        pytest.skip("the next pid cannot be chosen here (/proc/sys/kernel/ns_last_pid)")
    for _ in range(200):
        last.write_text(str(pid - 1))
        other = subprocess.Popen(["sleep", "600"])
        if other.pid == pid:
            break
        other.kill()
        other.wait()
    try:
        assert other.pid == pid, "the number was taken by somebody else two hundred times"
        with pytest.raises(AttachError, match="ended"):
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
    with (
        running(runc, "--root", state, "run", name, cwd=bundle) as process,
        contextlib.ExitStack() as stack,
    ):
        delete = [runc, "--root", state, "delete", "--force", name]
        stack.callback(subprocess.run, delete, capture_output=True, timeout=LIMIT_S, check=False)
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
    done = tool(IMPORTS + before + AS_NOBODY, allow_all.hex(), "{}", tracee("waits"), "read")
    lines = done.stdout.splitlines()
    assert "--trust-filters" in lines[0], done.stderr
    assert lines[1] == "read: 1 errno=0 late filters=1 0"


def test_root_of_a_user_namespace_is_no_root_outside(tracee):
    """In a rootless container processes are attached to, but their filters cannot be suspended: that is said."""
    wrapper = (need_program("unshare", "util-linux"), "--user", "--map-root-user")
    if subprocess.run([*wrapper, "true"], capture_output=True, timeout=LIMIT_S, check=False).returncode:
        pytest.skip("user namespaces are switched off")
    done = tool(IMPORTS + AS_NOBODY, allow_all.hex(), "{}", tracee("waits"), "read", wrapper=wrapper)
    assert done.stdout.splitlines() == ["1", "read: 1 errno=0 late filters=1 0"], done.stderr
    command = [*under(answer_for(errno(1), GETPPID)), tracee("waits"), "read"]
    for options, said, filters in (
        ("{}", "4 the filters of process", 1),
        ('{"trust_filters": true}', "2", 2),
    ):
        done = tool(IMPORTS + AS_NOBODY, allow_all.hex(), options, *command, wrapper=wrapper)
        lines = done.stdout.splitlines()
        assert lines[0].startswith(said), done.stderr
        assert lines[1] == f"read: 1 errno=0 late filters={filters} 0"
