"""Which programs and libraries the file ids of the probes stand for.

The probes tell of a file once, with its path and inode, while the process that uses it runs. Where that
process still runs when the event is read, /proc tells (as for the other sources); else the path the kernel
had, and the build-id of the file there if it is the same inode, not changed since. Nothing is looked up in
this machine's root directory for a process that had another.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from autoprofile import kernel
from autoprofile.observations import ProgramId
from autoprofile.trace.program_id import UNKNOWN_PROGRAM, elf_facts, loaded_objects, program_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.trace.ebpf.records import Event
    from autoprofile.trace.program_id import ElfFacts

__all__ = ["Files"]

_PEERS: Final = 4096  # a fleet of containers fits


class Files:
    """All files seen.

    Attributes:
        root_of: a process in whose root directory the files of processes that have ended are looked up.
        own_root: as in an event, of this process.
        libraries: path -> build-id ("" without one) of everything mapped with instructions.
    """

    def __init__(self) -> None:
        self.root_of: int | None = None
        self.own_root: int | None = None
        self.libraries: dict[str, str] = {}
        self._own_space = _mount_space_of("self")
        self._programs: dict[int, ProgramId] = {}
        self._peers: dict[tuple[int, int], int] = {}  # mount namespace and root -> a process that had them

    def program(self, file_id: int) -> ProgramId:
        """Return the program of an id; ``?`` when nothing told of it."""
        return self._programs.get(file_id) or ProgramId(UNKNOWN_PROGRAM)

    def add_process(self, file_id: int, pid: int) -> None:
        """Give an id to the program a process runs."""
        found = program_of(pid)
        self._programs[file_id] = ProgramId(found.path, found.build_id)
        if found.build_id is not None or found.elf is not None:
            self._note(found.path, found.build_id)

    def add_mapped(self, pid: int) -> None:
        """Note what a process has mapped with instructions."""
        for loaded in loaded_objects(pid):
            self._note(loaded.path, loaded.build_id)

    def take(self, event: Event) -> None:
        """Note what an event tells."""
        path = event.path_text()
        if _mount_space_of(event.pid) == event.mount_space and len(self._peers) < _PEERS:
            self._peers[event.mount_space, event.root] = event.pid
        if not event.is_program:
            if path is not None and not self.libraries.get(path):
                facts = self._facts_of(path, event)
                self._note(path, facts.build_id if facts is not None else None)
            return
        if self._runs(event):
            self.add_process(event.file, event.pid)
            self.add_mapped(event.pid)
            if self._runs(event) and self.program(event.file).path != UNKNOWN_PROGRAM:
                return
        if path is None:
            return
        facts = self._facts_of(path, event)
        build_id = facts.build_id if facts is not None else None
        self._programs[event.file] = ProgramId(path, build_id)
        self._note(path, build_id)
        if facts is not None and facts.interpreter is not None:
            self._add_loader(facts.interpreter, event)

    def _note(self, path: str, build_id: str | None) -> None:
        if not self.libraries.get(path):
            self.libraries[path] = build_id or ""

    def _add_loader(self, link: str, event: Event) -> None:
        # The program names a symbolic link in its own root directory; the kernel and /proc what it points to.
        for root in self._roots(event):
            try:
                fd = kernel.open_in_root(root or "/", link)
            except kernel.KernelError:
                continue
            try:
                file = f"/proc/self/fd/{fd}"
                facts = elf_facts(file)
                self._note(os.readlink(file), facts.build_id if facts is not None else None)  # noqa: PTH115
            except OSError:
                continue
            finally:
                os.close(fd)
            return

    def _facts_of(self, path: str, event: Event) -> ElfFacts | None:
        # The kernel's paths begin at the root of the mount namespace, whatever the process's own root is.
        roots = list(self._roots(event, any_root=True))
        if event.mount_space == self._own_space and "" not in roots:
            roots.append("")
        found = (_facts(root + path, event) for root in roots)
        return next((facts for facts in found if facts is not None), None)

    def _roots(self, event: Event, *, any_root: bool = False) -> Iterator[str]:
        if (event.mount_space, event.root) == (self._own_space, self.own_root):
            yield ""
        peers = [event.pid, self.root_of]
        peers += [
            pid
            for (space, root), pid in self._peers.items()
            if space == event.mount_space and (any_root or root == event.root)
        ]
        for pid in dict.fromkeys(peers):
            if pid is not None and _mount_space_of(pid) == event.mount_space:
                yield f"/proc/{pid}/root"

    @staticmethod
    def _runs(event: Event) -> bool:
        # An inode number is enough: the device as stat(2) shows it is not the kernel's on some filesystems.
        try:
            return os.stat(f"/proc/{event.pid}/exe").st_ino == int(event.ino)  # noqa: PTH116
        except OSError:
            return False


def _mount_space_of(pid: int | str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino  # noqa: PTH116
    except OSError:
        return None


def _facts(path: str, event: Event) -> ElfFacts | None:
    try:
        status = os.stat(path)  # noqa: PTH116
        if (status.st_ino, status.st_ctime_ns) != (event.ino, event.changed_s * 10**9 + event.changed_ns):
            return None
        return elf_facts(path)
    except OSError:
        return None
