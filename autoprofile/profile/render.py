"""`Profile` to YAML text: deterministic, in stable order, with the evidence beside each rule.

The text reads back as an equal profile with equal evidence: ``parse_profile(render_profile(p)) == p``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.profile.action import Action
from autoprofile.profile.canonical import arches_with, joined_evidence
from autoprofile.profile.comments import evidence_text
from autoprofile.profile.parse import FORMAT_VERSION
from autoprofile.profile.render_rule import is_deny, rule_yaml
from autoprofile.profile.scalars import flow_list, flow_map, fraction_text, quoted

if TYPE_CHECKING:
    from autoprofile.profile.model import Learned, Profile, Program
    from autoprofile.profile.rule import Evidence, SeccompRule

__all__ = ["SECTIONS", "Entry", "Line", "entry_lines", "header_values", "render_profile", "section_entries"]

_KEY_LIMIT = 1000  # YAML 1.2, 7.4.2: a key on one line has at most 1024 characters

#: The sections of rules in their order; the second of each pair is keyed by arch.
SECTIONS = ("syscalls", "syscalls_by_arch", "deny", "deny_by_arch")


@dataclass(frozen=True, slots=True)
class Line:
    """One rule as text: its YAML form and the comment beside it (without ``#``, may be empty)."""

    text: str
    comment: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The rules of one syscall in one section; `arch` is None in the sections for every arch."""

    arch: str | None
    syscall: str | int
    rules: tuple[Line, ...]


def render_profile(profile: Profile) -> str:
    """Return a profile as YAML text."""
    lines = [f"{key}: {value}" for key, value in header_values(profile).items()]
    for section, entries in section_entries(profile).items():
        if not entries:
            continue
        lines.append(f"{section}:")
        arch = None
        for entry in entries:
            if entry.arch is not None and entry.arch != arch:
                lines.append(f"  {entry.arch}:")
            arch = entry.arch
            lines += entry_lines(entry, 2 if arch is None else 4)
    return "\n".join(lines) + "\n"


def header_values(profile: Profile) -> dict[str, str]:
    """Return the header's keys in order, each with its value as YAML text."""
    values = {"autoprofile": str(FORMAT_VERSION)}
    if program := _program(profile.program):
        values["program"] = program
    if profile.learned is not None:
        values["learned"] = _learned(profile.learned)
    values["arch"] = flow_list(profile.arch)
    values["level"] = profile.level
    values["mode"] = profile.mode
    values["default"] = str(profile.default)
    if profile.bad_arch != Action.KILL_PROCESS:
        values["bad_arch"] = str(profile.bad_arch)
    return values


def entry_lines(entry: Entry, indent: int) -> list[str]:
    """Return one entry as lines of text, indented by so many blanks."""
    space = " " * indent
    if len(entry.rules) == 1 and not entry.rules[0].text.startswith("{"):
        return [with_comment(f"{space}{entry.syscall}: {entry.rules[0].text}", entry.rules[0].comment)]
    return [
        f"{space}{entry.syscall}:",
        *(with_comment(f"{space}  - {rule.text}", rule.comment) for rule in entry.rules),
    ]


def with_comment(text: str, comment: str) -> str:
    """Return a line with its comment, if there is one."""
    return f"{text}  # {comment}" if comment else text


def section_entries(profile: Profile) -> dict[str, list[Entry]]:
    """Return the entries of every section, in order.

    Rules that read the same on every arch that has their syscall stand in the section for all arches, though
    the text may mean another number or width on each.
    """
    texts: dict[tuple[bool, str | int], dict[str, dict[str, SeccompRule]]] = {}
    for rule in profile.rules:
        by_text = texts.setdefault((is_deny(rule), rule.syscall), {})
        for arch in rule.arch or arches_with(rule.syscall, profile.arch):
            by_text.setdefault(rule_yaml(arch, rule), {})[arch] = rule
    found: dict[str, dict[tuple[str | None, str | int], list[Line]]] = {name: {} for name in SECTIONS}
    for (deny, syscall), by_text in texts.items():
        section = "deny" if deny else "syscalls"
        having = arches_with(syscall, profile.arch)
        for text, rules in by_text.items():
            if len(rules) == len(having) and (isinstance(syscall, str) or len(profile.arch) == 1):
                evidence = joined_evidence(dict.fromkeys(rule.evidence for rule in rules.values()))
                found[section].setdefault((None, syscall), []).append(_line(text, evidence))
            else:
                for arch, rule in rules.items():
                    found[f"{section}_by_arch"].setdefault((arch, syscall), []).append(
                        _line(text, rule.evidence)
                    )
    order = {arch: rank for rank, arch in enumerate(profile.arch)}
    result = {}
    for section, keyed in found.items():
        entries = [Entry(arch, syscall, tuple(lines)) for (arch, syscall), lines in keyed.items()]
        result[section] = sorted(
            entries, key=lambda entry: (order.get(entry.arch or "", -1), *syscall_order(entry.syscall))
        )
    return result


def syscall_order(syscall: str | int) -> tuple[int, int, str]:
    """Return the sort key of syscalls in a file: names by letter, then numbers."""
    return (1, syscall, "") if isinstance(syscall, int) else (0, 0, syscall)


def _line(text: str, evidence: Evidence | None) -> Line:
    return Line(text, evidence_text(evidence))


def _program(program: Program) -> str:
    fields = []
    if program.path is not None:
        fields.append(("path", quoted(program.path)))
    if program.build_id is not None:
        fields.append(("build_id", quoted(program.build_id)))
    if program.argv:
        fields.append(("argv", flow_list(quoted(word) for word in program.argv)))
    return flow_map(fields) if fields else ""


def _learned(learned: Learned) -> str:
    fields = [(name, str(getattr(learned, name))) for name in ("runs", "processes", "events", "lost")]
    fields += [
        (name, quoted(value))
        for name, value in (("kernel", learned.kernel), ("libc", learned.libc))
        if value is not None
    ]
    if learned.unseen is not None:
        fields.append(("unseen", fraction_text(learned.unseen)))
    if learned.backend is not None:
        fields.append(("backend", quoted(learned.backend)))
    fields.append(("complete", "true" if learned.complete else "false"))
    if learned.left_out is not None:
        calls = (f"{run}: {flow_list(map(quoted, left))}" for run, left in sorted(learned.left_out.items()))
        fields.append(("left_out", "{" + ", ".join(calls) + "}"))
    # A line for each: they are many, and a changed library is one changed line to a version control system.
    builds = [
        f"    {quoted(path)}: {quoted(build)}"
        for path, build in sorted(learned.binaries.items())
        if len(quoted(path)) <= _KEY_LIMIT
    ]
    if builds:
        fields.append(("binaries", "{\n" + ",\n".join(builds) + "}"))
    return flow_map(fields)
