"""The architectures autoprofile knows, as data: audit token, register width, and who is whose compat ABI.

The audit token is what ``seccomp_data.arch`` holds (``linux/audit.h``). x32 shares x86_64's token and is told
apart by bit 30 of the syscall number, so it is an architecture of its own here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ARCHES",
    "X32_SYSCALL_BIT",
    "AbiError",
    "Arch",
    "arch",
    "arch_from_audit",
    "arch_from_machine",
    "audit_arch_name",
    "compat_arches",
]

X32_SYSCALL_BIT = 0x40000000


class AbiError(AutoprofileError):
    """Report a name (architecture, syscall, constant) that the kernel facts do not hold."""


class Arch(NamedTuple):
    """One syscall ABI.

    Attributes:
        name: as libseccomp and strace spell it, except that arm means 32-bit EABI.
        audit_arch: ``AUDIT_ARCH_*`` as in ``seccomp_data.arch``.
        bits: width of an argument register as the kernel reads it; 64 for x32, whose pointers are 32 bits
            wide but whose calls go through the 64-bit entry.
        machine: ``uname -m`` values that run this ABI natively.
        nr_bit: bit that every number of this ABI carries in ``seccomp_data.nr`` (x32), else 0.
    """

    name: str
    audit_arch: int
    bits: int
    machine: tuple[str, ...]
    nr_bit: int = 0


# AUDIT_ARCH_* = ELF machine | __AUDIT_ARCH_64BIT 0x80000000 | __AUDIT_ARCH_LE 0x40000000 (linux/audit.h).
ARCHES: Mapping[str, Arch] = MappingProxyType(
    {
        a.name: a
        for a in (
            Arch("x86_64", 0xC000003E, 64, ("x86_64",)),
            Arch("i386", 0x40000003, 32, ("i386", "i486", "i586", "i686")),
            Arch("x32", 0xC000003E, 64, (), X32_SYSCALL_BIT),
            Arch("aarch64", 0xC00000B7, 64, ("aarch64", "arm64")),
            Arch("arm", 0x40000028, 32, ("armv5tel", "armv6l", "armv7l", "armv8l", "arm")),
            Arch("riscv64", 0xC00000F3, 64, ("riscv64",)),
        )
    }
)

_BY_TOKEN = {a.audit_arch: a.name for a in ARCHES.values() if not a.nr_bit}
_BY_MACHINE = {m: a.name for a in ARCHES.values() for m in a.machine}
_COMPAT = {"x86_64": ("i386", "x32"), "aarch64": ("arm",)}
_TOKEN_NAMES = {
    "x86_64": "AUDIT_ARCH_X86_64",
    "i386": "AUDIT_ARCH_I386",
    "aarch64": "AUDIT_ARCH_AARCH64",
    "arm": "AUDIT_ARCH_ARM",
    "riscv64": "AUDIT_ARCH_RISCV64",
}


def arch(name: str) -> Arch:
    """Return the architecture of this name, or raise `AbiError` naming the known ones."""
    found = ARCHES.get(name)
    if found is None:
        raise AbiError(f"unknown architecture {name!r}", hint=f"known: {', '.join(ARCHES)}")
    return found


def arch_from_audit(audit_arch: int, nr: int) -> str:
    """Return the name for a ``seccomp_data`` pair (arch, nr); an unknown token comes back as ``0x…`` text."""
    name = _BY_TOKEN.get(audit_arch)
    if name is None:
        return f"0x{audit_arch:08x}"
    # nr -1 is what a tracer leaves behind to skip a call; it has the bit, but is no x32 call.
    if name == "x86_64" and nr & X32_SYSCALL_BIT and nr & 0xFFFFFFFF != 0xFFFFFFFF:
        return "x32"
    return name


def audit_arch_name(audit_arch: int) -> str:
    """Return the ``AUDIT_ARCH_*`` symbol of a token, or its hexadecimal text when unknown."""
    name = _BY_TOKEN.get(audit_arch)
    return _TOKEN_NAMES[name] if name else f"0x{audit_arch:08x}"


def arch_from_machine(machine: str) -> str:
    """Return the native architecture of a ``uname -m`` value, or raise `AbiError`."""
    name = _BY_MACHINE.get(machine)
    if name is None:
        raise AbiError(f"unknown machine {machine!r}", hint=f"known: {', '.join(sorted(_BY_MACHINE))}")
    return name


def compat_arches(name: str) -> tuple[str, ...]:
    """Return the further ABIs that a process on a kernel of this architecture can enter."""
    return _COMPAT.get(arch(name).name, ())
