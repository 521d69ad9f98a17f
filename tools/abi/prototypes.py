"""The argument lists of every syscall on every architecture, with their kinds.

In: numbers, tracefs formats and header prototypes (``sources``), ``curated/entries.txt``, ``kinds.txt`` and
``widths.tsv``. Out: rows of ``signatures.tsv``. Refuses a call without a prototype, a scalar without a kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .places import ARCHES, read

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Constants", "build_signatures", "used_if_cell"]

# (set, symbol) -> value by architecture; used_if conditions name symbols that are the same on all of them.
Constants = dict[tuple[str, str], dict[str, int]]

_WIDE = {"unsigned long", "long", "size_t", "ssize_t", "loff_t", "off_t", "__u64", "u64", "aio_context_t",
         "uintptr_t", "__sighandler_t", "old_sigset_t"}  # fmt: skip
_NARROW = {"int", "unsigned int", "unsigned", "u32", "__u32", "__s32", "umode_t", "pid_t", "uid_t", "gid_t",
           "qid_t", "key_t", "clockid_t", "mqd_t", "timer_t", "rwf_t", "key_serial_t", "old_uid_t",
           "old_gid_t",
           "enum landlock_rule_type", "compat_ulong_t", "compat_long_t", "compat_size_t", "compat_uptr_t",
           "compat_aio_context_t", "compat_pid_t", "compat_mode_t"}  # fmt: skip
_POINTERS = {
    "cap_user_header_t",
    "cap_user_data_t",
    "const cap_user_data_t",
    "compat_uptr_t",
    "__sighandler_t",
}
_KIND_OF_TYPE = {
    "umode_t": "mode:file_mode",
    "compat_mode_t": "mode:file_mode",
    "pid_t": "pid",
    "compat_pid_t": "pid",
    "uid_t": "uid",
    "gid_t": "uid",
    "old_uid_t": "uid",
    "old_gid_t": "uid",
    "size_t": "size",
    "loff_t": "offset",
    "off_t": "offset",
    "clockid_t": "enum:clock_id",
}


@dataclass
class _Kind:
    kind: str
    constants: str
    used_if: str


def _split_types(text: str) -> list[tuple[str, str]]:
    """Turn ``int fd, char * buf`` into (name, type) pairs."""
    args = []
    for piece in filter(None, (p.strip() for p in text.split(","))):
        ctype, _, name = piece.rpartition(" ")
        args.append((name, ctype) if ctype else ("pad", "unused"))
    return args


class _Entries:
    """Entry points by name and the map from (name, arch) to one of them."""

    def __init__(self, sources: Path, curated: Path) -> None:
        self.traced = {row[0]: self._cells(row[1:]) for row in read(sources / "tracefs.tsv")}
        self.declared = {row[0]: self._cells(row[1:]) for row in read(sources / "prototypes.tsv")}
        self.rules: list[tuple[str, tuple[str, ...], str]] = []
        for line in curated.read_text().splitlines():
            found = re.fullmatch(r"(\w+)(?:@([\w,]+))?\s+(?:=\s*(\w+)|\((.*)\))", line.strip())
            if found:
                listed = (found[2] or ",".join(ARCHES)).split(",")
                arches = tuple(a for item in listed for a in (("i386", "arm") if item == "32" else (item,)))
                self.rules.append((found[1], arches, f"={found[3]}" if found[3] else f"({found[4]}"))
            elif line.strip() and not line.startswith("#"):
                raise ValueError(f"{curated}: cannot read {line!r}")

    @staticmethod
    def _cells(cells: list[str]) -> list[tuple[str, str]]:
        pairs = []
        for cell in cells:
            name, _, ctype = cell.partition(";")
            ctype = re.sub(r"\bconst (?=(int|size_t|enum|__u32|clockid_t)\b)", "", ctype)
            pairs.append((name, ctype))
        return pairs

    def _entry(self, entry: str) -> list[tuple[str, str]] | None:
        return self.traced.get(entry, self.declared.get(entry))

    def prototype(self, name: str, arch: str) -> list[tuple[str, str]]:
        for rule_name, arches, target in self.rules:
            if rule_name == name and arch in arches:
                found = self._entry(target[1:]) if target[0] == "=" else _split_types(target[1:])
                break
        else:
            found = self._entry(name)
        if found is None:
            raise ValueError(f"{name} on {arch}: no prototype; add it to curated/entries.txt")
        return found


class _Kinds:
    """The curated kinds, looked up by (syscall, argument)."""

    def __init__(self, path: Path) -> None:
        self.exact: dict[tuple[str, str], _Kind] = {}
        self.by_name: dict[str, _Kind] = {}
        self.missing: list[str] = []
        for line in path.read_text().splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            where, kind_text, *condition = words
            calls, _, arguments = where.partition(".")
            kind, _, constants = kind_text.partition(":")
            for argument in arguments.split(","):
                made = _Kind(kind, constants, condition[0] if condition else "")
                if calls == "*":
                    self.by_name[argument] = made
                else:
                    for call in calls.split(","):
                        self.exact[call, argument] = made
        self.unread = set(self.exact)

    def of(self, call: str, argument: str, ctype: str) -> _Kind:
        self.unread.discard((call, argument))
        if (call, argument) in self.exact:
            return self.exact[call, argument]
        if "*" in ctype or ctype in _POINTERS:
            return _Kind("pointer", "", "")
        if argument in self.by_name:
            return self.by_name[argument]
        if ctype in _KIND_OF_TYPE:
            kind, _, constants = _KIND_OF_TYPE[ctype].partition(":")
            return _Kind(kind, constants, "")
        self.missing.append(f"{call}.{argument} ({ctype})")
        return _Kind("", "", "")


def used_if_cell(condition: str, names: list[str], sets: list[str], constants: Constants) -> str:
    """Turn ``flags&O_CREAT,__O_TMPFILE`` into ``2&0x40,0x400000``: the form the reader takes."""
    found = re.fullmatch(r"(\w+)(&|=)([^/]+)(?:/(0x\w+))?", condition)
    if found is None:
        raise ValueError(f"cannot read condition {condition!r}")
    index = names.index(found[1])
    numbers = []
    for symbol in found[3].split(","):
        if symbol.isdecimal():
            numbers.append(symbol)
            continue
        values = set(constants[sets[index], symbol].values())
        if len(values) != 1:
            raise ValueError(f"{symbol} differs by architecture; {condition!r} cannot use it")
        numbers.append(hex(values.pop()))
    return f"{index}{found[2]}{','.join(numbers)}{'/' + found[4] if found[4] else ''}"


def _width(name: str, ctype: str) -> str:
    if "*" in ctype or ctype in _WIDE or ctype in _POINTERS - {"compat_uptr_t"}:
        return "64"
    if ctype in _NARROW or ctype == "unused":
        return "32"
    raise ValueError(f"{name}: type {ctype!r} has no known width")


class _Widths:
    """The curated widths: always, or where a condition on another argument holds."""

    def __init__(self, path: Path) -> None:
        self.always: dict[tuple[str, str], str] = {}
        self.where: dict[tuple[str, str], tuple[str, str]] = {}
        for calls, arguments, bits, condition, _ in read(path):
            for key in ((call, argument) for call in calls.split(",") for argument in arguments.split(",")):
                if condition == "-":
                    self.always[key] = bits
                else:
                    self.where[key] = (bits, condition)
        self.unread = {*self.always, *self.where}

    def of(self, call: str, argument: str, ctype: str) -> tuple[str, str]:
        """Return the width, and the condition under which it is the other one, if any."""
        key = (call, argument)
        self.unread.discard(key)
        width = self.always.get(key) or _width(f"{call}.{argument}", ctype)
        other, condition = self.where.get(key, ("", ""))
        if other == width and self.always.get(key) == other:
            raise ValueError(f"widths.tsv: {call}.{argument} is always {width} bits wide")
        return width, condition if other and other != width else ""


def build_signatures(
    tables: dict[str, dict[str, int]], sources: Path, curated: Path, constants: Constants
) -> list[list[str]]:
    """Return one row per call and group of architectures that share its arguments."""
    entries, kinds = _Entries(sources, curated / "entries.txt"), _Kinds(curated / "kinds.txt")
    widths = _Widths(curated / "widths.tsv")
    rows: list[list[str]] = []
    for name in sorted(set().union(*tables.values())):
        groups: dict[tuple[str, ...], list[str]] = {}
        for arch in ARCHES:
            if name not in tables[arch]:
                continue
            prototype = entries.prototype(name, arch)
            found = [kinds.of(name, argument, ctype) for argument, ctype in prototype]
            names, sets = [argument for argument, _ in prototype], [kind.constants for kind in found]
            cells = []
            for (argument, ctype), kind in zip(prototype, found, strict=True):
                condition = used_if_cell(kind.used_if, names, sets, constants) if kind.used_if else ""
                width, where = widths.of(name, argument, ctype)
                other = used_if_cell(where, names, sets, constants) if where else ""
                cells.append(
                    f"{argument};{ctype};{width};{kind.kind};{kind.constants};{condition}"
                    + (f";{other}" if other else "")
                )
            groups.setdefault(tuple(cells), []).append(arch)
        if len(groups) == 1:
            rows.append([name, "*", *next(iter(groups))])
        else:
            rows += [[name, ",".join(arches), *cells] for cells, arches in groups.items()]
    if kinds.missing:
        raise ValueError(f"no kind for {', '.join(kinds.missing)}: add them to curated/kinds.txt")
    if kinds.unread:
        raise ValueError(f"curated/kinds.txt names what no call has: {sorted(kinds.unread)}")
    if widths.unread:
        raise ValueError(f"curated/widths.tsv names what no call has: {sorted(widths.unread)}")
    return rows
