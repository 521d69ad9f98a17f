"""Checks against the kernel that will enforce the profile: what it does not know, and what it knows besides.

The first version of a call is in the kernel facts; those of the actions are named here with their commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.history import since
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import UsageError
from autoprofile.lint.finding import Finding
from autoprofile.lint.subject import kernel_version
from autoprofile.lint.unused import is_unobserved
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.lint.subject import Subject

__all__ = ["newer_calls", "unknown_to_kernel"]

_ENOSYS = Action("errno", 38)  # asm-generic/errno.h

# An action that a kernel does not know kills the thread before Linux 4.14, the process after that
# (Linux kernel commit 4d3b0b05aae9 ("seccomp: Introduce SECCOMP_RET_KILL_PROCESS")).
_ACTION_SINCE: Final = {
    "kill_process": (4, 14),  # the same commit
    "log": (4, 14),  # 59f5cf44a38b ("seccomp: Action to log before allowing")
    "notify": (5, 0),  # 6a21cc50f0c7 ("seccomp: add a return code to trap to userspace")
}


def unknown_to_kernel(subject: Subject) -> Iterator[Finding]:
    """A rule or action means nothing, or something else, to the kernel that will enforce it."""
    profile, kernel = subject.profile, subject.kernel
    for arch in profile.arch:
        for call in sorted(c for c in profile.syscalls(arch) if isinstance(c, int)):
            yield Finding(
                "unnamed-syscall",
                "low",
                "a rule is for a number that has no name",
                f"the tables know no {arch} syscall {call}: whether the enforcing kernel has it, and what it "
                "does there, is not checked",
                (str(call),),
                "name the call if it has a name, or remove the rule",
                arch,
            )
        if kernel is None:
            continue
        absent = {
            name: first
            for name in sorted(c for c in profile.syscalls(arch) if isinstance(c, str))
            if (first := since(name)) is not None
            and kernel_version(first) > kernel
            # refusing it as not existing, or allowing it besides what was seen, prepares for newer kernels
            and any(
                rule.action != _ENOSYS and not is_unobserved(rule) for rule in profile.rules_for(arch, name)
            )
        }
        if absent:
            yield Finding(
                "unknown-to-kernel",
                "low",
                "rules are for calls that the enforcing kernel does not have",
                ", ".join(f"{name} (Linux {first})" for name, first in absent.items())
                + f" came after Linux {kernel[0]}.{kernel[1]}: the program gets ENOSYS where the rule allows",
                tuple(absent),
                "remove them, or enforce on a newer kernel",
                arch,
            )
    if kernel is None:
        return
    used = {rule.action.kind for rule in profile.rules} | {profile.default.kind, profile.bad_arch.kind}
    for kind in sorted(used & _ACTION_SINCE.keys()):
        came = _ACTION_SINCE[kind]
        if kernel < came:
            yield Finding(
                "action-unknown-to-kernel",
                "high" if kind == "notify" else "medium",
                "the enforcing kernel does not know an action",
                f"{kind} came with Linux {came[0]}.{came[1]}; Linux {kernel[0]}.{kernel[1]} kills the "
                "thread instead",
                (),
                "use another action (kill_thread, errno), or enforce on a newer kernel",
            )


def newer_calls(subject: Subject) -> Iterator[Finding]:
    """Calls that the learning kernel did not have are refused in a way that libc does not take for absence.

    A newer libc tries them first and falls back only on ENOSYS. The filter answers before the kernel does, so
    this holds on kernels without the call as well. What this tool compiles answers most of them so by itself
    (`filter.newer`); other tools do not.
    """
    profile = subject.profile
    learned = profile.learned
    if learned is None or not learned.kernel:
        return
    try:
        kernel = kernel_version(learned.kernel)
    except UsageError:
        return  # something else than a release stands there
    for arch in profile.arch:
        found = []
        for name in sorted(ENOSYS_FALLBACK):
            nr = syscall_nr(arch, name)
            first = since(name)
            if nr is None or first is None or kernel_version(first) <= kernel:
                continue
            action = profile.decide_call(arch, nr, ()).action
            if action != _ENOSYS and not action.is_permitting and action != Action.NOTIFY:
                found.append(name)
        if found:
            yield Finding(
                "newer-calls-without-enosys",
                "low",
                "calls newer than the kernel of the learning are not answered with ENOSYS",
                f"{', '.join(found)} came after Linux {kernel[0]}.{kernel[1]}; where the rules alone decide "
                f"(an export, --beyond default), a libc that tries them gets {profile.default} and does not "
                "fall back",
                tuple(found),
                "deny them with ENOSYS",
                arch,
            )
