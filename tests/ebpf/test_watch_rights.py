"""Where eBPF cannot be had: another user, root without the capability, a kernel without BTF. Each for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TESTS, need_program

pytestmark = pytest.mark.ebpf

AUTOPROFILE = (sys.executable, "-m", "autoprofile")
# It may read everything, for the interpreter may belong to root alone, but has no other right.
NOBODY = (
    "setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"
)  # fmt: skip
WITHOUT_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon")
# bcc, the other loader, is a package of the system's Python.
HIDE = (
    "for folder in /sys/kernel/btf /usr/lib/python3/dist-packages; do"
    ' [ ! -d "$folder" ] || mount -t tmpfs none "$folder" || exit 99; done; exec "$@"'
)
WITHOUT_BTF = ("unshare", "-m", "sh", "-c", HIDE, "sh")


def tool(prefix: tuple[str, ...], folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    for program in prefix[:1]:
        need_program(program, package="util-linux")
    return subprocess.run(
        [*prefix, *AUTOPROFILE, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.fspath(TESTS.parent)},
        check=False,
    )


@pytest.fixture
def folder(tmp_path):
    """Return a directory in which everybody may write."""
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.fixture
def running():
    """Return the pid of a process to watch."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait(timeout=60)


@pytest.fixture
def profile(folder):
    """Return a profile."""
    file = folder / "sleep.yaml"
    done = tool((), folder, "learn", "-o", file, "--", "sleep", "0")
    assert done.returncode == 0, done.stderr
    return file


@pytest.mark.parametrize(
    ("prefix", "why"), [(NOBODY, "needs root"), (WITHOUT_BPF, "not permitted")], ids=["nobody", "without bpf"]
)
def test_without_the_rights_it_is_status_4(prefix, why, folder, running, profile):
    """Every way to eBPF ends with status 4 and says what is missing; nothing is written, nothing was begun."""
    for words in (
        ("learn", "--pid", running, "-o", "never.yaml"),
        ("learn", "--backend", "ebpf", "-o", "never.yaml", "--", "touch", "never"),
        ("watch", profile, "--pid", running),
    ):
        done = tool(prefix, folder, *words)
        assert done.returncode == 4, (words, done.stderr)
        assert why in done.stderr.lower(), (words, done.stderr)
        assert "root" in done.stderr
        assert "hint: " in done.stderr
        assert "defect" not in done.stderr
        if "--pid" in words:
            # No other backend can: to name one would lead in a circle.
            assert "--backend" not in done.stderr, done.stderr
    assert sorted(os.listdir(folder)) == ["sleep.yaml"]


@pytest.mark.parametrize("prefix", [NOBODY, WITHOUT_BPF], ids=["nobody", "without bpf"])
def test_auto_takes_what_works(prefix, folder):
    """Whoever does not ask for eBPF learns without it."""
    done = tool(prefix, folder, "learn", "-o", "echo.yaml", "--", "echo", "learned")
    assert (done.returncode, done.stdout) == (0, "learned\n"), done.stderr
    assert "with notify" in done.stderr or "with ptrace" in done.stderr
    assert (folder / "echo.yaml").exists()


def test_a_container_is_not_looked_for_without_rights(folder):
    """Runtimes keep their state from other users: the answer is not that there is no such container."""
    done = tool(NOBODY, folder, "learn", "--container", "web")
    assert done.returncode == 4, done.stderr
    assert "needs root" in done.stderr
    assert "--container" in done.stderr


def test_without_btf_and_bcc_it_is_status_4(folder, running, profile):
    """On a kernel that does not describe its types, without bcc either, all say so; auto learns otherwise."""
    for words in (
        ("learn", "--pid", running, "-o", "never.yaml"),
        ("learn", "--backend", "ebpf", "-o", "never.yaml", "--", "touch", "never"),
        ("watch", profile, "--pid", running),
    ):
        done = tool(WITHOUT_BTF, folder, *words)
        assert done.returncode == 4, (words, done.stderr)
        assert "BTF" in done.stderr or "bcc" in done.stderr, (words, done.stderr)
        assert "hint: " in done.stderr
        assert "--pid" not in words or "--backend" not in done.stderr, done.stderr
    assert sorted(os.listdir(folder)) == ["sleep.yaml"]
    done = tool(WITHOUT_BTF, folder, "learn", "-o", "echo.yaml", "--", "echo", "learned")
    assert (done.returncode, done.stdout) == (0, "learned\n"), done.stderr
