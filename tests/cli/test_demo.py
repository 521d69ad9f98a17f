"""The demo works, as root and as anyone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.tool import WITHOUT_PRIVILEGES, environment

pytestmark = pytest.mark.kernel
DEMO = Path(__file__).parent.parent.parent / "demo" / "demo.py"


def test_the_demo_tells_its_story() -> None:
    """The service is learned, serves the same enforced, and every abuse is refused and reported with its cause."""
    done = subprocess.run(
        [sys.executable, DEMO],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("18 requests, 0 answered wrongly") == 3
    assert done.stdout.count("403 Operation not permitted") + done.stdout.count("403 Function not impl") == 4
    assert "-> 200" not in done.stdout
    report = done.stdout.partition("# 5.")[2]
    for call in ("clone(", "AF_NETLINK", "SOCK_RAW", "unshare(", "CLONE_NEWUSER"):
        assert call in report
    assert "called from libc" in report
    assert "(exit status 3)" in report


def test_the_demo_needs_no_privileges() -> None:
    """Without capabilities the demo works just the same."""
    if os.geteuid() != 0:
        pytest.skip("the other test has just shown it")
    done = subprocess.run(
        [*WITHOUT_PRIVILEGES, sys.executable, DEMO],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
