"""How `enforce` turns its options into a filter, a supervisor and an exit status.

Nothing here loads pandas, pyarrow or rich: this is the path that every enforced start takes.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from autoprofile.enforce import enforce
from autoprofile.errors import LaunchError
from autoprofile.filter import FilterTooLarge, compile_asking, compile_stack
from autoprofile.filter.newer import action_for, answer_beyond, with_fallbacks
from autoprofile.kernel import kernel_release
from autoprofile.profile import Action, Profile
from autoprofile.trace.source import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoprofile.cli.output import Output
    from autoprofile.cli.supervision import Supervision
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.metrics import Metrics
    from autoprofile.enforce.supervise import NotifySupervisor
    from autoprofile.filter import Program
    from autoprofile.profile import SeccompRule

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
        supervision: who decides and what is recorded. widens: with complain nothing is refused, and a judge
            may let calls pass.
        is_older: numbers newer than the profile are refused with ENOSYS, as from the kernel it knows, rather
            than with what a violation gets.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        where: str,
        on_violation: str | None,
        supervision: Supervision,
        is_older: bool = True,
    ) -> None:
        self._where = where
        self._supervision = supervision
        self._complain = supervision.complain
        # What is open to a decision is the profile's to say, and --on-violation log makes a denylist of any.
        self._are_rules_open = profile.mode == "denylist" or profile.default == Action.ALLOW
        self._profile = profile if on_violation is None else _answering(profile, _ANSWERS[on_violation])
        self._is_older = is_older
        # By a supervisor, where nobody decides otherwise: what it asks about it refuses.
        refuses_newer = is_older and not self._profile.default.is_permitting
        self._newer = Action.errno("ENOSYS") if refuses_newer else None
        self._judge = supervision.judge_for(self._profile)
        self._metrics: Metrics | None = None
        #: Processes that a supervisor has killed so far.
        self.killed = 0
        #: Whether the command ended by itself, and so was not killed; it may pass on that another was.
        self.has_exited = False
        self._is_supervised = (
            supervision.is_needed
            or self._judge is not None
            or self._profile.default == Action.NOTIFY
            or any(rule.action == Action.NOTIFY for rule in self._profile.rules)
        )

    def run(self, argv: Sequence[str], output: Output, *, privileged: bool) -> int:
        """Run a command and return its shell status."""
        command = Command(tuple(argv))
        if not self._is_supervised:
            *before, program = self._filters(output)
            return enforce(
                command,
                program,
                before=before,
                privileged=privileged,
                arches=self._profile.arch,
                on_start=partial(self._compare_program, command.argv, output),
                on_end=self._ended,
            )
        with self._publishing(output):
            return self._run_supervised(command, output, privileged=privileged)

    @property
    def may_kill_unseen(self) -> bool:
        """Tell whether the filter alone may end a process by SIGSYS, of which only its parent hears."""
        kinds = {self._profile.default.kind, *(rule.action.kind for rule in self._profile.rules)}
        return not self._is_supervised and not kinds.isdisjoint({"trap", "kill_thread", "kill_process"})

    def attach(
        self, pid: int, output: Output, *, privileged: bool, descendants: bool, trust_filters: bool
    ) -> int:
        """Bring a running process, and its descendants if asked to, under the profile; return the status."""
        from autoprofile.cli.attaching import Attaching
        from autoprofile.trace.program_id import program_of

        argv = _argv_of(pid) if self._is_supervised else ()
        self._compare_program(argv, output, program_of(pid).path, f"/proc/{pid}/exe")
        attaching = Attaching(
            output,
            new_supervisor=partial(self._supervisor, argv, output) if self._is_supervised else None,
            complain=self._complain,
        )
        try:
            with self._publishing(output):
                return attaching.run(
                    pid,
                    [bytes(program) for program in self._filters(output)],
                    descendants=descendants,
                    privileged=privileged,
                    arches=self._profile.arch,
                    judge=self._foreseen,
                    trust_filters=trust_filters,
                )
        finally:
            for supervisor in attaching.supervisors:
                self._summarise(supervisor, output)

    def _ended(self, wait_status: int) -> None:
        self.has_exited = os.WIFEXITED(wait_status)

    def _compare_program(
        self, argv: Sequence[str], output: Output, path: str, file: str | None = None
    ) -> None:
        # A profile of another program is seldom what was meant. Comparing paths costs nothing, and the
        # program runs meanwhile.
        if self._profile.program.path in (None, path) and output.verbosity < 1:
            return
        from autoprofile.cli.mismatch import other_build, other_program

        if (learned_from := other_program(self._profile, path, file)) is not None:
            say = output.note if file is None else output.warn  # of a running process it is for good
            say(f"{self._where} was learned from {learned_from}, not from {path}")
        elif (builds := other_build(self._profile, path, file)) is not None:
            output.detail(f"{path} was rebuilt since {self._where} was learned ({builds})")
        if argv and output.verbosity >= 1 and self._profile.program.argv not in ((), tuple(argv)):
            import shlex

            output.detail(f"{self._where} was learned from: {shlex.join(self._profile.program.argv)}")

    def _foreseen(self, arch: str, nr: int, args: Sequence[int]) -> Action:
        # What will become of a call that a process waits in while we attach, should it be handed over.
        if self._complain or (self._judge is not None and self._is_open(arch, nr, args)):
            return Action.ALLOW
        action = self._answer(arch, nr, args)
        if self._is_supervised or action.kind != "errno":
            return action
        return with_fallbacks(self._profile).decide_call(arch, nr, args).action

    def _filters(self, output: Output) -> tuple[Program, ...]:
        # In the order of installation: the listener, where there is one, is for the last.
        if not self._is_supervised:
            profile = with_fallbacks(self._profile)
        else:
            profile = _handed_over(
                self._profile,
                everything=self._complain,
                violations=self._supervision.asks,
                rules=self._supervision.asks and self._are_rules_open,
            )
            self._say_what_stays_refused(profile, output)
        beyond = answer_beyond(profile) if self._is_older else None
        has_bitmap = kernel_release() >= (5, 11)
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
        trapped = sorted({str(rule.syscall) for rule in handed.rules if rule.action.kind == "trap"})
        if handed.default.kind == "trap":
            trapped = ["calls that no rule names"]
        if trapped and self._supervision.audit_file is not None:
            output.note(
                "not in the audit log, because SIGSYS goes to the program itself (trap): "
                + ", ".join(trapped)
            )
        # An explicit ENOSYS is how the profile steers libc to another call. Were that let pass, complain mode
        # would watch a program that takes another way than the enforced one.
        if not self._complain:
            return
        names = sorted({str(rule.syscall) for rule in handed.rules if rule.action.kind == "errno"})
        if names:
            output.note(
                f"still answered with ENOSYS, as the profile's rules say: {', '.join(names)}; all else passes"
            )

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
                on_start=partial(self._compare_program, command.argv, output),
                on_end=self._ended,
            )
        except LaunchError:
            if audit is not None:
                audit.close(denials=0, distinct=0)  # nothing ran, so nothing is missing from the log
            raise
        self._summarise(supervisor, output)
        return status

    def _supervisor(self, argv: Sequence[str], output: Output) -> tuple[NotifySupervisor, AuditWriter | None]:
        from autoprofile.enforce.supervise import NotifySupervisor

        audit = self._supervision.new_log(argv, self._where, output)
        supervisor = NotifySupervisor(
            self._answer,
            judge=self._judge,
            is_open=self._is_open,
            complain=self._complain,
            audit=audit,
            backtrace=self._supervision.backtrace,
            on_trouble=output.warn,
        )
        if self._metrics is not None:
            self._metrics.watch(supervisor)
        return supervisor, audit

    @contextmanager
    def _publishing(self, output: Output) -> Iterator[None]:
        from autoprofile.cli.supervision import new_metrics

        with new_metrics(self._supervision.metrics, output) as self._metrics:
            yield

    def _is_open(self, arch: str, nr: int, args: Sequence[int]) -> bool:
        # What somebody may decide about is what the profile says nothing of, or asks about; in a denylist it
        # is what a rule refuses, as for --on-violation. An arch that is not listed is nobody's to allow.
        if arch not in self._profile.arch:
            return False
        decision = self._profile.decide_call(arch, nr, args)
        if decision.action.kind == "notify" or self._profile.default == Action.ALLOW:
            return True
        if self._are_rules_open:
            return decision.rule is not None
        return decision.rule is None and self._supervision.asks

    def _answer(self, arch: str, nr: int, args: Sequence[int]) -> Action:
        action = action_for(self._profile, arch, nr, args, self._newer)
        # "notify" asks this supervisor, and where nobody decides otherwise its answer is to refuse.
        return Action.errno("EPERM") if action.kind in {"notify", "trace", "trap"} else action

    def _summarise(self, supervisor: NotifySupervisor, output: Output) -> None:
        summary = supervisor.summary
        self.killed += summary.killed
        if not summary.denials:
            return
        passed = sum(r.count for r in summary.records if r.event in ("complain", "log", "allow"))
        for number, what in ((summary.denials - passed, "refused"), (passed, "not allowed but let pass")):
            if number:
                distinct = sum(
                    (r.event in ("complain", "log", "allow")) == (what != "refused") for r in summary.records
                )
                output.note(f"{'1 call' if number == 1 else f'{number} calls'} {what}, {distinct} distinct")
        if self._supervision.audit_file is not None:
            output.note(f"see them with: autoprofile drift {self._where} {self._supervision.audit_file}")
        if summary.killed_by_sigkill:
            output.note(
                f"{summary.killed_by_sigkill} of {summary.killed} killed processes handle SIGSYS: they were"
                " killed by SIGKILL (status 137)"
            )
        if summary.lost:
            output.warn(f"{summary.lost} audit records were lost")


def _answering(profile: Profile, action: Action) -> Profile:
    # A violation is what no rule names, but in a denylist, which allows that, what a rule refuses.
    if profile.mode == "denylist" or profile.default == Action.ALLOW:
        rules = tuple(replace(r, action=action) if _is_refusing(r.action) else r for r in profile.rules)
        return replace(profile, rules=rules)
    # The mode has to fit the default; it changes nothing about what calls get.
    return replace(profile, default=action, mode="denylist" if action.is_permitting else "allowlist")


def _handed_over(
    profile: Profile, *, everything: bool, violations: bool = False, rules: bool = False
) -> Profile:
    """Return the profile whose filter hands what is not allowed to the supervisor, which records it.

    Not handed over is what is refused with ENOSYS by a rule: that is how libc is told to take another way,
    in every run. A supervisor cannot send SIGSYS, so trap stays with the filter unless everything is to
    pass.
    A syscall of which some calls are killed for is handed over whole: ENOSYS from the filter would win over
    the notification, and a call that both rules match would live.

    Args:
        profile: what the calls get.
        everything: for complain mode.
        violations: hand over violations too that the profile answers by trap, since somebody decides about
            them; without an opinion of theirs they fail with EPERM.
        rules: what rules answer by trap is such a violation too, as in a denylist.
    """
    asks_of_rules = everything or rules

    def handed(action: Action) -> Action:
        if action == Action.LOG or (_is_refusing(action) and (asks_of_rules or action.kind != "trap")):
            return Action.NOTIFY
        return action

    killing = {rule.syscall for rule in profile.rules if rule.action.rank > Action.TRAP.rank}

    def of(rule: SeccompRule) -> Action:
        if rule.action.kind == "errno" and rule.syscall in killing and not everything:
            return Action.NOTIFY
        return handed(rule.action)

    made = tuple(replace(rule, action=of(rule)) for rule in profile.rules)
    keeps = profile.default == Action.ALLOW or (
        profile.default.kind == "trap" and not (everything or violations)
    )
    default = profile.default if keeps else Action.NOTIFY
    mode = "denylist" if default == Action.ALLOW else "allowlist"
    bad_arch = profile.bad_arch if profile.bad_arch.kind == "trap" and not everything else Action.NOTIFY
    return replace(profile, rules=made, default=default, mode=mode, bad_arch=bad_arch)


def _is_refusing(action: Action) -> bool:
    return not action.is_permitting and action != Action.errno("ENOSYS")


def _argv_of(pid: int) -> tuple[str, ...]:
    from autoprofile.trace.targets import pid_target

    return pid_target(pid).argv
