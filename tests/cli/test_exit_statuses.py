"""Every row of the table of exit statuses, with real runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.cli.exit import TABLE
from tests.cli.tool import (
    AUTOPROFILE,
    HAND_WRITTEN,
    TIMEOUT_S,
    WITHOUT_PRIVILEGES,
    autoprofile,
    environment,
    hand_written,
    one_error,
)


def test_0_done(tmp_path: Path) -> None:
    """A verb that did its work exits with 0 and says nothing on stderr."""
    done = autoprofile("show", hand_written(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "socket" in done.stdout


def test_1_operational_error(tmp_path: Path) -> None:
    """A file that does not exist is an operational error."""
    done = autoprofile("show", "nothing.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing.yaml" in one_error(done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["lern"],
        ["learn"],
        ["learn", "--backend", "magic", "--", "true"],
        ["learn", "--from-trace", "a", "--from-strace", "b"],
        ["enforce", "p.yaml"],
        ["merge", "p.yaml"],
        ["decide", "p.yaml", "sockett"],
        ["decide", "p.yaml", "socket", "AF_NOWHERE"],
        ["show", "--no-such-option", "p.yaml"],
        [],
    ],
    ids=" ".join,
)
def test_2_usage(words: list[str], tmp_path: Path) -> None:
    """Arguments that make no sense are answered with one message on stderr and status 2."""
    hand_written(tmp_path)
    done = autoprofile(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    if words:
        one_error(done.stderr)
        assert "hint: " in done.stderr


@pytest.mark.kernel
def test_3_drift_and_0_without(tmp_path: Path) -> None:
    """Drift exits with 3 when there is any, and with 0 when the evidence fits the profile."""
    learned = autoprofile("learn", "-o", "t.yaml", "--trace", "t.parquet", "--", "true", cwd=tmp_path)
    assert learned.returncode == 0, learned.stderr
    same = autoprofile("drift", "t.yaml", "t.parquet", "--ignore-unused", cwd=tmp_path)
    assert (same.returncode, same.stderr) == (0, ""), same.stdout
    drifted = autoprofile("drift", hand_written(tmp_path), "t.parquet", "--json", cwd=tmp_path)
    assert drifted.returncode == 3
    assert json.loads(drifted.stdout)["counts"]["new_syscall"] > 0


def test_3_findings(tmp_path: Path) -> None:
    """Lint exits with 3 when it finds a way around the profile."""
    careless = HAND_WRITTEN + "  io_uring_setup: any\n  io_uring_enter: any\n"
    done = autoprofile("lint", hand_written(tmp_path, careless), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")


def test_3_only_when_asked_for(tmp_path: Path) -> None:
    """Decide and diff answer with 0, and with 3 for a refusal or a difference when --exit-code is given."""
    profile = hand_written(tmp_path)
    other = hand_written(tmp_path, HAND_WRITTEN + "  write: any\n", "q.yaml")
    for words in (["decide", profile, "write"], ["diff", profile, other]):
        assert autoprofile(*words, cwd=tmp_path).returncode == 0
        assert autoprofile(*words, "--exit-code", cwd=tmp_path).returncode == 3
    assert autoprofile("decide", profile, "read", "--exit-code", cwd=tmp_path).returncode == 0
    assert autoprofile("diff", profile, profile, "--exit-code", cwd=tmp_path).returncode == 0


def test_4_this_machine_cannot(tmp_path: Path) -> None:
    """What this build or machine cannot do is said with what would make it, and with status 4."""
    prefix = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    done = autoprofile(
        "learn", "--backend", "ebpf", "-o", "t.yaml", "--", "true", cwd=tmp_path, prefix=prefix
    )
    assert done.returncode == 4, done.stderr
    one_error(done.stderr)
    assert "hint: " in done.stderr
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.parametrize("verb", ["learn", "enforce"])
def test_125_autoprofile_failed_before_the_command_ran(verb: str, tmp_path: Path) -> None:
    """A broken or existing profile is found before the command runs, which the status tells from the command's."""
    profile = hand_written(tmp_path, "autoprofile: [")
    options = ["enforce", profile] if verb == "enforce" else ["learn", "-o", profile]
    done = autoprofile(*options, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 125, done.stderr
    one_error(done.stderr)
    assert not (tmp_path / "ran").exists()


@pytest.mark.kernel
@pytest.mark.parametrize("verb", ["learn", "enforce"])
@pytest.mark.parametrize(("status", "program"), [(126, "./not-executable"), (127, "./not-there")])
def test_126_and_127_as_env_does(verb: str, status: int, program: str, tmp_path: Path) -> None:
    """A command that cannot be executed gives 126, one that is not there 127, and nothing is written."""
    (tmp_path / "not-executable").write_text("no program\n")
    options = ["enforce", hand_written(tmp_path)] if verb == "enforce" else ["learn", "-o", "t.yaml"]
    done = autoprofile(*options, "--", program, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert program.removeprefix("./") in one_error(done.stderr)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["notify", "ptrace"])
@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 137)]
)
def test_other_the_commands_own_status(backend: str, script: str, status: int, tmp_path: Path) -> None:
    """Learning passes the command's status through, 128 + N for signal N, and writes the profile all the same."""
    done = autoprofile("learn", "--backend", backend, "-o", "t.yaml", "--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "t.yaml").exists()
    again = autoprofile("enforce", "t.yaml", "--", "sh", "-c", script, cwd=tmp_path)
    assert again.returncode == status, again.stderr


@pytest.mark.kernel
def test_other_killed_by_seccomp_is_159_and_explained(tmp_path: Path) -> None:
    """A command killed by its filter ends with 128 + SIGSYS, and stderr says how to find out which call it was."""
    done = autoprofile("enforce", hand_written(tmp_path), "--", "true", cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGSYS
    assert "SIGSYS" in done.stderr
    assert "--complain --audit" in done.stderr


@pytest.mark.kernel
def test_130_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the program, not the learning: what was seen is written, marked incomplete, status 130."""
    # Not a shell: it may lose a Ctrl-C that comes just before it starts its child.
    waits = [sys.executable, "-I", "-c", "import time; print('ready', flush=True); time.sleep(100)"]
    process = subprocess.Popen(
        [*AUTOPROFILE, "learn", "-o", "t.yaml", "--", *waits],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: the whole foreground group
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, stderr
    assert "complete: false" in (tmp_path / "t.yaml").read_text()
    assert "warning: " in stderr


def test_the_table_has_a_test_for_each_row() -> None:
    """No row of the table goes untested."""
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_") and name != "test_the"}
    tested |= {"127", "126"}
    assert {status for status, _ in TABLE} <= tested
