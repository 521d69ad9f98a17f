"""The first kernel version of each call."""

from __future__ import annotations

from autoprofile.abi._tables import read_rows

__all__ = ["since"]

_since: dict[str, str] = {}


def since(name: str) -> str | None:
    """Return the first Linux version that has this call on any architecture (``"5.3"``), or None.

    Source: syscalls(2) for calls up to 5.14, the kernel's merge history after that; see the data file.
    """
    if not _since:
        rows = read_rows("syscalls.tsv")
        column = rows[0].index("since")
        _since.update({row[0]: row[column] for row in rows[1:] if row[column] != "-"})
    return _since.get(name)
