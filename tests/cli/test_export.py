"""`autoprofile export`: what is lost is said once a reason, in full in the document; launchers need execve."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from autoprofile import Action, Arg, Profile, SeccompRule
from tests.cli.tool import HAND_WRITTEN, autoprofile, hand_written
from tests.conftest import need_program

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("accept4", "access", "fcntl", "futex", "lseek", "mkdir", "mprotect", "recvfrom")


def _many(folder: Path) -> None:
    rules = tuple(SeccompRule(name, Action.ALLOW, (Arg(1, "eq", 1, width=32),)) for name in NAMES)
    Profile(rules=rules).save(folder / "p.yaml")


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("systemd", f"warning: widened: {', '.join(NAMES)}: to every call: systemd has no rule by argument"),
        ("minijail", f"narrowed: {', '.join(NAMES)}: compared whole, a dirty upper half no longer passes"),
        ("oci", "added: 21 rules: close, epoll_ctl, execve, "),
    ],
)
def test_rules_that_differ_for_one_reason_share_a_line(form: str, line: str, tmp_path: Path) -> None:
    """A reason is said once, as a warning only where the profile is widened; -v and --json say each by itself."""
    _many(tmp_path)
    done = autoprofile("export", "p.yaml", "--to", form, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sum(one.startswith(line) for one in lines) == 1, done.stderr
    assert len(lines) < 7
    assert any(one.startswith("-v lists") for one in lines)
    assert ("warning" in done.stderr) == (form == "systemd")
    shown = autoprofile("export", "p.yaml", "--to", form, "--json", cwd=tmp_path)
    notes = [note for note in json.loads(shown.stdout)["notes"] if note["effect"] != "kept"]
    assert shown.stderr == ""
    assert len(notes) > len(NAMES) - 1
    full = autoprofile("-v", "export", "p.yaml", "--to", form, "-o", "out2", cwd=tmp_path).stderr
    assert all(
        f"{note['effect']}: {note['subject']}: {note['detail']}" in full for note in notes if note["detail"]
    )
    quiet = autoprofile("-q", "export", "p.yaml", "--to", form, "-o", "out3", cwd=tmp_path).stderr
    assert ("widened" in quiet) == (form == "systemd")


def test_filters_for_launchers_say_that_execve_is_not_allowed(tmp_path: Path) -> None:
    """Compile and export of raw bytes and C name the missing execve and how to add it; with it they do not."""
    hand_written(tmp_path)
    hand_written(tmp_path, HAND_WRITTEN + "  execve: any\n", name="exec.yaml")
    for words in (
        ("export", "--to", "raw"),
        ("export", "--to", "c"),
        ("compile", "--as", "raw"),
        ("compile", "--as", "c"),
    ):
        said = []
        for name in ("p.yaml", "exec.yaml"):
            done = autoprofile(*words, name, "-o", "out", "--force", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            said.append(
                [line for line in done.stderr.splitlines() if line.startswith("note: execve is not allowed")]
            )
        assert [len(lines) for lines in said] == [1, 0], words
        assert "bwrap" in said[0][0]
        assert "'execve: any' under 'syscalls:'" in said[0][0]
    shown = json.loads(autoprofile("export", "p.yaml", "--to", "raw", "--json", cwd=tmp_path).stdout)
    assert [note["subject"] for note in shown["notes"]][1:] == ["execve is not allowed"]
    assert shown["exact"]


@pytest.mark.kernel
def test_bwrap_starts_the_program_once_the_profile_allows_execve(tmp_path: Path) -> None:
    """What the note says holds: without execve bwrap's program is killed, with it added it runs."""
    need_program("bwrap", package="bubblewrap")
    (tmp_path / "greeting").write_text("hi\n")
    learned = autoprofile("learn", "-o", "p.yaml", "--", "cat", "greeting", cwd=tmp_path)
    assert learned.returncode == 0, learned.stderr
    text = (tmp_path / "p.yaml").read_text()
    assert "execve" not in text
    (tmp_path / "exec.yaml").write_text(text.replace("\nsyscalls:\n", "\nsyscalls:\n  execve: any\n"))
    for name, status, out in (("p.yaml", 159, ""), ("exec.yaml", 0, "hi\n")):
        assert autoprofile("compile", name, "-o", "f.bpf", "--force", cwd=tmp_path).returncode == 0
        with (tmp_path / "f.bpf").open("rb") as file:
            done = subprocess.run(
                ["bwrap", "--ro-bind", "/", "/", "--seccomp", str(file.fileno()), "cat", "greeting"],
                cwd=tmp_path, pass_fds=(file.fileno(),), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
        assert (done.returncode, done.stdout) == (status, out), done.stderr
