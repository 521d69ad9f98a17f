"""Build the data files of ``autoprofile/abi/data`` from the distilled sources and the curated files.

Pure: reads ``tools/abi`` only, returns the text of every file; the same input gives the same bytes.
"""

from __future__ import annotations

from .constants import build_constants
from .places import ARCHES, CURATED, LINUX, SOURCES, read
from .prototypes import Constants, build_signatures, used_if_cell

__all__ = ["build_all"]


def _source(name: str) -> str:
    return (SOURCES / name).read_text().partition("\n")[0].removeprefix("# source: ")


def _text(source: str, rows: list[list[str]]) -> str:
    return "".join(["# source: ", source, "\n", *("\t".join(row) + "\n" for row in rows)])


def _history() -> dict[str, str]:
    since = {row[0]: row[1] for row in read(SOURCES / "history.tsv")}
    since.update({row[0]: row[1] for row in read(CURATED / "history.tsv")})
    return since


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _tables(since: dict[str, str]) -> dict[str, dict[str, int]]:
    """Return the numbers without calls first seen in a kernel newer than the one described."""
    rows = read(SOURCES / "numbers.tsv")
    tables: dict[str, dict[str, int]] = {arch: {} for arch in ARCHES}
    for name, *cells in rows[1:]:
        if _version(since.get(name, "1.0")) > LINUX:
            continue
        for arch, cell in zip(rows[0][1:], cells, strict=True):
            if cell != "-":
                tables[arch][name] = int(cell)
    return tables


def _values(rows: list[list[str]]) -> Constants:
    values: Constants = {}
    for set_name, symbol, _, default, *overrides in rows:
        by_arch = dict.fromkeys(ARCHES, default)
        for override in overrides:
            arches, _, value = override.partition("=")
            by_arch.update(dict.fromkeys(arches.split(","), value))
        values[set_name, symbol] = {a: int(v, 0) for a, v in by_arch.items() if v != "-"}
    return values


def _variants(signatures: list[list[str]], values: Constants) -> list[list[str]]:
    """Resolve the conditions of curated/variants.tsv against the first signature of each call."""
    by_name: dict[str, list[str]] = {}
    for row in signatures:
        by_name.setdefault(row[0], row[2:])
    out = []
    for calls, argument, condition, kind, constants in read(CURATED / "variants.tsv"):
        for call in calls.split(","):
            cells = [cell.split(";") for cell in by_name[call]]
            cell = used_if_cell(condition, [c[0] for c in cells], [c[4] for c in cells], values)
            if argument not in [c[0] for c in cells]:
                raise ValueError(f"variants.tsv: {call} has no argument {argument}")
            out.append([call, argument, cell, kind, constants if constants != "-" else ""])
    return out


def build_all() -> dict[str, str]:
    """Return file name to text for every data file."""
    since = _history()
    tables = _tables(since)
    names = sorted(set().union(*tables.values()))
    undated = [name for name in names if name not in since]
    if undated:
        raise ValueError(f"no first version for {undated}; add it to curated/history.tsv")
    constants = build_constants(CURATED / "constants.txt", read(SOURCES / "constants.tsv"))
    values = _values(constants)
    signatures = build_signatures(tables, SOURCES, CURATED, values)
    linux = ".".join(map(str, LINUX))
    syscalls = [["name", "since", *ARCHES]]
    syscalls += [[n, since[n], *(str(tables[a].get(n, "-")) for a in ARCHES)] for n in names]
    return {
        "syscalls.tsv": _text(
            f"{_source('numbers.tsv')}, calls newer than Linux {linux} left out; first versions from "
            f"{_source('history.tsv')} and Linux release history",
            syscalls,
        ),
        "signatures.tsv": _text(
            f"{_source('tracefs.tsv')}; {_source('prototypes.tsv')}; kinds curated from Linux "
            "man-pages 6.03, widths from Linux 6.18",
            signatures,
        ),
        "variants.tsv": _text("curated from Linux man-pages 6.03, section 2", _variants(signatures, values)),
        "constants.tsv": _text(_source("constants.tsv"), constants),
        "families.tsv": _text(
            "curated from glibc 2.36, musl 1.2.4 and Linux man-pages 6.03", read(CURATED / "families.tsv")
        ),
        "risk.tsv": _text("curated from Linux man-pages 6.03 and Linux 6.18", read(CURATED / "risk.tsv")),
    }
