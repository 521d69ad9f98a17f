"""What a review found: supervised daemons and signals, filters of the program's own, options behind a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.kernel.tool import tool

pytestmark = pytest.mark.kernel

_ALLOW_ALL = "autoprofile: 1\narch: [x86_64, i386]\nmode: denylist\ndefault: allow\n"
_DENY_PARENT = _ALLOW_ALL + "deny: {getppid: kill}\n"
_CALL = "import os; print('ran', os.getppid() > 0)"


@pytest.fixture
def profile(tmp_path):
    """Return the path of a profile that kills for getppid."""
    path = tmp_path / "p.yaml"
    path.write_text(_DENY_PARENT)
    return path


def enforce(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "autoprofile", "enforce", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_supervisor_whose_program_left_a_daemon(profile, tmp_path, signum):
    """When the program has ended, a signal stops the tool at once; it keeps the program's status and says so."""
    profile.write_text(_ALLOW_ALL)
    log = tmp_path / "a.jsonl"
    script = "exec >/dev/null 2>&1; trap '' HUP INT; sleep 30 & echo $! > \"$0\"; exit 5"
    pid_file = tmp_path / "pid"
    running = enforce(profile, "--audit", log, "--", "sh", "-c", script, pid_file)
    try:
        deadline = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # the program ends, and is reaped
        assert running.poll() is None, "the supervisor does not wait for what the program left behind"
        running.send_signal(signum)
        _, errors = running.communicate(timeout=20)
        assert running.returncode == 5
        assert "still run" in errors
        assert json.loads(log.read_text().splitlines()[-1])["event"] == "end"
    finally:
        running.kill()
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("way", ["seccomp", "prctl"])
def test_a_filter_of_the_programs_own_makes_a_notify_trace_incomplete(tracee, way):
    """Notify cannot see what another filter refuses, so it does not call the trace complete; ptrace sees it."""
    code = """
result = source_named(args[0]).run(Command(tuple(args[1:])))
trace = result.trace
print(sorted(trace.ledger.entries), trace.is_complete, any(o.nr == 110 for o in trace.observations))
"""
    seen = {b: tool(code, b, tracee("own_filter"), way).stdout.splitlines()[-1] for b in ("notify", "ptrace")}
    assert seen == {"notify": "['own_filter'] False False", "ptrace": "[] True True"}


@pytest.mark.parametrize("separator", [(), ("--",)], ids=["bare", "dashes"])
def test_words_behind_the_command_are_the_commands(profile, separator):
    """`--complain` behind the command is its argument, with and without ``--``: nothing is let pass."""
    running = enforce(profile, *separator, sys.executable, "-c", _CALL, "--complain", "-q")
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (159, "")


def test_options_before_the_command_still_count(profile):
    """Options stand before or behind the profile, up to the command."""
    for words in (["--complain", profile], [profile, "--complain"], [profile, "-q", "--complain"]):
        running = enforce(*words, sys.executable, "-c", _CALL)
        out, _ = running.communicate(timeout=60)
        assert (running.returncode, out) == (0, "ran True\n")


def test_an_audit_log_is_not_appended_to_a_profile(profile):
    """A file that is no audit log, such as the profile itself, is refused before anything runs."""
    running = enforce(profile, "--audit", profile, "--", "echo", "ran")
    out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (125, "")
    assert "no audit log" in errors
    assert profile.read_text() == _DENY_PARENT


@pytest.mark.parametrize("audited", [False, True])
def test_auditing_spares_no_call_that_a_rule_kills_for(profile, tmp_path, audited):
    """Where a rule with ENOSYS and one that kills match the same call, it is killed for, audited or not."""
    profile.write_text(
        _ALLOW_ALL
        + "deny: {getpriority: [{which: PRIO_PROCESS, action: kill}, {which: any, action: ENOSYS}]}\n"
    )
    options = ["--audit", tmp_path / "a"] if audited else []
    call = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
    running = enforce(profile, *options, "--", sys.executable, "-c", call)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (159, "")


@pytest.mark.parametrize(("closed", "left"), [(">&-", 5), ("2>&-", 3), ("<&-", 6), ("<&- >&- 2>&-", 0)])
def test_closed_streams_are_the_commands_as_well(profile, tracee, tmp_path, closed, left):
    """Started without stdin, stdout or stderr, enforce runs the command, which finds them closed too."""
    words = [sys.executable, "-m", "autoprofile", "enforce", profile, "--audit", tmp_path / "a", "--"]
    script = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *map(str, words), tracee("streams")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 10 + left


def learn(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "autoprofile", "learn", "--backend", "notify", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_one_file_is_not_both_profile_and_trace(tmp_path):
    """The trace would replace the profile that was just written; nothing is run."""
    done = learn("-o", "x", "--trace", "./x", "--", "echo", "ran", cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert "both" in done.stderr


def test_merging_says_which_refusals_it_lifts(tmp_path):
    """`learn --merge` accepts what it saw, and names the deny rules that give way to it."""
    (tmp_path / "p.yaml").write_text(
        "autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {write: any}\n"
        "deny: {getppid: EPERM, ptrace: EPERM}\n"
    )
    done = learn("--merge", "-o", "p.yaml", "--", sys.executable, "-c", _CALL, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ran True\n")
    assert "lifts refusals of p.yaml, whole or in part: getppid\n" in done.stderr
