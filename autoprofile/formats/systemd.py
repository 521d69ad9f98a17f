"""A drop-in for a systemd unit: ``SystemCallFilter=`` and what else systemd.exec(5) can constrain.

systemd knows calls by name, so nearly every argument constraint is widened here; each one is listed. What
``RestrictAddressFamilies=`` and ``RestrictNamespaces=`` can say of socket and namespaces is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.abi.constants import constants
from autoprofile.formats.fidelity import Exported, Note
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from autoprofile.profile import Action, Profile, SeccompRule

__all__ = ["export_systemd"]

_ARCH: Final = {
    "x86_64": "x86-64",
    "i386": "x86",
    "x32": "x32",
    "aarch64": "arm64",
    "arm": "arm",
    "riscv64": "riscv64",
}
#: systemd itself makes these between installing the filter and running the program (systemd.exec(5)).
_SYSTEMD_CALLS: Final = (
    "execve",
    "exit",
    "exit_group",
    "getrlimit",
    "rt_sigreturn",
    "sigreturn",
    "clock_gettime",
)


def export_systemd(profile: Profile) -> Exported:
    """Return a unit drop-in that allows at least what the profile allows."""
    notes: list[Note] = []
    names: list[str] = []
    refused: dict[str, Action] = {}
    for rule in profile.rules:
        subject = rule_text(profile.arch[0], rule)
        if isinstance(rule.syscall, int):
            notes.append(Note("narrowed", subject, "systemd knows calls by name only: refused"))
        elif rule.action.is_permitting:
            names.append(rule.syscall)
            if profile.default.is_permitting:
                notes.append(Note("kept", subject, "the default allows it"))
            elif rule.syscall != "socket":
                notes.append(_allow_note(rule, subject))
        elif rule.comparators:
            notes.append(Note("impossible", subject, "systemd has no rule by argument: not refused"))
        else:
            refused[rule.syscall] = rule.action
    lines = ["[Service]", "NoNewPrivileges=yes"]
    lines.append("SystemCallArchitectures=" + " ".join(_ARCH[arch] for arch in profile.arch))
    is_open = profile.default.is_permitting  # only refusals are listed then
    allowed = [] if is_open else sorted(set(names) - set(refused))
    lines += [f"SystemCallFilter={name}" for name in allowed]
    added = sorted(set(_SYSTEMD_CALLS) - set(allowed) - set(refused))
    if added and not is_open:
        notes.append(Note("added", ", ".join(added), "systemd always allows these"))
    for name, action in sorted(refused.items()):
        lines.append(f"SystemCallFilter=~{name}:{action if action.kind == 'errno' else 'kill'}")
        if is_open or action == profile.default:
            how = "kept" if action.kind in {"errno", "kill_process"} else "narrowed"
            notes.append(Note(how, f"{name}: {action}", "" if how == "kept" else "systemd kills"))
        else:
            # Beside a list of allowed calls, systemd (seccomp-util.c) has one answer to all others.
            notes.append(Note("narrowed", f"{name}: {action}", f"answered as all others: {profile.default}"))
    if is_open:
        same = profile.default.kind == "allow"
        detail = "" if same else "allowed without a line in the log"
        notes.append(Note("kept" if same else "impossible", f"default {profile.default}", detail))
    elif profile.default.kind == "errno":
        lines.append(f"SystemCallErrorNumber={profile.default}")
        notes.append(Note("kept", f"default {profile.default}"))
    elif profile.default.kind == "kill_process":
        notes.append(Note("kept", "default kill"))
    else:
        notes.append(Note("narrowed", f"default {profile.default}", "systemd kills"))
    if not is_open:
        _families(profile, lines, notes)
    return Exported(("\n".join(lines) + "\n").encode(), tuple(notes))


def _allow_note(rule: SeccompRule, subject: str) -> Note:
    if any(one.op != "any" for one in rule.comparators):
        return Note("widened", subject, "to every call: systemd has no rule by argument")
    return Note("kept", subject)


def _families(profile: Profile, lines: list[str], notes: list[Note]) -> None:
    rules = [rule for rule in profile.rules if rule.syscall == "socket" and rule.action.is_permitting]
    if not rules:
        return
    symbols: dict[int, str] = {}
    for name, number in constants("socket_family", profile.arch[0]).items():
        if name.startswith("AF_"):
            symbols.setdefault(number, name)  # AF_UNIX before its other names
    families: set[str] | None = set()
    for rule in rules:
        first = next((one for one in rule.comparators if one.index == 0 and one.op in {"eq", "in"}), None)
        values = None if first is None else first.values
        if families is None or values is None or any(value not in symbols for value in values):
            families = None
        else:
            families |= {symbols[value] for value in values}
        detail = "to every type and protocol of its families" if families is not None else "to every call"
        is_bound = any(one.op != "any" for one in rule.comparators)
        subject = rule_text(profile.arch[0], rule)
        notes.append(Note("widened", subject, detail) if is_bound else Note("kept", subject))
    if families is not None:
        lines.append("RestrictAddressFamilies=" + " ".join(sorted(families)))
