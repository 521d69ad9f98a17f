"""`learn` never takes a part for the whole, and never loses what it saw."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from autoprofile.observations import Trace, TraceMeta
from autoprofile.profile import Profile
from tests.conftest import need_program

from .tool import HAND_WRITTEN, TIMEOUT_S, autoprofile


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["notify", "ptrace"])
def test_a_name_that_is_not_utf8_costs_nothing(tmp_path: Path, backend: str) -> None:
    """The trace and the profile of a program with any name are written, and the trace gives that profile."""
    program = tmp_path / "od\udcff d"
    shutil.copy(need_program("true"), program)
    learn = ["learn", "-o", "p.yaml", "--trace", "t.parquet", "--backend", backend, "--", str(program)]
    done = autoprofile(*learn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {o.program.path for o in Trace.load(tmp_path / "t.parquet").observations} == {str(program)}
    autoprofile("learn", "-o", "again.yaml", "--from-trace", "t.parquet", cwd=tmp_path)
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "p.yaml").read_bytes()


@pytest.mark.kernel
@pytest.mark.parametrize("words", [("-f",), ("-f", "-e", "trace=file"), ("-ff",)])
def test_a_log_of_strace_is_whole_or_says_that_it_is_not(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A filtered log gives an incomplete profile and a warning; all files of a -ff log are one run."""
    strace = need_program("strace")
    subprocess.run(
        [strace, *words, "-X", "raw", "-o", "log", "sh", "-c", "true | cat"],
        cwd=tmp_path,
        timeout=TIMEOUT_S,
        check=True,
    )
    logs = sorted(path.name for path in tmp_path.glob("log*"))
    done = autoprofile("learn", "-o", "p.yaml", "--from-strace", *logs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    learned = Profile.load(tmp_path / "p.yaml").learned
    assert learned is not None
    assert learned.runs == 1
    is_whole = "-e" not in words
    assert (learned.complete, learned.lost == 0) == (is_whole, is_whole)
    assert ("log_incomplete" in done.stderr) != is_whole
    assert (f"log_incomplete: {logs[0]}:" in done.stderr) != is_whole


@pytest.mark.parametrize("verb", ["drift", "review"])
def test_a_trace_of_nothing_is_no_evidence(tmp_path: Path, verb: str) -> None:
    """A trace without a single call cannot show that nothing has changed: it is an error."""
    (tmp_path / "p.yaml").write_text(HAND_WRITTEN)
    Trace(TraceMeta("ptrace"), []).save(tmp_path / "t.parquet")
    done = autoprofile(verb, "p.yaml", "t.parquet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "t.parquet: the trace holds no call" in done.stderr
