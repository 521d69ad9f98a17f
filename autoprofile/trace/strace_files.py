"""The files that strace wrote: their lines, and which of them are of one run.

With ``-ff`` each thread has a file of its own, ``NAME.TID``. Who is whose child says which of them belong
together, and in which order they are to be read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from autoprofile.errors import AutoprofileError
from autoprofile.trace.strace_line import parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["in_order_of_birth", "lines_of", "runs_of"]

_SPAWN_RESULT: Final = re.compile(
    r"(?:(?:^|\s)(?:clone3?|v?fork)\(|<\.\.\. (?:clone3?|v?fork) resumed>).*= (\d+)\s*(?:<[\d.]+>)?$"
)


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a log.

    Raises:
        AutoprofileError: it cannot be read.
    """
    # Programs' bytes get into logs: nothing may be undecodable, and only \n ends a line.
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield from file
    except OSError as error:
        raise AutoprofileError(f"cannot read the log: {error.strerror}", where=str(path)) from error


def in_order_of_birth(files: Sequence[Path]) -> list[tuple[Path, int | None]]:
    """Return the files of one run with the thread each is of, None for a file of all threads.

    Parents come before their children, who inherit the program.
    """
    tids = {tid: path for path in files if (tid := _tid_of(path)) is not None}
    if len(files) == 1 or len(tids) != len(files):
        return [(path, None) for path in files]
    children = _children(tids)
    born = {child for many in children.values() for child in many}
    order: dict[int, None] = {}
    waiting = sorted((tid for tid in tids if tid not in born), reverse=True)
    while waiting:
        tid = waiting.pop()
        if tid not in order:
            order[tid] = None
            waiting.extend(reversed(children[tid]))
    order.update(dict.fromkeys(sorted(tids)))
    return [(tids[tid], tid) for tid in order]


def runs_of(paths: Sequence[Path]) -> list[list[Path]]:
    """Group logs by run, in the order given: one ``-ff`` log is many files, every other log is one.

    Files ``NAME.TID`` without thread ids on their lines are of one run when one is of a thread that another
    tells the birth of. What no file tells the birth of begins a run.

    Raises:
        AutoprofileError: a log cannot be read.
    """
    logs: dict[Path, list[Path]] = {}
    alone = []
    for path in paths:
        if _tid_of(path) is None:
            alone.append([path])
        else:
            logs.setdefault(path.with_suffix(""), []).append(path)
    runs = alone
    for files in logs.values():
        if len(set(files)) == 1 or any(_has_tids(path) for path in files):
            runs += [[path] for path in files]
        else:
            runs += _families(dict.fromkeys(files))
    place = {path: number for number, path in reversed(list(enumerate(paths)))}
    return sorted(runs, key=lambda run: place[run[0]])


def _families(files: dict[Path, None]) -> list[list[Path]]:
    tids = {int(path.suffix[1:]): path for path in files}
    children = _children(tids)
    root = {tid: tid for tid in tids}

    def ancestor(tid: int) -> int:
        while root[tid] != tid:
            tid = root[tid]
        return tid

    for parent, born in children.items():
        for child in born:
            root[ancestor(child)] = ancestor(parent)
    runs: dict[int, list[Path]] = {}
    for path in files:
        runs.setdefault(ancestor(int(path.suffix[1:])), []).append(path)
    return list(runs.values())


def _tid_of(path: Path) -> int | None:
    number = path.suffix[1:]
    return int(number) if number.isascii() and number.isdigit() else None


def _has_tids(path: Path) -> bool:
    for text in lines_of(path):
        line = parse_line(text)
        if line is not None and line.kind == "call":
            return line.tid is not None
    return False


def _children(tids: dict[int, Path]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for tid, path in tids.items():
        found = (_SPAWN_RESULT.search(line) for line in lines_of(path))
        children[tid] = [int(m[1]) for m in found if m and int(m[1]) in tids and int(m[1]) != tid]
    return children
