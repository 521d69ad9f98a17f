"""What goes where: stdout is data or the program's, messages are on stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.tool import AUTOPROFILE, HAND_WRITTEN, autoprofile, environment, hand_written

ESCAPE = "\x1b["


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["notify", "ptrace"])
def test_stdout_belongs_to_the_program(backend: str, tmp_path: Path) -> None:
    """Learning and enforcing leave stdin, stdout and stderr to the program and add nothing to stdout."""
    script = 'read word; echo "out $word"; echo "err $word" >&2'
    for words in (
        ["learn", "--backend", backend, "-o", "t.yaml", "--"],
        ["enforce", "t.yaml", "--"],
        ["enforce", "t.yaml", "--audit", "a.jsonl", "--"],
    ):
        done = subprocess.run(
            [*AUTOPROFILE, *words, "sh", "-c", script],
            cwd=tmp_path,
            env=environment(),
            input="word\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "out word\n"), done.stderr
        assert "err word\n" in done.stderr


@pytest.mark.kernel
def test_quiet_says_nothing_and_verbose_says_more(tmp_path: Path) -> None:
    """-q leaves only errors and warnings, before or after the verb; without it a start and an end are told."""
    told = autoprofile("learn", "-o", "a.yaml", "--", "true", cwd=tmp_path)
    assert [line.split()[0] for line in told.stderr.splitlines()] == ["learning", "wrote"]
    for words in (["-q", "learn"], ["learn", "-q"]):
        done = autoprofile(*words, "--force", "-o", "a.yaml", "--", "true", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_messages_are_on_stderr_only(tmp_path: Path) -> None:
    """Writing a file leaves stdout empty."""
    profile = hand_written(tmp_path)
    done = autoprofile("merge", profile, profile, "-o", "m.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "wrote m.yaml" in done.stderr


@pytest.mark.parametrize(
    ("words", "env", "is_coloured"),
    [
        ([], {}, False),
        ([], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": ""}, True),
        (["--color"], {"NO_COLOR": "1"}, True),
        (["--no-color"], {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_follows_the_option_then_the_environment(
    words: list[str], env: dict[str, str], is_coloured: bool, tmp_path: Path
) -> None:
    """--color wins, then a non-empty NO_COLOR, then FORCE_COLOR; a pipe gets none. Errors follow suit."""
    profile = hand_written(tmp_path)
    for line in ([*words, "show", profile], ["show", profile, *words]):
        done = autoprofile(*line, cwd=tmp_path, env=environment(**env))
        assert (ESCAPE in done.stdout) is is_coloured
    failed = autoprofile(*words, "show", "nothing.yaml", cwd=tmp_path, env=environment(**env))
    assert (ESCAPE in failed.stderr) is is_coloured


def test_text_is_at_most_80_columns(tmp_path: Path) -> None:
    """Text for people fits 80 columns on a pipe, but for what must stay copyable."""
    profile = hand_written(tmp_path)
    wide = hand_written(
        tmp_path, HAND_WRITTEN + "  mmap:\n    - {prot: PROT_READ, flags: MAP_PRIVATE}\n", "w.yaml"
    )
    for words in (
        ["show", wide],
        ["diff", profile, wide],
        ["lint", wide],
        ["doctor"],
        ["--help"],
        ["learn", "-h"],
    ):
        done = autoprofile(*words, cwd=tmp_path)
        shown = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
        assert shown
        assert max(map(len, shown)) <= 80, done.stdout
        assert not any(line.endswith(" ") for line in shown)


@pytest.mark.kernel
def test_json_is_one_sorted_document_with_a_version(tmp_path: Path) -> None:
    """Every reporting verb answers --json with one document: schema_version, kind, sorted keys, no colour."""
    learned = autoprofile("learn", "-o", "t.yaml", "--trace", "t.parquet", "--", "true", cwd=tmp_path)
    assert learned.returncode == 0, learned.stderr
    profile = hand_written(tmp_path)
    recorded = autoprofile("enforce", profile, "--complain", "--audit", "a.jsonl", "--", "true", cwd=tmp_path)
    assert recorded.returncode == 0, recorded.stderr
    for words in (
        ["show", "t.yaml"],
        ["show", "t.parquet"],
        ["show", "a.jsonl"],
        ["drift", profile, "a.jsonl", "t.parquet"],
        ["decide", profile, "read"],
        ["diff", profile, "t.yaml"],
        ["lint", "t.yaml"],
        ["compile", profile],
        ["doctor"],
    ):
        done = autoprofile(*words, "--json", cwd=tmp_path, env=environment(FORCE_COLOR="1"))
        assert done.returncode in {0, 3}, (words, done.stderr)
        document = json.loads(done.stdout)
        assert document["schema_version"] == 1
        assert document["kind"]
        assert list(document) == sorted(document)
        assert ESCAPE not in done.stdout
        again = autoprofile(*words, "--json", cwd=tmp_path)
        if words != ["doctor"]:
            assert again.stdout == done.stdout


def test_sarif_is_what_scanning_services_read(tmp_path: Path) -> None:
    """Lint prints its findings as a SARIF log that names the profile; --json beside it makes no sense."""
    profile = hand_written(tmp_path, HAND_WRITTEN + "  io_uring_setup: any\n  io_uring_enter: any\n")
    done = autoprofile("lint", profile.name, "--sarif", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["results"]
    assert profile.name in done.stdout
    assert autoprofile("lint", profile, "--sarif", "--json", cwd=tmp_path).returncode == 2


@pytest.mark.kernel
def test_the_page_of_the_same_input_is_the_same(tmp_path: Path) -> None:
    """Pages carry no time and nothing random, need nothing from outside, and escape what they show."""
    hostile = HAND_WRITTEN.replace(
        "autoprofile: 1", "autoprofile: 1\nprogram: {path: '/<script>alert(1)</script>'}"
    )
    profile = hand_written(tmp_path, hostile)
    autoprofile("learn", "-o", "t.yaml", "--trace", "t.parquet", "--", "true", cwd=tmp_path)
    for words in ([profile], ["t.parquet"], [profile, "t.parquet"]):
        pages = []
        for name in ("1.html", "2.html"):
            done = autoprofile("report", *words, "--force", "-o", name, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            pages.append((tmp_path / name).read_text())
        assert pages[0] == pages[1]
        assert "alert(1)</script>" not in pages[0]
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", pages[0])


@pytest.mark.kernel
def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    """On a terminal a line tells syscalls, processes and time while learning; on a pipe there is none."""
    script = "import time\nend = time.monotonic() + 2.5\nwhile time.monotonic() < end: time.sleep(0.01)\n"
    command = [*AUTOPROFILE, "learn", "-o", "t.yaml", "--force", "--", sys.executable, "-I", "-c", script]
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = ""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if select.select([main], [], [], 0.2)[0]:
            try:
                shown += os.read(main, 65536).decode()
            except OSError:  # EIO: the last writer has closed the terminal
                break
        elif process.poll() is not None:
            break
    os.close(main)
    assert process.wait(timeout=10) == 0
    assert re.search(
        r"learning python\S*: \d+ syscalls, \d+ argument tuples, [\d ]+ calls, 1 process, \d+ s", shown
    )
    piped = autoprofile(*command[len(AUTOPROFILE) :], cwd=tmp_path)
    assert "syscalls, " not in piped.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    """Each shell gets a script, and the tool answers what the bash script asks."""
    done = autoprofile("completion", shell, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_AUTOPROFILE_COMPLETE" in done.stdout
    asked = autoprofile(
        cwd=tmp_path,
        env=environment(_AUTOPROFILE_COMPLETE="bash_complete", COMP_WORDS="autoprofile enf", COMP_CWORD="1"),
    )
    assert asked.stdout.strip() == "plain,enforce"
