"""`lint` run the way a build server does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.tool import autoprofile
from tests.unit.learn.traces import observed, trace_of

TEXT = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: allowlist
default: EPERM
syscalls:
  read: any
  # the debugger attaches with it
  ptrace: any
  mount: any
  openat2: any
deny:
  getpid: EPERM
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "p.yaml").write_text(TEXT)
    return tmp_path / "p.yaml"


def test_comments_in_the_file_are_seen(profile: Path) -> None:
    """One call is asked about, another is explained; without the file's text both would be."""
    done = autoprofile("lint", profile, "--check", "risk", cwd=profile.parent)
    assert done.returncode == 3
    assert "mount is allowed with any arguments" in done.stdout
    assert "ptrace" not in done.stdout
    with profile.open() as file:
        same = autoprofile("lint", "-", "--check", "risk", cwd=profile.parent, stdin=file)
    assert same.stdout == done.stdout


@pytest.mark.parametrize(("fail_on", "status"), [("info", 3), ("high", 3)])
def test_the_severity_decides_the_exit_status(profile: Path, fail_on: str, status: int) -> None:
    """A finding of high severity fails always."""
    assert autoprofile("lint", profile, "--fail-on", fail_on, cwd=profile.parent).returncode == status


def test_findings_below_the_severity_do_not_fail(profile: Path) -> None:
    """They are shown nevertheless."""
    done = autoprofile("lint", profile, "--check", "overlap", "--fail-on", "low", cwd=profile.parent)
    assert done.returncode == 0
    assert "redundant-rule" in done.stdout


def test_the_enforcing_kernel_and_later_runs_are_asked(profile: Path) -> None:
    """--kernel and --evidence add their findings, in JSON and SARIF too."""
    trace_of(observed("read"), runs=1).save(profile.parent / "t.parquet")
    words = ["lint", profile, "--kernel", "5.4", "--evidence", "t.parquet"]
    found = json.loads(autoprofile(*words, "--json", cwd=profile.parent).stdout)["findings"]
    by_id: dict[str, list[str]] = {}
    for one in found:
        by_id.setdefault(one["id"], []).extend(one["syscalls"])
    assert by_id["unknown-to-kernel"] == ["openat2"]
    assert set(by_id["unused-rule"]) == {"mount", "openat2", "ptrace"}
    log = json.loads(autoprofile(*words, "--sarif", cwd=profile.parent).stdout)
    lines = {
        result["locations"][0]["physicalLocation"]["region"]["startLine"]
        for result in log["runs"][0]["results"]
        if result["ruleId"] == "unknown-to-kernel"
    }
    assert lines == {11}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--kernel", "newest"], 2),
        (["--check", "nonsense"], 2),
        (["--json", "--sarif"], 2),
        (["--evidence", "no.parquet"], 1),
    ],
)
def test_wrong_words_are_one_error(profile: Path, words: list[str], status: int) -> None:
    """Nothing is printed but the error."""
    done = autoprofile("lint", profile, *words, cwd=profile.parent)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
