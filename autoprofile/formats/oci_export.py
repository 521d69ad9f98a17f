"""Profiles as OCI runtime seccomp JSON (runc, crun, youki, Docker, Podman, containerd).

Format: opencontainers/runtime-spec, config-linux.md, section Seccomp. Runtimes hand every entry to
libseccomp, which compares whole registers; of two conditions on one index in one entry they make two entries,
so none is ever written. What is written can be loaded and starts a program, or it is an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import ProfileError
from autoprofile.formats.cover import TOO_LARGE, Call
from autoprofile.formats.fidelity import Exported, Note
from autoprofile.formats.oci_schema import OPERATORS
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from autoprofile.profile.wording import arg_name, rule_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.formats.conditions import Condition

__all__ = ["ARCH_TOKENS", "MAX_SIZE", "RUNTIME_RULES", "document", "export_oci"]

#: Our arches as the format calls them.
ARCH_TOKENS: Final = {
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
    "errno": "SCMP_ACT_ERRNO",
    "trap": "SCMP_ACT_TRAP",
    "kill_thread": "SCMP_ACT_KILL_THREAD",
    "kill_process": "SCMP_ACT_KILL_PROCESS",
}
_OP: Final = {op: name for name, op in OPERATORS.items()}
_ENOSYS: Final = Action.errno("ENOSYS")

#: The most instructions a filter may have: the kernel takes 4,096 (BPF_MAXINSNS), and runc puts some of its
#: own in front, which answer numbers above the newest call of the profile with ENOSYS.
MAX_SIZE: Final = 4000

#: What runc itself calls between installing the filter and starting the program, where ``noNewPrivileges`` is
#: set (without it runc sets up users and capabilities under the filter, too): traced, and tried by taking
#: calls away one by one under a default that kills (runc 1.1.5).
_STARTING: Final = (
    SeccompRule("close", Action.ALLOW),
    SeccompRule("epoll_ctl", Action.ALLOW),
    SeccompRule("execve", Action.ALLOW),
    SeccompRule("fcntl", Action.ALLOW, (Arg(1, "in", {1, 2, 3}, width=32),)),  # F_GETFD, F_SETFD, F_GETFL
    SeccompRule("fstatfs", Action.ALLOW),
    SeccompRule("getdents64", Action.ALLOW),
    SeccompRule("getpid", Action.ALLOW),
    SeccompRule("newfstatat", Action.ALLOW),
    # O_RDONLY, O_WRONLY with O_CLOEXEC: /proc/self/fd, and the FIFO that lets the program start
    SeccompRule("openat", Action.ALLOW, (Arg(2, "in", {0x80000, 0x80001}, width=32),)),
    SeccompRule("read", Action.ALLOW),
    SeccompRule("write", Action.ALLOW),
)
#: What the scheduler and the memory allocator of a Go program may do at any moment (runtime/os_linux.go,
#: runtime/mem_linux.go).
_GO: Final = (
    SeccompRule("epoll_pwait", Action.ALLOW),
    SeccompRule("futex", Action.ALLOW, (Arg(1, "in", {128, 129}, width=32),)),  # FUTEX_WAIT, WAKE, private
    SeccompRule("madvise", Action.ALLOW),
    # PROT_NONE, or PROT_READ|PROT_WRITE; MAP_PRIVATE|MAP_ANONYMOUS, perhaps MAP_FIXED
    SeccompRule("mmap", Action.ALLOW, (Arg(2, "in", {0, 3}, width=64), Arg(3, "in", {0x22, 0x32}, width=64))),
    SeccompRule("munmap", Action.ALLOW),
    SeccompRule("nanosleep", Action.ALLOW),
    SeccompRule("rt_sigprocmask", Action.ALLOW),
    SeccompRule("rt_sigreturn", Action.ALLOW),
    SeccompRule("sched_yield", Action.ALLOW),
    SeccompRule("tgkill", Action.ALLOW, (Arg(2, "eq", 23, width=32),)),  # SIGURG
)
#: Both: calls of the runtime, not of the program.
RUNTIME_RULES: Final = (*_STARTING, *_GO)
# Without these no program starts, whatever the runtime does about an error.
_REQUIRED: Final = frozenset(("execve", "fstatfs", "getdents64", "openat", "write"))
# The label of rules that only soften the default (learn/essentials.py).
_SOFT: Final = "an error instead of the default"
# i386 programs make these through one call that takes the arguments by pointer.
_SOCKETS: Final = (
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmsg"
    " send sendmmsg sendmsg sendto setsockopt shutdown socket socketpair"
)
_IPC: Final = "msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget"
_MULTIPLEXED: Final = {"socketcall": frozenset(_SOCKETS.split()), "ipc": frozenset(_IPC.split())}


def export_oci(profile: Profile) -> Exported:
    """Return a profile as the JSON that ``--security-opt seccomp=FILE`` and runtimes take.

    Raises:
        ProfileError: no container could start under it: it refuses what a runtime needs, or it has too many
            names for one filter.
    """
    content, notes = document(profile)
    return Exported((json.dumps(content, indent=2) + "\n").encode(), notes)


def document(profile: Profile) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """Return the ``linux.seccomp`` object of a profile, and what became of every rule; see `export_oci`."""
    notes: list[Note] = []
    default = _action(profile.default)
    result: dict[str, Any] = {"defaultAction": _ACTION[default.kind]}
    if default.kind == "errno":
        result["defaultErrnoRet"] = default.data
    result["architectures"] = [ARCH_TOKENS[arch] for arch in profile.arch]
    _note_header(profile, notes)
    calls: dict[str, Call] = {}
    by_call: dict[str | int, list[SeccompRule]] = {}
    for rule in profile.rules:
        by_call.setdefault(rule.syscall, []).append(rule)
    for syscall, rules in by_call.items():
        if isinstance(syscall, int):
            notes += [_note_number(profile, rule) for rule in rules]
            continue
        whole = Call([_plain(rule) for rule in rules], default)
        for rule in rules:
            _note_rule(profile, rule, whole, notes)
        _note_multiplexed(profile, syscall, whole, notes)
        calls[syscall] = Call([_plain(rule) for rule in rules if not _is_soft(rule)], default)
    _add_runtime(profile, calls, default, notes)
    for rule in profile.rules:
        if _is_soft(rule):
            calls[str(rule.syscall)].add(_plain(rule))
    _shorten(profile, calls, notes)
    heads: dict[Action, list[str]] = {}
    entries: list[dict[str, Any]] = []
    for syscall, call in calls.items():
        for conditions, action in call.entries or ():
            if conditions:
                entries.append(_entry([syscall], action, conditions))
            else:
                heads.setdefault(action, []).append(syscall)
    result["syscalls"] = [_entry(names, action, ()) for action, names in heads.items()] + entries
    return result, tuple(dict.fromkeys(notes))


def _action(action: Action) -> Action:
    # A container has no supervisor of ours. The kernel answers ENOSYS where nobody listens (seccomp(2)),
    # and runc refuses a profile that asks without a listener, or by default.
    if action.kind == "notify":
        return _ENOSYS
    return Action(action.kind) if action.kind == "trap" else action  # libseccomp's trap carries no data


def _is_soft(rule: SeccompRule) -> bool:
    # Such a rule of `learn` says nothing about what the program must not do, so a runtime's needs come first.
    reason = rule.evidence.reason if rule.evidence is not None else None
    return rule.action.kind == "errno" and isinstance(rule.syscall, str) and _SOFT in (reason or "")


def _plain(rule: SeccompRule) -> SeccompRule:
    action = _action(rule.action)
    return SeccompRule(rule.syscall, action, rule.args, rule.arch) if action != rule.action else rule


def _note_header(profile: Profile, notes: list[Note]) -> None:
    if profile.default.kind == "notify":
        detail = "a container has no supervisor of autoprofile's: ENOSYS, as where nobody listens"
        notes.append(Note("narrowed", f"default {profile.default}", detail))
    else:
        notes.append(Note("kept", f"default {profile.default}"))
    if not profile.bad_arch.is_refusing:
        notes.append(Note("narrowed", f"bad_arch {profile.bad_arch}", "runtimes kill on other arches"))
    elif profile.bad_arch != Action.KILL_PROCESS:
        notes.append(Note("narrowed", f"bad_arch {profile.bad_arch}", "runtimes kill in place of that"))
    notes += [
        Note(
            "widened",
            f"arch {native}",
            f"the profile is for {', '.join(profile.arch)} only; runtimes take the arch of the machine in all"
            " the same: its calls are judged by the same rules in place of refused",
        )
        for native in _taken_in(profile)
    ]


def _taken_in(profile: Profile) -> list[str]:
    # seccomp_init(3) starts with the arch of the machine, and runtimes only add to it.
    return [
        arch
        for arch, is_compat in (("x86_64", {"i386", "x32"}), ("aarch64", {"arm"}))
        if arch not in profile.arch and is_compat & set(profile.arch)
    ]


def _note_number(profile: Profile, rule: SeccompRule) -> Note:
    arch = rule.arch[0] if rule.arch else profile.arch[0]
    subject = rule_text(arch, rule)
    if rule.action.is_permitting and profile.default.is_permitting:
        return Note("kept", subject, "the default says the same")
    if rule.action.severity >= profile.default.severity:
        return Note("impossible", subject, f"the format knows calls by name only: {profile.default}")
    return Note("narrowed", subject, f"the format knows calls by name only: {profile.default}")


def _note_rule(profile: Profile, rule: SeccompRule, call: Call, notes: list[Note]) -> None:
    subject = rule_text(rule.arch[0] if rule.arch else profile.arch[0], rule)
    if rule.action.kind == "notify":
        notes.append(Note("narrowed", subject, "a container has no supervisor of autoprofile's: ENOSYS"))
    if rule.arch is not None and not call.means_the_same(()):
        syscall = str(rule.syscall)
        others = [
            arch
            for arch in profile.arch
            if arch not in rule.arch
            and syscall_nr(arch, syscall) is not None
            and not call.means_the_same([_plain(one) for one in profile.rules_for(arch, syscall)])
        ]
        if others:
            effect = "widened" if rule.action.is_permitting else "narrowed"
            detail = (
                f"meant for {', '.join(rule.arch)}; it holds on every arch, so on {', '.join(others)} too"
            )
            notes.append(Note(effect, subject, detail))
            return
    if rule.action.kind != "notify":
        same = "the default says the same" if rule.action == profile.default else ""
        notes.append(Note("kept", subject, same))


def _note_multiplexed(profile: Profile, syscall: str, call: Call, notes: list[Note]) -> None:
    if "i386" not in profile.arch or not call.indexes:
        return
    for outer, inner in _MULTIPLEXED.items():
        rules = profile.rules_for("i386", outer)
        passes = bool(rules) and all(one.action.is_permitting for one in rules) and rules[0].args is ANY
        if syscall in inner and not passes:
            detail = f"on i386 libseccomp also lets {outer} pass for it, and that with any arguments"
            notes.append(Note("widened", syscall, detail))


def _add_runtime(profile: Profile, calls: dict[str, Call], default: Action, notes: list[Note]) -> None:
    arches = [*_taken_in(profile), *profile.arch]
    for rule in RUNTIME_RULES:
        syscall = str(rule.syscall)
        native = next((arch for arch in arches if syscall_nr(arch, syscall) is not None), None)
        if native is None:
            continue
        call = calls.get(syscall) or Call((), default)
        subject = rule_text(native, rule)
        if default.is_refusing and call.add(rule):
            calls[syscall] = call
            detail = "needed by the runtime to start the program, given noNewPrivileges"
            notes.append(Note("added", subject, detail))
        refused = [action for action in call.answers_to(rule) if action.is_refusing]
        if refused and rule in _STARTING:
            worst = max(refused, key=lambda action: action.rank)
            if syscall in _REQUIRED:
                raise ProfileError(
                    f"no container can start under this profile: the runtime needs {subject}, and a rule"
                    f" answers it with {worst}",
                    hint="remove that rule, or enforce the profile with autoprofile: its filter begins later",
                )
            notes.append(Note("narrowed", subject, f"{worst}; a runtime makes it and may fail to start"))


def _shorten(profile: Profile, calls: dict[str, Call], notes: list[Note]) -> None:
    # widens: where the filter would be longer than the kernel takes, the syscall that takes most of it loses
    # the argument that helps most, until all fits. Each is said.
    arches = [*profile.arch, *_taken_in(profile)]
    shares = {name: sum(syscall_nr(arch, name) is not None for arch in arches) for name in calls}
    sizes = {name: call.size * shares[name] for name, call in calls.items()}
    heads = 8 * len(arches)
    while heads + sum(sizes.values()) > MAX_SIZE:
        name = max(sizes, key=lambda one: (sizes[one], one))
        call = calls[name]
        if not call.indexes:
            raise ProfileError(
                f"the filter would have more than {MAX_SIZE} instructions without any argument checked:"
                f" {len(calls)} calls on {len(arches)} arches",
                hint="export the profile for fewer arches",
            )
        before = "too many to count" if call.size >= TOO_LARGE else f"about {sizes[name]}"
        index = call.best_to_drop((MAX_SIZE - heads - sum(sizes.values()) + sizes[name]) // shares[name])
        call.drop(index)
        sizes[name] = call.size * shares[name]
        argument = arg_name(profile.arch[0], name, index)
        notes.append(
            Note(
                "widened",
                name,
                f"{argument} is not checked: with it the entries make {before} of the {MAX_SIZE} instructions"
                " that fit into one filter",
            )
        )


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


assert set(ARCH_TOKENS) >= set(ARCHES)
