"""The facts that the text and the page both show, as labelled strings and plain rows.

In: profiles, traces, drift reports. Out: tuples of strings and numbers; the renderers only lay them out.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import display_name
from autoprofile.profile.wording import arg_name, call_values, comparator_text, value_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprofile.observations import Observation, Trace
    from autoprofile.profile import Arg, Profile, SeccompRule

__all__ = [
    "CallRow",
    "RuleRow",
    "call_rows",
    "call_text",
    "counted",
    "left_out_text",
    "profile_facts",
    "program_rows",
    "rule_rows",
    "trace_facts",
]


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 call``, ``2 calls``, ``12 340 calls``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}".replace(",", " ")


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule, readable.

    Args:
        syscall: its name or number.
        arch: the arches it is limited to, joined; "" for all of the profile.
        arguments: its conditions, or ``any``.
        action: what happens.
        count: calls seen when it was learned.
        processes: processes seen making them.
        reason: why it is there when it was not observed, else "".
        risk: severity of the syscall's risk class, else "".
        risk_reason: the reason for it, else "".
    """

    syscall: str
    arch: str
    arguments: str
    action: str
    count: int | None
    processes: int | None
    reason: str
    risk: str
    risk_reason: str


def rule_rows(profile: Profile, *, longest_set: int = 0) -> list[RuleRow]:
    """Return the rules in the profile's order.

    Args:
        profile: whose rules.
        longest_set: sets of more values are cut to the first few and their number; 0 for never.
    """
    return [_rule_row(profile, rule, longest_set) for rule in profile.rules]


def _condition(arch: str, rule: SeccompRule, one: Arg, longest_set: int) -> str:
    syscall, others = rule.syscall, rule.comparators
    if one.op == "in" and 0 < longest_set < len(one.values):
        few = ", ".join(value_text(arch, syscall, one.index, value, others) for value in one.values[:3])
        return f"{arg_name(arch, syscall, one.index)} in {{{few}, … {len(one.values)} values}}"
    return comparator_text(arch, syscall, one, others)


def _rule_row(profile: Profile, rule: SeccompRule, longest_set: int) -> RuleRow:
    arch = (rule.arch or profile.arch)[0]
    conditions = (_condition(arch, rule, one, longest_set) for one in rule.comparators if one.op != "any")
    evidence = rule.evidence
    risk = syscall_risk(rule.syscall) if isinstance(rule.syscall, str) else None
    return RuleRow(
        syscall=str(rule.syscall),
        arch=", ".join(rule.arch) if rule.arch and rule.arch != profile.arch else "",
        arguments=", ".join(conditions) or "any",
        action=str(rule.action),
        count=evidence.count if evidence else None,
        processes=evidence.processes if evidence else None,
        reason=(evidence.reason or "") if evidence else "",
        risk=risk.severity if risk else "",
        risk_reason=risk.reason if risk else "",
    )


def profile_facts(profile: Profile) -> list[tuple[str, str]]:
    """Return what the head of a profile says, for people."""
    program, learned = profile.program, profile.learned
    facts = []
    if program.path:
        build_id = f" (build-id {program.build_id[:16]}…)" if program.build_id else ""
        facts.append(("program", program.path + build_id))
    if program.argv:
        facts.append(("command", shlex.join(program.argv)))
    if learned is None:
        facts.append(("learned", "no: written by hand"))
    else:
        facts.append(
            (
                "learned",
                f"{counted(learned.runs, 'run')}, {counted(learned.processes, 'process', 'processes')},"
                f" {counted(learned.events, 'call')}, {learned.lost} lost"
                + (f"; {learned.backend}" if learned.backend else "")
                + (f"; kernel {learned.kernel}" if learned.kernel else "")
                + (f"; {learned.libc}" if learned.libc else ""),
            )
        )
        facts.append(("complete", _completeness(profile)))
        if learned.left_out is not None:
            facts.append(("left out", left_out_text(learned.left_out, learned.runs)))
    facts.append(("arch", f"{', '.join(profile.arch)}; calls of any other: {profile.bad_arch}"))
    facts.append(("level", f"{profile.level}, {profile.mode}; what no rule names: {profile.default}"))
    return facts


def _completeness(profile: Profile) -> str:
    learned = profile.learned
    if learned is None:
        return "unknown"
    if learned.lost:
        return f"no: {counted(learned.lost, 'loss', 'losses')}, so the program may need more than this allows"
    if not learned.complete:
        return (
            "no: watched from outside or cut short: what came before or after, the program may need as well"
        )
    if learned.unseen is None and learned.runs <= 1:
        return "all of one run; more runs (learn --runs, --merge) would tell how typical it was"
    if learned.unseen is None:
        return (
            f"all of {learned.runs} runs, which were not kept apart: `learn --from-trace` over their traces "
            "would tell the chance that another needs more"
        )
    return f"chance that another run needs something unseen: {learned.unseen:.1%}"


