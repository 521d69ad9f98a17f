"""Filters of running processes: read as they were installed, and the process goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoprofile import kernel
from autoprofile.enforce import dump
from autoprofile.errors import AutoprofileError
from autoprofile.filter import Program
from autoprofile.kernel import ptrace
from tests.cli.tool import WITHOUT_PRIVILEGES, autoprofile, one_error
from tests.kernel.tool import ALLOW, KILL, ROOT, allow_all, answer_for, errno, start_tool, tool

pytestmark = pytest.mark.kernel

FIRST = answer_for(errno(77), 121)  # getpgid
SECOND = answer_for(KILL, 219)  # restart_syscall
CLOCK_NANOSLEEP = 230

_INSTALL = """
for one in args[0].split(","):
    flags, _, code = one.rpartition(":")
    kernel.set_no_new_privs()
    seccomp.seccomp_set_mode_filter(bytes.fromhex(code), flags=int(flags or 0))
print("ready", flush=True)
"""
_WAIT = _INSTALL + "sys.stdin.readline(); print('went on', flush=True)\n"
# A relative clock_nanosleep: once stopped and continued it comes back as restart_syscall.
_SLEEP = _INSTALL + "ctypes.CDLL(None).usleep(args[1] and int(args[1])); print('slept', flush=True)\n"

needs_filters_to_be_readable = pytest.mark.skipif(
    not kernel.has_cap_sys_admin() or dump.thread_state(os.getpid()).mode != "none",
    reason="reading filters needs CAP_SYS_ADMIN, and no filter on the tests themselves",
)


@contextmanager
def running(code: str, *args: str):
    """Start a target and wait until its filters are installed."""
    process = start_tool(code, *args)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def state_of(pid: int) -> str:
    """Give the letter of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(holds) -> None:
    """Poll for a state, generously."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(0.005)


@needs_filters_to_be_readable
def test_stacked_filters_are_read_as_installed_and_the_process_goes_on():
    """Bytes, order and the LOG flag are those of the installation; afterwards nothing is stopped or traced."""
    given = f"{FIRST.hex()},2:{allow_all.hex()},{SECOND.hex()}"
    with running(_WAIT, given) as process:
        found = dump.installed_filters(process.pid)
        assert [bytes(f.program) for f in found] == [FIRST, allow_all, SECOND]
        assert [f.index for f in found] == [0, 1, 2]
        assert [f.is_logged for f in found] in ([False, True, False], [None] * 3)
        assert dump.thread_state(process.pid) == ("filter", 3, 0)
        assert state_of(process.pid) in "RSD"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "went on\n"
        assert process.wait(timeout=60) == 0


@needs_filters_to_be_readable
@pytest.mark.parametrize("spared", [True, False])
def test_a_sleep_that_could_not_be_resumed_is_begun_anew(spared, monkeypatch):
    """A sleeper whose filter refuses restart_syscall survives the reading; without that care it would die."""
    if not spared:
        monkeypatch.setattr(dump, "_spare_restart", lambda _tid, _filters: None)
    with running(_SLEEP, SECOND.hex(), "2500000" if spared else "60000000") as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().startswith(f"{CLOCK_NANOSLEEP} "))
        assert len(dump.installed_filters(process.pid)) == 1
        assert process.wait(timeout=60) == (0 if spared else -signal.SIGSYS)
        assert process.stdout.readline() == ("slept\n" if spared else "")


@needs_filters_to_be_readable
def test_a_wait_that_a_stop_would_end_goes_on():
    """A process read a hundred times in epoll_wait gets its event, and never EINTR."""
    code = """
libc = ctypes.CDLL(None, use_errno=True)
ep = libc.epoll_create1(0)
event = (ctypes.c_char * 12).from_buffer_copy(b"\\x01" + bytes(11))
libc.epoll_ctl(ep, 1, 0, event)
"""
    wait = "print(libc.epoll_wait(ep, event, 1, -1), ctypes.get_errno(), flush=True)\n"
    with running(code + _INSTALL + wait, FIRST.hex()) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().startswith("232 "))
        for _ in range(100):
            assert len(dump.installed_filters(process.pid)) == 1
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1 0\n"


@needs_filters_to_be_readable
def test_a_stopped_process_stays_stopped():
    """A process in job control's stop is read in it, and goes on with SIGCONT only."""
    with running(_WAIT, FIRST.hex()) as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T")
        assert [bytes(f.program) for f in dump.installed_filters(process.pid)] == [FIRST]
        wait_until(lambda: state_of(process.pid) == "T")
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "went on\n"


