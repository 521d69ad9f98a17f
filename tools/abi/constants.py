"""The curated constant sets: which symbols an argument takes and how their bits share the value.

In: ``curated/constants.txt`` (format in its head) and ``sources/constants.tsv`` (values). Out: rows of
``constants.tsv``: set, symbol, mask rule, value, values that differ by architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .places import ARCHES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Group", "build_constants", "parse_curated"]


@dataclass
class Group:
    """One set: where its values come from and its lines (rule, names)."""

    name: str
    headers: list[str]
    lines: list[tuple[str, list[str]]] = field(default_factory=list)

    def patterns(self) -> list[str]:
        """Return the names and patterns whose values must come out of the headers."""
        return [
            n
            for rule, names in self.lines
            if rule not in ("include", "readset")
            for n in names
            if "=" not in n and not n.startswith("!")
        ]


def parse_curated(path: Path) -> list[Group]:
    """Parse the curated file."""
    groups: list[Group] = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            name, _, rest = line[1:].partition("]")
            groups.append(Group(name, rest.split()))
        elif ":" in line:
            rule, _, names = line.partition(":")
            groups[-1].lines.append((rule.strip(), names.split()))
        else:
            raise ValueError(f"{path}:{number}: expected 'rule: names'")
    return groups


_MASKS = {"enum": "*", "flag": "=", "read": "-"}

Row = list[str]


def _value_cells(values: list[str]) -> list[str]:
    """Return the default value and ``arch,arch=value`` where it differs (``-`` = no such symbol)."""
    if len(values) == 1:
        return values
    by_value: dict[str, list[str]] = {}
    for arch, value in zip(ARCHES, values, strict=True):
        by_value.setdefault(value, []).append(arch)
    default = max(by_value, key=lambda v: (v != "-", len(by_value[v])))
    return [default, *(f"{','.join(arches)}={v}" for v, arches in by_value.items() if v != default)]


def build_constants(curated: Path, values: list[list[str]]) -> list[Row]:
    """Return the rows of the data file."""
    known: dict[str, dict[str, list[str]]] = {}
    for set_name, name, *cells in values:
        known.setdefault(set_name, {})[name] = cells
    done: dict[str, list[Row]] = {}
    missing: list[str] = []
    for group in parse_curated(curated):
        rows: dict[str, Row] = {}
        for rule, names in group.lines:
            refused = [n[1:] for n in names if n.startswith("!")]
            for name in names:
                if name.startswith("!"):
                    continue
                if rule in ("include", "readset"):
                    for row in done[name]:
                        mask = row[2] if rule == "include" else "-"
                        rows.setdefault(row[1], [group.name, row[1], mask, *row[3:]])
                    continue
                mask = _MASKS.get(rule) or rule.removeprefix("field ")
                if "=" in name:
                    name, _, literal = name.partition("=")
                    rows.setdefault(name, [group.name, name, mask, literal])
                    continue
                available = known.get(group.name, {})
                matching = [n for n in available if fnmatchcase(n, name)]
                if not matching:
                    missing.append(f"[{group.name}] {name}")
                for found in matching:
                    if not any(fnmatchcase(found, pattern) for pattern in refused):
                        cells = _value_cells(available[found])
                        # A flag of value zero on every architecture claims the whole value, not no bits.
                        zero = mask == "=" and all(int(c, 0) == 0 for c in available[found] if c != "-")
                        rows.setdefault(found, [group.name, found, "*" if zero else mask, *cells])
        done[group.name] = list(rows.values())
    if missing:
        raise ValueError(f"no header defines {', '.join(missing)}")
    return [row for rows in done.values() for row in rows]
