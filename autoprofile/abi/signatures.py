"""Argument signatures per architecture: name, C type, width the kernel reads, kind, symbols, when it counts.

`signature` describes a call whatever its values; `call_signature` describes one call with its values, and
then knows more (what ``fcntl``'s third argument is follows from its second). Unknown names are None, never
an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autoprofile.abi._tables import read_rows, read_text
from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = [
    "CONSTRAINED_KINDS",
    "KINDS",
    "ArgSpec",
    "Signature",
    "UsedIf",
    "call_signature",
    "constrained_args",
    "kernel_value",
    "signature",
    "width_in_rule",
]

KINDS = frozenset(
    {
        "enum",  # one of a list
        "flags",  # bits, perhaps with a field that is an enum
        "command",  # an enum that decides what the other arguments mean
        "size",  # bytes
        "offset",  # position in a file or half of one
        "fd",
        "pid",
        "uid",  # user or group id
        "mode",  # file type and permission bits
        "signal",
        "pointer",
        "time",
        "address",  # memory of the caller that is named, not read or written
        "count",
        "data",  # any other scalar
        "unused",  # the kernel never reads it (padding before an aligned register pair)
    }
)
CONSTRAINED_KINDS = frozenset({"enum", "flags", "command", "signal", "mode"})


class UsedIf(NamedTuple):
    """When an argument counts at all, decided by another argument of the same call.

    Attributes:
        index: the argument that decides.
        any_bits: it counts when one of these bits is set there; None when `values` decides.
        values: it counts when ``deciding value & mask`` is one of these; None when `any_bits` decides.
        mask: applied to the deciding value; it also cuts that value to the width the kernel reads.
    """

    index: int  # type: ignore[assignment]  # tuple.index is nothing anybody asks of this
    any_bits: tuple[int, ...] | None
    values: tuple[int, ...] | None
    mask: int = 0xFFFFFFFFFFFFFFFF

    def holds(self, args: Sequence[int]) -> bool:
        """Tell whether the argument counts in a call with these raw values."""
        value = args[self.index] & self.mask
        if self.any_bits is not None:
            return any(value & bits for bits in self.any_bits)
        return self.values is not None and value in self.values


class ArgSpec(NamedTuple):
    """One argument of one call.

    Attributes:
        index: 0 to 5, as in ``seccomp_data.args``.
        name: the kernel's name for it.
        ctype: the kernel's C type.
        width: 32 or 64: how many low bits the kernel reads; the rest may be garbage.
        kind: one of `KINDS`.
        constants: the set of symbols for `decode_value` and `encode_value`, or None.
        used_if: None when it always counts.
        other_width_if: where this holds, the kernel reads 64 bits instead of 32, or the other way round; None
            when it always reads `width` bits. fcntl(2) takes an int or a pointer by command, prctl(2) casts
            with some options. See `width_in_rule`.
    """

    index: int  # type: ignore[assignment]  # tuple.index is nothing anybody asks of this
    name: str
    ctype: str
    width: int
    kind: str
    constants: str | None
    used_if: UsedIf | None
    other_width_if: UsedIf | None = None


class Signature(NamedTuple):
    """The arguments of one call on one architecture, in register order."""

    name: str
    args: tuple[ArgSpec, ...]


# name -> its rows, split further only for the names that are asked for.
_rows: dict[str, list[str]] = {}
_variant_rows: dict[str, list[list[str]]] = {}
_signatures: dict[tuple[str, str], Signature | None] = {}
_constrained: dict[tuple[str, str], tuple[ArgSpec, ...]] = {}


def _parse_used_if(text: str) -> UsedIf | None:
    if not text:
        return None
    index, operator, numbers = text[0], text[1], text[2:]
    numbers, _, mask = numbers.partition("/")
    values = tuple(int(number, 0) for number in numbers.split(","))
    # Every deciding argument is a 32-bit type or holds flags below bit 32 (checked by the generator).
    cut = int(mask, 0) if mask else 0xFFFFFFFF
    if operator == "&":
        return UsedIf(int(index), values, None, cut)
    return UsedIf(int(index), None, values, cut)


def _parse_arg(index: int, cell: str, bits: int) -> ArgSpec:
    name, ctype, width, kind, constants, used_if, *other = cell.split(";")
    return ArgSpec(
        index,
        name,
        ctype,
        min(int(width), bits),
        kind,
        constants or None,
        _parse_used_if(used_if),
        _parse_used_if(other[0]) if other and bits == 64 else None,
    )


def _load() -> None:
    for line in read_text("signatures.tsv").split("\n")[1:]:
        name, _, rest = line.partition("\t")
        _rows.setdefault(name, []).append(rest)


def signature(arch: str, name: str) -> Signature | None:
    """Return the signature of a call on one architecture, or None when it has no such call."""
    key = (arch, name)
    if key in _signatures:
        return _signatures[key]
    found = None
    if arch in ARCHES and syscall_nr(arch, name) is not None:
        if not _rows:
            _load()
        for row in _rows[name]:
            arches, *cells = row.split("\t")
            if arches == "*" or arch in arches.split(","):
                bits = ARCHES[arch].bits
                found = Signature(name, tuple(_parse_arg(i, cell, bits) for i, cell in enumerate(cells)))
                break
    _signatures[key] = found
    return found


def constrained_args(arch: str, name: str) -> tuple[ArgSpec, ...]:
    """Return the arguments whose values a profile can hold (`CONSTRAINED_KINDS`)."""
    key = (arch, name)
    if key not in _constrained:
        found = signature(arch, name)
        args = found.args if found else ()
        _constrained[key] = tuple(spec for spec in args if spec.kind in CONSTRAINED_KINDS)
    return _constrained[key]


def kernel_value(spec: ArgSpec, raw: int) -> int:
    """Return a raw register as the kernel reads it: the low half alone when the type is 32 bits wide."""
    return raw & (0xFFFFFFFF if spec.width == 32 else 0xFFFFFFFFFFFFFFFF)


def width_in_rule(spec: ArgSpec, deciding: Collection[int] | None, *, is_refusing: bool) -> int:
    """Return how many bits a rule has to compare of an argument.

    A rule may cover calls of which the kernel reads 32 bits and others of which it reads 64. narrows: one
    that refuses compares 32 then, so that bits the kernel never looks at get no call past it; any other
    compares 64, so that it admits no pointer for another.

    Args:
        spec: of the argument, from `signature`.
        deciding: the values the rule lists for the argument that decides (the command); None for any.
        is_refusing: whether the rule's action never runs the call.
    """
    condition = spec.other_width_if
    if condition is None:
        return spec.width
    other = 96 - spec.width
    if deciding is not None:
        holds = {condition.holds((0,) * condition.index + (value,)) for value in deciding}
        if len(holds) == 1:
            return other if holds.pop() else spec.width
    return 32 if is_refusing else 64


def call_signature(arch: str, name: str, args: Sequence[int | None]) -> Signature | None:
    """Return the signature of one call given its values: more exact symbols, for display.

    Only `kind`, `constants` and `width` differ from `signature` (and `used_if` and `other_width_if`, settled
    by the values), never names. Text decoded with these specs is also understood by `encode_value` with the
    plain ones, pointers apart. Values that are None or missing are unknown: nothing is refined by them.
    """
    found = signature(arch, name)
    if found is None:
        return None
    if not _variant_rows:
        for row in read_rows("variants.tsv"):
            _variant_rows.setdefault(row[0], []).append(row[1:])
    rows = _variant_rows.get(name, [])
    if not rows and not any(spec.other_width_if for spec in found.args):
        return found
    specs = list(found.args)
    names = [spec.name for spec in specs]
    refined: set[int] = set()
    # -1 meets no condition: it is no command, family or level, and no condition asks for single bits.
    values = [-1 if value is None else value for value in args]
    for index, spec in enumerate(specs):
        test = spec.other_width_if
        if test is not None and test.index < len(args) and args[test.index] is not None:
            width = 96 - spec.width if test.holds(values) else spec.width
            specs[index] = spec._replace(width=width, other_width_if=None)
    for argument, condition, kind, constants in rows:
        if argument not in names:
            continue
        index = names.index(argument)
        test = _parse_used_if(condition)
        if index in refined or test is None or test.index >= len(values) or not test.holds(values):
            continue
        specs[index] = specs[index]._replace(kind=kind, constants=constants or None, used_if=None)
        refined.add(index)
    return Signature(name, tuple(specs))
