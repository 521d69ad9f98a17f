"""The records shared with the probes, laid out as in probes/records.h, and the layouts table made from `abi`.

Every structure states its size; a loader compares them with the sizes its object has.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any, Final

from autoprofile.abi.arch import ARCHES as _ARCHES
from autoprofile.abi.signatures import UsedIf, constrained_args, signature
from autoprofile.abi.syscalls import syscall_table

__all__ = [
    "ARCHES",
    "CONFIG_CGROUP",
    "CONFIG_CGROUP_EXEC",
    "CONFIG_CHILD",
    "CONFIG_MOUNT_SPACE",
    "EVENT_END",
    "EVENT_FILE",
    "ANSWER_FOLLOWED",
    "ASK_DESCRIPTOR",
    "ASK_FOLLOW",
    "ASK_FORGET",
    "ASK_MOUNT_SPACE",
    "ASK_PARENT",
    "ASK_PROCESS",
    "ASK_PROGRAM",
    "ASK_ROOT",
    "ASK_SELF",
    "ASK_THREAD",
    "KEY_BYTES",
    "LAYOUT_NRS",
    "PROCESS_CELLS",
    "RETURN_SIGNAL",
    "RETURN_UNSEEN",
    "SIZES",
    "SPILLED_BY_MANY",
    "THREAD_IN_CALL",
    "THREAD_UNSURE",
    "Cell",
    "CellKey",
    "Condition",
    "Config",
    "Event",
    "FileKey",
    "Layout",
    "Measure",
    "Process",
    "SeenKey",
    "Slot",
    "Spilled",
    "Thread",
    "Totals",
    "call_tables",
    "noted_args",
]

ARCHES: Final = ("x86_64", "i386", "x32")
"""Arch names by the number the probes use."""

LAYOUT_NRS: Final = 1024
LAYOUT_KEYED: Final = 0x40000
LAYOUT_NOTED: Final = 0x80000
LAYOUT_MAPS_FILE: Final = 0x100000
LAYOUT_CONDITION: Final = 24
CONDITIONS: Final = 64
CONDITION_VALUES: Final = 32
MEASURES: Final = 4
THREAD_IN_CALL: Final = 1
THREAD_UNSURE: Final = 16
PROCESS_CELLS: Final = 4096
RETURN_UNSEEN: Final = -1
RETURN_SIGNAL: Final = -2
EVENT_FILE, EVENT_END = 1, 2
CONFIG_CGROUP, CONFIG_MOUNT_SPACE, CONFIG_CHILD, CONFIG_CGROUP_EXEC = 1, 2, 4, 8
ASK_FOLLOW, ASK_FORGET, ASK_SELF = 1, 2, 3
ASK_THREAD, ASK_PROCESS, ASK_PARENT, ASK_MOUNT_SPACE, ASK_PROGRAM, ASK_ROOT, ASK_DESCRIPTOR = range(7)
SPILLED_BY_MANY: Final = 0xFFFFFFFF
ANSWER_FOLLOWED: Final = 1

_SIZES: Final = {"size", "offset"}
_POINTERS: Final = {"pointer", "address"}
_PATH_BYTES: Final = 4096
_NAME_BYTES: Final = 256
_SLOTS: Final = 16


class Layout(enum.IntEnum):
    """What is kept of an argument, in three bits of a call's layout."""

    NONE = 0
    KEY_32 = 1
    KEY_64 = 2
    SIZE_32 = 3
    SIZE_64 = 4
    POINTER = 5


def _u32(*names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, ctypes.c_uint32) for name in names)


def _u64(*names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, ctypes.c_uint64) for name in names)


# Calls that map a file given by argument 4 with the protection in argument 2 (mmap(2); i386's old mmap takes
# a pointer to its arguments, and no libc since 1998 calls it for libraries).
_FILE_MAPPING: Final = {("x86_64", "mmap"), ("x32", "mmap"), ("i386", "mmap2")}


class Config(ctypes.Structure):
    """Whom the probes adopt by themselves."""

    _fields_ = (
        *_u32("flags", "cgroup_level"),
        *_u64("cgroup_id"),
        *_u32("mount_space", "own_tgid"),
    )


class Condition(ctypes.Structure):
    """When an argument is read at all (`abi.UsedIf`)."""

    _fields_ = (
        *_u32("argument", "decider"),
        *_u64("mask", "any_bits", "value_count"),
        ("values", ctypes.c_uint64 * CONDITION_VALUES),
    )


class CellKey(ctypes.Structure):
    """What calls are told apart by."""

    _fields_ = (*_u32("program_arch", "nr"), ("args", ctypes.c_uint64 * 6))


class Measure(ctypes.Structure):
    """Which values a size or an offset had: the magnitudes as bits, and the range."""

    _fields_ = _u64("buckets", "least", "most")


