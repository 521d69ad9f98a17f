"""Read syscall numbers and constant values out of exported kernel headers, per architecture.

Values are not parsed but compiled: a C compiler for x86 stands in for all six architectures, told the type
widths and alignment that matter (``_IOR`` hides a ``sizeof``). Needs gcc with multilib; runs nothing of it.
"""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["candidate_names", "evaluate", "syscall_numbers"]

# What each architecture's headers expect defined, and the x86 ABI whose widths and alignments are the same.
# arm aligns 64-bit members to 8 bytes where i386 does not, hence -malign-double.
_COMPILER = {
    "x86_64": ("x86", ["-m64"]),
    "i386": ("x86", ["-m32"]),
    "x32": ("x86", ["-mx32"]),
    "aarch64": ("aarch64", ["-m64", "-U__x86_64__", "-D__aarch64__=1"]),
    "arm": ("arm", ["-m32", "-malign-double", "-U__i386__", "-D__arm__=1", "-D__ARM_EABI__=1"]),
    "riscv64": ("riscv", ["-m64", "-U__x86_64__", "-D__riscv=1", "-D__riscv_xlen=64"]),
}

_NR_FILES = {
    "x86_64": ["asm/unistd_64.h"],
    "i386": ["asm/unistd_32.h"],
    "x32": ["asm/unistd_x32.h"],
    "aarch64": ["asm/unistd_64.h"],
    "arm": ["asm/unistd-eabi.h", "asm/unistd.h"],
    "riscv64": ["asm/unistd_64.h"],
}


def _folders(include: Path, arch: str) -> list[Path]:
    return [include / f"{_COMPILER[arch][0]}-linux-any", include / "any-linux-any"]


