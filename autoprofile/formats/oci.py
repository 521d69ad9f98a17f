"""OCI runtime seccomp JSON read as a profile (runc, crun, youki, Docker, Podman, containerd).

Format: opencontainers/runtime-spec, config-linux.md, section Seccomp. A document means what the runtimes make
of it: entries go to libseccomp, which compares whole registers; two conditions on one index are OR'ed.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from autoprofile.abi.arch import ARCHES, compat_arches
from autoprofile.abi.signatures import signature
from autoprofile.abi.syscalls import syscall_nr, syscall_table
from autoprofile.errors import AutoprofileError, ProfileError, UsageError
from autoprofile.formats.fidelity import Imported, Note
from autoprofile.formats.oci_export import ARCH_TOKENS
from autoprofile.formats.oci_schema import ACTIONS, OPERATORS, check_document, unique_keys
from autoprofile.profile import ANY, Action, Arg, Evidence, Profile, SeccompRule
from autoprofile.profile.region import intersection, witness

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["import_oci", "profile_from_document"]

_ARCH: Final = ARCH_TOKENS
_U32: Final = 0xFFFFFFFF


def import_oci(
    text: str,
    where: str = "<string>",
    *,
    caps: Iterable[str] = (),
    arch: str = "x86_64",
    kernel: tuple[int, int] | None = None,
) -> Imported:
    """Read OCI or Docker seccomp JSON as a profile.

    Args:
        text: the JSON, either the seccomp object itself or a whole ``config.json``.
        where: its file name, for errors.
        caps: capabilities the container has (``CAP_SYS_ADMIN``); Docker's profiles depend on them.
        arch: of the machine; Docker's profiles depend on it.
        kernel: its version; Docker's profiles depend on that too. None for a newer one than they ask for.

    Raises:
        ProfileError: it is not such a document; `where` ends with the place in it.
    """
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise ProfileError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    except ProfileError as error:
        raise ProfileError(error.what, where=where, hint=error.hint) from None
    except RecursionError:
        raise ProfileError("it is nested too deeply", where=where) from None
    except ValueError:  # int() refuses to read more digits than sys.get_int_max_str_digits()
        raise ProfileError("it has a number of thousands of digits", where=where) from None
    if isinstance(content, dict) and "ociVersion" in content:
        linux = content.get("linux")
        content = linux.get("seccomp") if isinstance(linux, dict) else None
        if content is None:
            raise ProfileError(
                "the container has no seccomp profile",
                where=f"{where}: linux.seccomp",
                hint="it is unconfined",
            )
        where = f"{where}: linux.seccomp"
    return profile_from_document(content, where, caps=caps, arch=arch, kernel=kernel)


def profile_from_document(
    content: object,
    where: str,
    *,
    caps: Iterable[str] = (),
    arch: str = "x86_64",
    kernel: tuple[int, int] | None = None,
) -> Imported:
    """Read a parsed seccomp object as a profile; see `import_oci`."""
    notes = check_document(content, where)
    assert isinstance(content, dict)
    arches = _arches(content, arch, where, notes)
    default = _action(content["defaultAction"], content, "defaultErrnoRet", "defaultErrno", where)
    rules: list[SeccompRule] = []
    machine = _Machine(frozenset(caps), _DOCKER_ARCH.get(arch, arch), kernel)
    for at, entry in enumerate(content.get("syscalls") or ()):
        names = entry.get("names") or [entry["name"]]
        if not machine.takes(entry, f"{where}: syscalls[{at}]"):
            notes.append(Note("kept", ", ".join(names[:3]), "not for these caps, arch and kernel: left out"))
            continue
        action = _action(entry["action"], entry, "errnoRet", "errno", f"{where}: syscalls[{at}]")
        alternatives = _alternatives(entry.get("args") or ())
        if len(alternatives) > 1:
            notes.append(_note_twice(names, action, alternatives))
        for args in alternatives:
            for name in names:
                if not any(syscall_nr(one, name) is not None for one in arches):
                    notes.append(_note_unknown(name, action, default))
                    continue
                evidence = Evidence(reason=entry["comment"]) if entry.get("comment") else None
                rules.append(SeccompRule(name, action, args or ANY, None, evidence))
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if content.get(name):
            notes.append(Note("kept", name, "how the filter is installed, not what it means: left out"))
    rules = _as_libseccomp(rules, notes)
    _note_half_registers(rules, arches, default, notes)
    mode = "denylist" if default.is_permitting else "allowlist"
    try:
        profile = Profile(arch=arches, level="permissive", mode=mode, default=default, rules=tuple(rules))
    except AutoprofileError as error:
        raise ProfileError(error.what, where=where, hint=error.hint) from error
    return Imported(profile, tuple(dict.fromkeys(notes)))


def _arches(content: dict[str, Any], native: str, where: str, notes: list[Note]) -> tuple[str, ...]:
    by_token = {token: name for name, token in _ARCH.items()}
    if native not in _ARCH:
        raise UsageError(f"no arch {native!r}", hint="arches: " + ", ".join(_ARCH))
    groups = content.get("archMap") or ()
    found = list(content.get("architectures") or ())
    for group in groups:
        # The group of the machine applies, with the arches it can run besides.
        if group["architecture"] == _ARCH[native]:
            found = [group["architecture"], *(group.get("subArchitectures") or ())]
    names = tuple(dict.fromkeys(by_token[token] for token in found if token in by_token))
    if found and not names:
        raise ProfileError(f"none of its architectures is known: {', '.join(found)}", where=where)
    assert all(name in ARCHES for name in names)
    notes += [
        Note("narrowed", token, "no arch known here: its calls are killed")
        for token in found
        if token not in by_token
    ]
    if not names:
        return (native,)
    # seccomp_init(3) starts with the arch of the machine, and runtimes only add to it.
    if native not in names and set(names) <= set(compat_arches(native)):
        notes.append(
            Note("narrowed", _ARCH[native], "not listed; runtimes take the machine's arch in all the same")
        )
    return names


def _note_unknown(name: str, action: Action, default: Action) -> Note:
    # libseccomp leaves out what it does not know, too. Where that is a mistyped name of a call that should
    # be refused, the call passes.
    known = any(syscall_nr(one, name) is not None for one in ARCHES)
    if known or action.severity <= default.severity:
        return Note("kept", name, "no such call on these arches: left out")
    near = difflib.get_close_matches(name, syscall_table("x86_64"), 1)
    return Note(
        "impossible",
        name,
        f"no call of this name is known, so {action} is left out"
        + (f"; {near[0]} is meant perhaps" if near else ""),
    )


def _action(name: str, holder: dict[str, Any], number: str, text: str, where: str) -> Action:
    kind = ACTIONS[name]
    if kind == "errno":
        if holder.get(text):  # Podman's: the name decides where both are given
            try:
                return Action.errno(str(holder[text]))
            except AutoprofileError as error:
                raise ProfileError(error.what, where=f"{where}.{text}", hint=error.hint) from error
        data = holder.get(number)
        return Action(kind, 1 if data is None else data)  # EPERM is the runtimes' default
    return Action(kind, holder.get(number) or 0) if kind == "trace" else Action(kind)


# What Docker calls an arch in includes and excludes (moby/profiles seccomp/seccomp_linux.go, goToNative).
_DOCKER_ARCH: Final = {"x86_64": "amd64", "i386": "x86", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class _Machine:
    # What an entry's includes and excludes are about.
    caps: frozenset[str]
    arch: str
    kernel: tuple[int, int] | None

    def takes(self, entry: dict[str, Any], where: str) -> bool:
        includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
        if set(excludes.get("caps") or ()) & self.caps or self.arch in (excludes.get("arches") or ()):
            return False
        if not set(includes.get("caps") or ()) <= self.caps:
            return False
        if includes.get("arches") and self.arch not in includes["arches"]:
            return False
        if excludes.get("minKernel") and self._is_at_least(excludes["minKernel"], f"{where}.excludes"):
            return False
        return not includes.get("minKernel") or self._is_at_least(includes["minKernel"], f"{where}.includes")

    def _is_at_least(self, text: str, where: str) -> bool:
        match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(\..*)?", text)
        if match is None:
            raise ProfileError(f"{text!r} is no kernel version", where=f"{where}.minKernel")
        return self.kernel is None or self.kernel >= (int(match[1]), int(match[2]))


def _alternatives(args: Sequence[dict[str, Any]]) -> list[tuple[Arg, ...]]:
    made = tuple(_arg(one) for one in args)
    indexes = [one.index for one in made]
    if len(set(indexes)) != len(indexes):
        return [(one,) for one in made]  # runc, crun and youki OR them
    return [made]


def _note_twice(names: Sequence[str], action: Action, alternatives: Sequence[tuple[Arg, ...]]) -> Note:
    # widens (a refusing entry narrows): it reads as a range, and means either side of it.
    indexes = ", ".join(str(index) for index in sorted({one.index for (one,) in alternatives}))
    return Note(
        "widened" if action.is_permitting else "narrowed",
        ", ".join(names[:3]),
        f"one argument is compared twice (the conditions are on {indexes}): runtimes take any one of the"
        f" conditions for enough to {action}, not all of them, and so does the profile",
    )


def _arg(one: dict[str, Any]) -> Arg:
    op, value, second = OPERATORS[one["op"]], one["value"], one.get("valueTwo") or 0
    # libseccomp compares the whole register, whatever the kernel reads of it.
    if op == "masked_eq":
        if value == _U32:
            return Arg(one["index"], "eq", second & _U32, width=32)
        return Arg(one["index"], op, second, mask=value, width=64)
    return Arg(one["index"], op, value, width=64)


def _as_libseccomp(rules: list[SeccompRule], notes: list[Note]) -> list[SeccompRule]:
    # The first unconditional rule of a call decides it in libseccomp; a condition beside it is lost.
    first: dict[str | int, SeccompRule] = {}
    for rule in rules:
        if rule.args is ANY:
            first.setdefault(rule.syscall, rule)
    kept = []
    for rule in rules:
        decides = first.get(rule.syscall)
        if decides is None or rule == decides:
            kept.append(rule)
        elif rule.action != decides.action:
            effect = "widened" if rule.action.severity > decides.action.severity else "narrowed"
            notes.append(
                Note(
                    effect,
                    str(rule.syscall),
                    f"{rule.action} is lost beside {decides.action}, as it is in runtimes",
                )
            )
    _note_overlaps(kept, notes)
    return list(dict.fromkeys(kept))


def _note_half_registers(
    rules: Sequence[SeccompRule], arches: Sequence[str], default: Action, notes: list[Note]
) -> None:
    # The kernel reads the low half of a register for an int, runtimes compare all of it, and so do we.
    # widens: with a bit set in the high half a call gets past such a rule.
    for rule in rules:
        passes = rule.action.is_permitting
        others = [default, *(one.action for one in rules if one.syscall == rule.syscall)]
        if not any(one.is_refusing if passes else not one.is_refusing for one in others):
            continue
        indexes = {
            spec.index
            for arch in arches
            if ARCHES[arch].bits == 64 and (known := signature(arch, str(rule.syscall))) is not None
            for spec in known.args
            if spec.width == 32
        }
        notes += [
            Note(
                "widened",
                str(rule.syscall),
                f"{rule.action} compares 64 bits of argument {one.index}, as in runtimes, and the kernel"
                " reads 32 of them: with others set the call passes",
            )
            for one in rule.comparators
            if one.index in indexes and _is_dodged(one, passes=passes)
        ]


def _is_dodged(one: Arg, *, passes: bool) -> bool:
    # Can a call of which the kernel sees the same be made to match (or, refused, not to match)?
    if one.width != 64 or one.op == "any":
        return False
    if passes:
        return one.op in {"ne", "gt", "ge"}
    return one.op in {"eq", "lt", "le"} or (one.op == "masked_eq" and (one.mask or 0) > _U32)


def _note_overlaps(rules: Sequence[SeccompRule], notes: list[Note]) -> None:
    # Of conditions that hold together and answer differently, libseccomp's own order decides.
    by_call: dict[str | int, list[SeccompRule]] = {}
    for rule in rules:
        by_call.setdefault(rule.syscall, []).append(rule)
    for syscall, same in by_call.items():
        for one, other in combinations(same, 2):
            if one.action == other.action:
                continue
            both = intersection(one.comparators, other.comparators)
            if both is not None and witness(both) is not None:
                worst = max(one.action, other.action, key=lambda action: action.rank)
                notes.append(
                    Note(
                        "narrowed",
                        str(syscall),
                        f"{one.action} and {other.action} overlap, runtimes choose by an order of their own: "
                        f"read as {worst}",
                    )
                )
