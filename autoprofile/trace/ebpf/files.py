"""Which programs and libraries the file ids of the probes stand for.

The probes tell of a file once, with its path and inode, while the process that uses it runs. Where that
process still runs when the event is read, /proc tells (as for the other sources); else the path the kernel
had, and the build-id of the file there if it is the same inode.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autoprofile.observations import ProgramId
from autoprofile.trace.program_id import UNKNOWN_PROGRAM, elf_facts, program_of

if TYPE_CHECKING:
    from autoprofile.trace.ebpf.records import Event
    from autoprofile.trace.program_id import ElfFacts

__all__ = ["Files"]


class Files:
    """All files seen.

    Attributes:
        root_of: a process in whose root directory the files of processes that have ended are looked up.
        libraries: path -> build-id ("" without one) of everything mapped with instructions.
    """

    def __init__(self) -> None:
        self.root_of: int | None = None
        self.libraries: dict[str, str] = {}
        self._programs: dict[int, ProgramId] = {}

    def program(self, file_id: int) -> ProgramId:
        """Return the program of an id; ``?`` when nothing told of it."""
        return self._programs.get(file_id) or ProgramId(UNKNOWN_PROGRAM)

    def add_process(self, file_id: int, pid: int) -> None:
        """Give an id to the program a process runs."""
        found = program_of(pid)
        self._programs[file_id] = ProgramId(found.path, found.build_id)
        if found.build_id is not None or found.elf is not None:
            self.libraries.setdefault(found.path, found.build_id or "")
        interpreter = found.elf.interpreter if found.elf is not None else None
        if interpreter is not None:
            self._add_library(interpreter, pid, None)

    def take(self, event: Event) -> None:
        """Note what an event tells."""
        path = event.path_text()
        if not event.is_program:
            if path is not None:
                self._add_library(path, event.pid, event.ino)
            return
        if self._runs(event.pid, event.ino):
            self.add_process(event.file, event.pid)
            if self._runs(event.pid, event.ino) and self.program(event.file).path != UNKNOWN_PROGRAM:
                return
        if path is None:
            return
        facts = self._facts_of(path, event.pid, event.ino)
        build_id = facts.build_id if facts is not None else None
        self._programs[event.file] = ProgramId(path, build_id)
        self.libraries.setdefault(path, build_id or "")
        if facts is not None and facts.interpreter is not None:
            self._add_library(facts.interpreter, event.pid, None)

    def _add_library(self, path: str, pid: int, ino: int | None) -> None:
        # The loader is named by a symbolic link; the kernel and /proc name what it points to.
        if ino is None:
            path = os.path.realpath(path)
        if path not in self.libraries or not self.libraries[path]:
            facts = self._facts_of(path, pid, ino)
            self.libraries[path] = (facts.build_id if facts is not None else None) or ""

    def _facts_of(self, path: str, pid: int, ino: int | None) -> ElfFacts | None:
        roots = [f"/proc/{pid}/root", ""] + ([] if self.root_of is None else [f"/proc/{self.root_of}/root"])
        found = (_facts(root + path, ino) for root in roots)
        return next((facts for facts in found if facts is not None), None)

    @staticmethod
    def _runs(pid: int, ino: int) -> bool:
        # An inode number is enough: the device as stat(2) shows it is not the kernel's on some filesystems.
        try:
            return os.stat(f"/proc/{pid}/exe").st_ino == ino  # noqa: PTH116
        except OSError:
            return False


def _facts(path: str, ino: int | None) -> ElfFacts | None:
    try:
        if ino is not None and os.stat(path).st_ino != ino:  # noqa: PTH116
            return None
        return elf_facts(path)
    except OSError:
        return None
