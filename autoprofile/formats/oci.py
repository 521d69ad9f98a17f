"""OCI runtime seccomp JSON (runc, crun, youki, Docker, Podman, containerd).

Format: opencontainers/runtime-spec, config-linux.md, section Seccomp. Runtimes hand every entry to
libseccomp, which compares whole registers. Two conditions on one index in one entry are OR'ed by the
runtimes, so none is ever written.
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
from autoprofile.formats.conditions import Condition, conditions_of
from autoprofile.formats.fidelity import Exported, Imported, Note
from autoprofile.formats.oci_schema import ACTIONS, OPERATORS, check_document, unique_keys
from autoprofile.profile import ANY, Action, Arg, Evidence, Profile, SeccompRule
from autoprofile.profile.region import intersection, witness
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["RUNTIME_RULES", "document", "export_oci", "import_oci", "profile_from_document"]

_ARCH: Final = {
    "x86_64": "SCMP_ARCH_X86_64",
    "i386": "SCMP_ARCH_X86",
    "x32": "SCMP_ARCH_X32",
    "aarch64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
    "riscv64": "SCMP_ARCH_RISCV64",
}
_ACTION: Final = {
    "allow": "SCMP_ACT_ALLOW",
    "log": "SCMP_ACT_LOG",
    "trace": "SCMP_ACT_TRACE",
    "notify": "SCMP_ACT_NOTIFY",
    "errno": "SCMP_ACT_ERRNO",
    "trap": "SCMP_ACT_TRAP",
    "kill_thread": "SCMP_ACT_KILL_THREAD",
    "kill_process": "SCMP_ACT_KILL_PROCESS",
}
_KIND: Final = ACTIONS
_OP: Final = {op: name for name, op in OPERATORS.items()}
_U32: Final = 0xFFFFFFFF

#: What runc itself calls between installing the filter and starting the program: found by taking calls away
#: one by one (runc 1.1.5), and what the scheduler of a Go program may do at any moment.
RUNTIME_RULES: Final = (
    SeccompRule("close", Action.ALLOW),
    SeccompRule("epoll_pwait", Action.ALLOW),
    SeccompRule("execve", Action.ALLOW),
    SeccompRule("fcntl", Action.ALLOW, (Arg(1, "in", {1, 2, 3}, width=32),)),  # F_GETFD, F_SETFD, F_GETFL
    SeccompRule("fstatfs", Action.ALLOW),
    SeccompRule("futex", Action.ALLOW, (Arg(1, "in", {128, 129}, width=32),)),  # FUTEX_WAIT, WAKE, private
    SeccompRule("getdents64", Action.ALLOW),
    SeccompRule("nanosleep", Action.ALLOW),
    # O_RDONLY, O_WRONLY with O_CLOEXEC: /proc/self/fd, and the FIFO that lets the program start
    SeccompRule("openat", Action.ALLOW, (Arg(2, "in", {0x80000, 0x80001}, width=32),)),
    SeccompRule("read", Action.ALLOW),
    SeccompRule("rt_sigreturn", Action.ALLOW),
    SeccompRule("sched_yield", Action.ALLOW),
    SeccompRule("tgkill", Action.ALLOW, (Arg(2, "eq", 23, width=32),)),  # SIGURG
    SeccompRule("write", Action.ALLOW),
)


def export_oci(profile: Profile) -> Exported:
    """Return a profile as the JSON that ``--security-opt seccomp=FILE`` and runtimes take."""
    content, notes = document(profile)
    return Exported((json.dumps(content, indent=2) + "\n").encode(), notes)


def document(profile: Profile) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """Return the ``linux.seccomp`` object of a profile, and what became of every rule."""
    notes: list[Note] = []
    result: dict[str, Any] = {"defaultAction": _ACTION[profile.default.kind]}
    if profile.default.kind == "errno":
        result["defaultErrnoRet"] = profile.default.data
    result["architectures"] = [_ARCH[arch] for arch in profile.arch]
    notes.append(Note("kept", f"default {profile.default}"))
    if profile.bad_arch != Action.KILL_PROCESS:
        notes.append(Note("narrowed", f"bad_arch {profile.bad_arch}", "runtimes kill on other arches"))
    entries: list[dict[str, Any]] = []
    plain: dict[Action, list[str]] = {}
    by_call: dict[str | int, list[SeccompRule]] = {}
    for rule in profile.rules:
        by_call.setdefault(rule.syscall, []).append(rule)
    for syscall, rules in by_call.items():
        for rule in _decisive(rules, notes):
            subject = rule_text(profile.arch[0], rule)
            if isinstance(syscall, int):
                notes.append(Note("impossible", subject, "the format knows calls by name only: refused"))
                continue
            if rule.arch is not None and set(rule.arch) != set(profile.arch):
                effect = "widened" if rule.action.is_permitting else "narrowed"
                notes.append(
                    Note(effect, subject, f"meant for {', '.join(rule.arch)}, applies to every arch")
                )
            if rule.action == profile.default:
                notes.append(Note("kept", subject, "the default says the same"))
                continue
            made = conditions_of(rule)
            _note_conditions(rule, subject, made.widened, made.narrowed, notes)
            if made.alternatives == ((),):
                plain.setdefault(rule.action, []).append(syscall)
            else:
                entries += [_entry([syscall], rule.action, alternative) for alternative in made.alternatives]
    heads = [_entry(names, action, ()) for action, names in plain.items()]
    for rule in RUNTIME_RULES:
        if profile.default.is_refusing and _adds(profile, rule):
            entries += [
                _entry([str(rule.syscall)], rule.action, one) for one in conditions_of(rule).alternatives
            ]
            subject = rule_text(profile.arch[0], rule)
            notes.append(Note("added", subject, "the runtime starts the program with it"))
    result["syscalls"] = heads + entries
    return result, tuple(notes)


def _adds(profile: Profile, rule: SeccompRule) -> bool:
    existing = [one for arch in profile.arch for one in profile.rules_for(arch, rule.syscall)]
    # Where the profile refuses the call by a rule of its own, that stands: the container will not start.
    if any(one.action.is_refusing or one.args is ANY for one in existing):
        return False
    return not rule.comparators or not all(
        any(_allows_value(one, wanted.index, value) for one in existing)
        for wanted in rule.comparators
        for value in wanted.values
    )


def _allows_value(rule: SeccompRule, index: int, value: int) -> bool:
    return all(one.index == index and one.match(value) for one in rule.comparators if one.op != "any")


def _decisive(rules: Sequence[SeccompRule], notes: list[Note]) -> list[SeccompRule]:
    # libseccomp merges the rules of a call into one chain whose order it chooses; only rules of one action
    # mean there what they mean here. The most severe action stays, the others go.
    worst = max(rules, key=lambda rule: rule.action.rank).action
    for rule in rules:
        if rule.action != worst:
            effect = "narrowed" if rule.action.is_permitting else "impossible"
            notes.append(
                Note(
                    effect,
                    str(rule.syscall),
                    f"{rule.action} beside {worst} left out: libseccomp mixes them",
                )
            )
    if worst.is_refusing and len({rule.action for rule in rules}) > 1:
        return [SeccompRule(rules[0].syscall, worst, ANY, rules[0].arch)]
    return [rule for rule in rules if rule.action == worst]


def _note_conditions(
    rule: SeccompRule, subject: str, widened: Sequence[str], narrowed: Sequence[str], notes: list[Note]
) -> None:
    # What lets an allow rule match more lets more pass; a refusing rule that matches more refuses more.
    more, less = ("widened", "narrowed") if rule.action.is_permitting else ("narrowed", "widened")
    notes += [Note(more, subject, text) for text in widened]
    notes += [Note(less, subject, text) for text in narrowed]
    if not widened and not narrowed:
        notes.append(Note("kept", subject))


def _entry(names: list[str], action: Action, conditions: Sequence[Condition]) -> dict[str, Any]:
    entry: dict[str, Any] = {"names": names, "action": _ACTION[action.kind]}
    if action.kind in {"errno", "trace"}:
        entry["errnoRet"] = action.data
    if conditions:
        entry["args"] = [_condition(one) for one in conditions]
    return entry


def _condition(one: Condition) -> dict[str, Any]:
    if one.op == "masked_eq":
        return {"index": one.index, "value": one.mask, "valueTwo": one.value, "op": _OP[one.op]}
    return {"index": one.index, "value": one.value, "op": _OP[one.op]}


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
        for args in _alternatives(entry.get("args") or ()):
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
    kind = _KIND[name]
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
