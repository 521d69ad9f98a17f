"""Classes of the arguments that are not constrained: whether a pointer was null, how great a size was.

An observation holds them as JSON text, beside its key:
``{"a1":"nonnull","a2":{"least":1,"log2":[1,13],"most":4096}}``. A pointer is "null", "nonnull" or "both";
``log2`` lists the magnitudes of a size or offset that occurred: 0 for 0, n for 2^(n-1) up to 2^n - 1, 63 for
all above. Values are unsigned, so an offset of -1 is the greatest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Class",
    "Pointer",
    "Size",
    "classes_from_text",
    "joined",
    "joined_classes",
    "text_from_classes",
]

_POINTER = {(True, False): "null", (False, True): "nonnull", (True, True): "both"}
_SEEN = {text: seen for seen, text in _POINTER.items()}


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer was: null, something else, or each at times."""

    null: bool
    nonnull: bool


@dataclass(frozen=True, slots=True)
class Size:
    """What a size or an offset was: its range, and bit n of `buckets` for the magnitude n."""

    buckets: int
    least: int
    most: int


Class: TypeAlias = Pointer | Size


def joined(one: Class, other: Class) -> Class:
    """Return what an argument was in both, which are of one kind."""
    if isinstance(one, Pointer):
        assert isinstance(other, Pointer)
        return Pointer(one.null or other.null, one.nonnull or other.nonnull)
    assert isinstance(other, Size)
    return Size(one.buckets | other.buckets, min(one.least, other.least), max(one.most, other.most))


def text_from_classes(classes: Mapping[int, Class]) -> str | None:
    """Return the text for an observation, the arguments by index; None for none."""
    content: dict[str, Any] = {}
    for index, value in classes.items():
        if isinstance(value, Pointer):
            content[f"a{index}"] = _POINTER[value.null, value.nonnull]
        else:
            log2 = [bit for bit in range(64) if value.buckets >> bit & 1]
            content[f"a{index}"] = {"least": value.least, "log2": log2, "most": value.most}
    return json.dumps(content, sort_keys=True, separators=(",", ":")) if content else None


def classes_from_text(text: str | None) -> dict[int, Class]:
    """Return the arguments of a text by index.

    Raises:
        ValueError: it is no such text.
    """
    if text is None:
        return {}
    found: dict[int, Class] = {}
    try:
        for name, value in json.loads(text).items():
            if isinstance(value, str):
                found[int(name.removeprefix("a"))] = Pointer(*_SEEN[value])
            else:
                buckets = sum(1 << bit for bit in value["log2"])
                found[int(name.removeprefix("a"))] = Size(buckets, value["least"], value["most"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not the classes of arguments: {text}") from error
    return found


def joined_classes(one: str | None, other: str | None) -> str | None:
    """Return the text for two observations that become one; an unseen one makes the whole unseen."""
    if one is None or other is None or one == other:
        return one if one == other else None
    a, b = classes_from_text(one), classes_from_text(other)
    shared = {index: joined(a[index], b[index]) for index in a.keys() & b.keys()}
    return text_from_classes({**a, **b, **shared})
