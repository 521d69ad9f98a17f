"""The records shared with the probes, laid out as in probes/records.h, and the layouts table made from `abi`.

Every structure states its size; a loader compares them with the sizes its object has.
"""

from __future__ import annotations

import ctypes
from typing import Final

from autoprofile.abi.arch import ARCHES as _ARCHES
from autoprofile.abi.signatures import UsedIf, constrained_args
from autoprofile.abi.syscalls import syscall_table

__all__ = [
    "ARCHES",
    "CONFIG_CGROUP",
    "CONFIG_CGROUP_EXEC",
    "CONFIG_CHILD",
    "CONFIG_MOUNT_SPACE",
    "EVENT_END",
    "EVENT_FILE",
    "KEY_BYTES",
    "PROCESS_CELLS",
    "RETURN_SIGNAL",
    "RETURN_UNSEEN",
    "SIZES",
    "THREAD_IN_CALL",
    "THREAD_PLAIN",
    "THREAD_UNSURE",
    "Cell",
    "CellKey",
    "Condition",
    "Config",
    "Event",
    "FileKey",
    "Process",
    "SeenKey",
    "Slot",
    "Thread",
    "Totals",
    "call_tables",
]

ARCHES: Final = ("x86_64", "i386", "x32")
"""Arch names by the number the probes use."""

LAYOUT_NRS: Final = 1024
LAYOUT_MAPS_FILE: Final = 0x8000
LAYOUT_CONDITION: Final = 16
CONDITIONS: Final = 64
CONDITION_VALUES: Final = 32
THREAD_IN_CALL: Final = 1
THREAD_PLAIN: Final = 16
THREAD_UNSURE: Final = 32
PROCESS_CELLS: Final = 4096
RETURN_UNSEEN: Final = -1
RETURN_SIGNAL: Final = -2
EVENT_FILE, EVENT_END = 1, 2
CONFIG_CGROUP, CONFIG_MOUNT_SPACE, CONFIG_CHILD, CONFIG_CGROUP_EXEC = 1, 2, 4, 8

_ARG_32, _ARG_64 = 1, 2
_PATH_BYTES: Final = 4096
_NAME_BYTES: Final = 256

# Calls that map a file given by argument 4 with the protection in argument 2 (mmap(2); i386's old mmap takes
# a pointer to its arguments, and no libc since 1998 calls it for libraries).
_FILE_MAPPING: Final = {("x86_64", "mmap"), ("x32", "mmap"), ("i386", "mmap2")}


class Config(ctypes.Structure):
    """Whom the probes adopt by themselves."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("cgroup_level", ctypes.c_uint32),
        ("cgroup_id", ctypes.c_uint64),
        ("mount_space", ctypes.c_uint32),
        ("own_tgid", ctypes.c_uint32),
    )


class Condition(ctypes.Structure):
    """When an argument is read at all (`abi.UsedIf`)."""

    _fields_ = (
        ("argument", ctypes.c_uint32),
        ("decider", ctypes.c_uint32),
        ("mask", ctypes.c_uint64),
        ("any_bits", ctypes.c_uint64),
        ("value_count", ctypes.c_uint64),
        ("values", ctypes.c_uint64 * CONDITION_VALUES),
    )


class CellKey(ctypes.Structure):
    """What calls are told apart by."""

    _fields_ = (
        ("program_arch", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 6),
    )


class Cell(ctypes.Structure):
    """What is counted of them; times are CLOCK_MONOTONIC."""

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("first_ns", ctypes.c_uint64),
        ("last_ns", ctypes.c_uint64),
        ("ok", ctypes.c_uint64),
        ("failed", ctypes.c_uint64),
        ("refused", ctypes.c_uint64),
        ("doubtful", ctypes.c_uint64),
        ("last_return", ctypes.c_int64),
        ("processes", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
    )


class Slot(ctypes.Structure):
    """Calls of one key that a thread has counted for itself."""

    _fields_ = (
        ("key", CellKey),
        ("count", ctypes.c_uint64),
        ("first_ns", ctypes.c_uint64),
        ("last_ns", ctypes.c_uint64),
        ("ok", ctypes.c_uint64),
        ("failed", ctypes.c_uint64),
        ("refused", ctypes.c_uint64),
        ("doubtful", ctypes.c_uint64),
        ("last_return", ctypes.c_int64),
        ("is_plain", ctypes.c_uint64),
    )


class Thread(ctypes.Structure):
    """A member."""

    _fields_ = (
        ("key", CellKey),
        ("entered_ns", ctypes.c_uint64),
        ("tick", ctypes.c_uint64),
        ("program", ctypes.c_uint32),
        ("process", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("cells", ctypes.c_uint64 * 16),
        ("slots", Slot * 4),
    )


class Process(ctypes.Structure):
    """A member's thread group."""

    _fields_ = (("threads", ctypes.c_int64), ("cells", ctypes.c_uint64 * 64))


