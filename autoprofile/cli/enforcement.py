"""How `enforce` turns its options into a filter, a supervisor and an exit status.

Nothing here loads pandas, pyarrow, rich or ruamel: this is the path that every enforced start takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.enforce import enforce
from autoprofile.filter import compile_profile
from autoprofile.profile import Action, Profile, SeccompRule
from autoprofile.trace.source import Command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from autoprofile.cli.output import Output

__all__ = ["Enforcement"]

_ANSWERS = {
    "kill": Action.KILL_PROCESS,
    "errno": Action.errno("EPERM"),
    "log": Action.LOG,
    "notify": Action.NOTIFY,
    "trap": Action.TRAP,
}


class Enforcement:
    """A profile and what to do with calls outside it.

    Args:
        profile: what is allowed.
        where: its file, for the audit log.
        on_violation: what happens to calls that no rule names; the profile's default unless given.
        complain: refuse nothing, record everything that would have been refused. widens.
        audit_file: where refused calls are recorded.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        where: str,
        on_violation: str | None,
        complain: bool,
        audit_file: Path | None,
    ) -> None:
        self._where = where
        self._complain = complain
        self._audit_file = audit_file
        default = profile.default if on_violation is None else _ANSWERS[on_violation]
        # mode and default must fit; what a call gets is decided here, whatever the profile's mode is called.
        self._profile = replace(
            profile, default=default, mode="denylist" if default.is_permitting else "allowlist"
        )
        self._is_supervised = (
            complain
            or audit_file is not None
            or default == Action.NOTIFY
            or any(rule.action == Action.NOTIFY for rule in profile.rules)
        )

    def run(self, argv: Sequence[str], output: Output, *, privileged: bool) -> int:
        """Run a command and return its shell status."""
        command = Command(tuple(argv))
        if not self._is_supervised:
            program = compile_profile(self._with_fallbacks())
            return enforce(command, program, privileged=privileged, arches=self._profile.arch)
        return self._run_supervised(command, output, privileged=privileged)

    def _with_fallbacks(self) -> Profile:
        # Where libc has an older way to do the same, ENOSYS makes it take that way and EPERM makes it fail.
        # Neither lets the call through.
        profile = self._profile
        if profile.default.kind != "errno":
            return profile
        known = {rule.syscall for rule in profile.rules}
        rules = [
            SeccompRule(name, Action.errno("ENOSYS"), arch=arches)
            for name in sorted(ENOSYS_FALLBACK - known)
            if (arches := _arches_with(name, profile.arch))
        ]
        return replace(profile, rules=(*profile.rules, *rules))

    def _run_supervised(self, command: Command, output: Output, *, privileged: bool) -> int:
        from autoprofile.enforce.audit import AuditWriter
        from autoprofile.enforce.supervise import NotifySupervisor

        profile = self._profile
        rules = profile.rules
        if self._complain:
            # A rule that refuses is complained about like everything else; ENOSYS is how libc is told to take
            # another way, so the run would not be the one that is enforced later without it.
            enosys = Action.errno("ENOSYS")
            rules = tuple(
                replace(rule, action=Action.NOTIFY)
                if not rule.action.is_permitting and rule.action != enosys
                else rule
                for rule in rules
            )
        handed_over = replace(profile, default=Action.NOTIFY, mode="allowlist", rules=rules)
        program = compile_profile(handed_over, default=Action.NOTIFY, bad_arch=Action.NOTIFY)
        audit = None
        if self._audit_file is not None:
            audit = AuditWriter(
                self._audit_file,
                argv=command.argv,
                profile=self._where,
                mode="complain" if self._complain else "enforce",
                on_trouble=output.warn,
            )
        supervisor = NotifySupervisor(
            self._answer, complain=self._complain, audit=audit, on_trouble=output.warn
        )
        status = enforce(
            command, program, supervisor=supervisor, privileged=privileged, arches=self._profile.arch
        )
        self._summarise(supervisor, output)
        return status

    def _answer(self, arch: str, nr: int, args: Sequence[int]) -> Action:
        action = self._profile.decide_call(arch, nr, args).action
        # "notify" asks this supervisor, and its answer is to refuse.
        return Action.errno("EPERM") if action.kind in {"notify", "trace", "trap"} else action

    def _summarise(self, supervisor: object, output: Output) -> None:
        summary = supervisor.summary  # type: ignore[attr-defined]
        if not summary.denials:
            return
        what = "not allowed but let pass" if self._complain else "refused"
        calls = "1 call" if summary.denials == 1 else f"{summary.denials} calls"
        output.note(f"{calls} {what}, {len(summary.records)} distinct")
        if self._audit_file is not None:
            output.note(f"see them with: autoprofile drift {self._where} {self._audit_file}")
        if summary.lost:
            output.warn(f"{summary.lost} audit records were lost")


def _arches_with(name: str, arches: Sequence[str]) -> tuple[str, ...]:
    from autoprofile.abi.syscalls import syscall_nr

    return tuple(arch for arch in arches if syscall_nr(arch, name) is not None)
