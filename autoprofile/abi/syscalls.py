"""Syscall numbers and names per architecture, for every call of Linux 6.18.

Numbers are those of ``seccomp_data.nr``: on x32 they carry bit 30. An unknown architecture or number is never
an error here, because traces hold what programs did: the answer is None, and `display_name` keeps the number.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from autoprofile.abi._tables import read_rows
from autoprofile.abi.arch import ARCHES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["display_name", "newest_nr", "syscall_name", "syscall_nr", "syscall_table"]

_EMPTY: Mapping[str, int] = MappingProxyType({})

_by_name: dict[str, Mapping[str, int]] = {}
_by_nr: dict[str, dict[int, str]] = {}


def _load(arch: str) -> None:
    # One file holds all architectures (500 rows); only the wanted column is turned into numbers.
    rows = read_rows("syscalls.tsv")
    column, bit = rows[0].index(arch), ARCHES[arch].nr_bit
    by_nr = {int(row[column]) | bit: row[0] for row in rows[1:] if row[column] != "-"}
    _by_nr[arch] = by_nr
    _by_name[arch] = MappingProxyType({by_nr[nr]: nr for nr in sorted(by_nr)})


def syscall_table(arch: str) -> Mapping[str, int]:
    """Return name to number for one architecture, in order of number; empty for an unknown architecture."""
    if arch not in _by_name:
        if arch not in ARCHES:
            return _EMPTY
        _load(arch)
    return _by_name[arch]


def syscall_name(arch: str, nr: int) -> str | None:
    """Return the name of a number, or None when this architecture has no such call."""
    if arch not in _by_nr:
        if arch not in ARCHES:
            return None
        _load(arch)
    return _by_nr[arch].get(nr)


def syscall_nr(arch: str, name: str) -> int | None:
    """Return the number of a name, or None when this architecture has no such call."""
    return syscall_table(arch).get(name)


def display_name(arch: str, nr: int) -> str:
    """Return the name, or the decimal number as text when the number has none."""
    return syscall_name(arch, nr) or str(nr)


def newest_nr(arch: str) -> int:
    """Return the highest number of the table (private blocks such as arm's 0x0f0000 not counted)."""
    bit = ARCHES[arch].nr_bit if arch in ARCHES else 0
    return max((nr for nr in syscall_table(arch).values() if nr & ~bit < 0x0F0000), default=-1)
