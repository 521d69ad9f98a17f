"""Kernel headers for bcc: whatever a distribution has installed, as the one tree bcc expects.

Debian splits headers in two trees. They are shown as one by symbolic links in a file system of our own, or
else in a temporary directory; nothing is written anywhere else, least of all under /lib/modules.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.errors import MachineError
from autoprofile.kernel import KernelError
from autoprofile.kernel.mounts import detached_tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Headers", "find_headers", "one_tree"]

_ARCH: Final = "arch/x86/include/asm"
# What makes a tree complete: the sources' part, the architecture's, and what configuring it generated.
_NEEDED: Final = ("include/linux/kconfig.h", _ARCH, "include/generated/autoconf.h")


@dataclass(frozen=True)
class Headers:
    """Kernel headers: the release they are of, and the directories that make them up."""

    release: str
    trees: tuple[Path, ...]


def find_headers(root: Path = Path("/"), release: str | None = None) -> Headers:
    """Return the running kernel's headers, or else the newest that are installed.

    Args:
        root: where to look.
        release: of the running kernel.

    Raises:
        MachineError: there are none.
    """
    release = os.uname().release if release is None else release
    known = [root / "lib/modules" / release / "build"]
    for place in ("usr/src", "usr/src/kernels"):
        known += sorted((root / place).glob("linux-headers-*" if place == "usr/src" else "*"), key=_age)
    known += sorted((root / "lib/modules").glob("*/build"), key=lambda tree: _age(tree.parent))
    found: Headers | None = None
    for tree in known:
        trees = [tree, *_partners(tree, root)]
        if all(any((one / needed).exists() for one in trees) for needed in _NEEDED):
            found = Headers(_release_of(trees) or tree.name, tuple(trees))
            if found.release == release:
                break
    if found is None:
        raise MachineError(
            "there are no kernel headers, which bcc compiles against",
            hint="apt-get install linux-headers-amd64; without BTF it must be linux-headers-$(uname -r)",
        )
    return found


def _age(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tree.name)]


def _partners(tree: Path, root: Path) -> list[Path]:
    # Debian's Makefile of the architecture's tree includes that of the common one.
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        return []
    names = re.findall(r"^include (/\S+)/Makefile\s*$", text, re.MULTILINE)
    return [root / name.lstrip("/") for name in names]


def _release_of(trees: Sequence[Path]) -> str | None:
    for tree in trees:
        try:
            text = (tree / "include/generated/utsrelease.h").read_text()
        except OSError:
            continue
        if (found := re.search(r'UTS_RELEASE "([^"]+)"', text)) is not None:
            return found[1]
    return None


@contextmanager
def one_tree(headers: Headers) -> Iterator[Path]:
    """Show the trees as one, in a directory that is gone afterwards, even when this process is killed."""
    try:
        mount = detached_tmpfs()
    except KernelError:
        # Without the right to mount: then a killed process leaves its links behind.
        with tempfile.TemporaryDirectory(prefix="autoprofile-headers-") as name:
            _merge(Path(name), headers.trees)
            yield Path(name)
        return
    try:
        # By our own number, so that the compiler's process needs no descriptor of ours.
        tree = Path(f"/proc/{os.getpid()}/fd/{mount}")
        _merge(tree, headers.trees)
        yield tree
    finally:
        os.close(mount)


def _merge(into: Path, trees: Sequence[Path]) -> None:
    # A directory that only one of them has is one link; the first tree's file wins.
    names: dict[str, list[Path]] = {}
    for tree in trees:
        for entry in tree.iterdir():
            names.setdefault(entry.name, []).append(entry)
    for name, found in names.items():
        if len(found) > 1 and all(path.is_dir() for path in found):
            (into / name).mkdir()
            _merge(into / name, found)
        else:
            (into / name).symlink_to(found[0].resolve())