def _shim(include: Path) -> Path:
    # Some exported headers expect a libc around them for two types; the kernel's own definitions serve.
    folder = include / "libc-shim"
    for name, inner in {
        "sys/time.h": "linux/time.h",
        "sys/types.h": "linux/types.h",
        "sys/ioctl.h": "linux/ioctl.h",
        "sys/socket.h": "linux/socket.h",
        "unistd.h": "linux/types.h",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#include <{inner}>\n")
    return folder


def syscall_numbers(include: Path, arch: str) -> dict[str, int]:
    """Return name to number (x32 without its bit) from the exported ``asm/unistd*.h``."""
    numbers: dict[str, int] = {}
    folder = _folders(include, arch)[0]
    for file in _NR_FILES[arch]:
        text = (folder / file).read_text()
        for name, number in re.findall(
            r"^#define __NR_(\w+)\s+\(?(?:__X32_SYSCALL_BIT \+ |__NR_SYSCALL_BASE \+ )?(\d+)\)?",
            text,
            re.MULTILINE,
        ):
            numbers[name] = int(number)
        # arm's private calls: #define __ARM_NR_cacheflush (__ARM_NR_BASE+2), base 0x0f0000 for EABI
        for name, number in re.findall(
            r"^#define __ARM_NR_(\w+)\s+\(__ARM_NR_BASE\+(\d+)\)", text, re.MULTILINE
        ):
            numbers[name] = 0x0F0000 + int(number)
    for marker in ("SYSCALL_BASE", "SYSCALL_MASK", "OABI_SYSCALL_BASE", "arch_specific_syscall"):
        numbers.pop(marker, None)
    return numbers


def _texts(include: Path, kernel: Path, arch: str, header: str) -> list[str]:
    if header.startswith("k:"):
        return [(kernel / header[2:]).read_text()]
    for folder in _folders(include, arch):
        if (folder / header).exists():
            text = (folder / header).read_text()
            # Follow indirections: asm/fcntl.h -> asm-generic/fcntl.h, linux/mman.h -> asm/mman.h …
            deeper = re.findall(r"#include <((?:asm-generic|asm|linux)/[\w./-]+)>", text)
            nested = [
                t
                for d in deeper
                if re.search(
                    r"mman|fcntl|signal|socket|ioctl|errno|resource|sockios|termios|msgbuf|ptrace", d
                )
                for t in _texts(include, kernel, arch, d)
            ]
            return [text, *nested]
    return []


_NAME = re.compile(
    r"^\s*(?:#\s*define\s+([A-Za-z_]\w*)(?=\s)|([A-Z_][A-Z0-9_a-z]*)\s*(?:=[^=]|,|$|/\*))", re.MULTILINE
)


def candidate_names(include: Path, kernel: Path, arch: str, header: str, pattern: str) -> list[str]:
    """Return the macros and enumerators of a header that match a shell-style pattern, in file order."""
    names: dict[str, None] = {}
    for text in _texts(include, kernel, arch, header):
        for macro, enumerator in _NAME.findall(text):
            name = macro or enumerator
            if fnmatchcase(name, pattern):
                names[name] = None
    return list(names)


def _kernel_definitions(kernel: Path, header: str, names: list[str]) -> str:
    # Headers internal to the kernel cannot be included here; what is wanted of them are single numbers.
    text = (kernel / header[2:]).read_text()
    lines = []
    for name in names:
        found = re.search(
            rf"^\s*#\s*define\s+{name}\s+([^\n/]+)|^\s*{name}\s*=\s*([^,\n/]+)", text, re.MULTILINE
        )
        if found:
            lines.append(f"#define {name} ({(found[1] or found[2]).strip()})")
    return "\n".join(lines)


def evaluate(include: Path, kernel: Path, arch: str, headers: list[str], names: list[str]) -> dict[str, int]:
    """Return the value of every name that these headers define as an integer on this architecture."""
    names = list(dict.fromkeys(names))
    builtin = subprocess.run(
        ["gcc", "-print-file-name=include"], capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()
    folder_args = [f"-isystem{folder}" for folder in [*_folders(include, arch), builtin, _shim(include)]]
    for _ in range(8):
        prologue = [
            # Some headers use _IOW and size_t and leave their definition to the reader.
            "#include <stddef.h>",
            "#include <linux/ioctl.h>",
            *(f"#include <{h}>" for h in headers if not h.startswith("k:")),
            *(_kernel_definitions(kernel, h, names) for h in headers if h.startswith("k:")),
            "#define htons(x) ((((x) & 0xff) << 8) | (((x) >> 8) & 0xff))",
            "void f(void) {",
        ]
        head = "\n".join(prologue) + "\n"
        body = "".join(
            f'__asm__("@@ {n} %0 %1"::"i"((unsigned)(long long)({n})),'
            f'"i"((unsigned)((unsigned long long)(long long)({n})>>32)));\n'
            for n in names
        )
        done = subprocess.run(
            ["gcc", *_COMPILER[arch][1], "-nostdinc", "-ffreestanding", *folder_args, "-w", "-O1",
             "-fmax-errors=0", "-S", "-x", "c", "-", "-o", "-"],
            input=head + body + "}\n", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return {
                m[1]: (int(m[2]) & 0xFFFFFFFF) | (int(m[3]) & 0xFFFFFFFF) << 32
                for m in re.finditer(r"@@ (\w+) \$?(-?\d+) \$?(-?\d+)", done.stdout)
            }
        if re.search(r"fatal error: asm/\S+: No such file", done.stderr):
            return {}  # this architecture does not have what the header is about (KVM on 32-bit arm)
        first = head.count("\n") + 1
        bad = {int(line) - first for line in re.findall(r"<stdin>:(\d+):\d+: error", done.stderr)}
        bad |= {
            names.index(n) for n in re.findall(r"impossible constraint.*?(\w+)", done.stderr) if n in names
        }
        keep = [n for i, n in enumerate(names) if i not in bad]
        if len(keep) == len(names):
            raise RuntimeError(f"{arch} {headers}: {done.stderr[:2000]}")
        if not keep:
            return {}  # another architecture's header; a name that resolves nowhere fails the build
        names = keep
    raise RuntimeError(f"{arch} {headers}: names keep failing")
