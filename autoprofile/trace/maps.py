"""The memory map of a process: ``/proc/PID/maps`` parsed, and the file behind a mapping opened.

Reads only; raises `OSError` as the kernel gives it, because whether an unreadable process matters is for
the caller to say. The file behind a mapping is found from inside the target's mount namespace and checked by
inode, so that a path which means something else here, or was replaced since, is never taken for it.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["Mapping", "open_mapped_file", "parse_maps", "read_maps"]

_OCTAL = r"\\([0-7]{3})"
_DELETED = " (deleted)"


class Mapping(NamedTuple):
    """One line of ``/proc/PID/maps``.

    Args:
        start: first address.
        end: first address beyond.
        perms: for instance ``r-xp``.
        offset: byte in the file at which the mapping starts.
        device: device number as `os.stat` would give it; on overlay and btrfs it may differ from `os.stat`'s.
        inode: inode number, 0 for memory without a file.
        path: the file as its mount namespace names it, without " (deleted)"; or a name such as ``[vdso]``,
            or "".
        is_deleted: whether the kernel says that the name is gone.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: int
    inode: int
    path: str
    is_deleted: bool

    @property
    def is_file(self) -> bool:
        """Tell whether bytes of a file are mapped here."""
        return self.inode != 0 and self.path.startswith("/")

    @property
    def is_executable(self) -> bool:
        """Tell whether instructions may run from here."""
        return self.perms[2] == "x"


def parse_maps(text: str) -> list[Mapping]:
    """Return the mappings in the text of a ``/proc/PID/maps`` file, in address order."""
    found = []
    for line in text.split("\n"):  # not splitlines(): a name may hold what Python calls a line end
        fields = line.split(" ", 5)
        try:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            perms, offset = fields[1], int(fields[2], 16)
            major, minor = (int(number, 16) for number in fields[3].split(":"))
            inode = int(fields[4])
        except (ValueError, IndexError):
            continue  # the end of a text that was cut, or nothing
        path = fields[5].lstrip(" ") if len(fields) > 5 else ""
        is_deleted = inode != 0 and path.endswith(_DELETED)
        if is_deleted:
            path = path.removesuffix(_DELETED)
        if "\\" in path:  # seq_file_path() writes a newline in a name as \012
            path = re.sub(_OCTAL, lambda m: chr(int(m[1], 8)), path)
        found.append(Mapping(start, end, perms, offset, os.makedev(major, minor), inode, path, is_deleted))
    return found


def read_maps(pid: int) -> list[Mapping]:
    """Return the mappings of a process, in address order.

    Raises:
        OSError: the process is gone (empty for a zombie) or belongs to someone else.
    """
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape", newline="\n") as file:  # noqa: PTH123
        return parse_maps(file.read())


def open_mapped_file(pid: int, mapping: Mapping) -> int:
    """Open the file behind a mapping for reading and return its descriptor.

    Raises:
        OSError: the file cannot be reached, or what the path names now is another file (`FileNotFoundError`).
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        # The kernel's own link to the very file; following it needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
        return os.open(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", flags)
    except OSError:
        if mapping.is_deleted:
            raise
    fd = os.open(f"/proc/{pid}/root{mapping.path}", flags)
    # The device is not compared: maps shows that of the layer below an overlay or a btrfs subvolume.
    if os.fstat(fd).st_ino != mapping.inode:
        os.close(fd)
        raise FileNotFoundError(f"{mapping.path} was replaced after process {pid} mapped it")
    return fd
