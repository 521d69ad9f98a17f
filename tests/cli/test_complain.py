"""Complain mode refuses nothing but what steers libc, and says so."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from autoprofile.auditlog import read_audit
from tests.cli.tool import autoprofile
from tests.kernel.conftest import tracee

pytestmark = pytest.mark.kernel

__all__ = ["tracee"]

PROFILE = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  getpgid: ENOSYS
  getpriority: EPERM
"""
GETPGID, GETPRIORITY, GETSID = 121, 140, 124


@pytest.mark.parametrize(
    ("options", "results"),
    [(("--complain", "--audit", "a.jsonl"), (True, True, True)), ((), (True, False, True))],
    ids=["complain", "enforce"],
)
def test_an_explicit_enosys_stays_in_complain_mode(tracee, options, results, tmp_path: Path) -> None:
    """The call libc is steered away from fails as when enforced, said at the start; other refusals pass, recorded."""
    (tmp_path / "p.yaml").write_text(PROFILE)
    made = (GETPGID, GETPRIORITY, GETSID)
    (tmp_path / "calls").write_bytes(b"".join(struct.pack("<8Q", 0, nr, *(0,) * 6) for nr in made))
    (tmp_path / "results").write_bytes(bytes(24))
    program = tracee("filter_calls", "-static")
    done = autoprofile("enforce", "p.yaml", *options, "--", program, "-", "calls", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steered, refused, free = struct.unpack("<3q", (tmp_path / "results").read_bytes())
    assert (steered == -errno.ENOSYS, refused != -errno.EPERM, free >= 0) == results
    assert ("still answered with ENOSYS" in done.stderr) == bool(options)
    if options:
        assert "getpgid" in done.stderr
        assert [record.syscall for record in read_audit(tmp_path / "a.jsonl").records] == ["getpriority"]
