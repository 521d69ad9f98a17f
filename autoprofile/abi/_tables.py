"""Read the data files of this package: tab-separated rows, ``#`` lines are comments, source on line 1.

In: a file name under ``data/``. Out: rows of text cells. Opens nothing else and keeps nothing; callers cache.
"""

from __future__ import annotations

__all__ = ["read_rows", "read_text", "rows_of", "source_line"]

# A plain string and open(): pathlib alone would cost a third of the start-up budget of the enforce path.
_DATA = __file__.rpartition("/")[0] + "/data/"


def read_text(name: str) -> str:
    """Return the text of one data file."""
    with open(_DATA + name, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()


def read_rows(name: str) -> list[list[str]]:
    """Return the rows of one data file, each split at tabs."""
    return [line.split("\t") for line in read_text(name).split("\n") if line and line[0] != "#"]


def rows_of(text: str, key: str) -> list[list[str]]:
    """Return the rows of a file's text whose first cell is `key`, without that cell.

    Such rows stand together (the generator sees to it), so the rest of the file need not be split at all: a
    tenth of a millisecond instead of four for the constants.
    """
    rows = []
    prefix = f"\n{key}\t"
    position = text.find(prefix)
    while position >= 0:
        end = text.find("\n", position + 1)
        rows.append(text[position + len(prefix) : end].split("\t"))
        position = end if text.startswith(prefix, end) else -1
    return rows


def source_line(name: str) -> str:
    """Return line 1 of one data file without its ``#``: the public sources and their versions."""
    with open(_DATA + name, encoding="utf-8") as file:  # noqa: PTH123
        return file.readline().lstrip("# ").rstrip("\n")
