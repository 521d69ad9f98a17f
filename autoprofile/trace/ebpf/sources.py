"""The C sources of the probes, as the package holds them, and the two lists in them that a loader needs.

``kernel.h`` names the fields of the kernel that are read, ``maps.h`` the maps; libbpf gets both from the
object, bcc from here. The sources are compiled, never changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

__all__ = ["MAIN", "Field", "MapSpec", "fields", "maps", "programs", "source_dir"]

MAIN: Final = "autoprofile.bpf.c"

# BPF_MAP_TYPE_* of include/uapi/linux/bpf.h.
_KINDS: Final = {"HASH": 1, "ARRAY": 2, "STACK": 23, "RING": 27}
_FLAGS: Final = {"0": 0, "BPF_F_NO_PREALLOC": 1}


@dataclass(frozen=True)
class Field:
    """A field of the kernel: the name the probes give it, its structure, and the way to it from there.

    `before` holds the ways of older kernels, the newest first.
    """

    name: str
    struct: str
    path: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class MapSpec:
    """A map: its name, BPF_MAP_TYPE_*, entries (bytes of a ring) and BPF_F_* flags."""

    name: str
    kind: int
    entries: int
    flags: int


def source_dir() -> Path:
    """Return the directory of the sources."""
    return Path(str(files(__package__) / "data" / "probes"))


def fields() -> list[Field]:
    """Return the fields of ``kernel.h``."""
    text = (source_dir() / "kernel.h").read_text()
    lines = re.findall(r"^(FIELD|RENAMED|OFFSET)\(([^)]*)\)$", text, re.MULTILINE)
    found = []
    for kind, inside in lines:
        name, *words = inside.split(", ")
        struct, path, *before = words if kind == "OFFSET" else words[1:]
        found.append(Field(name, struct, path, tuple(before)))
    return found


def maps() -> list[MapSpec]:
    """Return the maps of ``maps.h``."""
    text = (source_dir() / "maps.h").read_text()
    specs = []
    for kind, inside in re.findall(r"^(\w+)_MAP\(([^)]*)\)", text, re.MULTILINE):
        words = [word.strip() for word in inside.split(",")]
        flags = _FLAGS[words.pop()] if kind == "HASH" else 0
        specs.append(MapSpec(words[0], _KINDS[kind], int(words[-1]), flags))
    return specs


def programs() -> dict[str, str | None]:
    """Return the programs of the main file: name -> tracepoint, None for what is attached to nothing."""
    text = (source_dir() / MAIN).read_text()
    found = re.findall(r'^(?:PROBE\((\w+), "(\w+)"|QUESTION\((\w+))\)$', text, re.MULTILINE)
    return {name or question: tracepoint or None for name, tracepoint, question in found}