class SeenKey(ctypes.Structure):
    """A process that made a call, for the rare cell that has no bit in `Process`."""

    _fields_ = (("process", ctypes.c_uint32), ("cell", ctypes.c_uint32))


class FileKey(ctypes.Structure):
    """What files are told apart by."""

    _fields_ = (
        ("dentry", ctypes.c_uint64),
        ("ino", ctypes.c_uint64),
        ("dev", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
    )


class Totals(ctypes.Structure):
    """Counters of everything, and the losses."""

    _fields_ = (
        ("next_file", ctypes.c_uint32),
        ("next_cell", ctypes.c_uint32),
        ("next_process", ctypes.c_uint32),
        ("processes", ctypes.c_uint32),
        ("live", ctypes.c_int64),
        ("cells_full", ctypes.c_uint64),
        ("threads_full", ctypes.c_uint64),
        ("seen_full", ctypes.c_uint64),
        ("files_full", ctypes.c_uint64),
        ("ring_full", ctypes.c_uint64),
    )


class Event(ctypes.Structure):
    """What the probes tell at once."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("file", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("path_at", ctypes.c_uint32),
        ("ino", ctypes.c_uint64),
        ("is_program", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("path", ctypes.c_char * (_PATH_BYTES + _NAME_BYTES)),
    )

    def path_text(self) -> str | None:
        """Return the path as the probes walked it, None when they could not."""
        if self.path_at >= _PATH_BYTES:
            return None
        at = type(self).path.offset + self.path_at
        raw = bytes(memoryview(self).cast("B")[at : type(self).path.offset + _PATH_BYTES])
        return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")


KEY_BYTES: Final = ctypes.sizeof(CellKey)

# map -> bytes of key and value
SIZES: Final = {
    "threads": (4, ctypes.sizeof(Thread)),
    "processes": (4, ctypes.sizeof(Process)),
    "cells": (KEY_BYTES, ctypes.sizeof(Cell)),
    "plain": (8, ctypes.sizeof(Cell)),
    "files": (ctypes.sizeof(FileKey), 4),
    "seen": (ctypes.sizeof(SeenKey), 1),
    "layouts": (4, 4 * len(ARCHES) * LAYOUT_NRS),
    "conditions": (4, ctypes.sizeof(Condition)),
    "configs": (4, ctypes.sizeof(Config)),
    "totals": (4, ctypes.sizeof(Totals)),
    "blank": (4, ctypes.sizeof(Process)),
    "nobody": (4, ctypes.sizeof(Thread)),
}
"""Sizes of keys and values by map, which an object must have."""


def call_tables() -> tuple[bytes, list[Condition]]:
    """Return which arguments of which call enter the key (`struct layouts`), and the conditions it refers to.

    One conditional argument of a call is settled by the probes; should there be more of them, or more values
    than fit, whoever reads the counts settles those.
    """
    table = [0] * (len(ARCHES) * LAYOUT_NRS)
    conditions: list[Condition] = []
    numbers: dict[tuple[int, UsedIf], int] = {}
    for number, arch in enumerate(ARCHES):
        bit = _ARCHES[arch].nr_bit
        for name, nr in syscall_table(arch).items():
            if nr & ~bit >= LAYOUT_NRS:
                continue
            layout = LAYOUT_MAPS_FILE if (arch, name) in _FILE_MAPPING else 0
            for spec in constrained_args(arch, name):
                layout |= (_ARG_32 if spec.width == 32 else _ARG_64) << (2 * spec.index)
                used_if = spec.used_if
                if used_if is None or layout >> LAYOUT_CONDITION or not _fits(used_if):
                    continue
                key = (spec.index, used_if)
                if key not in numbers and len(conditions) < CONDITIONS:
                    numbers[key] = len(conditions)
                    conditions.append(_condition(spec.index, used_if))
                layout |= (numbers.get(key, -1) + 1) << LAYOUT_CONDITION
            table[number * LAYOUT_NRS + (nr & ~bit)] = layout
    return bytes((ctypes.c_uint32 * len(table))(*table)), conditions


def _fits(used_if: UsedIf) -> bool:
    return used_if.values is None or len(used_if.values) <= CONDITION_VALUES


def _condition(argument: int, used_if: UsedIf) -> Condition:
    values = used_if.values or ()
    any_bits = 0
    for bits in used_if.any_bits or ():
        any_bits |= bits
    padded = (*values, *[0] * (CONDITION_VALUES - len(values)))
    return Condition(
        argument,
        used_if.index,
        used_if.mask,
        any_bits,
        len(values),
        (ctypes.c_uint64 * CONDITION_VALUES)(*padded),
    )
