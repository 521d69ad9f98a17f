"""The library's `Filter`: rules in, a program out.

Pure but for `Filter.load`, which installs the program in this process through the kernel room.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES, arch_from_machine, compat_arches
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.filter.compiler import compile_profile, compile_stack
from autoprofile.profile import ANY, Action, Profile, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.filter.program import Program
    from autoprofile.profile import Arg, Decision

__all__ = ["Filter"]


class Filter:
    """A seccomp filter built rule by rule.

    Args:
        default: the answer for calls no rule matches.
        arch: the arches the rules judge, the native one first.
        bad_arch: the answer for calls of any other arch.

    Raises:
        AutoprofileError: an answer is no `Action`, or an arch is unknown.
    """

    def __init__(
        self,
        default: Action = Action.KILL_PROCESS,
        arch: str | Iterable[str] = "x86_64",
        bad_arch: Action = Action.KILL_PROCESS,
    ) -> None:
        self.default = _checked(default, "the default")
        self.arch = (arch,) if isinstance(arch, str) else tuple(arch)
        self.bad_arch = _checked(bad_arch, "bad_arch")
        self._rules: list[SeccompRule] = []
        self._profile: Profile | None = None
        _ = self.profile  # refuses unknown arches here rather than later

    @classmethod
    def from_profile(cls, profile: Profile) -> Filter:
        """Make a filter of the rules, arches and actions of a profile."""
        result = cls(profile.default, profile.arch, profile.bad_arch)
        result._rules = list(profile.rules)
        result._profile = profile
        return result

    @property
    def profile(self) -> Profile:
        """Give the profile with these rules."""
        if self._profile is None:
            self._profile = self._with(self._rules)
        return self._profile

    def _with(self, rules: Iterable[SeccompRule]) -> Profile:
        mode = "denylist" if self.default.is_permitting else "allowlist"
        if self.bad_arch == Action.ALLOW and mode == "allowlist":
            mode = "hybrid"  # said in code, with the argument's own name: no slip of a file
        return Profile(
            arch=self.arch,
            mode=mode,
            default=self.default,
            bad_arch=self.bad_arch,
            rules=tuple(rules),
        )

    def add_rule(
        self, syscall: str | int, action: Action, *args: Arg, arch: str | Iterable[str] | None = None
    ) -> None:
        """Add a rule: the action for a syscall when all comparators hold.

        Rules of one syscall are OR'ed; where rules with different actions match, the most severe wins.

        Args:
            syscall: name, or number (for x32 with its bit).
            action: the answer.
            args: comparators; none means any arguments.
            arch: arches the rule is limited to; by default every arch of the filter that has the syscall.

        Raises:
            AutoprofileError: the syscall or arch is unknown to this filter, or the action or a comparator is
                none; the filter is as before.
        """
        _checked(action, f"the action for {syscall}")
        given: object = syscall
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise AutoprofileError(f"a syscall is a name or a number, not {given!r}")
        only = None if arch is None else (arch,) if isinstance(arch, str) else tuple(arch)
        rules = [*self._rules, SeccompRule(syscall, action, args or ANY, only)]
        self._profile = self._with(rules)
        self._rules = rules

    def decide(self, syscall: str | int, *args: int | str, arch: str | None = None) -> Decision:
        """Answer one call by the rules; arguments may be symbols (see `Profile.decide`)."""
        return self.profile.decide(syscall, *args, arch=arch)

    def compile(self, *, bitmap: bool = True) -> Program:
        """Compile the rules (see `compile_profile`)."""
        return compile_profile(self.profile, bitmap=bitmap)

    def load(self) -> None:
        """Install the compiled filter in this process: every thread, for ever, inherited by children.

        Without CAP_SYS_ADMIN the kernel demands no_new_privs, so it is set first: from then on execve(2) in
        this process and its children gains no privileges (set-user-ID bits and file capabilities do
        nothing). With CAP_SYS_ADMIN it is left alone. Calls answered with NOTIFY fail with ENOSYS, as nobody
        listens to this process.

        Raises:
            UsageError: the filter's arches lack the one this process runs on; its next call would be killed.
            AutoprofileError: it is too large even for several stacked filters (one is not enough above 4096
                instructions), or the kernel refused it; narrows: of several, those before stay installed.
        """
        from autoprofile.kernel import has_cap_sys_admin, seccomp, set_no_new_privs

        native = _native_arch()
        if native not in self.arch:
            raise UsageError(
                f"the filter knows {', '.join(self.arch)}, this process runs on {native}",
                hint=f"say Filter(arch=[{native!r}])",
            )
        programs = compile_stack(self.profile)
        if not has_cap_sys_admin():
            set_no_new_privs()
        for program in programs:
            seccomp.seccomp_set_mode_filter(bytes(program), flags=seccomp.FLAG_TSYNC)


def _checked(action: Action, what: str) -> Action:
    given: object = action  # callers may hand over a word in spite of the types
    if not isinstance(given, Action):
        raise AutoprofileError(
            f"{what} is an Action, not {given!r}",
            hint="Action.ALLOW, Action.errno('EPERM'), Action.parse('kill')",
        )
    return action


def _native_arch() -> str:
    # The arch of this process's own calls; a 32-bit Python on a 64-bit kernel uses the compat arch.
    arch = arch_from_machine(os.uname().machine)
    if struct.calcsize("P") == 4 and ARCHES[arch].bits == 64:
        return compat_arches(arch)[0]
    return arch