@needs_filters_to_be_readable
def test_signals_that_come_meanwhile_arrive():
    """Signals sent around a hundred readings reach the program, every one."""
    code = """
seen = 0
def count(*_):
    global seen
    seen += 1
    print(seen, flush=True)
signal.signal(signal.SIGUSR1, count)
"""
    with running(code + _WAIT, FIRST.hex()) as process:
        for number in range(1, 101):
            process.send_signal(signal.SIGUSR1)
            assert len(dump.installed_filters(process.pid)) == 1
            assert process.stdout.readline() == f"{number}\n"


@needs_filters_to_be_readable
def test_one_that_is_traced_already_is_left_alone():
    """Another tracer is named, and keeps its tracee."""
    with running(_WAIT, FIRST.hex()) as process:
        ptrace.ptrace_seize(process.pid)
        try:
            with pytest.raises(AutoprofileError, match=f"traced by process {os.getpid()}"):
                dump.installed_filters(process.pid)
        finally:
            ptrace.ptrace_interrupt(process.pid)
            os.waitpid(process.pid, ptrace.WALL)
            ptrace.ptrace_detach(process.pid)


@needs_filters_to_be_readable
def test_a_reader_under_a_filter_is_told_so():
    """The kernel refuses a reader that is itself filtered; the error says that, with status 4."""
    code = f"""
from autoprofile.enforce.dump import installed_filters
kernel.set_no_new_privs(); seccomp.seccomp_set_mode_filter(bytes.fromhex("{allow_all.hex()}"))
try: installed_filters(int(args[0]))
except AutoprofileError as error: print(error.exit_status, error.what)
"""
    with running(_WAIT, FIRST.hex()) as process:
        done = tool(code, str(process.pid))
    assert done.stdout.startswith("4 autoprofile itself runs under a seccomp filter"), done.stderr


def test_without_privileges_the_status_is_4(tmp_path):
    """Without CAP_SYS_ADMIN the error says what it takes, and the process is not touched."""
    with running(_WAIT, FIRST.hex()) as process:
        prefix = WITHOUT_PRIVILEGES if kernel.has_cap_sys_admin() else ()
        done = autoprofile("dump", "--pid", process.pid, cwd=tmp_path, prefix=prefix)
        assert done.returncode == 4
        assert "CAP_SYS_ADMIN" in one_error(done.stderr)
        assert dump.thread_state(process.pid).tracer == 0


