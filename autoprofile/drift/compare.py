"""Compare a profile with later behaviour: what it refuses, what it allows for nothing, what was not seen.

In: a profile, traces (what ran), audit logs (what was refused), other profiles (what they allow). Out: a
`DriftReport`, the most important first. Pure and
deterministic: the same evidence in any order gives the same report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.families import ENOSYS_FALLBACK
from autoprofile.abi.signatures import call_signature, constrained_args, kernel_value
from autoprofile.abi.syscalls import display_name, syscall_name
from autoprofile.drift.attribution import CHANGED, SAME, UNKNOWN, Attribution, attribute, strangers
from autoprofile.drift.decide import decide_known, passes
from autoprofile.drift.edit import accepting_rule, edit_text
from autoprofile.drift.profiles import profile_drift
from autoprofile.drift.record import KINDS, SEVERITIES, DriftRecord, DriftReport, denial_ids, record_id
from autoprofile.drift.risk import region_risk, unknown_args
from autoprofile.drift.shift import shifted_records
from autoprofile.drift.unused import RuleUse, unused_records
from autoprofile.learn.denied import is_answered
from autoprofile.profile.wording import arg_name, call_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autoprofile.abi.risk import Risk
    from autoprofile.auditlog import AuditLog, AuditRecord
    from autoprofile.observations import Observation, Trace
    from autoprofile.profile.model import Decision, Profile

__all__ = ["compare", "lost_records", "passes", "reduced"]

_VERDICTS = (SAME, UNKNOWN, CHANGED)

_Key = tuple[str, int, tuple["int | None", ...]]


@dataclass(slots=True)
class _Denied:
    # one refused call, gathered over all the evidence
    why: str  # what the profile says about it
    unseen: tuple[str, ...] = ()  # arguments that rules of the call compare and the evidence does not hold
    count: int = 0
    programs: Counter[str] = field(default_factory=Counter)
    witness: dict[str, object] = field(default_factory=dict)
    attributions: Counter[Attribution] = field(default_factory=Counter)
    answers: set[str] = field(default_factory=set)  # what supervisors did with it

    def add(self, count: int, program: str, why: Attribution, witness: dict[str, object]) -> None:
        self.count += count
        self.programs[program] += count
        self.attributions[why] += count
        # the smallest witness, so that the order of the evidence does not matter
        if not self.witness or _witness_rank(witness) < _witness_rank(self.witness):
            self.witness = witness


def _witness_rank(witness: Mapping[str, object]) -> tuple[object, ...]:
    # audit records say more (process, code location) than a trace does
    return (witness["source"] != "audit", repr(sorted(witness.items(), key=lambda item: item[0])))


def compare(
    profile: Profile,
    traces: Sequence[Trace] = (),
    audits: Sequence[AuditLog] = (),
    profiles: Mapping[str, Profile] = MappingProxyType({}),
    *,
    unused_since_s: float | None = None,
) -> DriftReport:
    """Report every way in which the evidence differs from `profile`.

    A call is drift when the profile, as it is now, does not let it through: an audit record of a call that
    has been accepted since is none. Unused rules and shifted frequencies are claimed from traces only,
    because an audit log shows denials and nothing else.

    Args:
        profile: what is allowed.
        traces: runs to compare with it.
        audits: denials that a supervisor recorded.
        profiles: other profiles by name: what they allow is taken for behaviour.
        unused_since_s: seconds since the epoch; a rule counts as used only by a trace that ended later. By
            default every trace counts.
    """
    denied: dict[_Key, _Denied] = {}
    use = RuleUse(profile)
    calls = allowed = answered = undecided = 0
    recent = [t for t in traces if unused_since_s is None or _ended_s(t) >= unused_since_s]
    for trace in recent:
        for o in trace.observations:
            use.mark(o)
    for index, trace in enumerate(traces):
        programs = frozenset(o.program.path for o in trace.observations)
        for o in trace.observations:
            calls += o.count
            decision = decide_known(profile, o.arch, o.nr, o.args)
            if decision is None:
                undecided += o.count
            elif passes(decision):
                allowed += o.count
            elif is_answered(decision, o):
                answered += o.count
            else:
                key = (o.arch, o.nr, reduced(o.arch, o.nr, o.args))
                entry = denied.setdefault(key, _Denied(decision.why))
                entry.add(
                    o.count, o.program.path, _from_trace(profile, trace, o, programs), _seen(trace, index, o)
                )
    for log in audits:
        for record in log.records:
            calls += record.count
            decision = decide_known(profile, record.arch, record.nr, record.args)
            if decision is None and record.is_passed:
                undecided += record.count
                continue
            if decision is not None and passes(decision):
                allowed += record.count
                continue
            if decision is not None and _sends_on(decision, record):
                answered += record.count
                continue
            # Whatever its arguments were, a call that was refused is not one that was allowed.
            new = _refused_unseen(profile, record) if decision is None else _Denied(decision.why)
            key = (record.arch, record.nr, reduced(record.arch, record.nr, record.args))
            entry = denied.setdefault(key, new)
            entry.add(record.count, record.program, _from_audit(profile, log, record), _audited(record))
            entry.answers.add("let pass" if record.is_passed else record.action)
    records = [_denied_record(profile, key, entry) for key, entry in denied.items()]
    records += lost_records(traces, audits)
    if recent:
        records += unused_records(use, recent)
    if traces:
        records += shifted_records(profile, traces)
    compared = [profile_drift(profile, other, where) for where, other in profiles.items()]
    known = {record.id for record in records}
    for result in compared:
        records += [r for r in result.records if r.id not in known]
        known.update(r.id for r in result.records)
        allowed += result.allowed
        undecided += result.undecided
        calls += len(result.records) + result.allowed + result.undecided
    return DriftReport(
        records=tuple(sorted(records, key=_importance)),
        traces=len(traces),
        audits=len(audits),
        profiles=len(profiles),
        calls=calls,
        allowed=allowed,
        answered=answered,
        undecided=undecided,
        learned_from=profile.program.path,
        strangers=_strangers(profile, traces, audits, profiles.values()),
    )


def _strangers(
    profile: Profile, traces: Iterable[Trace], audits: Iterable[AuditLog], profiles: Iterable[Profile]
) -> tuple[str, ...]:
    found: set[str] = set()
    for trace in traces:
        found.update(strangers(profile, {(o.program.path, o.program.build_id) for o in trace.observations}))
    for log in audits:
        found.update(strangers(profile, {(record.program, record.build_id) for record in log.records}))
    for other in profiles:
        found.update(strangers(profile, [(other.program.path or "?", other.program.build_id)]))
    return tuple(sorted(found))


def _ended_s(trace: Trace) -> float:
    # A trace that does not say when it was made is taken for a recent one: narrows nothing, claims less.
    start = trace.meta.start_time_s
    return inf if start is None else start + trace.meta.duration_ns / 1e9


def _sends_on(decision: Decision, record: AuditRecord) -> bool:
    # what `is_answered` says of a call whose result nobody saw
    error = str(decision.action) if decision.rule is not None else ""
    return error == "ENOSYS" and syscall_name(record.arch, record.nr) in ENOSYS_FALLBACK


def reduced(arch: str, nr: int, args: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return the six arguments with only the constrained ones that the kernel reads in this call kept."""
    name = syscall_name(arch, nr)
    kept: list[int | None] = [None] * 6
    # its width may depend on the command: the kernel reads 32 bits of some arguments of prctl and fcntl
    exact = call_signature(arch, name, args) if name else None
    for spec in constrained_args(arch, name) if name else ():
        raw = args[spec.index]
        if raw is None:
            continue
        used_if = spec.used_if
        if used_if is None or args[used_if.index] is None or used_if.holds([a or 0 for a in args]):
            kept[spec.index] = kernel_value(exact.args[spec.index] if exact else spec, raw)
    return tuple(kept)


