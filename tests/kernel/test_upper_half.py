"""What lint says of 64-bit comparisons is what the kernel does with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.formats.oci import import_oci
from autoprofile.lint import lint

pytestmark = pytest.mark.kernel

# socket(2) by number, so that no C library cleans the register
CALLS = """
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
for family in (1, 0x100000001):
    print(call(ctypes.c_long(41), ctypes.c_ulong(family), ctypes.c_ulong(1), ctypes.c_ulong(0)) >= 0)
"""


def test_a_dirty_upper_half_goes_around_a_rule_as_lint_says(tmp_path: Path) -> None:
    """A runtime's rule that refuses AF_UNIX lets it pass with garbage above; ours refuses both."""
    entries = [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
        }
    ]
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries})
    theirs = import_oci(text).profile
    assert [f.id for f in lint(theirs, only=["upper-half"])] == ["upper-half-bypass"]
    theirs.save(tmp_path / "theirs.yaml")
    masked = {"index": 0, "value": 0xFFFFFFFF, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}
    entries[0]["args"] = [masked]
    ours = import_oci(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries})).profile
    assert lint(ours, only=["upper-half"]).findings == ()
    ours.save(tmp_path / "ours.yaml")
    told = {}
    for name in ("theirs", "ours"):
        command = [sys.executable, "-m", "autoprofile", "enforce", f"{name}.yaml", "--"]
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", CALLS],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        told[name] = done.stdout.split()
    assert told == {"theirs": ["False", "True"], "ours": ["False", "False"]}
