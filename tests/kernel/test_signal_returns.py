"""A program whose signal handler answers with an error still runs under the profile that was learned of it."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from autoprofile.profile import Profile
from tests.cli.tool import autoprofile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the program writes a register of x86_64"),
]


@pytest.mark.parametrize("mode", ["allowlist", "denylist"])
@pytest.mark.parametrize("backend", ["ptrace", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def test_the_return_from_a_handler_is_never_denied(
    backend: str, mode: str, tracee: Callable[..., str], tmp_path: Path
) -> None:
    """What looks like a result of rt_sigreturn is the register it restores: EPERM there denies nothing."""
    program = tracee("trapped")
    words = ["--backend", backend, "--level", "standard", "--mode", mode, "-o", "t.yaml"]
    learned = autoprofile("learn", *words, "--", program, cwd=tmp_path)
    assert (learned.returncode, learned.stdout) == (0, "-1 1\n"), learned.stderr
    assert "rt_sigreturn" not in learned.stderr
    assert not Profile.load(tmp_path / "t.yaml").decide("rt_sigreturn").action.is_refusing
    done = autoprofile("enforce", "t.yaml", "--", program, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "-1 1\n"), done.stderr
