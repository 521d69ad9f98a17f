"""`learn` of a running target with --returns, and what it says without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.observations import Trace
from autoprofile.profile import Action, Profile
from tests.cli.tool import AUTOPROFILE, TIMEOUT_S, autoprofile, environment

pytestmark = pytest.mark.ebpf

# create_module is a name without a call behind it: always ENOSYS.
_ALWAYS_FAILS = "import ctypes; input(); [ctypes.CDLL(None).syscall(174) for _ in range(7)]"


@pytest.mark.parametrize("returns", [True, False])
def test_what_always_fails_is_denied_where_returns_are_seen(tmp_path: Path, returns: bool) -> None:
    """With --returns a call that always met ENOSYS is denied with it; without, it is allowed, and that is said."""
    words = ["learn", "--level", "standard", "-o", "p.yaml", "--trace", "t.parquet", *["--returns"] * returns]
    target = subprocess.Popen([sys.executable, "-I", "-c", _ALWAYS_FAILS], stdin=subprocess.PIPE)
    try:
        with subprocess.Popen(
            [*AUTOPROFILE, *words, "--pid", str(target.pid)],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as tool:
            assert tool.stderr is not None
            told = tool.stderr.readline()  # said once it is attached
            target.communicate(b"\n", timeout=TIMEOUT_S)
            told += tool.stderr.read()  # communicate() does not know of what readline() has read ahead
            tool.wait(timeout=TIMEOUT_S)
        assert tool.returncode == 0, told
    finally:
        target.kill()
        target.wait()
    (seen,) = [o for o in Trace.load(tmp_path / "t.parquet").observations if o.nr == 174]
    assert (seen.count, seen.failed) == (7, 7 if returns else None)
    decided = Profile.load(tmp_path / "p.yaml").decide("create_module")
    assert decided.action == (Action.errno("ENOSYS") if returns else Action.ALLOW)
    assert ("--returns does" in told) != returns
    assert ("what calls returned was not seen" in told) != returns


def test_commands_need_no_such_option(tmp_path: Path) -> None:
    """Beside a command --returns is a usage error: nothing is run."""
    done = autoprofile("learn", "--returns", "--", "true", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not list(tmp_path.iterdir())