class Cell(ctypes.Structure):
    """What is counted of them; times are CLOCK_MONOTONIC."""

    _fields_ = (
        *_u64("count", "first_ns", "last_ns", "failed", "unended", "refused", "doubtful", "errors"),
        ("last_return", ctypes.c_int64),
        *_u32("processes", "id", "null", "nonnull"),
        ("measures", Measure * MEASURES),
    )


class Slot(ctypes.Structure):
    """Calls of one key that a thread has counted for itself."""

    _fields_ = (("key", CellKey), *_u32("is_plain", "noted"), ("cell", Cell))


class Thread(ctypes.Structure):
    """A member."""

    _fields_ = (
        *_u64("regs", "entered_ns", "tick"),
        *_u32("program", "process", "flags", "slot"),
        ("cells", ctypes.c_uint64 * 16),
        ("slots", Slot * _SLOTS),
    )


class Process(ctypes.Structure):
    """A member's thread group."""

    _fields_ = (("threads", ctypes.c_int64), ("cells", ctypes.c_uint64 * 64))


class SeenKey(ctypes.Structure):
    """A process that made a call, for the rare cell that has no bit in `Process`."""

    _fields_ = _u32("process", "cell")


class FileKey(ctypes.Structure):
    """What files are told apart by."""

    _fields_ = (*_u64("dentry", "ino", "size", "changed_s"), *_u32("changed_ns", "name", "dev", "generation"))


class Spilled(ctypes.Structure):
    """Calls for which there was no room, by arch and number."""

    _fields_ = (
        *_u64("count", "refused", "doubtful"),
        ("last_return", ctypes.c_int64),
        *_u32("program", "nr"),
    )


class Totals(ctypes.Structure):
    """Counters of everything, and the losses."""

    _fields_ = (
        *_u64(
            "next_file", "next_cell", "next_process", "next_member", "processes", "regs_at", "era", "adopted"
        ),
        ("live", ctypes.c_int64),
        *_u64("cells_full", "threads_full", "seen_full", "files_full", "ring_full"),
    )


class Event(ctypes.Structure):
    """What the probes tell at once."""

    _fields_ = (
        *_u32("kind", "file", "pid", "path_at"),
        *_u64("ino"),
        *_u32("is_program", "mount_space", "root", "changed_ns"),
        *_u64("changed_s"),
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
    "threads": (4, 4),
    "members": (4, ctypes.sizeof(Thread)),
    "spare": (0, 4),
    "places": (4, 4),
    "strangers": (4, 8),
    "processes": (4, ctypes.sizeof(Process)),
    "cells": (KEY_BYTES, ctypes.sizeof(Cell)),
    "plain": (8, ctypes.sizeof(Cell)),
    "spilled": (4, ctypes.sizeof(Spilled)),
    "files": (ctypes.sizeof(FileKey), 4),
    "seen": (ctypes.sizeof(SeenKey), 1),
    "layouts": (4, 4 * 4 * LAYOUT_NRS),
    "conditions": (4, ctypes.sizeof(Condition)),
    "configs": (4, ctypes.sizeof(Config)),
    "totals": (4, ctypes.sizeof(Totals)),
    "blank": (4, ctypes.sizeof(Process)),
}
"""Sizes of keys and values by map, which an object must have."""


def call_tables() -> tuple[bytes, list[Condition]]:
    """Return which arguments of which call enter the key (`struct layouts`), and the conditions it refers to.

    One conditional argument of a call is settled by the probes; should there be more of them, or more values
    than fit, whoever reads the counts settles those.
    """
    table = [0] * (4 * LAYOUT_NRS)  # one arch is to spare, for a power of two
    conditions: list[Condition] = []
    numbers: dict[tuple[int, UsedIf], int] = {}
    for number, arch in enumerate(ARCHES):
        bit = _ARCHES[arch].nr_bit
        for name, nr in syscall_table(arch).items():
            if nr & ~bit >= LAYOUT_NRS:
                continue
            layout = LAYOUT_MAPS_FILE if (arch, name) in _FILE_MAPPING else 0
            for index, how in noted_args(arch, name).items():
                layout |= LAYOUT_NOTED | how << (3 * index)
            for spec in constrained_args(arch, name):
                kept = Layout.KEY_32 if spec.width == 32 else Layout.KEY_64
                layout |= LAYOUT_KEYED | kept << (3 * spec.index)
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


def noted_args(arch: str, name: str) -> dict[int, Layout]:
    """Return which arguments of a call are noted beside its key: index -> as a size or a pointer.

    Of more than `MEASURES` sizes and offsets (only halves of i386's offsets are so many) the first are.
    """
    call = signature(arch, name)
    noted: dict[int, Layout] = {}
    for spec in call.args if call is not None else ():
        if spec.kind in _SIZES and sum(how != Layout.POINTER for how in noted.values()) < MEASURES:
            noted[spec.index] = Layout.SIZE_32 if spec.width == 32 else Layout.SIZE_64
        elif spec.kind in _POINTERS:
            noted[spec.index] = Layout.POINTER
    return noted


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
