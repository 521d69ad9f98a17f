"""`learn` run the way a user does: until it is stable, beside edits made meanwhile, and never for nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.observations import Trace
from autoprofile.profile import Action, Arg, Profile, SeccompRule
from tests.unit.learn.traces import observed, trace_of

from .tool import AUTOPROFILE, TIMEOUT_S, autoprofile, environment


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["notify", "ptrace"])
def test_a_command_is_repeated_until_the_estimate_is_small(tmp_path: Path, backend: str) -> None:
    """Two equal runs make the chance of more 1 in 6; then it stops, and says what it found on the way."""
    done = autoprofile(
        "learn", "--backend", backend, "--until-stable=0.2", "-o", "t.yaml", "--", "true", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"run 1: \d+ distinct calls, \d+ new; .* unknown yet", done.stderr)
    assert re.search(r"run 2: \d+ distinct calls, 0 new; .* 16\.7%, wanted 20\.0%", done.stderr)
    learned = Profile.load(tmp_path / "t.yaml").learned
    assert learned is not None
    assert (learned.runs, learned.unseen, learned.left_out) == (2, 0.1667, {})


@pytest.mark.kernel
def test_a_command_that_keeps_changing_is_given_up(tmp_path: Path) -> None:
    """After the most runs it says how far it is from stable, and writes what it learned."""
    varies = "import os, resource; n = len(os.listdir('.')); open(f'f{n}', 'w').close(); resource.getrlimit(n % 15)"
    words = ["--until-stable=0.05", "--runs", "3", "--trace", "t.parquet", "-o", "t.yaml"]
    done = autoprofile("learn", *words, "--", sys.executable, "-I", "-c", varies, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: not stable" in done.stderr
    assert "would have met" in done.stderr
    shown = autoprofile("show", "t.parquet", cwd=tmp_path)
    assert "how complete" in shown.stdout
    assert "discovery" in shown.stdout
    assert "would have met" in " ".join(shown.stdout.split())
    assert "completeness" in json.loads(autoprofile("show", "t.parquet", "--json", cwd=tmp_path).stdout)
    assert "left out" in autoprofile("show", "t.yaml", cwd=tmp_path).stdout


@pytest.mark.kernel
def test_ctrl_c_ends_the_repeating_and_keeps_what_was_learned(tmp_path: Path) -> None:
    """The run that was interrupted is the last, and its profile is written."""
    # Not a shell: it may lose a Ctrl-C that comes just before it starts its child.
    waits = [sys.executable, "-I", "-c", "import time; print('ready', flush=True); time.sleep(100)"]
    with subprocess.Popen(
        [*AUTOPROFILE, "learn", "--until-stable", "-o", "t.yaml", "--", *waits],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, told
    assert "not stable" in told
    learned = Profile.load(tmp_path / "t.yaml").learned
    assert learned is not None
    assert (learned.runs, learned.complete) == (1, False)


@pytest.mark.kernel
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [["--runs", "100000"], ["--until-stable=0.000001", "--runs", "100000"]])
def test_a_signal_at_any_moment_ends_the_repeating(
    tmp_path: Path, times: list[str], signum: signal.Signals
) -> None:
    """Between runs, too: no exception, no lost profile, and the status tells the signal."""
    with subprocess.Popen(
        [*AUTOPROFILE, "learn", *times, "-o", "t.yaml", "--", "echo", "ready"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signum, told
    assert "interrupted" in told
    assert "Exception" not in told
    assert "hint: --runs" not in told
    assert ", 0 lost" in told
    assert Profile.load(tmp_path / "t.yaml").decide("brk").action == Action.ALLOW


@pytest.mark.kernel
def test_a_failed_run_and_another_program_are_warned_of(tmp_path: Path) -> None:
    """What was learned of a command that failed, or is added for another program, is not told in silence."""
    failed = autoprofile("learn", "-o", "t.yaml", "--", "false", cwd=tmp_path)
    assert failed.returncode == 1
    assert "ended with status 1: what was learned is that of a failed run" in failed.stderr
    other = autoprofile("learn", "--merge", "-o", "t.yaml", "--", "true", cwd=tmp_path)
    assert other.returncode == 0
    assert re.search(r"t\.yaml is of \S*/false: it now allows what \S*/true needs", other.stderr), (
        other.stderr
    )
    assert "ended with status" not in other.stderr


@pytest.mark.ebpf
def test_a_running_target_is_watched_until_it_is_quiet(tmp_path: Path) -> None:
    """Windows in which a target does nothing new add up, and the watch ends by itself."""
    script = "import os, time\nwhile True:\n    os.stat('/')\n    time.sleep(0.02)"
    with subprocess.Popen([sys.executable, "-I", "-c", script]) as target:
        try:
            words = ["--pid", target.pid, "--until-stable=0.2", "--window", "0.5", "--timeout", "40"]
            done = autoprofile("learn", *words, "-o", "t.yaml", cwd=tmp_path)
        finally:
            target.kill()
    assert done.returncode == 0, done.stderr
    assert re.search(r"distinct calls, 0 of them new; quiet for 2 windows of 0\.5 s", done.stderr), (
        done.stderr
    )
    # That it has no start and no end is how it was asked for: said, and no warning.
    assert re.search(r"watched from outside, from \d\d:\d\d:\d\d to \d\d:\d\d:\d\d: ", done.stderr)
    assert "warning" not in done.stderr
    assert "no: watched from outside or cut short" in " ".join(
        autoprofile("show", "t.yaml", cwd=tmp_path).stdout.split()
    )


def _kept(tmp_path: Path) -> Path:
    # A hot call with a constraint that shuts a little out, and a rare one that shuts much out. No run is like
    # another: equal ones count once.
    calls = [observed("read", run=run, count=10) for run in range(80)]
    calls += [observed("fcntl", 3, 3, run=run, count=5000) for run in range(80)]
    calls += [observed("socket", 1, 1, 0, run=run) for run in range(80)]
    ids = ["getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid"]
    calls += [observed(name, run=run) for run in range(80) for bit, name in enumerate(ids) if run >> bit & 1]
    trace_of(*calls, runs=80).save(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_constraints_that_cost_too_much_are_listed_with_both_figures(tmp_path: Path) -> None:
    """--worth drops them, and says what is lost and what is saved."""
    trace = _kept(tmp_path)
    words = ["learn", "--level", "standard", "--from-trace", trace, "--force", "-o", "t.yaml"]
    cheap = autoprofile(*words, "--worth", "0", cwd=tmp_path)
    assert cheap.returncode == 0, cheap.stderr
    assert "constraints dropped" not in cheap.stderr
    dear = autoprofile(*words, "--worth", "20", cwd=tmp_path)
    assert re.search(r"fcntl: gain \d+ \([\w, -]+\), price [\d.]+ ns on the mean call", dear.stderr), (
        dear.stderr
    )
    profile = Profile.load(tmp_path / "t.yaml")
    assert profile.decide("fcntl", 3, "F_SETSIG").action == Action.ALLOW
    assert profile.decide("socket", "AF_PACKET", "SOCK_RAW").action != Action.ALLOW


def test_confidence_decides_when_an_argument_has_shown_its_values(tmp_path: Path) -> None:
    """Eighty runs saturate at 0.95 and do not at 0.999."""
    trace = _kept(tmp_path)
    answers = {}
    for confidence in ("0.95", "0.999"):
        words = ["learn", "--level", "standard", "--worth", "0", "--confidence", confidence, "--force"]
        done = autoprofile(*words, "-o", "t.yaml", "--from-trace", trace, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        decision = Profile.load(tmp_path / "t.yaml").decide("socket", "AF_INET", "SOCK_DGRAM", 0)
        answers[confidence] = decision.action.is_permitting
    assert answers == {"0.95": False, "0.999": True}


@pytest.mark.parametrize(
    "words",
    [
        ["--worth", "2", "--", "true"],
        ["--confidence", "1.5", "--", "true"],
        ["--until-stable=2", "--", "true"],
        ["--window", "3", "--", "true"],
        ["--until-stable", "--from-trace", "t.parquet"],
        ["--runs", "3", "--pid", "1"],
        ["-o", "-", "--", "true"],
        ["--trace", "-", "--", "true"],
        ["--loader", "bcc", "--backend", "ptrace", "--", "true"],
        ["--loader", "core", "--from-trace", "t.parquet"],
        ["--loader", "core", "--from-strace", "t.log"],
        ["--unit", ""],
        ["--container", ""],
        ["--cgroup", ""],
        ["--deny-opaque", "--", "touch", "ran"],
        ["--deny-failed", "--", "touch", "ran"],
        ["--jit-error", "--", "touch", "ran"],
        ["--lookup-error", "--level", "strict", "--", "touch", "ran"],
        ["--default", "allow", "--", "touch", "ran"],
        ["--mode", "denylist", "--default", "kill", "--", "touch", "ran"],
    ],
)
def test_options_that_mean_nothing_together_are_usage_errors(tmp_path: Path, words: list[str]) -> None:
    """They are found before anything runs."""
    done = autoprofile("learn", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kernel
@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["notify", "ptrace", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def test_a_timeout_ends_each_run_and_the_next_begins(tmp_path: Path, backend: str) -> None:
    """A program that never ends by itself is learned from as many runs as were asked for."""
    words = ["--backend", backend, "--timeout", "2", "--runs", "2", "-o", "t.yaml"]
    done = autoprofile("learn", *words, "--", "sleep", "100", cwd=tmp_path)
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("sleep was ended after 2 s") == 2
    assert "runs were made" not in done.stderr
    assert "failed runs" not in done.stderr
    learned = Profile.load(tmp_path / "t.yaml").learned
    assert learned is not None
    assert (learned.runs, learned.complete) == (2, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--worth", "nan"),
        ("--worth", "inf"),
        ("--confidence", "nan"),
        ("--until-stable", "nan"),
        ("--timeout", "inf"),
    ],
)
def test_a_threshold_is_a_finite_number(tmp_path: Path, option: str, value: str) -> None:
    """Nan compares as false with any bound: as a worth it would drop every constraint without a word."""
    done = autoprofile("learn", f"{option}={value}", "--level", "standard", "--", "true", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert option in done.stderr
    assert "not a finite number" in done.stderr
    assert not list(tmp_path.iterdir())


def test_edits_made_during_the_run_stay(tmp_path: Path) -> None:
    """What a person changes while `learn --merge` runs is in the result, comments included."""
    profile = tmp_path / "t.yaml"
    assert autoprofile("learn", "-o", profile, "--", "true", cwd=tmp_path).returncode == 0
    edit = (
        "import pathlib; p = pathlib.Path('t.yaml'); t = p.read_text(); "
        "p.write_text(t.replace('syscalls:\\n', 'syscalls:\\n  # for the debugger\\n  ptrace: any\\n'))"
    )
    done = autoprofile(
        "learn", "--merge", "-o", profile, "--", sys.executable, "-I", "-c", edit, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "# for the debugger" in profile.read_text()
    merged = Profile.load(profile)
    assert merged.decide("ptrace").action == Action.ALLOW
    assert merged.decide("lseek", 0, 0, "SEEK_CUR").action == Action.ALLOW  # what the editing program needed


@pytest.mark.kernel
def test_learners_that_widen_one_profile_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each takes its turn: the runs of all are in the result."""
    assert autoprofile("learn", "-o", "t.yaml", "--", "true", cwd=tmp_path).returncode == 0
    words = [*AUTOPROFILE, "learn", "-q", "--merge", "-o", "t.yaml", "--"]
    learners = [
        subprocess.Popen([*words, *command], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        for command in (["ls"], ["cat", "t.yaml"], ["true"])
    ]
    assert [learner.wait(TIMEOUT_S) for learner in learners] == [0, 0, 0]
    learned = Profile.load(tmp_path / "t.yaml").learned
    assert learned is not None
    assert learned.runs == 4


@pytest.mark.kernel
def test_a_trace_that_appears_during_the_run_is_left_alone(tmp_path: Path) -> None:
    """The own trace goes beside it, and a warning says where."""
    words = ["learn", "-o", "t.yaml", "--trace", "t.parquet", "--", "sh", "-c", "echo mine > t.parquet"]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.parquet").read_text() == "mine\n"
    assert Trace.load(tmp_path / "t-1.parquet").events > 0
    assert "the trace goes to t-1.parquet" in done.stderr


@pytest.mark.kernel
def test_a_profile_that_appears_during_the_run_is_left_alone(tmp_path: Path) -> None:
    """What was learned is kept elsewhere, and the error says where; --merge widens it instead."""
    script = "printf 'autoprofile: 1\\narch: [x86_64]\\ndefault: EPERM\\nsyscalls: {mount: any}\\n' > t.yaml"
    environ = environment(TMPDIR=str(tmp_path))
    done = autoprofile("learn", "-o", "t.yaml", "--", "sh", "-c", script, cwd=tmp_path, env=environ)
    assert done.returncode == 1, done.stderr
    assert Profile.load(tmp_path / "t.yaml").decide("mount").action == Action.ALLOW
    kept = re.search(r"kept in (\S+)/t\.yaml", done.stderr)
    assert kept is not None
    assert Profile.load(Path(kept[1]) / "t.yaml").decide("brk").action == Action.ALLOW
    (tmp_path / "t.yaml").unlink()
    done = autoprofile("learn", "--merge", "-o", "t.yaml", "--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    merged = Profile.load(tmp_path / "t.yaml")
    assert (merged.decide("mount").action, merged.decide("brk").action) == (Action.ALLOW, Action.ALLOW)


@pytest.mark.parametrize("words", [["-o", "/proc/t.yaml"], ["-o", "t.yaml", "--trace", "/proc/t.parquet"]])
def test_a_folder_that_cannot_be_written_to_is_found_before_the_run(tmp_path: Path, words: list[str]) -> None:
    """Hours of a run are not for nothing."""
    done = autoprofile("learn", *words, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 125, done.stderr
    assert "cannot write here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_said_to_begin_that_cannot(tmp_path: Path) -> None:
    """A missing program is one error, without a line before it that says it is being learned."""
    done = autoprofile("learn", "no-such-program", cwd=tmp_path)
    assert done.returncode == 127
    assert done.stderr == "error: no-such-program: command not found\n"


def test_an_audit_log_is_no_evidence_of_what_a_program_needs(tmp_path: Path) -> None:
    """The hint names the verb that audit logs are for."""
    (tmp_path / "a.jsonl").write_text('{"schema_version": 1}\n')
    done = autoprofile("learn", "-o", "t.yaml", "--from-trace", "a.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "this is an audit log" in done.stderr
    assert "autoprofile review" in done.stderr
    assert not (tmp_path / "t.yaml").exists()


def test_a_merge_that_widens_says_so(tmp_path: Path) -> None:
    """A union of more than 256 rules of one syscall is not exact: stderr and --json name it."""
    Profile(rules=(SeccompRule("mmap", Action.errno("EPERM")),)).save(tmp_path / "a.yaml")
    tuples = (SeccompRule("mmap", Action.ALLOW, (Arg(2, "eq", n), Arg(3, "eq", n))) for n in range(300))
    Profile(rules=tuple(tuples)).save(tmp_path / "b.yaml")
    done = autoprofile("merge", "a.yaml", "b.yaml", "-o", "c.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "may allow calls that both profiles refuse" in done.stderr
    assert json.loads(done.stdout)["widened"] == [{"syscall": "mmap", "arch": "x86_64", "rules": 257}]
    exact = autoprofile("merge", "a.yaml", "a.yaml", "-o", "d.yaml", "--json", cwd=tmp_path)
    assert json.loads(exact.stdout)["widened"] == []
    assert autoprofile("merge", "a.yaml", "b.yaml", "--json", cwd=tmp_path).returncode == 2


def test_rules_that_were_not_observed_can_be_hidden_and_listed(tmp_path: Path) -> None:
    """`show --unobserved` tells what was seen from what a level added, and why it did."""
    words = ["learn", "--level", "permissive", "-o", "t.yaml", "--from-trace", _kept(tmp_path)]
    assert autoprofile(*words, cwd=tmp_path).returncode == 0
    hidden = autoprofile("show", "--unobserved", "hide", "t.yaml", cwd=tmp_path)
    assert "permissive: companion" not in hidden.stdout
    assert "  read " in hidden.stdout
    only = autoprofile("show", "--unobserved", "only", "t.yaml", cwd=tmp_path)
    assert "companion" in only.stdout
    assert "  read " not in only.stdout
    listed = autoprofile("show", "--unobserved", "list", "t.yaml", "--json", cwd=tmp_path)
    reasons = {rule["reason"] for rule in json.loads(listed.stdout)["rules"]}
    assert any(reason.startswith("permissive: ") for reason in reasons)
    assert autoprofile("show", "--unobserved", "hide", "t.parquet", cwd=tmp_path).returncode == 2


@pytest.mark.kernel
def test_a_merged_profile_does_not_contradict_itself(tmp_path: Path) -> None:
    """It keeps its command, its number of runs, and an estimate from all of them."""
    for words in (["--runs", "2"], ["--merge"]):
        done = autoprofile("learn", *words, "-o", "t.yaml", "--", "ls", *words[1:], cwd=tmp_path)
        assert done.returncode in {0, 2}, done.stderr
    shown = " ".join(autoprofile("show", "t.yaml", cwd=tmp_path).stdout.split())
    assert "command ls" in shown
    assert "3 runs" in shown
    assert "chance that another run needs something unseen" in shown
    assert "all of one run" not in shown


def test_a_profile_of_another_format_is_named_as_such(tmp_path: Path) -> None:
    """It is no audit log; the hint makes one of ours of it, which can be decided, linted and compared."""
    entries = [{"names": ["read", "mount"], "action": "SCMP_ACT_ALLOW"}]
    (tmp_path / "d.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}))
    refused = autoprofile("decide", "d.json", "mount", cwd=tmp_path)
    assert refused.returncode == 1
    assert "autoprofile import d.json -o P.yaml" in refused.stderr
    made = autoprofile("import", "d.json", "--arch", "x86_64", "-o", "P.yaml", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert autoprofile("decide", "P.yaml", "mount", cwd=tmp_path).stdout.startswith("allow")
    linted = autoprofile("lint", "P.yaml", "--kernel", "6.1", cwd=tmp_path)
    assert linted.returncode == 3
    assert "mount is allowed with any arguments" in linted.stdout
    assert autoprofile("diff", "P.yaml", "P.yaml", "--exit-code", cwd=tmp_path).returncode == 0
    broken = autoprofile(
        "import", "-", "-o", "Q.yaml", cwd=tmp_path, stdin=_file(tmp_path, '{"defaultAction": 1}')
    )
    assert broken.returncode == 1
    assert "<stdin>: defaultAction: no action 1" in broken.stderr


def _file(folder: Path, text: str) -> int:
    path = folder / "stdin.json"
    path.write_text(text)
    return os.open(path, os.O_RDONLY)


@pytest.mark.kernel
def test_a_run_that_cannot_be_made_does_not_lose_those_before(tmp_path: Path) -> None:
    """The program removes itself: what its first run showed is written, and the status says that one failed."""
    program = tmp_path / "once"
    program.write_text(f"#!/bin/sh\nrm {program}\n")
    program.chmod(0o755)
    words = [
        "learn",
        "--backend",
        "notify",
        "--runs",
        "3",
        "--trace",
        "t.parquet",
        "-o",
        "t.yaml",
        "--",
        program,
    ]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.returncode == 125
    assert "run 2 could not be made" in done.stderr
    learned = Profile.load(tmp_path / "t.yaml").learned
    assert learned is not None
    assert learned.runs == 1
    assert Trace.load(tmp_path / "t.parquet").meta.runs == 1


def test_what_is_merged_is_learned_as_the_profile_is(tmp_path: Path) -> None:
    """Without --level, a run is added at the profile's own: at strict it would be narrower than it claims."""
    trace = _kept(tmp_path)
    words = ["learn", "-o", "t.yaml", "--from-trace", trace]
    assert autoprofile(*words, "--level", "standard", cwd=tmp_path).returncode == 0
    other = trace_of(observed("eventfd2", 0, 0), observed("timerfd_create", 1, 0))
    other.save(tmp_path / "other.parquet")
    done = autoprofile("learn", "--merge", "-o", "t.yaml", "--from-trace", "other.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    merged = Profile.load(tmp_path / "t.yaml")
    assert merged.level == "standard"
    assert merged.decide("timerfd_create", "CLOCK_REALTIME", 0).action == Action.ALLOW
    strict = autoprofile("learn", "-o", "s.yaml", "--from-trace", "other.parquet", cwd=tmp_path)
    assert strict.returncode == 0
    asked = autoprofile(
        "learn", "--merge", "-o", "t.yaml", "--deny-opaque", "--from-trace", trace, cwd=tmp_path
    )
    assert asked.returncode == 0, asked.stderr  # the profile is of level standard, which denies it
    assert Profile.load(tmp_path / "s.yaml").decide("timerfd_create", "CLOCK_REALTIME").action != Action.ALLOW


def test_a_merge_tells_what_holds_in_the_profile_that_is_written(tmp_path: Path) -> None:
    """A refusal that the profile before does not have is not told; nor is nothing called a widening."""
    connects = [observed("connect", run=run) for run in range(3)]
    trace_of(*connects, *(observed("openat", 0, 0, 0, run=run) for run in range(3))).save(
        tmp_path / "a.parquet"
    )
    trace_of(observed("openat", 0, 0, 0)).save(tmp_path / "b.parquet")
    words = ["learn", "--level", "standard", "-o", "t.yaml", "--from-trace"]
    alone = autoprofile(*words[:-2], "b.yaml", "--from-trace", "b.parquet", cwd=tmp_path)
    assert "connect with EACCES" in alone.stderr
    assert "only one run: arguments stay open" in alone.stderr
    assert "warning" not in alone.stderr
    assert autoprofile(*words, "a.parquet", cwd=tmp_path).returncode == 0
    merged = autoprofile(*words, "b.parquet", "--merge", cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    assert Profile.load(tmp_path / "t.yaml").decide("connect").action == Action.ALLOW
    assert "connect with" not in merged.stderr
    assert "only one run" not in merged.stderr
    assert "; this run: 1 call of 1 process seen, 0 lost; the profile: 4 runs" in merged.stderr
    again = autoprofile(*words, "b.parquet", "--merge", cwd=tmp_path)
    assert "nothing was added; this run" in again.stderr


def test_an_open_clone3_is_told_at_strict(tmp_path: Path) -> None:
    """Its flags lie behind a pointer, and lint will say so: who learns hears of it first, and of the way out."""
    trace_of(observed("clone3"), observed("getuid")).save(tmp_path / "t.parquet")
    done = autoprofile("learn", "-o", "t.yaml", "--from-trace", "t.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "clone3 is allowed with any flags" in done.stderr
    assert "at --level standard libc is sent to clone" in done.stderr
