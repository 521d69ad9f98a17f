"""For the eBPF tests: the C programs of the kernel tests, a root directory for containers, the two loaders."""

from __future__ import annotations

import shutil

import pytest

from autoprofile.trace.ebpf import loading
from tests.conftest import _skip_or_fail, need_program
from tests.kernel.conftest import tracee

__all__ = ["loader", "need_bcc", "rootfs", "tracee"]


def need_bcc() -> None:
    """Skip (or fail, see tests/conftest.py) where bcc or kernel headers are missing, naming the packages."""
    if (why := loading.lacks("bcc")) is not None:
        _skip_or_fail(
            f"{why[0]} (Debian packages python3-bpfcc, linux-headers-amd64)", "AUTOPROFILE_REQUIRE_EBPF"
        )


@pytest.fixture(params=["core", "bcc"])
def loader(request):
    """Let everything in this process load the probes one way, then the other; returns which."""
    if request.param == "bcc":
        need_bcc()
    loading.choose(request.param)
    yield request.param
    loading.choose("auto")


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
