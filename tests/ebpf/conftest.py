"""The C programs of the kernel tests, for the eBPF tests, and a root directory for containers."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import need_program
from tests.kernel.conftest import tracee

__all__ = ["rootfs", "tracee"]


@pytest.fixture
def rootfs(tmp_path, tracee):
    """Return the root directory of a container, with busybox and the census, statically linked."""
    busybox = need_program("busybox", package="busybox-static")
    root = tmp_path / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    shutil.copy(tracee("census", "-static"), root / "bin/census")
    for name in ("sh", "sleep", "uname"):
        (root / "bin" / name).symlink_to("busybox")
    return root
