"""`autoprofile prove`: proof, refutation and the status of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
