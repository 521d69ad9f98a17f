"""`--backend auto` where eBPF looks usable and is not: another source, and a word about it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from autoprofile.profile import Profile

pytestmark = pytest.mark.ebpf

# The command line, with a map asked for that no kernel makes: everything is there, and loading fails.
_BROKEN = """
import sys
from autoprofile.cli import main
from autoprofile.trace.ebpf import records
records.SIZES["cells"] = (0, 0)
sys.exit(main(sys.argv[1:]))
"""


def broken(*words: str, cwd: os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BROKEN, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_auto_takes_another_source_when_the_probes_cannot_be_loaded(tmp_path):
    """The command is run once for each run asked for, by the next source, and it is said why."""
    script = "echo ran >> runs"
    done = broken("learn", "--runs", "2", "-o", "p.yaml", "--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "eBPF does not work here: " in done.stderr
    learned = Profile.load(tmp_path / "p.yaml").learned
    assert learned is not None
    assert learned.backend in ("notify", "ptrace")
    assert learned.runs == 2
    assert (tmp_path / "runs").read_text() == "ran\n" * 2


@pytest.mark.parametrize("words", [("--backend", "ebpf"), ("--loader", "core"), ("--pid", str(os.getpid()))])
def test_who_asks_for_ebpf_gets_no_other(tmp_path, words):
    """With --backend ebpf, a loader named or a target, the failure is an error of the machine: 4, nothing run."""
    command = () if "--pid" in words else ("--", "sh", "-c", "echo ran >> runs")
    done = broken("learn", *words, "-o", "p.yaml", *command, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert not list(tmp_path.iterdir())
