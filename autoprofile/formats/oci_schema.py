"""The shape of OCI and Docker seccomp documents, checked before anything is read from them.

In: parsed JSON or YAML. Out: notes on keys that runtimes ignore, or one error with the place inside the
document. Sources: opencontainers/runtime-spec config-linux.md (Seccomp), moby/profiles seccomp/seccomp.go
(archMap, includes, excludes), containers/common pkg/seccomp/types.go (defaultErrno, errno).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

from autoprofile.errors import ProfileError
from autoprofile.formats.fidelity import Note
from autoprofile.profile.action import MAX_ERRNO

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ACTIONS", "OPERATORS", "check_document", "unique_keys"]

#: Actions of the format, each with the kind of ours.
ACTIONS: Final = {
    "SCMP_ACT_ALLOW": "allow",
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_TRACE": "trace",
    "SCMP_ACT_NOTIFY": "notify",
    "SCMP_ACT_ERRNO": "errno",
    "SCMP_ACT_TRAP": "trap",
    "SCMP_ACT_KILL_THREAD": "kill_thread",
    "SCMP_ACT_KILL_PROCESS": "kill_process",
    "SCMP_ACT_KILL": "kill_thread",
}
#: Operators of the format, each with ours.
OPERATORS: Final = {
    "SCMP_CMP_EQ": "eq",
    "SCMP_CMP_NE": "ne",
    "SCMP_CMP_LT": "lt",
    "SCMP_CMP_LE": "le",
    "SCMP_CMP_GT": "gt",
    "SCMP_CMP_GE": "ge",
    "SCMP_CMP_MASKED_EQ": "masked_eq",
}

_U64: Final = (1 << 64) - 1
_DOCUMENT: Final = frozenset(
    ("defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "listenerPath")
) | {"listenerMetadata", "syscalls"}
_ENTRY: Final = frozenset(("names", "name", "action", "errnoRet", "errno", "args", "comment")) | {
    "includes",
    "excludes",
}
_CONDITION: Final = frozenset(("index", "value", "valueTwo", "op"))
_FILTER: Final = frozenset(("caps", "arches", "minKernel"))
_GROUP: Final = frozenset(("architecture", "subArchitectures"))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, as json's ``object_pairs_hook``.

    Raises:
        ProfileError: a key stands twice; parsers differ in which one counts.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ProfileError(f"the key {twice!r} stands twice in one object", hint="remove one of them")
    return made


def check_document(content: object, where: str) -> list[Note]:
    """Check the ``linux.seccomp`` object.

    Args:
        content: as parsed.
        where: its file name; errors carry ``where: path.in.the[0].document``.

    Returns:
        A note for every key that runtimes ignore, so that a misspelt condition does not vanish in silence.

    Raises:
        ProfileError: it has no such shape.
    """
    check = _Check(where)
    check.document(content)
    return check.notes


class _Check:
    def __init__(self, where: str) -> None:
        self._where = where
        self.notes: list[Note] = []

    def document(self, content: object) -> None:
        if not isinstance(content, dict) or "defaultAction" not in content:
            raise ProfileError("no seccomp profile: it has no defaultAction", where=self._where)
        self._unknown(content, _DOCUMENT, "")
        self._word(content["defaultAction"], "defaultAction", ACTIONS, "action")
        self._errno(content, "defaultErrnoRet", "")
        self._text(content, "defaultErrno", "")
        for name in ("architectures", "flags"):
            self._texts(content.get(name), name)
        self._text(content, "listenerPath", "")
        self._text(content, "listenerMetadata", "")
        if content.get("architectures") and content.get("archMap"):
            raise self._error("archMap", "architectures and archMap exclude each other")
        for at, group in enumerate(self._list(content.get("archMap"), "archMap")):
            place = f"archMap[{at}]"
            known = self._object(group, place, _GROUP)
            self._text(known, "architecture", place, required=True)
            self._texts(known.get("subArchitectures"), f"{place}.subArchitectures")
        for at, entry in enumerate(self._list(content.get("syscalls"), "syscalls")):
            self._entry(entry, f"syscalls[{at}]")

    def _entry(self, entry: object, place: str) -> None:
        known = self._object(entry, place, _ENTRY)
        if ("name" in known) == bool(known.get("names")):
            raise self._error(place, "an entry has names, or one name")
        self._texts(known.get("names"), f"{place}.names")
        self._text(known, "name", place)
        if "action" not in known:
            raise self._error(place, "it has no action")
        self._word(known["action"], f"{place}.action", ACTIONS, "action")
        self._errno(known, "errnoRet", place)
        self._text(known, "errno", place)
        self._text(known, "comment", place)
        for at, one in enumerate(self._list(known.get("args"), f"{place}.args")):
            self._condition(one, f"{place}.args[{at}]")
        for name in ("includes", "excludes"):
            part = f"{place}.{name}"
            held = self._object(known.get(name) or {}, part, _FILTER)
            self._texts(held.get("caps"), f"{part}.caps")
            self._texts(held.get("arches"), f"{part}.arches")
            self._text(held, "minKernel", part)

    def _condition(self, one: object, place: str) -> None:
        known = self._object(one, place, _CONDITION)
        for name, limit in (("index", 5), ("value", _U64), ("valueTwo", _U64)):
            if name == "valueTwo" and known.get(name) is None:
                continue
            value = known.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
                raise self._error(
                    f"{place}.{name}", f"it is {_shown(value)}, not an integer from 0 to {limit}"
                )
        self._word(known.get("op"), f"{place}.op", OPERATORS, "operator")

    def _object(self, value: object, place: str, keys: frozenset[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(place, f"it is {_shown(value)}, not an object")
        self._unknown(value, keys, place)
        return value

    def _unknown(self, value: dict[str, Any], keys: frozenset[str], place: str) -> None:
        for name in value:
            if name not in keys:
                near = difflib.get_close_matches(str(name), keys, 1)
                meant = f"; {near[0]} is meant perhaps" if near else ""
                self.notes.append(Note("widened", _joined(place, str(name)), f"runtimes ignore it{meant}"))

    def _list(self, value: object, place: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(place, f"it is {_shown(value)}, not a list")
        return value

    def _texts(self, value: object, place: str) -> None:
        for at, one in enumerate(self._list(value, place)):
            if not isinstance(one, str) or not one:
                raise self._error(f"{place}[{at}]", f"it is {_shown(one)}, not a text")

    def _text(self, value: dict[str, Any], name: str, place: str, *, required: bool = False) -> None:
        one = value.get(name)
        if not isinstance(one, str) and (required or one is not None):
            raise self._error(_joined(place, name), f"it is {_shown(one)}, not a text")

    def _errno(self, value: dict[str, Any], name: str, place: str) -> None:
        one = value.get(name)
        if one is not None and (isinstance(one, bool) or not isinstance(one, int) or not 0 <= one <= 0xFFFF):
            raise self._error(_joined(place, name), f"it is {_shown(one)}, not an error number")
        if isinstance(one, int) and one > MAX_ERRNO and value.get("action") != "SCMP_ACT_TRACE":
            raise self._error(_joined(place, name), f"error numbers end at {MAX_ERRNO}")

    def _word(self, value: object, place: str, known: Iterable[str], what: str) -> None:
        if value not in list(known):
            near = difflib.get_close_matches(str(value), known, 1)
            hint = f"{near[0]} is meant perhaps" if near else f"{what}s: " + ", ".join(known)
            raise self._error(place, f"no {what} {_shown(value)}", hint)

    def _error(self, place: str, what: str, hint: str | None = None) -> ProfileError:
        return ProfileError(what, where=f"{self._where}: {place}", hint=hint)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)
