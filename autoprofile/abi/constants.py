"""Symbolic constants: value to text and back, per architecture, without loss.

`encode_value(decode_value(v)) == v` for every argument and every value the kernel can read there: what has no
symbol stays a number. Numbers are Linux's own, from data, never those of the machine this runs on.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from autoprofile.abi._tables import read_rows, read_text, rows_of
from autoprofile.abi.arch import AbiError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprofile.abi.signatures import ArgSpec

__all__ = [
    "constant_sets",
    "constants",
    "decode_value",
    "check_joined",
    "encode_mask",
    "encode_value",
    "errno_name",
    "errno_number",
    "signal_name",
    "signal_number",
]

# Kinds whose values are sets of bits, some of which may be fields.
_BITS = frozenset({"flags", "mode"})
_ALL = 0xFFFFFFFFFFFFFFFF


class _Symbol(NamedTuple):
    order: int  # position in the set: the order symbols are written in
    name: str
    mask: int  # the bits that must equal `value`; 0 = understood when read, never written
    value: int


_symbols: dict[tuple[str, str], dict[str, _Symbol]] = {}
_text = ""
_sets: dict[tuple[str, str], tuple[tuple[_Symbol, ...], Mapping[str, int]]] = {}
_texts: dict[tuple[str, str | None, str, int, bool, int], str] = {}


def _file() -> str:
    global _text
    _text = _text or read_text("constants.tsv")
    return _text


def _set(set_name: str, arch: str) -> tuple[tuple[_Symbol, ...], Mapping[str, int]]:
    key = (set_name, arch)
    found = _sets.get(key)
    if found is not None:
        return found
    rows = rows_of(_file(), set_name)
    if not rows:
        raise AbiError(f"unknown constant set {set_name!r}")
    symbols: list[_Symbol] = []
    values: dict[str, int] = {}
    for name, mask_text, value_text, *overrides in rows:
        for override in overrides:
            arches, _, text = override.partition("=")
            if f",{arch}," in f",{arches},":
                value_text = text
        if value_text == "-":
            continue  # this architecture has no such symbol
        value = int(value_text, 0)
        mask = {"*": _ALL, "=": value, "-": 0}.get(mask_text)
        if mask is None:
            mask = int(mask_text, 0)
        symbols.append(_Symbol(len(symbols), name, mask, value & _ALL))
        values[name] = value & _ALL
    # Whole-value symbols and composites claim their bits before the flags they are made of.
    claiming = sorted((s for s in symbols if s.mask), key=lambda s: (-s.mask.bit_count(), s.order))
    found = _sets[key] = (tuple(claiming), MappingProxyType(values))
    return found


def constant_sets() -> Mapping[str, int]:
    """Return the names of all constant sets, each with how many symbols it holds over all architectures."""
    counts: dict[str, int] = {}
    for row in read_rows("constants.tsv"):
        counts[row[0]] = counts.get(row[0], 0) + 1
    return MappingProxyType(counts)


def constants(set_name: str, arch: str) -> Mapping[str, int]:
    """Return symbol to value of one set on one architecture; `AbiError` for an unknown set."""
    return _set(set_name, arch)[1]


def _is_signed(ctype: str) -> bool:
    return ctype.rsplit(" ", maxsplit=1)[-1] in {
        "int", "long", "pid_t", "loff_t", "off_t", "clockid_t", "ssize_t", "key_serial_t", "mqd_t", "timer_t",
        "compat_long_t", "compat_pid_t", "compat_off_t", "compat_loff_t", "s32", "__s32", "key_t",
    } and "unsigned" not in ctype  # fmt: skip


def _number(kind: str, signed: bool, width: int, value: int, is_rest: bool) -> str:
    """Write a number the way people read this kind of argument."""
    if kind in ("flags", "pointer", "address", "command") or is_rest:
        return hex(value) if value else "0"
    if kind == "mode":
        return f"0o{value:o}" if value else "0"
    if signed and value >> (width - 1):
        return str(value - (1 << width))
    return str(value)


def decode_value(arch: str, spec: ArgSpec, value: int) -> str:
    """Return an argument value as text: symbols joined by ``|``, then what is left as a number.

    The value is first cut to the width the kernel reads. The text reads back with `encode_value`.
    """
    value &= (1 << spec.width) - 1
    signed = _is_signed(spec.ctype)
    key = (arch, spec.constants, spec.kind, spec.width, signed, value)
    text = _texts.get(key)
    if text is None:
        text = _decode(arch, spec, value, signed)
        if len(_texts) < 65536:  # bounds memory: pointers and sizes never repeat for long
            _texts[key] = text
    return text


def _decode(arch: str, spec: ArgSpec, value: int, signed: bool) -> str:
    if spec.constants is None:
        return _number(spec.kind, signed, spec.width, value, False)
    everything = (1 << spec.width) - 1
    unclaimed = everything
    found: list[_Symbol] = []
    for symbol in _set(spec.constants, arch)[0]:
        mask = symbol.mask & everything
        if mask & ~unclaimed == 0 and mask and value & mask == symbol.value & everything:
            found.append(symbol)
            unclaimed &= ~mask
    rest = value & unclaimed
    parts = [symbol.name for symbol in sorted(found, key=lambda s: s.order)]
    if rest or not parts:
        parts.append(_number(spec.kind, signed, spec.width, rest, bool(parts) and spec.kind != "mode"))
    return "|".join(parts)


def _parse_number(spec: ArgSpec, text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        pass
    if spec.kind == "mode" and text.isdecimal():
        try:
            return int(text, 8)  # as chmod(1) and C write it: 0644
        except ValueError:
            return None
    return None


def encode_value(arch: str, spec: ArgSpec, text: str | int) -> int:
    """Return the number that a text or int stands for in this argument, cut to its width.

    Accepts symbols and numbers joined by ``|``, and negative numbers as two's complement.

    Raises:
        AbiError: a symbol is not known for this argument (the hint has near names), a number does not fit, or
            two parts contradict each other (see `check_joined`).
    """
    if isinstance(text, int):
        return _fit(spec, text)
    parts = _parts(arch, spec, text)
    check_joined(arch, spec, parts)
    return _joined(parts)


def encode_mask(arch: str, spec: ArgSpec, text: str) -> int:
    """Return the bits of all parts of a text, whatever they mean together: of a mask, not of a value.

    Raises:
        AbiError: a symbol is not known for this argument, or a number does not fit.
    """
    return _joined(_parts(arch, spec, text))


def _parts(arch: str, spec: ArgSpec, text: str) -> list[tuple[str, int]]:
    parts = []
    for part in text.split("|"):
        word = part.strip()
        number = _parse_number(spec, word)
        if number is None:
            number = _symbol(arch, spec, word)
        parts.append((word, _fit(spec, number)))
    return parts


def _joined(parts: Sequence[tuple[str, int]]) -> int:
    value = 0
    for _, one in parts:
        value |= one
    return value


def check_joined(arch: str, spec: ArgSpec, parts: Sequence[tuple[str, int]]) -> None:
    """Refuse parts joined by ``|`` that make a value none of them stands for: AF_UNIX|AF_INET is AF_AX25.

    Args:
        arch: whose symbols.
        spec: of the argument.
        parts: each part as written, and its value.

    Raises:
        AbiError: one part says what all bits of a field are, and another says otherwise.
    """
    if len(parts) < 2 or spec.constants is None:
        return
    key = (spec.constants, arch)
    by_name = _symbols.get(key)
    if by_name is None:
        by_name = _symbols[key] = {symbol.name: symbol for symbol in _set(*key)[0]}
    for word, _ in parts:
        symbol = by_name.get(word)
        if symbol is None or _stands_beside_any(spec, symbol):
            continue
        for other, value in parts:
            met = by_name.get(other)
            if met is not None and _stands_beside_any(spec, met):
                continue
            said = value & symbol.mask
            if said != symbol.value and (said or (met is not None and met.mask & symbol.mask)):
                raise AbiError(
                    f"{word}|{other} stands for neither of them: it is "
                    f"{decode_value(arch, spec, _joined(parts))}",
                    hint=f"say [{', '.join(one for one, _ in parts)}] for any of these values",
                )


def _stands_beside_any(spec: ArgSpec, symbol: _Symbol) -> bool:
    # A flag says nothing of other bits, and of flags "none" (O_RDONLY, PROT_NONE) is written beside others.
    return symbol.mask == symbol.value or (not symbol.value and spec.kind in _BITS)


def _fit(spec: ArgSpec, number: int) -> int:
    # A number the register cannot hold is a mistake in the profile: cutting it silently could widen a rule.
    if not -(1 << (spec.width - 1)) <= number < (1 << spec.width):
        raise AbiError(
            f"{number} does not fit argument {spec.name!r}, which the kernel reads as {spec.width} bits"
        )
    return number & ((1 << spec.width) - 1)


def _symbol(arch: str, spec: ArgSpec, word: str) -> int:
    known = constants(spec.constants, arch) if spec.constants else {}
    value = known.get(word)
    if value is None:
        raise AbiError(
            f"{word!r} is no value of argument {spec.name!r} ({spec.kind}) on {arch}",
            hint=_near_hint(word, known),
        )
    # Symbols are kept as 64-bit numbers: a negative one (AT_FDCWD) turns negative again, the caller cuts it.
    return value - (1 << 64) if value >> 63 and spec.width == 32 else value


def _near_hint(word: str, known: Mapping[str, int]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=3) or difflib.get_close_matches(word.upper(), known, n=3)
    if near:
        return f"did you mean {', '.join(near)}?"
    if known:
        return f"known symbols include {', '.join(list(known)[:6])}; numbers are accepted too"
    return "this argument has no symbols: write a number"


def errno_number(name: str) -> int:
    """Return the number of an errno symbol (Linux generic numbers), or raise `AbiError`."""
    number = constants("errno", "x86_64").get(name)
    if number is None:
        import difflib

        near = difflib.get_close_matches(name.upper(), constants("errno", "x86_64"), n=3)
        raise AbiError(f"unknown errno {name!r}", hint=f"did you mean {', '.join(near)}?" if near else None)
    return number


def _first_name(set_name: str, number: int) -> str | None:
    for symbol in _set(set_name, "x86_64")[0]:
        if symbol.value == number:
            return symbol.name
    return None


def errno_name(n: int) -> str | None:
    """Return the symbol of an errno number, or None."""
    return _first_name("errno", n)


def signal_name(n: int) -> str | None:
    """Return the symbol of a signal number (``SIGTERM``, ``SIGRT_2``), or None.

    Real-time signals are counted from the kernel's own SIGRTMIN, 32; libc keeps the first two for itself.
    """
    return _first_name("signal", n)


def signal_number(name: str) -> int:
    """Return the number of a signal symbol (Linux generic numbers), or raise `AbiError`."""
    number = constants("signal", "x86_64").get(name)
    if number is None:
        raise AbiError(f"unknown signal {name!r}")
    return number
