"""`doctor` tries what it speaks of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .tool import TIMEOUT_S, environment

# The first two checks of eBPF alone: those behind them compile for seconds.
_CHECKS = """
from itertools import islice
from autoprofile.cli.machine import _ebpf
print(*(f"{check.name}={check.works}" for check in islice(_ebpf(), 2)))
"""


@pytest.mark.ebpf
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_library_that_cannot_be_loaded_is_none(tmp_path: Path, is_damaged: bool) -> None:
    """An empty file of libbpf's name, found first, is no libbpf."""
    if is_damaged:
        (tmp_path / "libbpf.so.1").touch()
    done = subprocess.run(
        [sys.executable, "-c", _CHECKS],
        env=environment(LD_LIBRARY_PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert f"libbpf={not is_damaged}" in done.stdout.split()
