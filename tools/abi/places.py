"""Where things are and which public sources are pinned; the header line every stored file starts with."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ARCHES", "CURATED", "DATA", "LINUX", "SOURCES", "WHEEL", "read", "write"]

HERE = Path(__file__).parent
CURATED = HERE / "curated"
SOURCES = HERE / "sources"
DATA = HERE.parent.parent / "autoprofile" / "abi" / "data"

ARCHES = ("x86_64", "i386", "x32", "aarch64", "arm", "riscv64")

# The kernel version the tables describe. The pinned headers are one release newer; the build drops every call
# whose first version (syscalls(2), curated/history.tsv) is later than this.
LINUX = (6, 18)

# The wheel carries the kernel's exported (UAPI) headers of all architectures, as `make headers_install` does.
WHEEL = ("ziglang", "0.16.0")


def write(path: Path, source: str, rows: list[list[str]]) -> str:
    """Write rows under a first line that names their source; return the text."""
    text = "".join(["# source: ", source, "\n", *("\t".join(row) + "\n" for row in rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def read(path: Path) -> list[list[str]]:
    """Read rows, leaving out comments and empty lines."""
    return [
        line.split("\t")
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
