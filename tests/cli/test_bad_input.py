"""Bad input of every kind: one clear message that names the thing, and the promised exit status."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.tool import AUTOPROFILE, HAND_WRITTEN, autoprofile, environment, hand_written, one_error

READING_VERBS = (["show"], ["lint"], ["compile"], ["decide"], ["enforce"])


def words_for(verb: list[str], profile: Path) -> list[object]:
    tail = {"decide": ["read"], "enforce": ["--", "true"]}.get(verb[0], [])
    return [*verb, profile, *tail]


@pytest.mark.parametrize("verb", READING_VERBS, ids=lambda v: v[0])
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("autoprofile: 1\nsyscalls: [", "", "YAML"),
        (HAND_WRITTEN.replace("read", "reed"), "7", "reed"),
        (HAND_WRITTEN.replace("x86_64", "x86_65"), "2", "x86_65"),
        (HAND_WRITTEN.replace("level: strict", "colour: red"), "3", "colour"),
        (HAND_WRITTEN + "  read: any\n", "10", "read"),
        (HAND_WRITTEN.replace("AF_UNIX", "AF_UNIQUE"), "9", "AF_UNIQUE"),
        (HAND_WRITTEN.replace("autoprofile: 1", "autoprofile: 99"), "1", "99"),
        ("", "", "empty"),
    ],
    ids=["yaml", "syscall", "arch", "key", "duplicate", "symbol", "version", "empty"],
)
def test_a_profile_that_does_not_parse_is_named_with_its_line(
    verb: list[str], text: str, line: str, says: str, tmp_path: Path
) -> None:
    """A malformed profile is an error that begins with file:line and names the culprit, whichever verb reads it."""
    profile = hand_written(tmp_path, text)
    done = autoprofile(*words_for(verb, profile), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125 if verb == ["enforce"] else 1, "")
    message = one_error(done.stderr)
    assert message.startswith(f"{profile}:{line}" if line else str(profile))
    assert says in message


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00binary", b"PAR1 but not parquet PAR1", b'{"no": "audit log"}\n']
)
def test_a_file_of_another_kind_is_named(content: bytes, tmp_path: Path) -> None:
    """Garbage, a broken trace and a broken audit log are errors that name the file."""
    path = tmp_path / "file"
    path.write_bytes(content)
    done = autoprofile("show", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in one_error(done.stderr)


def test_an_empty_file_is_none_of_the_three(tmp_path: Path) -> None:
    """An empty trace is not called an empty profile."""
    path = tmp_path / "e.parquet"
    path.touch()
    done = autoprofile("show", path, cwd=tmp_path)
    assert done.returncode == 1
    assert "neither a trace, an audit log nor a profile" in one_error(done.stderr)


def test_a_directory_is_no_profile(tmp_path: Path) -> None:
    """A directory in place of a file is named as such."""
    done = autoprofile("show", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "directory" in one_error(done.stderr)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A file that may not be read gives the reason, not a traceback."""
    profile = hand_written(tmp_path)
    profile.chmod(0)
    tmp_path.chmod(0o755)
    as_user = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    if as_user and not _can_run_as_nobody(tmp_path):
        profile = Path("/proc/1/mem")  # root reads everything else
        as_user = {}
    done = autoprofile("show", profile, cwd=tmp_path, **as_user)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(profile) in one_error(done.stderr)


