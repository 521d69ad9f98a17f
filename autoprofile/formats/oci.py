"""OCI runtime seccomp JSON (runc, crun, youki, Docker, Podman, containerd).

Format: opencontainers/runtime-spec, config-linux.md, section Seccomp. Runtimes hand every entry to
libseccomp, which compares whole registers. Two conditions on one index in one entry are OR'ed by the
runtimes, so none is ever written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import AutoprofileError, ProfileError, UsageError
from autoprofile.formats.conditions import Condition, conditions_of
from autoprofile.formats.fidelity import Exported, Imported, Note
from autoprofile.profile import ANY, Action, Arg, Evidence, Profile, SeccompRule
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
_KIND: Final = {name: kind for kind, name in _ACTION.items()} | {"SCMP_ACT_KILL": "kill_thread"}
_OP: Final = {
    "eq": "SCMP_CMP_EQ",
    "ne": "SCMP_CMP_NE",
    "lt": "SCMP_CMP_LT",
    "le": "SCMP_CMP_LE",
    "gt": "SCMP_CMP_GT",
    "ge": "SCMP_CMP_GE",
    "masked_eq": "SCMP_CMP_MASKED_EQ",
}
_U32: Final = 0xFFFFFFFF
_OP_NAME: Final = {name: op for op, name in _OP.items()}

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


def import_oci(text: str, where: str = "<string>", *, caps: Iterable[str] = ()) -> Imported:
    """Read OCI or Docker seccomp JSON as a profile.

    Args:
        text: the JSON, either the seccomp object itself or a whole ``config.json``.
        where: its file name, for errors.
        caps: capabilities the container has (``CAP_SYS_ADMIN``); Docker's profiles depend on them.

    Raises:
        ProfileError: it is not such a document.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    if isinstance(content, dict) and "linux" in content and "ociVersion" in content:
        content = content["linux"].get("seccomp")
    return profile_from_document(content, where, caps=caps)


def profile_from_document(content: object, where: str, *, caps: Iterable[str] = ()) -> Imported:
    """Read a parsed seccomp object as a profile; see `import_oci`."""
    if not isinstance(content, dict) or "defaultAction" not in content:
        raise ProfileError("no seccomp profile: it has no defaultAction", where=where)
    notes: list[Note] = []
    arches = _arches(content, where)
    default = _action(content["defaultAction"], content.get("defaultErrnoRet"), where)
    rules: list[SeccompRule] = []
    held = frozenset(caps)
    for entry in content.get("syscalls") or ():
        names = entry.get("names") or ([entry["name"]] if "name" in entry else [])
        if not _applies(entry, held, arches):
            notes.append(Note("kept", ", ".join(names[:3]), "not for these caps and arches: left out"))
            continue
        action = _action(entry["action"], entry.get("errnoRet"), where)
        for args in _alternatives(entry.get("args") or (), where):
            for name in names:
                if not any(syscall_nr(arch, name) is not None for arch in arches):
                    notes.append(Note("kept", name, "no such call on these arches: left out"))
                    continue
                evidence = Evidence(reason=entry["comment"]) if entry.get("comment") else None
                rules.append(SeccompRule(name, action, args or ANY, None, evidence))
    rules = _as_libseccomp(rules, notes)
    mode = "denylist" if default.is_permitting else "allowlist"
    try:
        profile = Profile(arch=arches, level="permissive", mode=mode, default=default, rules=tuple(rules))
    except AutoprofileError as error:
        raise ProfileError(error.what, where=where, hint=error.hint) from error
    return Imported(profile, tuple(notes))


def _arches(content: dict[str, Any], where: str) -> tuple[str, ...]:
    by_token = {token: name for name, token in _ARCH.items()}
    found = list(content.get("architectures") or ())
    for group in content.get("archMap") or ():
        # Docker's archMap: the group of the machine applies; ours is the one whose arch comes first here.
        if group.get("architecture") == "SCMP_ARCH_X86_64" and not found:
            found = [group["architecture"], *(group.get("subArchitectures") or ())]
    names = tuple(by_token[token] for token in found if token in by_token)
    if found and not names:
        raise ProfileError(f"none of its architectures is known: {', '.join(found)}", where=where)
    assert all(name in ARCHES for name in names)
    return names or ("x86_64",)


def _action(name: str, data: int | None, where: str) -> Action:
    if name not in _KIND:
        raise ProfileError(f"no action {name!r}", where=where, hint="actions: " + ", ".join(_KIND))
    kind = _KIND[name]
    if kind == "errno":
        return Action(kind, 1 if data is None else data)  # EPERM is the runtimes' default
    return Action(kind, data or 0) if kind == "trace" else Action(kind)


def _applies(entry: dict[str, Any], caps: frozenset[str], arches: Sequence[str]) -> bool:
    names = {"x86_64": "amd64", "i386": "x86", "aarch64": "arm64"}
    machine = {names.get(arch, arch) for arch in arches}
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if not set(includes.get("caps") or ()) <= caps or set(excludes.get("caps") or ()) & caps:
        return False
    wanted = set(includes.get("arches") or ())
    return not (wanted and not wanted & machine) and not set(excludes.get("arches") or ()) & machine


def _alternatives(args: Sequence[dict[str, Any]], where: str) -> list[tuple[Arg, ...]]:
    try:
        made = tuple(_arg(one) for one in args)
    except (KeyError, TypeError, AutoprofileError) as error:
        raise ProfileError(f"cannot read the condition {list(args)}: {error}", where=where) from error
    indexes = [one.index for one in made]
    if len(set(indexes)) != len(indexes):
        return [(one,) for one in made]  # runc, crun and youki OR them
    return [made]


def _arg(one: dict[str, Any]) -> Arg:
    op, value = _OP_NAME.get(one["op"]), one.get("value", 0)
    if op is None:
        raise UsageError(f"no operator {one['op']!r}")
    # libseccomp compares the whole register, whatever the kernel reads of it.
    if op == "masked_eq":
        if value == _U32:
            return Arg(one["index"], "eq", one.get("valueTwo", 0), width=32)
        return Arg(one["index"], op, one.get("valueTwo", 0), mask=value, width=64)
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
    return list(dict.fromkeys(kept))
