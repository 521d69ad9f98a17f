"""bcc takes seconds to compile: whoever is ended meanwhile leaves nothing behind, and says by what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.ebpf.conftest import need_bcc

pytestmark = pytest.mark.ebpf

_TREE = """
import os, signal
from autoprofile.trace.ebpf.bcc_headers import find_headers, one_tree
with one_tree(find_headers()) as tree:
    assert (tree / "include/linux/kconfig.h").exists()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_tool_leaves_no_headers_behind(tmp_path):
    """The one tree of headers goes with the process that made it, even by kill -9."""
    need_bcc()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _TREE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.iterdir())


def _is_compiling(pid: int) -> bool:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):  # it has ended
            if b"bcc_compile" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
    return False


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_start_gives_its_own_status(tmp_path, signum):
    """Ended while the probes are compiled, `learn` runs nothing, writes nothing, and exits with 128 + N."""
    need_bcc()
    words = ["learn", "--loader", "bcc", "-o", "p.yaml", "--", "sh", "-c", "echo ran > ran"]
    tool = subprocess.Popen(
        [sys.executable, "-m", "autoprofile", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while not _is_compiling(tool.pid):
            assert tool.poll() is None, tool.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(tool.pid, signum) if signum == signal.SIGINT else tool.send_signal(signum)
        _, told = tool.communicate(timeout=180)
    finally:
        tool.kill()
        tool.wait()
    assert tool.returncode == 128 + signum, told
    assert "was not started" in told
    assert not list(tmp_path.iterdir())