def left_out_text(left_out: Mapping[int, Sequence[str]], runs: int, *, shown: int = 3) -> str:
    """Say what runs would have met had the others been enforced: the evidence behind the estimate.

    Args:
        left_out: run, from 1, to the calls it would have been denied; runs that are not there: none.
        runs: how many there are.
        shown: runs that are told one by one.
    """
    if not left_out:
        return f"none of the {runs} runs would have been denied anything, had the others been enforced"
    texts = []
    for run, calls in sorted(left_out.items())[:shown]:
        more = int(calls[-1].split()[1]) - 1 if calls[-1].startswith("and ") else 0
        denials = counted(len(calls) + more, "denial")
        texts.append(f"run {run} would have met {denials}: {', '.join(calls)}")
    if len(left_out) > shown:
        texts.append(f"and {counted(len(left_out) - shown, 'other run')} some as well")
    others = f"runs 1\N{EN DASH}{runs - 1}" if list(left_out) == [runs] and runs > 2 else "the others"
    return f"had {others} been enforced, " + "; ".join(texts)


def trace_facts(trace: Trace) -> list[tuple[str, str]]:
    """Return what the head of a trace says, for people."""
    meta = trace.meta
    kernel = f"kernel {meta.kernel}" if meta.kernel else None
    calls, runs = counted(trace.events, "call"), counted(meta.runs, "run")
    processes = counted(trace.process_count, "process", "processes")
    syscalls = counted(len({(o.arch, o.nr) for o in trace.observations}), "syscall")
    tuples = counted(len({(o.arch, o.nr, o.args) for o in trace.observations}), "argument tuple")
    facts = [
        ("command", shlex.join(meta.argv) or "unknown"),
        ("source", "; ".join(part for part in (meta.backend, kernel, meta.libc) if part)),
        ("seen", f"{calls} in {runs}, {processes}, {meta.duration_ns / 1e9:.2f} s"),
        ("distinct", f"{syscalls}, {tuples}"),
    ]
    if meta.exit_status is not None:
        facts.append(("exit status", str(meta.exit_status)))
    if trace.ledger:
        facts.append(
            ("lost", ", ".join(f"{reason} {n}" for reason, n in sorted(trace.ledger.entries.items())))
        )
    facts.append(("complete", "yes" if trace.is_complete else "no"))
    return facts


@dataclass(frozen=True, slots=True)
class CallRow:
    """One distinct call over all runs and programs of a trace.

    Args:
        arch: of the call.
        syscall: its name or number.
        call: with the constrained arguments, as text.
        count: how often.
        processes: distinct processes, summed over programs and runs.
        first_s: seconds from the start of the run to the first.
        failed: how many returned an error; None when the source cannot see that.
        programs: the executables that made it.
    """

    arch: str
    syscall: str
    call: str
    count: int
    processes: int
    first_s: float
    failed: int | None
    programs: tuple[str, ...]


def call_rows(trace: Trace) -> list[CallRow]:
    """Return the distinct calls, the most frequent first."""
    groups: dict[tuple[str, int, tuple[int | None, ...]], list[Observation]] = {}
    for o in trace.observations:
        groups.setdefault((o.arch, o.nr, o.args), []).append(o)
    rows = []
    for (arch, nr, args), same in groups.items():
        name = display_name(arch, nr)
        failures = [o.failed for o in same if o.failed is not None]
        rows.append(
            CallRow(
                arch=arch,
                syscall=name,
                call=call_text(arch, name, args),
                count=sum(o.count for o in same),
                processes=sum(o.processes for o in same),
                first_s=min(o.first_ns for o in same) / 1e9,
                failed=sum(failures) if failures else None,
                programs=tuple(sorted({o.program.path for o in same})),
            )
        )
    return sorted(rows, key=lambda r: (-r.count, r.arch, r.call))


def call_text(arch: str, name: str, args: Sequence[int | None]) -> str:
    """Return a call with the constrained arguments that the kernel reads in it: no mode without O_CREAT.

    Args:
        arch: of the call.
        name: of the syscall, or its number as text.
        args: six raw registers, None where nothing is known.
    """
    values = [a or 0 for a in args]
    used = {s.name for s in constrained_args(arch, name) if s.used_if is None or s.used_if.holds(values)}
    shown = [f"{own}={text}" for own, text in call_values(arch, name, args).items() if own in used]
    return f"syscall {name}" if name.isdigit() else f"{name}({', '.join(shown)})"


def program_rows(trace: Trace) -> list[tuple[str, int, int]]:
    """Return (program, distinct syscalls, calls) of each executable, the busiest first."""
    calls: Counter[str] = Counter()
    distinct: dict[str, set[tuple[str, int]]] = {}
    for o in trace.observations:
        calls[o.program.path] += o.count
        distinct.setdefault(o.program.path, set()).add((o.arch, o.nr))
    return sorted(((p, len(distinct[p]), n) for p, n in calls.items()), key=lambda row: (-row[2], row[0]))
