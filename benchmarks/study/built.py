"""Programs of the study that are written or compiled for it: Python, Node, Go, Rust, and C on static musl."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from study.tools import texts
from study.workload import Program, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from study.workload import Place

__all__ = ["BUILT"]

SOURCES = Path(__file__).with_name("sources")
BUILD_LIMIT_S = 300


def _built(*argv: str) -> Callable[[Place], None]:
    # {source} is the folder of the sources, {target} the result, named first; it is reused within one study.
    def build(place: Place) -> None:
        target = place.built / argv[0]
        if not target.exists():
            subprocess.run(
                [w.replace("{source}", str(SOURCES)).replace("{target}", str(target)) for w in argv[1:]],
                check=True,
                timeout=BUILD_LIMIT_S,
                cwd=place.built,
                env={**os.environ, "GOCACHE": str(place.built / "gocache"), "CGO_ENABLED": "0"},
            )

    return build


BUILT = (
    Program(
        "python",
        "interpreter with threads",
        ("/usr/bin/python3",),
        texts,
        (Task(("/usr/bin/python3", str(SOURCES / "work.py"), "a")),),
        (Task(("/usr/bin/python3", str(SOURCES / "work.py"), "b"), stdin="a.txt"),),
    ),
    Program(
        "node",
        "runtime with a JIT",
        ("node",),
        texts,
        (Task(("node", str(SOURCES / "work.js"), "a")),),
        (Task(("node", str(SOURCES / "work.js"), "b")),),
        is_held_out=True,
    ),
    Program(
        "go",
        "runtime with its own scheduler, no libc",
        ("go",),
        texts,
        (Task(("{built}/work-go", "a")),),
        (Task(("{built}/work-go", "b")),),
        is_held_out=True,
        build=_built("work-go", "go", "build", "-o", "{target}", "{source}/work.go"),
    ),
    Program(
        "rust",
        "compiled, threads and sockets",
        ("rustc",),
        texts,
        (Task(("{built}/work-rust", "a")),),
        (Task(("{built}/work-rust", "b")),),
        is_held_out=True,
        build=_built("work-rust", "rustc", "--edition", "2021", "-O", "-o", "{target}", "{source}/work.rs"),
    ),
    Program(
        "musl",
        "C, static against musl",
        ("musl-gcc",),
        texts,
        (Task(("{built}/work-musl", "a")),),
        (Task(("{built}/work-musl", "b")),),
        is_held_out=True,
        build=_built("work-musl", "musl-gcc", "-static", "-O1", "-w", "-o", "{target}", "{source}/work.c"),
    ),
)
