"""What starting up loads: nothing heavy, and as little as it can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.cli.app import verb_names
from tests.cli.tool import environment, hand_written

HEAVY = {
    "pandas",
    "pyarrow",
    "numpy",
    "bcc",
    "dask",
    "z3",
    "matplotlib",
    "jinja2",
    "rich",
    "elftools",
}

PROBE = """
import sys
from autoprofile.cli import main
try:
    status = main(sys.argv[1:])
finally:
    print("loaded:", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(status)
"""


def loaded_by(folder: Path, *words: object) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, words)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "loaded: " in done.stderr, done.stderr
    return set(done.stderr.rpartition("loaded: ")[2].split())


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """`autoprofile --help` imports none of the heavy libraries, not even to list every verb."""
    assert not loaded_by(tmp_path, "--help") & (HEAVY | {"yaml"})


@pytest.mark.parametrize("verb", verb_names())
def test_help_of_a_verb_loads_nothing_heavy(verb: str, tmp_path: Path) -> None:
    """The help of a verb imports none of the heavy libraries either."""
    assert not loaded_by(tmp_path, verb, "--help") & (HEAVY | {"yaml"})


@pytest.mark.kernel
@pytest.mark.parametrize("options", [[], ["--on-violation", "errno"]], ids=["kill", "errno"])
def test_enforcing_loads_nothing_heavy(options: list[str], tmp_path: Path) -> None:
    """Enforcing, from the profile's file to the running program, imports none of the heavy libraries."""
    assert not loaded_by(tmp_path, "enforce", hand_written(tmp_path), *options, "--", "true") & HEAVY


@pytest.mark.kernel
def test_supervising_loads_nothing_heavy_before_a_denial(tmp_path: Path) -> None:
    """A supervised run without denials loads no more than enforcing does."""
    loaded_by(tmp_path, "learn", "-o", "t.yaml", "--", "true")
    loaded = loaded_by(tmp_path, "enforce", "t.yaml", "--audit", "a.jsonl", "--", "true")
    assert not loaded & (HEAVY - {"elftools"})


@pytest.mark.parametrize("words", [["decide", "p.yaml", "read"], ["compile", "p.yaml"]], ids=lambda w: w[0])
def test_reading_a_profile_loads_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """Deciding and compiling read a profile without the libraries that only writing and drawing need."""
    hand_written(tmp_path)
    assert not loaded_by(tmp_path, *words) & HEAVY
