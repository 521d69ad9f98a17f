"""Bring a profile's text up to date in place: what did not change keeps its bytes, comments included.

The text is edited line by line, guided by the line numbers of its nodes. Re-emitting a parsed YAML tree was
rejected: it reflows what people laid out, and deleting a key takes along the comment above the *next* key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import yaml

from autoprofile.errors import ProfileError
from autoprofile.profile.canonical import arches_with, canonical_rules, joined_evidence
from autoprofile.profile.comments import end_of, evidence_after, evidence_text
from autoprofile.profile.nodes import Reader, yaml_lines
from autoprofile.profile.parse import parse_profile
from autoprofile.profile.parse_rule import RuleParser
from autoprofile.profile.render import (
    SECTIONS,
    Entry,
    entry_lines,
    header_values,
    section_entries,
    syscall_order,
    with_comment,
)

if TYPE_CHECKING:
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import Evidence, SeccompRule

__all__ = ["edit_profile"]

# A rule on one arch, without its evidence: what two texts may agree on.
_Atom = tuple[str, "SeccompRule"]
_TOOL_REASON = re.compile(r"[a-z][a-z _-]*: ")
_COMMENT = re.compile(r"\s*#")


@dataclass
class _Item:
    node: yaml.Node
    closing: str
    atoms: frozenset[_Atom]  # empty when the new profile cannot hold it
    is_kept: bool = False


@dataclass
class _Place:
    """The entry of one syscall in the text."""

    section: str
    arch: str | None
    syscall: str | int
    key: yaml.Node
    value: yaml.Node
    items: list[_Item]
    is_block: bool  # a block list, whose items can be edited one by one

    @property
    def name(self) -> tuple[str, str | None, str | int]:
        return (self.section, self.arch, self.syscall)


@dataclass
class _Mapping:
    """A mapping of syscalls in the text: a section, or one arch of it."""

    line: int  # of the key above it
    after: int  # the line behind its last
    indent: int
    is_flow: bool  # written in braces: it stays as it is or is written anew
    places: list[_Place] = field(default_factory=list)


def edit_profile(text: str, profile: Profile) -> str:
    """Return `text`, a profile, changed as little as it takes to mean `profile`.

    Every comment line stays, also above entries that go. The comment that ends a rule's line goes with the
    rule, but a person's note in it moves to a line of its own.

    Raises:
        ProfileError: `text` is no profile.
    """
    old = parse_profile(text)
    if profile.dumps() == old.dumps():
        return text
    edited = _Edit(text, old, profile).result()
    try:
        if edited is not None and parse_profile(edited) == profile:
            return edited
    except ProfileError:
        pass
    # A layout that lines cannot describe (flow style throughout, anchors): write it anew under its comments.
    comments = [line.strip() for line in yaml_lines(text) if _COMMENT.match(line)]
    return "\n".join([*comments, profile.dumps()])


class _Edit:
    def __init__(self, text: str, old: Profile, new: Profile) -> None:
        self.lines = yaml_lines(text)
        self.reader = Reader(text, "<old>")
        self.old = old
        self.new = new
        self.changes: list[tuple[int, int, list[str]]] = []  # first line, line after the last, replacement
        self.mappings: dict[tuple[str, str | None], _Mapping] = {}
        self.evidence: dict[_Atom, Evidence | None] = {}
        for rule in new.rules:
            for arch in rule.arch or arches_with(rule.syscall, new.arch):
                self.evidence[(arch, replace(rule, arch=None))] = rule.evidence

    def result(self) -> str | None:
        root = self.reader.root()
        if not isinstance(root, yaml.MappingNode) or root.flow_style:
            return None
        top = {str(key.value): (key, value) for key, value in root.value}
        ends = [end_of(value)[0] for _, value in root.value]
        if any(ends[i] >= root.value[i + 1][0].start_mark.line for i in range(len(ends) - 1)):
            return None
        self._header(top)
        places = [
            place for section in SECTIONS if section in top for place in self._places(section, *top[section])
        ]
        additions = self._settle(places)
        self._entries(places, additions)
        self._sections(top, places, additions)
        # From the end up, so that line numbers stay true; what was added first comes first on its line.
        order = sorted(range(len(self.changes)), key=lambda at: (*self.changes[at][:2], at), reverse=True)
        for first, after, replacement in (self.changes[at] for at in order):
            self.lines[first:after] = replacement
        return "\n".join(self.lines)

    def _header(self, top: dict[str, tuple[yaml.Node, yaml.Node]]) -> None:
        old, new = header_values(self.old), header_values(self.new)
        after = 0
        for name in ("autoprofile", "program", "learned", "arch", "level", "mode", "default", "bad_arch"):
            if name not in top:
                if old.get(name) != new.get(name):
                    self._change(after, after, [f"{name}: {new[name]}"])
                continue
            key, value = top[name]
            line = end_of(value)[0]
            after = line + 1
            if old.get(name) == new.get(name):
                continue
            comment = self._comment_behind(value)
            replacement = [with_comment(f"{name}: {new[name]}", comment)] if name in new else []
            inside = self._comment_lines(key.start_mark.line + 1, line)
            self._change(key.start_mark.line, after, inside + replacement)

    def _places(self, section: str, key: yaml.Node, value: yaml.Node) -> list[_Place]:
        if not section.endswith("_by_arch"):
            return self._mapping(section, None, key, value)
        if not isinstance(value, yaml.MappingNode):
            return []
        places: list[_Place] = []
        for arch_key, arch_value in value.value:
            places += self._mapping(section, str(arch_key.value), arch_key, arch_value)
        return places

    def _mapping(self, section: str, arch: str | None, key: yaml.Node, value: yaml.Node) -> list[_Place]:
        mapping = _Mapping(
            key.start_mark.line,
            end_of(value)[0] + 1,
            value.start_mark.column,
            not isinstance(value, yaml.MappingNode) or bool(value.flow_style) or not value.value,
        )
        self.mappings[(section, arch)] = mapping
        if not isinstance(value, yaml.MappingNode):
            return []
        parser = RuleParser(self.reader, is_deny=section.startswith("deny"))
        arches = self.old.arch if arch is None else (arch,)
        for name, node in value.value:
            syscall = parser.syscall_of(name, str(name.value), arches)
            is_block = isinstance(node, yaml.SequenceNode) and not node.flow_style
            items = self._items(parser, node, syscall, arch)
            mapping.places.append(_Place(section, arch, syscall, name, node, items, is_block))
        return mapping.places

    def _items(
        self, parser: RuleParser, node: yaml.Node, syscall: str | int, arch: str | None
    ) -> list[_Item]:
        # What each rule of the text means to the *new* profile, whose arches may be others.
        nodes = list(node.value) if isinstance(node, yaml.SequenceNode) else [node]
        arches = self.new.arch if arch is None else (arch,)
        having = arches_with(syscall, arches) if set(arches) <= set(self.new.arch) else ()
        if isinstance(syscall, int) and len(having) > 1:
            having = ()
        closing = "]" if isinstance(node, yaml.SequenceNode) and node.flow_style and len(nodes) == 1 else ""
        items = []
        for one in nodes:
            atoms: set[_Atom] = set()
            try:
                for parsed in parser.rules_of(one, syscall, having) if having else ():
                    for where, rule in parsed.by_arch.items():
                        atoms |= {(where, bound) for bound in canonical_rules([rule], (where,))}
            except ProfileError:
                atoms.clear()
            items.append(_Item(one, closing, frozenset(atoms)))
        return items

    def _settle(self, places: list[_Place]) -> dict[tuple[str, str | None, str | int], Entry]:
        # Keep every rule of the text that the new profile has, add what no kept rule covers. An entry that is
        # no block list stays as it is or is written anew, and then its rules are to be added, too.
        for place in places:
            for item in place.items:
                item.is_kept = bool(item.atoms) and all(atom in self.evidence for atom in item.atoms)
            if not place.is_block and not all(item.is_kept for item in place.items):
                _give_up(place)
        while True:
            kept = {atom for place in places for item in place.items if item.is_kept for atom in item.atoms}
            rest = [
                replace(rule, arch=(arch,), evidence=evidence)
                for (arch, rule), evidence in self.evidence.items()
                if (arch, rule) not in kept
            ]
            entries = section_entries(replace(self.new, rules=tuple(rest)))
            additions = {
                (section, entry.arch, entry.syscall): entry
                for section, found in entries.items()
                for entry in found
            }
            torn = [place for place in places if place.name in additions and not place.is_block]
            targets = {name[:2] for name in additions}
            for where, mapping in self.mappings.items():
                if mapping.is_flow and (where in targets or not all(map(_is_whole, mapping.places))):
                    torn += mapping.places
            torn = [place for place in torn if _has_kept(place)]
            if not torn:
                return additions
            for place in torn:
                _give_up(place)

    def _entries(
        self, places: list[_Place], additions: dict[tuple[str, str | None, str | int], Entry]
    ) -> None:
        for place in places:
            if self.mappings[(place.section, place.arch)].is_flow:
                continue
            entry = additions.get(place.name)
            first, last = place.key.start_mark.line, end_of(place.value)[0]
            kept = [item for item in place.items if item.is_kept]
            for item in kept:
                self._refresh(item)
            if len(kept) == len(place.items) and entry is None:
                continue
            indent = place.key.start_mark.column
            notes = [
                f"{' ' * indent}# {note}"
                for item in place.items
                if not item.is_kept
                for note in self._note(item)
            ]
            inside = self._comment_lines(first + 1, last)
            if not kept and not (inside and place.is_block and entry):
                lines = entry_lines(entry, indent) if entry else []
                self._change(first, last + 1, notes + inside + lines)
                continue
            for item in place.items:
                if not item.is_kept:
                    self._change(item.node.start_mark.line, end_of(item.node)[0] + 1, [])
            if notes:
                self._change(first, first, notes)
            if entry:
                space = " " * place.value.start_mark.column
                self._change(
                    last + 1, last + 1, [with_comment(f"{space}- {r.text}", r.comment) for r in entry.rules]
                )

    def _note(self, item: _Item) -> list[str]:
        # What a person wrote beside a rule outlives the rule; counts and the tool's own reasons do not.
        evidence = evidence_after(item.node, self.lines, item.closing)
        reason = evidence.reason if evidence else None
        return [reason] if reason and not _TOOL_REASON.match(reason) else []

    def _refresh(self, item: _Item) -> None:
        fresh = joined_evidence(dict.fromkeys(self.evidence[atom] for atom in item.atoms))
        shown = evidence_after(item.node, self.lines, item.closing)
        if fresh is None or fresh == shown:
            return
        if shown is not None and fresh.reason is None:
            fresh = replace(fresh, reason=shown.reason)
        line, column = end_of(item.node)
        rest = self.lines[line][column:]
        code, mark, _ = rest.partition("#")
        if code.strip() != item.closing or evidence_text(fresh) == evidence_text(shown):
            return  # other rules share the line
        before = self.lines[line][:column] + code.rstrip()
        gap = code[len(code.rstrip()) :] if mark else "  "
        self._change(line, line + 1, [f"{before}{gap or '  '}# {evidence_text(fresh)}"])

    def _sections(
        self,
        top: dict[str, tuple[yaml.Node, yaml.Node]],
        places: list[_Place],
        additions: dict[tuple[str, str | None, str | int], Entry],
    ) -> None:
        present = {place.name for place in places if not self.mappings[(place.section, place.arch)].is_flow}
        after = max(end_of(value)[0] for name, (_, value) in top.items() if name not in SECTIONS) + 1
        for section in SECTIONS:
            missing = [
                entry for name, entry in additions.items() if name[0] == section and name not in present
            ]
            if section not in top:
                if missing:
                    self._change(after, after, [f"{section}:", *_block(missing, 2)])
                continue
            key, value = top[section]
            after = end_of(value)[0] + 1
            by_arch: dict[str | None, list[Entry]] = {}
            for entry in missing:
                by_arch.setdefault(entry.arch, []).append(entry)
            nested = section.endswith("_by_arch")
            if nested and (not isinstance(value, yaml.MappingNode) or value.flow_style or not value.value):
                self._nested_anew(section, value, by_arch, key.start_mark.line, after)
                continue
            known = [arch for name, arch in self.mappings if name == section]
            alive = {name[:2] for name in additions} | {
                place.name[:2] for place in places if _has_kept(place)
            }
            left = False
            for arch in dict.fromkeys([*known, *by_arch]):
                entries = by_arch.get(arch, [])
                mapping = self.mappings.get((section, arch))
                if mapping is None:
                    self._change(after, after, _block(entries, value.start_mark.column))
                elif not mapping.places or (section, arch) in alive:
                    outer = key.start_mark.column if arch is None else value.start_mark.column
                    self._into_mapping(mapping, entries, outer)
                else:
                    # A key without entries goes; the comments below it stay.
                    self._drop_key(mapping)
                    continue
                left = True
            if nested and not left:
                self._change(key.start_mark.line, key.start_mark.line + 1, [])

    def _drop_key(self, mapping: _Mapping) -> None:
        if mapping.is_flow:
            comments = self._comment_lines(mapping.line + 1, mapping.after - 1)
            self._change(mapping.line, mapping.after, comments)
        else:
            self._change(mapping.line, mapping.line + 1, [])

    def _nested_anew(
        self,
        section: str,
        value: yaml.Node,
        by_arch: dict[str | None, list[Entry]],
        line: int,
        after: int,
    ) -> None:
        # Arches in braces, or none at all: it stays as a whole or is written anew as a whole.
        whole = [
            place
            for (name, _), mapping in self.mappings.items()
            if name == section
            for place in mapping.places
        ]
        if not by_arch and all(map(_is_whole, whole)):
            return
        comments = self._comment_lines(line + 1, after - 1)
        entries = [entry for entries in by_arch.values() for entry in entries]
        head = with_comment(f"{section}:", self._comment_behind(value))
        self._change(line, after, [*comments, *([head, *_block(entries, 2)] if entries else [])])

    def _into_mapping(self, mapping: _Mapping, entries: list[Entry], outer: int) -> None:
        if mapping.is_flow:
            if not entries and all(map(_is_whole, mapping.places)):
                return
            comments = self._comment_lines(mapping.line + 1, mapping.after - 1)
            head = self.lines[mapping.line].split(":")[0] + ":"
            body = [line for entry in entries for line in entry_lines(entry, outer + 2)]
            self._change(mapping.line, mapping.after, [*comments, *([head, *body] if entries else [])])
            return
        for entry in entries:
            # Behind the last entry that sorts before it; comments above the next one stay with the next.
            order = syscall_order(entry.syscall)
            earlier = [place for place in mapping.places if syscall_order(place.syscall) < order]
            at = end_of(earlier[-1].value)[0] + 1 if earlier else mapping.line + 1
            self._change(at, at, entry_lines(entry, mapping.indent))

    def _comment_behind(self, node: yaml.Node) -> str:
        line, column = end_of(node)
        rest = self.lines[line][column:].strip()
        return rest[1:].strip() if rest.startswith("#") else ""

    def _change(self, first: int, after: int, replacement: list[str]) -> None:
        if first < after or replacement:
            self.changes.append((first, after, replacement))

    def _comment_lines(self, first: int, last: int) -> list[str]:
        return [line for line in self.lines[first : last + 1] if _COMMENT.match(line)]


def _is_whole(place: _Place) -> bool:
    return all(item.is_kept for item in place.items)


def _has_kept(place: _Place) -> bool:
    return any(item.is_kept for item in place.items)


def _give_up(place: _Place) -> None:
    for item in place.items:
        item.is_kept = False


def _block(entries: list[Entry], indent: int) -> list[str]:
    lines: list[str] = []
    arch = None
    for entry in entries:
        if entry.arch != arch:
            arch = entry.arch
            lines.append(f"{' ' * indent}{arch}:")
        lines += entry_lines(entry, indent if arch is None else indent + 2)
    return lines
