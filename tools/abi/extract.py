"""Distil the public sources into small versioned text files under ``tools/abi/sources``.

In: the pinned wheel with the exported kernel headers, the Debian package with ``linux/syscalls.h``, this
kernel's tracefs, and the page syscalls(2). Out: one file per source, source and version on line 1. Needs gcc;
no network.
"""

from __future__ import annotations

import gzip
import platform
import re
import zipfile
from pathlib import Path

from . import headers
from .constants import parse_curated
from .places import ARCHES, CURATED, SOURCES, WHEEL, write

__all__ = ["extract_constants", "extract_history", "extract_numbers", "extract_prototypes", "extract_tracefs",
           "unpack_wheel"]  # fmt: skip

TRACEFS = Path("/sys/kernel/tracing/events/syscalls")


def unpack_wheel(wheel: Path, target: Path) -> Path:
    """Unpack the kernel headers of the wheel and return the folder that holds ``any-linux-any``."""
    prefix = "ziglang/lib/libc/include/"
    with zipfile.ZipFile(wheel) as archive:
        wanted = [
            n
            for n in archive.namelist()
            if n.startswith(
                tuple(f"{prefix}{a}-linux-any/" for a in ("any", "x86", "aarch64", "arm", "riscv"))
            )
        ]
        archive.extractall(target, wanted)
    return target / prefix


def _version(include: Path) -> str:
    text = (include / "any-linux-any/linux/version.h").read_text()
    major, patch = (re.search(rf"LINUX_VERSION_{w} (\d+)", text)[1] for w in ("MAJOR", "PATCHLEVEL"))  # type: ignore[index]
    return f"Linux {major}.{patch} exported headers, in the PyPI wheel {WHEEL[0]} {WHEEL[1]}"


def extract_numbers(include: Path) -> str:
    """Write the syscall numbers of all architectures."""
    tables = {arch: headers.syscall_numbers(include, arch) for arch in ARCHES}
    names = sorted(set().union(*tables.values()))
    rows = [["name", *ARCHES]]
    rows += [[n, *(str(tables[a].get(n, "-")) for a in ARCHES)] for n in names]
    return write(SOURCES / "numbers.tsv", f"{_version(include)}: asm/unistd*.h", rows)


def extract_tracefs() -> str:
    """Write the argument names and C types of every native call this kernel was built with."""
    rows = []
    for folder in sorted(TRACEFS.glob("sys_enter_*")):
        fields = re.findall(r"^\tfield:(.+?);", (folder / "format").read_text(), re.MULTILINE)
        args = [f for f in fields if " common_" not in f and "__syscall_nr" not in f]
        cells = [f"{f.rpartition(' ')[2]};{f.rpartition(' ')[0]}" for f in args]
        rows.append([folder.name.removeprefix("sys_enter_"), *cells])
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    return write(
        SOURCES / "tracefs.tsv",
        f"/sys/kernel/tracing/events/syscalls/sys_enter_*/format of Linux {release} ({platform.machine()})",
        rows,
    )


def extract_prototypes(kernel: Path, version: str) -> str:
    """Write the prototypes of ``linux/syscalls.h`` and ``linux/compat.h``."""
    rows = []
    for header in ("linux/syscalls.h", "linux/compat.h"):
        text = re.sub(r"/\*.*?\*/", "", (kernel / header).read_text(), flags=re.DOTALL)
        text = re.sub(r"^#.*(?:\\\n.*)*", "", text, flags=re.MULTILINE)
        for name, inner in re.findall(r"asmlinkage long (?:compat_)?sys_(\w+)\(([^;]*?)\);", text):
            cells = []
            for i, piece in enumerate([] if inner.strip() == "void" else inner.split(",")):
                words = " ".join(piece.replace("__user", " ").replace("*", " * ").split())
                found = re.fullmatch(r"(.*?[\s*])(\w+)((?:\[\w*\])?)", words)
                named = found and found[2] not in {"int", "long", "unsigned", "size_t", "uid_t", "gid_t"}
                if found and named:
                    cells.append(f"{found[2]};{found[1].strip()}{' *' if found[3] else ''}")
                else:
                    cells.append(f"arg{i};{words}")
            prefix = "compat_" if header == "linux/compat.h" else ""
            rows.append([prefix + name, *cells])
    unique = {row[0]: row for row in reversed(rows)}
    return write(
        SOURCES / "prototypes.tsv",
        f"include/linux/syscalls.h and compat.h of Debian package {version}",
        [unique[n] for n in sorted(unique)],
    )


def extract_history(page: Path) -> str:
    """Write the first kernel version of each call, from syscalls(2)."""
    text = gzip.decompress(page.read_bytes()).decode() if page.suffix == ".gz" else page.read_text()
    rows = re.findall(r"^\\fB(\w+)\\fP\(2\)\t(\d[\d.]*)", text, re.MULTILINE)
    version = re.search(r'^\.TH \S+ \S+ \S+ "?([^"\n]+)', text, re.MULTILINE)
    return write(
        SOURCES / "history.tsv",
        f"syscalls(2) of {version[1].strip() if version else 'Linux man-pages'}",
        sorted([name, since] for name, since in rows),
    )


def extract_constants(include: Path, kernel: Path, kernel_version: str) -> str:
    """Write the value of every constant the curated sets name, per architecture."""
    rows: list[list[str]] = []
    for group in parse_curated(CURATED / "constants.txt"):
        if not group.headers:
            continue
        values: dict[str, dict[str, int]] = {}
        order: dict[str, None] = {}
        for arch in ARCHES:
            names: list[str] = []
            for pattern in group.patterns():
                if any(c in pattern for c in "*?["):
                    for header in group.headers:
                        names += headers.candidate_names(include, kernel, arch, header, pattern)
                else:
                    names.append(pattern)
            order.update(dict.fromkeys(names))
            for name, value in headers.evaluate(include, kernel, arch, group.headers, names).items():
                values.setdefault(name, {})[arch] = value
        for name in order:
            if name in values:
                per_arch = [values[name].get(a) for a in ARCHES]
                cells = ["-" if v is None else hex(v) for v in per_arch]
                rows.append([group.name, name, *(cells[:1] if len(set(cells)) == 1 else cells)])
    return write(
        SOURCES / "constants.tsv",
        f"{_version(include)}; headers marked k: from Debian package {kernel_version}; "
        f"columns {' '.join(ARCHES)}",
        rows,
    )
