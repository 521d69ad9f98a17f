"""How `enforce` turns its options into a filter, a supervisor and an exit status.

Nothing here loads pandas, pyarrow or rich: this is the path that every enforced start takes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.enforce import enforce
from autoprofile.errors import LaunchError
from autoprofile.filter import FilterTooLarge, compile_asking, compile_stack
from autoprofile.filter.newer import answer_beyond
from autoprofile.kernel import kernel_release
from autoprofile.profile import Action, Profile, SeccompRule
from autoprofile.trace.source import Command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from autoprofile.cli.output import Output
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.supervise import NotifySupervisor
    from autoprofile.filter import Program

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
        on_violation: what happens to calls that no rule names, in a denylist to those a rule refuses; the
            profile's own answer unless given.
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
        self._profile = profile if on_violation is None else _answering(profile, _ANSWERS[on_violation])
        self._is_supervised = (
            complain
            or audit_file is not None
            or self._profile.default == Action.NOTIFY
            or any(rule.action == Action.NOTIFY for rule in self._profile.rules)
        )

    def run(self, argv: Sequence[str], output: Output, *, privileged: bool) -> int:
        """Run a command and return its shell status."""
        command = Command(tuple(argv))
        if not self._is_supervised:
            *before, program = self._filters(output)
            return enforce(command, program, before=before, privileged=privileged, arches=self._profile.arch)
        return self._run_supervised(command, output, privileged=privileged)

    def attach(
        self, pid: int, output: Output, *, privileged: bool, descendants: bool, trust_filters: bool
    ) -> int:
        """Bring a running process, and its descendants if asked to, under the profile; return the status."""
        from autoprofile.cli.attaching import Attaching

        attaching = Attaching(
            output,
            new_supervisor=partial(self._supervisor, _argv_of(pid), output) if self._is_supervised else None,
            complain=self._complain,
        )
        try:
            return attaching.run(
                pid,
                [bytes(program) for program in self._filters(output)],
                descendants=descendants,
                privileged=privileged,
                arches=self._profile.arch,
                judge=self._let_pass if self._complain else self._answer,
                trust_filters=trust_filters,
            )
        finally:
            for supervisor in attaching.supervisors:
                self._summarise(supervisor, output)

    def _let_pass(self, _arch: str, _nr: int, _args: Sequence[int]) -> Action:
        return Action.ALLOW

    def _filters(self, output: Output) -> tuple[Program, ...]:
        # In the order of installation: the listener, where there is one, is for the last.
        profile = self._with_fallbacks()
        if self._is_supervised:
            profile = _handed_over(self._profile, everything=self._complain)
            self._say_what_stays_refused(profile, output)
        beyond, has_bitmap = answer_beyond(profile), kernel_release() >= (5, 11)
        try:
            stack = compile_stack(profile, beyond=beyond, bitmap=has_bitmap)
        except FilterTooLarge:
            if not self._is_supervised:
                raise
            # Only one filter can have the listener, and what does not fit in it the supervisor decides.
            program, asked = compile_asking(profile, beyond=beyond, bitmap=has_bitmap)
            output.note(
                f"too large for one filter: every call of {', '.join(asked)} is decided by the "
                "supervisor, as the profile says, at some microseconds a call"
            )
            return (program,)
        if len(stack) > 1:
            output.detail(f"too large for one filter: {len(stack)} are stacked, which mean the same together")
        return stack

    def _say_what_stays_refused(self, handed: Profile, output: Output) -> None:
        # An explicit ENOSYS is how the profile steers libc to another call. Were that let pass, complain mode
        # would watch a program that takes another way than the enforced one.
        if not self._complain:
            return
        names = sorted({str(rule.syscall) for rule in handed.rules if rule.action.kind == "errno"})
        if names:
            output.note(
                f"still answered with ENOSYS, as the profile's rules say: {', '.join(names)}; all else passes"
            )

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
        *before, program = self._filters(output)
        supervisor, audit = self._supervisor(command.argv, output)
        try:
            status = enforce(
                command,
                program,
                before=before,
                supervisor=supervisor,
                privileged=privileged,
                arches=self._profile.arch,
            )
        except LaunchError:
            if audit is not None:
                audit.close(denials=0, distinct=0)  # nothing ran, so nothing is missing from the log
            raise
        self._summarise(supervisor, output)
        return status

    def _supervisor(self, argv: Sequence[str], output: Output) -> tuple[NotifySupervisor, AuditWriter | None]:
        from autoprofile.enforce.audit import AuditWriter
        from autoprofile.enforce.supervise import NotifySupervisor

        audit = None
        if self._audit_file is not None:
            audit = AuditWriter(
                self._audit_file,
                argv=tuple(argv),
                profile=self._where,
                mode="complain" if self._complain else "enforce",
                on_trouble=output.warn,
            )
        supervisor = NotifySupervisor(
            self._answer, complain=self._complain, audit=audit, on_trouble=output.warn
        )
        return supervisor, audit

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


def _answering(profile: Profile, action: Action) -> Profile:
    # A violation is what no rule names, but in a denylist, which allows that, what a rule refuses.
    if profile.default == Action.ALLOW:
        rules = tuple(replace(r, action=action) if _is_refusing(r.action) else r for r in profile.rules)
        return replace(profile, rules=rules)
    # The mode has to fit the default; it changes nothing about what calls get.
    return replace(profile, default=action, mode="denylist" if action.is_permitting else "allowlist")


def _handed_over(profile: Profile, *, everything: bool) -> Profile:
    """Return the profile whose filter hands what is not allowed to the supervisor, which records it.

    Not handed over is what is refused with ENOSYS by a rule: that is how libc is told to take another way,
    in every run. A supervisor cannot send SIGSYS, so trap stays with the filter unless everything is to
    pass.
    A syscall of which some calls are killed for is handed over whole: ENOSYS from the filter would win over
    the notification, and a call that both rules match would live.

    Args:
        profile: what the calls get.
        everything: for complain mode.
    """

    def handed(action: Action) -> Action:
        if action == Action.LOG or (_is_refusing(action) and (everything or action.kind != "trap")):
            return Action.NOTIFY
        return action

    killing = {rule.syscall for rule in profile.rules if rule.action.rank > Action.TRAP.rank}

    def of(rule: SeccompRule) -> Action:
        if rule.action.kind == "errno" and rule.syscall in killing and not everything:
            return Action.NOTIFY
        return handed(rule.action)

    rules = tuple(replace(rule, action=of(rule)) for rule in profile.rules)
    default = profile.default if profile.default == Action.ALLOW else Action.NOTIFY
    mode = "denylist" if default == Action.ALLOW else "allowlist"
    return replace(profile, rules=rules, default=default, mode=mode, bad_arch=Action.NOTIFY)


def _is_refusing(action: Action) -> bool:
    return not action.is_permitting and action != Action.errno("ENOSYS")


def _arches_with(name: str, arches: Sequence[str]) -> tuple[str, ...]:
    from autoprofile.abi.syscalls import syscall_nr

    return tuple(arch for arch in arches if syscall_nr(arch, name) is not None)


def _argv_of(pid: int) -> tuple[str, ...]:
    from autoprofile.trace.targets import pid_target

    return pid_target(pid).argv
