"""The library's `Filter`, and `compile_profile`: from rules to a program.

Both are pure but for `Filter.load`, which installs the program in this process through the kernel room.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES, arch_from_machine, compat_arches
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.filter import opcodes as op
from autoprofile.filter.assemble import assemble
from autoprofile.filter.layout import lay_out
from autoprofile.filter.lower import lower_arch
from autoprofile.filter.program import Program
from autoprofile.profile import ANY, Action, Profile, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.filter.layout import Layout
    from autoprofile.profile import Arg, Decision

__all__ = ["Filter", "FilterTooLarge", "compile_profile"]


class FilterTooLarge(AutoprofileError):  # noqa: N818 - reads as the fact it states
    """Report a filter above the kernel's 4096 instructions; the hint names the syscalls that cost most."""


def compile_profile(
    profile: Profile, *, default: Action | None = None, bad_arch: Action | None = None, bitmap: bool = True
) -> Program:
    """Compile a profile; the program answers every call as `Profile.decide_call` does.

    Args:
        profile: the rules.
        default: an answer to give in place of the profile's default.
        bad_arch: an answer to give in place of the profile's `bad_arch`.
        bitmap: whether the kernel answers constant allows from its bitmap (Linux ≥ 5.11); it changes the
        order
            of tests only.

    Raises:
        FilterTooLarge: the program would exceed 4096 instructions.
    """
    default = profile.default if default is None else default
    bad_arch = profile.bad_arch if bad_arch is None else bad_arch
    arches = {arch: lower_arch(profile, arch, default) for arch in profile.arch}
    layout = lay_out(arches, default.ret, bad_arch.ret, bitmap=bitmap)
    instructions, notes = assemble(layout.graph, layout.root)
    if len(instructions) > op.MAX_INSTRUCTIONS:
        names = {(arch, nr): call.name for arch, calls in arches.items() for nr, call in calls.items()}
        raise FilterTooLarge(
            f"the filter needs {len(instructions)} instructions, the kernel takes {op.MAX_INSTRUCTIONS}",
            hint="most go to " + ", ".join(_costliest(layout, names)),
        )
    return Program(instructions, notes)


def _costliest(layout: Layout, names: dict[tuple[str, int], str]) -> list[str]:
    sizes = {call: len(layout.graph.reachable(node)) for call, node in layout.calls.items()}
    sizes = {call: size for call, size in sizes.items() if size > 1}
    worst = sorted(sizes, key=lambda call: (-sizes[call], call))[:5]
    return [f"{names[call]} ({call[0]}, about {sizes[call]})" for call in worst]


class Filter:
    """A seccomp filter built rule by rule.

    Args:
        default: the answer for calls no rule matches.
        arch: the arches the rules judge, the native one first.
        bad_arch: the answer for calls of any other arch.
    """

    def __init__(
        self,
        default: Action = Action.KILL_PROCESS,
        arch: str | Iterable[str] = "x86_64",
        bad_arch: Action = Action.KILL_PROCESS,
    ) -> None:
        self.default = default
        self.arch = (arch,) if isinstance(arch, str) else tuple(arch)
        self.bad_arch = bad_arch
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
            self._profile = Profile(
                arch=self.arch,
                mode="denylist" if self.default.is_permitting else "allowlist",
                default=self.default,
                bad_arch=self.bad_arch,
                rules=tuple(self._rules),
            )
        return self._profile

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
            AutoprofileError: the syscall or arch is unknown to this filter.
        """
        only = None if arch is None else (arch,) if isinstance(arch, str) else tuple(arch)
        rules, profile = self._rules, self._profile
        self._rules = [*rules, SeccompRule(syscall, action, args or ANY, only)]
        self._profile = None
        try:
            _ = self.profile
        except AutoprofileError:
            self._rules, self._profile = rules, profile
            raise

    def decide(self, syscall: str | int, *args: int | str, arch: str | None = None) -> Decision:
        """Answer one call by the rules; arguments may be symbols (see `Profile.decide`)."""
        return self.profile.decide(syscall, *args, arch=arch)

    def compile(self, *, bitmap: bool = True) -> Program:
        """Compile the rules (see `compile_profile`)."""
        return compile_profile(self.profile, bitmap=bitmap)

    def load(self) -> None:
        """Install the compiled filter in this process: every thread, for ever, inherited by children.

        Without CAP_SYS_ADMIN the kernel demands no_new_privs, so it is set first: from then on execve(2) in
        this process and its children gains no privileges (set-user-ID bits and file capabilities are
        ignored). With CAP_SYS_ADMIN it is left alone. Calls answered with NOTIFY fail with ENOSYS: nobody
        listens.

        Raises:
            UsageError: the filter's arches lack the one this process runs on, so its next call would be
            killed. AutoprofileError: the kernel refused the filter, or it is too large.
        """
        from autoprofile.kernel import has_cap_sys_admin, seccomp, set_no_new_privs

        native = _native_arch()
        if native not in self.arch:
            raise UsageError(
                f"the filter knows {', '.join(self.arch)}, this process runs on {native}",
                hint=f"say Filter(arch=[{native!r}])",
            )
        program = self.compile()
        if not has_cap_sys_admin():
            set_no_new_privs()
        seccomp.seccomp_set_mode_filter(bytes(program), flags=seccomp.FLAG_TSYNC)


def _native_arch() -> str:
    # The arch of this process's own calls; a 32-bit Python on a 64-bit kernel uses the compat arch.
    arch = arch_from_machine(os.uname().machine)
    if struct.calcsize("P") == 4 and ARCHES[arch].bits == 64:
        return compat_arches(arch)[0]
    return arch