def _path(path: str) -> str | None:
    return None if path == "?" else path


def _from_trace(profile: Profile, trace: Trace, o: Observation, programs: frozenset[str]) -> Attribution:
    # A trace does not say which of several programs mapped a library.
    libraries = {path: build for path, build in trace.meta.libraries.items() if path not in programs}
    return attribute(
        profile,
        program=_path(o.program.path),
        build_id=o.program.build_id,
        libc=trace.meta.libc,
        kernel=trace.meta.kernel,
        binaries=libraries if len(programs) == 1 else {},
        elsewhere=libraries,
    )


def _seen(trace: Trace, index: int, o: Observation) -> dict[str, object]:
    return {
        "source": "trace",
        "trace": index,
        "backend": trace.meta.backend,
        "run": o.run,
        "first_s": round(o.first_ns / 1e9, 6),
        "processes": o.processes,
        "program": o.program.path,
        "last_return": o.last_return,
    }


def _from_audit(profile: Profile, log: AuditLog, record: AuditRecord) -> Attribution:
    session, program = log.session_of(record), log.program_of(record)
    binaries = dict(program.binaries) if program else {}
    if record.file:
        binaries[record.file] = record.file_build_id or ""
    return attribute(
        profile,
        program=_path(record.program),
        build_id=record.build_id,
        libc=program.libc if program else None,
        kernel=session.kernel if session else None,
        binaries=binaries,
    )


