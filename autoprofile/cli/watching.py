"""How `learn` and `watch` look at what runs already: the options that name a target, and the time they end.

In: a process, cgroup, container or unit. Out: a trace, or records of what an enforced workload was refused.
Nothing of the target is stopped or changed.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autoprofile.errors import AutoprofileError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from autoprofile.enforce.metrics import Sample
    from autoprofile.observations import LossLedger
    from autoprofile.profile import Profile
    from autoprofile.trace.ebpf.counts import Count
    from autoprofile.trace.ebpf.watching import Watch
    from autoprofile.trace.targets import Target

__all__ = [
    "Chosen",
    "Parts",
    "Refusals",
    "chosen_target",
    "live",
    "loss_text",
    "refusal_text",
    "target_options",
]


F = TypeVar("F", bound="Callable[..., Any]")

_LOOKED_AT = 256  # processes whose maps are read in one look, a millisecond each
_NO_ARGS = (None,) * 6
_KINDS = ("pid", "cgroup", "container", "unit")


def target_options(function: F) -> F:
    """Add ``--pid``, ``--cgroup``, ``--container`` and ``--unit``."""
    for option in (
        click.option("--unit", metavar="NAME", help="Watch a running systemd unit (root)."),
        click.option("--container", metavar="ID", help="Watch a container, by its id or name (root)."),
        click.option("--cgroup", metavar="PATH", help="Watch a cgroup (v2) and those below it (root)."),
        click.option(
            "--pid",
            type=click.IntRange(1),
            metavar="N",
            help="Watch a process, its threads and descendants (root).",
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Chosen:
    """The target options of one invocation, at most one of them given."""

    kind: str
    value: str | int

    def find(self) -> Target:
        """Return the target.

        Raises:
            MachineError: this machine cannot watch what runs already, or this user may not.
            AutoprofileError: there is no such process, cgroup, container or unit.
        """
        from autoprofile.trace import targets
        from autoprofile.trace.ebpf.probes import lacks

        # First: without rights containers are not even found.
        if (why := lacks()) is not None:
            hints = [hint for hint in why[1].split("; ") if not hint.startswith("--backend")]
            raise MachineError(
                why[0], hint="; ".join([*hints, f"no other backend has --{self.kind}: they start a command"])
            )
        if self.kind == "pid":
            return targets.pid_target(int(self.value))
        if self.kind == "cgroup":
            return targets.cgroup_target(str(self.value))
        if self.kind == "unit":
            return targets.unit_target(str(self.value))
        from autoprofile.trace.containers import container_target

        return container_target(str(self.value))


def chosen_target(
    ctx: click.Context, pid: int | None, cgroup: str | None, container: str | None, unit: str | None
) -> Chosen | None:
    """Return which target was given; None for none.

    Raises:
        click.UsageError: several were given, or one is empty.
    """
    given = [
        Chosen(kind, value)
        for kind, value in zip(_KINDS, (pid, cgroup, container, unit), strict=True)
        if value is not None
    ]
    if nameless := [c for c in given if c.value == ""]:
        raise click.UsageError(f"--{nameless[0].kind} needs a name, and got an empty word", ctx)
    if len(given) > 1:
        raise click.UsageError(" and ".join(f"--{c.kind}" for c in given) + " exclude each other", ctx)
    return given[0] if given else None


@contextmanager
def live(target: Target, *, returns: bool) -> Iterator[Watch]:
    """Attach to a target; Ctrl-C and SIGTERM end the watch, not the tool."""
    from autoprofile.trace.ebpf.watching import Watch

    watch = Watch(target, returns=returns)
    before = {
        number: signal.signal(number, lambda *_: watch.stop()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with watch:
            yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Parts:
    """What the programs of a target are made of, looked up in /proc while they run.

    Args:
        target: whose programs.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._libc: dict[tuple[str, str | None], str] = {}
        self._binaries: dict[tuple[str, str | None], dict[str, str]] = {}

    def look(self) -> None:
        """Note what the live processes of the target have mapped; it adds up over time.

        Of several processes of one program nobody knows later which made a call: theirs is all that any had.
        """
        from autoprofile.trace.program_id import libc_of, loaded_objects, program_of
        from autoprofile.trace.targets import processes_of

        with suppress(AutoprofileError, OSError):  # it may have ended
            for pid in sorted(processes_of(self._target))[:_LOOKED_AT]:
                program = program_of(pid)
                mapped, libc = loaded_objects(pid), libc_of(pid)
                if program_of(pid) != program:
                    continue  # it ended or ran another program meanwhile
                key = (program.path, program.build_id)
                self._binaries.setdefault(key, {}).update((o.path, o.build_id or "") for o in mapped)
                if libc.kind != "unknown":
                    self._libc[key] = str(libc)

    def documents(self, libraries: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return what is known, one entry per program.

        Args:
            libraries: what was mapped while the watch lasted, nobody knows by which program. Where there was
                only one, it is that one's.
        """
        alone = len(self._binaries) == 1
        return [
            {
                "program": path,
                "build_id": build_id,
                "libc": self._libc.get((path, build_id)),
                "binaries": dict(sorted({**(libraries if alone else {}), **binaries}.items())),
            }
            for (path, build_id), binaries in sorted(self._binaries.items(), key=repr)
        ]


@dataclass
class Refusals:
    """What an enforced workload was refused, and what it did that the profile does not allow.

    Args:
        profile: what should be enforced.

    Attributes:
        calls: the number of calls seen, the refused ones included.
        undecided: the number of calls that passed, of which nothing is known: a rule of theirs compares an
            argument that is not counted, or that was lost.
    """

    profile: Profile
    calls: int = 0
    undecided: int = 0
    _known: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)

    def update(self, watch: Watch, counts: list[Count]) -> list[dict[str, Any]]:
        """Take a read-out of everything counted; return the records that are new since the last one.

        Calls for which the counters had no room come without arguments: a refused one is a record still.
        """
        from autoprofile.abi.syscalls import display_name
        from autoprofile.observations.frame import decode_args
        from autoprofile.trace.ebpf.counts import kept_args, returned

        drafts: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.calls = self.undecided = 0
        totals: dict[tuple[Any, ...], int] = {}
        for count in counts:
            args = kept_args(count.arch, count.nr, count.args) if count.has_args else _NO_ARGS
            decision = self.profile.decide_call(count.arch, count.nr, [a or 0 for a in args])
            unknown = {index for index, value in enumerate(args) if value is None}
            is_decided = not any(
                comparator.index in unknown
                for rule in self.profile.rules_for(count.arch, count.nr)
                for comparator in rule.comparators
            )
            # What a profile logs by default is not in it; what one of its rules logs is.
            is_allowed = decision.action.kind == "allow" or (
                decision.action.kind == "log" and decision.rule is not None
            )
            # The end of a call that began before the watch failed, as a refused one does: the profile tells.
            doubtful = 0 if is_allowed or not is_decided else count.doubtful
            refused = count.refused + doubtful
            self.calls += count.count + doubtful
            for kind, number in (("refused", refused), ("unlisted", count.count - count.refused)):
                if number == 0 or (kind == "unlisted" and is_decided and is_allowed):
                    continue
                if kind == "unlisted" and not is_decided:
                    self.undecided += number
                    continue
                program = watch.identity_of(count)
                key = (kind, program.path, program.build_id, count.arch, count.nr, args, count.has_args)
                totals[key] = totals.get(key, 0) + number
                if key in self._known or key in drafts:
                    continue
                name = display_name(count.arch, count.nr)
                drafts[key] = {
                    "kind": kind,
                    "program": program.path,
                    "build_id": program.build_id,
                    "arch": count.arch,
                    "nr": count.nr,
                    "syscall": name,
                    "args": list(args),
                    "args_lost": not count.has_args,
                    "decoded": {arg: text for _, arg, text in decode_args(count.arch, count.nr, args)},
                    "returned": returned(count.last_return),
                    "allowed_by_profile": is_allowed if is_decided else None,
                }
        self._keep_arguments(totals)
        new = {key: draft for key, draft in drafts.items() if totals[key]}
        self._known |= new
        for key, number in totals.items():
            if key in self._known:
                self._known[key]["count"] = number
        return list(new.values())

    def _keep_arguments(self, totals: dict[tuple[Any, ...], int]) -> None:
        # What was read with its arguments before the counters had no room for it stays so, and is not counted
        # twice.
        lost = [key for key in totals if not key[-1]]
        for key, known in self._known.items() if lost else ():
            missing = known["count"] - totals.get(key, 0)
            for other in lost:
                if not key[-1] or missing <= 0:
                    break
                if (other[0], *other[3:5]) == (key[0], *key[3:5]):
                    moved = min(missing, totals[other])
                    totals[other] -= moved
                    totals[key] = totals.get(key, 0) + moved
                    missing -= moved

    def records(self) -> list[dict[str, Any]]:
        """Return all records, the refused first, by program and call."""
        order = ("kind", "program", "arch", "nr")
        return sorted(
            (record for record in self._known.values() if record["count"]),
            key=lambda r: (*(r[name] for name in order), repr((r["args"], r["build_id"]))),
        )

    def sample(self, lost: int) -> Sample:
        """Return the counters as metrics."""
        from autoprofile.enforce.metrics import Sample

        calls: dict[tuple[str, str, str, str, str], int] = {}
        for record in self._known.values():
            event, action = (
                ("deny", record["returned"] or "refused") if record["kind"] == "refused" else ("log", "allow")
            )
            key = (event, str(record["syscall"]), record["arch"], str(action), "kernel")
            calls[key] = calls.get(key, 0) + int(record["count"])
        return Sample(calls, lost)

    def total(self, kind: str) -> int:
        """Return the number of calls of one kind, "refused" or "unlisted"."""
        return sum(int(r["count"]) for r in self._known.values() if r["kind"] == kind)


_LOST = {
    "map_full": "refused calls are still counted, but without their arguments",
    "missed_fork": "threads are not watched at all",
    "ring_lost": "programs have no name",
}


def loss_text(losses: LossLedger) -> str:
    """Say what was lost so far, and what that means."""
    parts = [
        f"{number} ({reason}{': ' + _LOST[reason] if reason in _LOST else ''})"
        for reason, number in sorted(losses.entries.items())
    ]
    return f"lost so far: {', '.join(parts)}; what passes may go unseen"


def refusal_text(record: dict[str, Any]) -> str:
    """Return a record as one line."""
    arguments = ", ".join(f"{name}={value}" for name, value in record["decoded"].items())
    if record["args_lost"]:
        arguments = "arguments lost"
    text = f"{record['kind']} {record['syscall']}({arguments})"
    if record["kind"] == "refused":
        text += f" = {record['returned']}"
        if record["allowed_by_profile"]:
            text += "  the profile allows it: another filter did"
    arch = "" if record["arch"] == "x86_64" else f" [{record['arch']}]"
    # A path may hold line ends, and a line is a record.
    line = f"{text}  {record['program']}{arch}".replace("\n", "\\n")
    return f"{line}\n"