def _can_run_as_nobody(folder: Path) -> bool:
    if not os.access(sys.executable, os.X_OK) or Path(sys.executable).resolve().is_relative_to("/root"):
        return False
    probe = subprocess.run(
        [sys.executable, "-c", "import autoprofile.cli"],
        cwd=folder,
        user=65534,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return probe.returncode == 0


def test_evidence_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    """A file that is neither trace nor audit log nor profile is refused with its line and what evidence is."""
    profile = hand_written(tmp_path)
    other = hand_written(tmp_path, "some: text\n", "notes.txt")
    done = autoprofile("drift", profile, other, cwd=tmp_path)
    assert done.returncode == 1
    assert "notes.txt:1" in one_error(done.stderr)
    assert "--audit" in done.stderr


@pytest.mark.kernel
def test_a_profile_of_another_arch_never_lets_the_program_run(tmp_path: Path) -> None:
    """Enforcing a profile that does not list the program's arch is refused before the program runs."""
    profile = hand_written(tmp_path, HAND_WRITTEN.replace("x86_64", "aarch64"))
    done = autoprofile("enforce", profile, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 125, done.stderr
    assert "aarch64" in one_error(done.stderr)
    assert not (tmp_path / "ran").exists()


@pytest.mark.kernel
def test_existing_files_are_never_overwritten_silently(tmp_path: Path) -> None:
    """Every verb that writes refuses an existing file, before it runs anything, and takes --force."""
    existing = hand_written(tmp_path)
    before = existing.read_text()
    attempts = (
        ["learn", "-o", existing, "--", "touch", "ran"],
        ["learn", "-o", "new.yaml", "--trace", existing, "--", "touch", "ran"],
        ["merge", existing, existing, "-o", existing],
        ["compile", existing, "-o", existing],
        ["report", existing, "-o", existing],
    )
    for words in attempts:
        done = autoprofile(*words, cwd=tmp_path)
        assert done.returncode in {1, 125}, done.stderr
        assert "--force" in done.stderr
        assert existing.read_text() == before
    assert not (tmp_path / "ran").exists()
    assert autoprofile("learn", "-o", existing, "--force", "--", "true", cwd=tmp_path).returncode == 0
    assert existing.read_text() != before


@pytest.mark.kernel
def test_merging_into_a_profile_keeps_what_it_allowed(tmp_path: Path) -> None:
    """`learn --merge` widens the profile that is there, keeps people's comments and says so."""
    profile = hand_written(
        tmp_path, HAND_WRITTEN.replace("read: any", "read: any  # by hand\n  swapoff: any")
    )
    done = autoprofile("learn", "-o", profile, "--merge", "--", "true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = profile.read_text()
    assert "swapoff: any" in text
    assert "by hand" in text
    assert "exit_group" in text
    assert "widened" in done.stderr


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tiny tmpfs needs root; the limit on file sizes is tested without")
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)) > 0:
                pass
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.kernel
def test_a_full_disk_leaves_nothing_partial_and_loses_no_profile(full_disk: Path, tmp_path: Path) -> None:
    """On a full disk `learn` says so once, exits with 1, leaves nothing behind and keeps the profile elsewhere."""
    rescue = tmp_path / "tmp"
    rescue.mkdir()
    done = autoprofile(
        "learn", "-o", full_disk / "t.yaml", "--", "true", cwd=tmp_path, env=environment(TMPDIR=str(rescue))
    )
    assert done.returncode == 1, done.stderr
    assert "No space left" in one_error(done.stderr)
    assert [p.name for p in full_disk.iterdir()] == ["filler"]
    (kept,) = rescue.glob("*/t.yaml")
    assert str(kept) in done.stderr
    assert autoprofile("show", kept, cwd=tmp_path).returncode == 0


@pytest.mark.kernel
def test_a_full_disk_for_every_other_writer(full_disk: Path, tmp_path: Path) -> None:
    """Traces, merged profiles, filters and pages on a full disk: one error, status 1, nothing partial."""
    profile = hand_written(tmp_path)
    for words in (
        ["learn", "-o", tmp_path / "t.yaml", "--trace", full_disk / "t.parquet", "--", "true"],
        ["merge", profile, profile, "-o", full_disk / "m.yaml"],
        ["compile", profile, "-o", full_disk / "p.bpf"],
        ["report", profile, "-o", full_disk / "p.html"],
    ):
        done = autoprofile(*words, cwd=tmp_path)
        assert done.returncode == 1, (words, done.stderr)
        one_error(done.stderr)
        assert [p.name for p in full_disk.iterdir()] == ["filler"]
    assert (tmp_path / "t.yaml").exists()


@pytest.mark.kernel
def test_a_limit_on_file_sizes_is_an_error_not_a_death(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, which raises SIGXFSZ, ends as one error without a partial file."""
    done = autoprofile(
        "merge",
        hand_written(tmp_path),
        hand_written(tmp_path, HAND_WRITTEN, "q.yaml"),
        "-o",
        "m.yaml",
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert done.returncode == 1, done.stderr
    one_error(done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.yaml", "q.yaml"]


def test_stdout_on_a_full_disk(tmp_path: Path) -> None:
    """A result that cannot be printed is an error, said once, that names stdout and promises nothing of it."""
    for words in (["show"], ["compile"], ["lint", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = autoprofile(words[0], hand_written(tmp_path), *words[1:], cwd=tmp_path, stdout=full)
        assert done.returncode == 1, words
        assert one_error(done.stderr).startswith("standard output: No space left")
        assert "may be empty or partial" in done.stderr


def test_a_closed_stdout_is_no_success(tmp_path: Path) -> None:
    """What was asked for and cannot be written anywhere ends as an error, not as done."""
    profile = hand_written(tmp_path)
    for words in (["decide", profile, "read"], ["show", profile], ["compile", profile]):
        closing = ["sh", "-c", 'exec "$@" >&-', "sh"]
        done = autoprofile(*words, cwd=tmp_path, prefix=closing)
        assert done.returncode == 1, (words, done.stderr)
        assert one_error(done.stderr).startswith("standard output: it was closed")


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    """When the reader of stdout has gone, the tool ends without a word, as a shell's own tools do."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = autoprofile("show", hand_written(tmp_path), cwd=tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.kernel
def test_a_killed_supervisor_leaves_the_target_failing_closed(tmp_path: Path) -> None:
    """After kill -9 of the supervisor, what it answered for fails, what the filter allows goes on."""
    script = (
        "import os, socket, sys, time\n"
        "def attempt():\n"
        "    try:\n"
        "        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()\n"
        "        return 'opened'\n"
        "    except OSError as error:\n"
        "        return error.strerror\n"
        "print(attempt(), flush=True)\n"
        "while os.path.exists('wait'):\n"
        "    time.sleep(0.05)\n"
        "open('answer', 'w').write(attempt())\n"
    )
    program = [sys.executable, "-I", "-B", "-c", script]
    plain = autoprofile("learn", "-o", "t.yaml", "--", *[*program[:-1], script.replace("AF_NETLINK", "AF_INET").replace(
        "SOCK_RAW", "SOCK_STREAM")], cwd=tmp_path)  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    (tmp_path / "answer").unlink()
    (tmp_path / "wait").touch()
    # What a wait costs was not seen in training: the clock of a sleep and the look for the file.
    allowed = autoprofile("learn", "--merge", "-o", "t.yaml", "--timeout", "1", "--", *[*program[:-1], script.replace(
        "AF_NETLINK", "AF_INET").replace("SOCK_RAW", "SOCK_STREAM")], cwd=tmp_path)  # fmt: skip
    assert allowed.returncode == 128 + signal.SIGTERM, allowed.stderr
    process = subprocess.Popen(
        [*AUTOPROFILE, "enforce", "t.yaml", "--on-violation", "notify", "--audit", "a.jsonl", "--", *program],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "Operation not permitted\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    (tmp_path / "wait").unlink()
    answer = tmp_path / "answer"
    end = time.monotonic() + 20
    while time.monotonic() < end and not (answer.exists() and answer.read_text()):
        time.sleep(0.05)
    assert answer.read_text() == "Function not implemented"
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()


def test_no_tool_needed_here_is_missing() -> None:
    """The tests of a full disk find mount and umount where they run as root."""
    if os.geteuid() == 0:
        assert shutil.which("mount")
        assert shutil.which("umount")