def _audited(record: AuditRecord) -> dict[str, object]:
    return {
        "source": "audit",
        "time": record.time,
        "event": record.event,
        "action": record.action,
        "program": record.program,
        "pid": record.pid,
        "tid": record.tid,
        "comm": record.comm,
        "location": record.location,
        "symbol": record.symbol,
        "file": record.file,
        "file_build_id": record.file_build_id,
        "backtrace": list(record.backtrace),
        "by": record.by,
    }


def _refused_unseen(profile: Profile, record: AuditRecord) -> _Denied:
    name = display_name(record.arch, record.nr)
    compared = {c.index for rule in profile.rules_for(record.arch, record.nr) for c in rule.comparators}
    unseen = tuple(arg_name(record.arch, name, i) for i in sorted(compared) if record.args[i] is None)
    return _Denied(f"it was refused ({record.action}), and rules of {name} compare its arguments", unseen)


def _denied_record(profile: Profile, key: _Key, entry: _Denied) -> DriftRecord:
    arch, nr, args = key
    name = syscall_name(arch, nr)
    known = arch in profile.arch and any(r.action.is_permitting for r in profile.rules_for(arch, nr))
    decoded = call_values(arch, name, args) if name else {}
    missing = tuple(dict.fromkeys((*(s.name for s in unknown_args(arch, name, args)), *entry.unseen)))
    # No profile can hold an arch that this release does not know.
    rule = accepting_rule(profile, arch, nr, args) if arch in ARCHES else None
    risk = region_risk(arch, name, [rule.comparators]).risk if name and rule else None
    # the alarm first: if any of the evidence is "same binaries", that is the verdict
    cause = min(
        entry.attributions, key=lambda a: (not a.is_new_behaviour, _VERDICTS.index(a.verdict), a.text)
    )
    programs = sorted(entry.programs, key=lambda p: (-entry.programs[p], p))
    id_, *former = denial_ids(arch, display_name(arch, nr), args)
    return DriftRecord(
        kind="new_argument" if known else "new_syscall",
        id=id_,
        severity=_severity(profile, arch, name, risk.severity if risk else None),
        arch=arch,
        syscall=display_name(arch, nr),
        nr=nr,
        args=args,
        decoded={**decoded, **dict.fromkeys(missing, "?")},
        program=next((p for p in programs if p != "?"), None),
        programs=tuple(programs),
        count=entry.count,
        why="; ".join(part for part in (entry.why, _doubts(arch, name, missing, risk), cause.text) if part),
        edit=edit_text(profile, arch, nr, args, missing=missing) if rule else "",
        witness={**entry.witness, "answers": sorted(entry.answers)} if entry.answers else entry.witness,
        attribution=cause.verdict,
        is_new_behaviour=any(a.is_new_behaviour for a in entry.attributions),
        risk=risk.name_class if risk else None,
        rule=rule,
        unknown=missing,
        former_ids=tuple(former),
    )


def _doubts(arch: str, name: str | None, missing: Sequence[str], risk: Risk | None) -> str | None:
    if arch not in ARCHES:
        return "an arch that this release does not know: no profile can allow it"
    if name is None:
        return "a number that the tables do not know: newer than this release, or invalid"
    if not missing:
        return risk.reason if risk else None
    worst = f": at worst it {risk.reason}" if risk else ""
    return f"the evidence does not hold {', '.join(missing)}{worst}"


def _severity(profile: Profile, arch: str, name: str | None, risk: str | None) -> str:
    if arch not in profile.arch:
        # the classic way around a filter: enter the kernel through another ABI (int 0x80, x32)
        return "high"
    if name is None:
        return "medium"
    return risk or "low"


def lost_records(traces: Sequence[Trace], audits: Sequence[AuditLog]) -> list[DriftRecord]:
    """Return one record per reason of loss: where something was lost, silence proves nothing."""
    losses: Counter[str] = Counter()
    for trace in traces:
        losses.update(trace.ledger.entries)
        if not trace.meta.complete and not trace.ledger:
            losses["unfinished"] += 1
    for log in audits:
        losses.update(log.losses)
    return [
        DriftRecord(
            kind="lost",
            id=record_id("lost", None, reason, ()),
            severity="medium",
            arch=None,
            syscall=None,
            nr=None,
            args=(),
            decoded={"reason": reason},
            program=None,
            programs=(),
            count=n,
            why=f"the evidence is incomplete ({reason}: {n}): what it lacks may have happened",
            edit="",
            witness={"source": "ledger", "reason": reason},
        )
        for reason, n in sorted(losses.items())
    ]


def _importance(record: DriftRecord) -> tuple[object, ...]:
    return (
        SEVERITIES.index(record.severity),
        KINDS.index(record.kind),
        not record.is_new_behaviour,
        -record.count,
        record.arch or "",
        -1 if record.nr is None else record.nr,
        tuple(-1 if a is None else a for a in record.args),
        record.id,
    )