def test_processes_without_filter_are_said_to_have_none(tmp_path):
    """No seccomp, strict mode and a pid that is nobody's are told apart."""
    strict = "ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)\nprint('ready', flush=True)\nos.read(0, 1)\n"
    with running(strict) as process:
        done = autoprofile("dump", "--pid", process.pid, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert "strict mode" in done.stderr
        old, target = tmp_path / "old.bpf", tmp_path / "new.bpf"
        old.write_bytes(FIRST)
        for words in (["-o", target], ["--as", "raw"], ["-o", old], ["-o", old, "--force"]):
            kept = old.exists() and "--force" not in words
            done = autoprofile("dump", "--pid", process.pid, *words, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert "there is no filter to write" in one_error(done.stderr)
            assert not target.exists()
            assert old.exists() == kept, "with --force an older dump is not kept for this one"
    done = autoprofile("dump", "--pid", os.getpid(), "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["filters"] == []
    assert json.loads(done.stdout)["mode"] in ("none", "filter")
    done = autoprofile("dump", "--pid", 2**22 + 1, cwd=tmp_path)  # above the largest pid_max
    assert done.returncode == 1
    assert "there is no process" in one_error(done.stderr)


@needs_filters_to_be_readable
def test_threads_that_are_filtered_otherwise_are_pointed_out(tmp_path):
    """A thread that installed a filter for itself alone is named, and can be read by its tid."""
    code = f"""
ready = threading.Event()
def other():
    kernel.set_no_new_privs(); seccomp.seccomp_set_mode_filter(bytes.fromhex("{FIRST.hex()}"))
    print("ready", flush=True); ready.wait()
threading.Thread(target=other, daemon=True).start()
sys.stdin.readline()
"""
    with running(code) as process:
        (thread,) = (int(t) for t in os.listdir(f"/proc/{process.pid}/task") if int(t) != process.pid)
        done = autoprofile("dump", "--pid", process.pid, cwd=tmp_path)
        assert f"autoprofile dump --pid {thread}" in done.stderr
        assert [bytes(f.program) for f in dump.installed_filters(thread)] == [FIRST]


@needs_filters_to_be_readable
def test_what_enforce_installed_is_read_written_disassembled_and_proven(tmp_path):
    """An enforced program's filter, dumped, is the compiled one; raw files of several are numbered."""
    (tmp_path / "p.yaml").write_text(
        "autoprofile: 1\narch: [x86_64]\nlevel: strict\nmode: denylist\ndefault: allow\n"
        "deny:\n  clone3: ENOSYS\n  ptrace: EPERM\n"
    )
    command = [sys.executable, "-m", "autoprofile", "enforce", "p.yaml", "--", "sh", "-c", "echo $$; read x"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        pid = int(process.stdout.readline())
        assert autoprofile("dump", "--pid", pid, "-o", "d.bpf", cwd=tmp_path).returncode == 0
        assert autoprofile("compile", "p.yaml", "-o", "c.bpf", cwd=tmp_path).returncode == 0
        assert (tmp_path / "d.bpf").read_bytes() == (tmp_path / "c.bpf").read_bytes()
        text = autoprofile("disassemble", "d.bpf", cwd=tmp_path).stdout
        assert "nr == clone3 (435)" in text
        again = autoprofile("dump", "--pid", pid, "-o", "d.bpf", cwd=tmp_path)
        assert again.returncode == 1
        assert "--force" in again.stderr
    finally:
        process.communicate("\n", timeout=60)
    assert process.returncode == 0


@needs_filters_to_be_readable
def test_several_raw_filters_go_to_numbered_files(tmp_path):
    """F.1.bpf is the first installed; one stream does not hold several; text and C do."""
    with running(_WAIT, f"{FIRST.hex()},{SECOND.hex()}") as process:
        run = ("dump", "--pid", process.pid)
        assert autoprofile(*run, "-o", "d.bpf", cwd=tmp_path).returncode == 0
        assert (tmp_path / "d.1.bpf").read_bytes() == FIRST
        assert (tmp_path / "d.2.bpf").read_bytes() == SECOND
        assert autoprofile(*run, "--as", "raw", cwd=tmp_path).returncode == 2
        source = autoprofile(*run, "--as", "c", cwd=tmp_path).stdout
        assert source.index("autoprofile_program_1") < source.index("autoprofile_program_2")
        text = autoprofile(*run, cwd=tmp_path).stdout
        assert text.startswith("; filter 1 of 2")
        document = json.loads(autoprofile(*run, "--json", cwd=tmp_path).stdout)
        assert [f["length"] for f in document["filters"]] == [len(FIRST) // 8, len(SECOND) // 8]
        assert Program.from_bytes(FIRST).simulate_ret("x86_64", 0) == ALLOW


@needs_filters_to_be_readable
def test_a_process_that_ends_right_after_was_still_read():
    """A thread that is gone when its siblings are looked at has none that differ."""
    with running(_WAIT, FIRST.hex()) as process:
        assert len(dump.installed_filters(process.pid)) == 1
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        with pytest.raises(AutoprofileError, match="has ended"):
            dump.installed_filters(process.pid)
        process.wait(timeout=60)
        assert dump.unlike_threads(process.pid) == ()
        with pytest.raises(AutoprofileError, match="there is no process"):
            dump.installed_filters(process.pid)
