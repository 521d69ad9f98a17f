"""Profile text to `Profile`: strict, quick, and with ``file:line`` in every complaint.

The format is described in docs/profile-format.md and by schema.json; what this module accepts beyond the
schema's reach (known syscalls, symbols and argument names) comes from the kernel facts in `autoprofile.abi`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES
from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile.action import Action
from autoprofile.profile.canonical import arches_with, check_number, unknown_syscall
from autoprofile.profile.comments import evidence_after
from autoprofile.profile.model import LEVELS, MODES, Learned, Profile, Program, check_header
from autoprofile.profile.nodes import Reader, number_of, yaml_lines
from autoprofile.profile.parse_rule import RuleParser
from autoprofile.profile.rule import SeccompRule

if TYPE_CHECKING:
    import yaml


__all__ = ["FORMAT_VERSION", "parse_profile"]

#: The version of the file format this module reads and writes.
FORMAT_VERSION: Final = 1

_KEYS: Final = (
    "autoprofile",
    "program",
    "learned",
    "arch",
    "level",
    "mode",
    "default",
    "bad_arch",
    "syscalls",
    "syscalls_by_arch",
    "deny",
    "deny_by_arch",
)
_LEARNED: Final = (
    "runs",
    "processes",
    "events",
    "lost",
    "kernel",
    "libc",
    "unseen",
    "backend",
    "complete",
    "binaries",
    "left_out",
)


def parse_profile(text: str, where: str = "<string>") -> Profile:
    """Return the profile a text describes.

    Args:
        text: YAML.
        where: its name in errors.

    Raises:
        ProfileError: the text is no profile; `where` is ``file:line``.
    """
    reader = Reader(text, where)
    root = reader.root()
    found = {}
    for key, name, value in reader.entries(root, "the profile"):
        if name not in _KEYS:
            raise reader.unknown(key, "unknown key", name, _KEYS)
        found[name] = (key, value)
    for name in ("autoprofile", "arch", "default"):
        if name not in found:
            hint = "its first line is 'autoprofile: 1'" if name == "autoprofile" else None
            raise ProfileError(f"the profile has no {name}", where=reader.at(root), hint=hint)
    version = found["autoprofile"][1]
    if reader.kind(version) != "int" or number_of(version.value) != FORMAT_VERSION:
        shown = version.value if isinstance(version.value, str) else "a list or mapping"
        raise reader.error(
            version,
            f"profile format {shown} is not {FORMAT_VERSION}",
            f"this autoprofile reads format {FORMAT_VERSION}",
        )
    values = {name: value for name, (_, value) in found.items()}
    arches = _arches(reader, values["arch"])
    level = _choice(reader, values, "level", LEVELS, "strict")
    mode = _choice(reader, values, "mode", MODES, "allowlist")
    default = _action(reader, values["default"], "default")
    bad_arch = (
        _action(reader, values["bad_arch"], "bad_arch") if "bad_arch" in values else Action.KILL_PROCESS
    )
    try:
        check_header(arches, level, mode, default, bad_arch)
    except ProfileError as error:
        blamed = "bad_arch" if "bad_arch" in error.what else "default"
        raise reader.error(found[blamed][0], error.what, error.hint) from None
    rules: list[SeccompRule] = []
    lines = yaml_lines(text)
    for section in ("syscalls", "deny"):
        parser = RuleParser(reader, is_deny=section == "deny")
        if section in values:
            rules += _section(parser, values[section], section, arches, lines)
        by_arch = f"{section}_by_arch"
        if by_arch in values and not reader.is_null(values[by_arch]):
            for key, arch, value in reader.entries(values[by_arch], by_arch):
                if arch not in arches:
                    raise reader.unknown(key, "the profile does not list the arch", arch, arches)
                rules += _section(parser, value, f"{by_arch}.{arch}", (arch,), lines, limited=True)
    return Profile(
        program=_program(reader, values.get("program")),
        learned=_learned(reader, values.get("learned")),
        arch=arches,
        level=level,
        mode=mode,
        default=default,
        bad_arch=bad_arch,
        rules=tuple(rules),
    )


def _arches(reader: Reader, node: yaml.Node) -> tuple[str, ...]:
    arches: list[str] = []
    for item in reader.items(node, "arch"):
        name = reader.word(item, "an arch")
        if name not in ARCHES:
            raise reader.unknown(item, "no arch", name, ARCHES)
        if name in arches:
            raise reader.error(item, f"the arch {name} is listed twice")
        arches.append(name)
    if not arches:
        raise reader.error(
            node, "a profile names at least one arch", f"for example arch: [{next(iter(ARCHES))}]"
        )
    return tuple(arches)


def _choice(
    reader: Reader, values: dict[str, yaml.Node], name: str, choices: tuple[str, ...], default: str
) -> str:
    if name not in values:
        return default
    word = reader.word(values[name], name)
    if word not in choices:
        raise reader.unknown(values[name], f"no {name}", word, choices)
    return word


def _action(reader: Reader, node: yaml.Node, what: str) -> Action:
    try:
        return Action.parse(reader.word(node, what))
    except ProfileError:
        raise
    except AutoprofileError as error:
        raise reader.error(node, f"{what}: {error.what}", error.hint) from None


def _program(reader: Reader, node: yaml.Node | None) -> Program:
    path = build_id = None
    argv: tuple[str, ...] = ()
    if node is None or reader.is_null(node):
        return Program()
    for key, name, value in reader.entries(node, "program"):
        if name not in {"path", "build_id", "argv"}:
            raise reader.unknown(key, "unknown key of program", name, ("path", "build_id", "argv"))
        if reader.is_null(value):
            continue
        if name == "argv":
            argv = tuple(reader.literal(item, "an item of argv") for item in reader.items(value, "argv"))
        elif name == "path":
            path = reader.word(value, "path")
        else:
            # A build-id of digits alone, or one like 1e5, is a number to YAML; the text is what counts.
            build_id = reader.literal(value, "build_id")
    return Program(path, build_id, argv)


def _learned(reader: Reader, node: yaml.Node | None) -> Learned | None:
    if node is None or reader.is_null(node):
        return None
    found: dict[str, object] = {}
    for key, name, value in reader.entries(node, "learned"):
        if name not in _LEARNED:
            raise reader.unknown(key, "unknown key of learned", name, _LEARNED)
        what = f"learned.{name}"
        if name in {"runs", "processes", "events", "lost"}:
            found[name] = reader.count(value, what)
        elif name == "complete":
            found[name] = reader.truth(value, what)
        elif reader.is_null(value):
            found[name] = {} if name == "binaries" else None
        elif name == "unseen":
            found[name] = reader.fraction(value, what)
        elif name == "left_out":
            found[name] = dict(_left_out(reader, entry) for entry in reader.entries(value, what))
        elif name == "binaries":
            found[name] = {
                path: reader.literal(build, f"the build-id of {path}")
                for _, path, build in reader.entries(value, what)
            }
        else:
            found[name] = reader.word(value, what)
    missing = [name for name in ("runs", "processes", "events") if name not in found]
    if missing:
        raise reader.error(node, f"learned has no {', '.join(missing)}")
    try:
        return Learned(**found)  # type: ignore[arg-type]
    except ProfileError as error:
        raise reader.error(node, error.what, error.hint) from None


def _left_out(reader: Reader, entry: tuple[yaml.ScalarNode, str, yaml.Node]) -> tuple[int, tuple[str, ...]]:
    key, name, value = entry
    run = number_of(name)
    if run is None:
        raise reader.error(key, f"a key of learned.left_out is the number of a run, not {name!r}")
    return run, tuple(reader.literal(item, f"a call of run {run}") for item in reader.items(value, name))


def _section(
    parser: RuleParser,
    node: yaml.Node,
    what: str,
    arches: tuple[str, ...],
    lines: list[str],
    *,
    limited: bool = False,
) -> list[SeccompRule]:
    reader = parser.reader
    rules: list[SeccompRule] = []
    if reader.is_null(node):
        return rules
    seen: dict[str | int, int] = {}
    for key, name, value in reader.entries(node, what):
        syscall = parser.syscall_of(key, name, arches)
        if isinstance(syscall, int):
            check_number(syscall, arches[0], reader.at(key))
        if syscall in seen:
            raise reader.error(
                key, f"{what} has the syscall {syscall} twice", f"first given on line {seen[syscall]}"
            )
        seen[syscall] = key.start_mark.line + 1
        having = arches_with(syscall, arches)
        if not having:
            assert isinstance(syscall, str)
            raise unknown_syscall(syscall, arches, reader.at(key))
        for rule in parser.rules_of(value, syscall, having):
            evidence = evidence_after(rule.node, lines, rule.closing)
            # One text may mean other numbers or widths on another arch; the profile joins what is equal.
            several = len(arches) > 1 or limited
            rules += [
                SeccompRule(syscall, bound.action, bound.args, (arch,) if several else None, evidence)
                for arch, bound in rule.by_arch.items()
            ]
    return rules
