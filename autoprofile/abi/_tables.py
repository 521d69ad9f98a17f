"""Read the data files of this package: tab-separated rows, ``#`` lines are comments, source on line 1.

In: a file name under ``data/``. Out: rows of text cells. Opens nothing else and keeps nothing; callers cache.
"""

from __future__ import annotations

__all__ = ["read_rows", "source_line"]

# A plain string and open(): pathlib alone would cost a third of the start-up budget of the enforce path.
_DATA = __file__.rpartition("/")[0] + "/data/"


def read_rows(name: str) -> list[list[str]]:
    """Return the rows of one data file, each split at tabs."""
    with open(_DATA + name, encoding="utf-8") as file:  # noqa: PTH123
        text = file.read()
    return [line.split("\t") for line in text.split("\n") if line and line[0] != "#"]


def source_line(name: str) -> str:
    """Return line 1 of one data file without its ``#``: which public source, in which version, it came from."""
    with open(_DATA + name, encoding="utf-8") as file:  # noqa: PTH123
        return file.readline().lstrip("# ").rstrip("\n")
