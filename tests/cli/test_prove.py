"""`autoprofile prove`: proof, refutation and the status of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile import Action, Profile, SeccompRule


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoprofile", "prove", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_profile_is_proven_and_a_foreign_filter_refuted(tmp_path: Path) -> None:
    """The compiled filter is proven with status 0; another one is refuted by a call with status 3."""
    from autoprofile.filter import compile_profile

    profile = Profile(rules=(SeccompRule("read", Action.ALLOW),))
    profile.save(tmp_path / "p.yaml")
    proven = run(tmp_path / "p.yaml")
    assert proven.returncode == 0
    assert proven.stdout.startswith("proven: ")
    wider = Profile(rules=(*profile.rules, SeccompRule("ptrace", Action.ALLOW)))
    (tmp_path / "wider.bpf").write_bytes(bytes(compile_profile(wider)))
    refuted = run(tmp_path / "p.yaml", "--filter", tmp_path / "wider.bpf", "--json")
    assert refuted.returncode == 3
    document = json.loads(refuted.stdout)
    assert document["counterexample"]["program"] == "allow"
    assert document["counterexample"]["nr"] == 101


def test_a_hard_proof_ends_when_its_time_is_over_or_at_an_interrupt(tmp_path: Path) -> None:
    """Neither is taken for a refutation or a defect: statuses 1 and 130, each with one line that says it."""
    pytest.importorskip("z3")
    from tests.unit.filter.test_prove import HARD, gated

    (tmp_path / "hard.bpf").write_bytes(bytes(gated(*HARD)))
    Profile(mode="denylist", default=Action.ALLOW).save(tmp_path / "p.yaml")
    late = run(tmp_path / "p.yaml", "--filter", tmp_path / "hard.bpf", "--timeout", 1)
    assert late.returncode == 1
    assert "neither proven nor refuted: x86_64 read" in late.stderr
    assert not late.stdout
    command = [
        sys.executable,
        "-c",
        INTERRUPTED,
        "prove",
        "p.yaml",
        "--filter",
        "hard.bpf",
        "--timeout",
        "600",
    ]
    stopped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stderr.strip() == "error: interrupted"


# Sends SIGINT to itself while the solver, whose check() it wraps for that, is at work.
INTERRUPTED = """
import os, signal, sys, threading, z3
from autoprofile.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)
check = z3.Solver.check
def interrupted(solver):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    return check(solver)
z3.Solver.check = interrupted
sys.exit(main(sys.argv[1:]))
"""
