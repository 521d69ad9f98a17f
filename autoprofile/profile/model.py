"""The profile: what a program may call, what happens otherwise, and where that knowledge comes from.

Everything here is an immutable value. `Profile.decide_call` is the definition of what a profile means; the
filter compiler, its simulator and the kernel have to agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.constants import encode_value
from autoprofile.abi.signatures import signature
from autoprofile.abi.syscalls import display_name, syscall_name, syscall_nr
from autoprofile.errors import AutoprofileError, ProfileError, UsageError
from autoprofile.profile.action import Action
from autoprofile.profile.canonical import arches_with, canonical_rules, check_number, unknown_syscall

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from autoprofile.profile.arg import Arg
    from autoprofile.profile.rule import SeccompRule

__all__ = ["LEVELS", "MODES", "Decision", "Learned", "Profile", "Program"]

#: How much beyond the observed calls a profile accepts, least first.
LEVELS: Final = ("strict", "standard", "permissive")
#: What the default action is for: deny, allow, or let the supervisor decide.
MODES: Final = ("allowlist", "denylist", "hybrid")


@dataclass(frozen=True, slots=True)
class Program:
    """The program a profile is for.

    Args:
        path: of its executable; None when the profile is for no particular one.
        build_id: the ELF build-id of that executable, lower-case hexadecimal.
        argv: the command the profile was learned from.
    """

    path: str | None = None
    build_id: str | None = None
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # File names need not be UTF-8, the profile file is: each stray byte becomes U+FFFD.
        put = object.__setattr__
        if self.path is not None:
            put(self, "path", _utf8(self.path))
        put(self, "argv", tuple(_utf8(word) for word in self.argv))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Learned:
    """What a profile was learned from.

    Args:
        runs: training runs.
        processes: processes seen in them.
        events: calls seen in them.
        lost: calls known to be missing; with any lost call the profile is not complete.
        kernel: kernel release of the runs, None when they differ.
        libc: C library version of the runs, None when they differ.
        unseen: estimated probability, 0 to 1, that the next run makes a call these runs did not show.
        backend: the trace source.
        complete: whether nothing was lost or cut short.
        binaries: path to ELF build-id of the programs and libraries that ran, "" where the runs differ; drift
            names those that changed.
        left_out: run (from 1) to the first calls it would have been denied had the other runs been enforced;
            a run that is not there would have been denied none. None when that is not known: of one run, or
            of runs that were not kept apart.
    """

    runs: int
    processes: int
    events: int
    lost: int = 0
    kernel: str | None = None
    libc: str | None = None
    unseen: float | None = None
    backend: str | None = None
    complete: bool = False
    binaries: Mapping[str, str] = field(default_factory=dict, hash=False)
    left_out: Mapping[int, tuple[str, ...]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name in ("runs", "processes", "events", "lost"):
            if getattr(self, name) < 0:
                raise ProfileError(f"learned: {name} is {getattr(self, name)}, which is less than none")
        if self.unseen is not None and not 0 <= self.unseen <= 1:
            raise ProfileError(f"learned: unseen is a probability from 0 to 1, not {self.unseen}")
        if self.lost and self.complete:
            raise ProfileError(f"learned: complete contradicts {self.lost} lost calls")
        for run, calls in (self.left_out or {}).items():
            if not 1 <= run <= self.runs or not calls:
                raise ProfileError(
                    f"learned: left_out names run {run} of {self.runs} with {len(calls)} calls",
                    hint="runs count from 1; one that would have been denied nothing is left out",
                )


class Decision:
    """What a profile answers for one call.

    Attributes:
        action: the answer.
        rule: the rule that decided, None when none matched.
        why: one sentence a person can act on; it is worked out when it is read.
    """

    __slots__ = ("_why", "action", "rule")

    def __init__(self, action: Action, rule: SeccompRule | None, why: str | Callable[[], str]) -> None:
        self.action = action
        self.rule = rule
        self._why = why

    @property
    def why(self) -> str:
        """Return why this was decided."""
        if not isinstance(self._why, str):
            self._why = self._why()
        return self._why

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decision):
            return NotImplemented
        return (self.action, self.rule) == (other.action, other.rule)

    def __hash__(self) -> int:
        return hash((self.action, self.rule))

    def __repr__(self) -> str:
        return f"Decision({self.action}, {self.why!r})"


@dataclass(frozen=True)
class Profile:
    """A seccomp profile.

    The rules are brought into their canonical form on the way in (`canonical_rules`): comparators get the
    width the kernel reads, numbers their names, and the order is fixed.

    Args:
        program: what it is for.
        learned: what it was learned from; None when a person wrote it.
        arch: arches whose calls the rules judge, the native one first; calls of any other get `bad_arch`.
        level: one of `LEVELS`.
        mode: one of `MODES`; it has to fit `default`.
        default: the answer when no rule matches.
        bad_arch: the answer for calls of arches not listed.
        rules: in any order.

    Raises:
        ProfileError: the parts contradict each other.
    """

    program: Program = Program()
    learned: Learned | None = None
    arch: tuple[str, ...] = ("x86_64",)
    level: str = "strict"
    mode: str = "allowlist"
    default: Action = Action.KILL_PROCESS
    bad_arch: Action = Action.KILL_PROCESS
    rules: tuple[SeccompRule, ...] = ()
    _index: Mapping[tuple[str, str | int], tuple[SeccompRule, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        check_header(self.arch, self.level, self.mode, self.default, self.bad_arch)
        put = object.__setattr__
        put(self, "arch", (self.arch,) if isinstance(self.arch, str) else tuple(self.arch))
        put(self, "rules", canonical_rules(self.rules, self.arch))
        index: dict[tuple[str, str | int], list[SeccompRule]] = {}
        for rule in self.rules:
            for arch in rule.arch or arches_with(rule.syscall, self.arch):
                index.setdefault((arch, rule.syscall), []).append(rule)
        put(self, "_index", {key: tuple(rules) for key, rules in index.items()})

    @classmethod
    def loads(cls, text: str, where: str = "<string>") -> Profile:
        """Read a profile from YAML text; errors carry ``where:line``."""
        from autoprofile.profile.parse import parse_profile

        return parse_profile(text, where)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile file; errors carry ``file:line``."""
        from autoprofile.profile.file import load_profile

        return load_profile(path)

    def dumps(self) -> str:
        """Return the profile as YAML text; equal profiles with equal evidence give equal text."""
        from autoprofile.profile.render import render_profile

        return render_profile(self)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the profile file, all of it or nothing.

        Over an existing profile only what changed is rewritten: comments, order and layout of the rest stay.

        Raises:
            AutoprofileError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        from autoprofile.profile.file import save_profile

        save_profile(self, path, overwrite=overwrite)

    def rules_for(self, arch: str, syscall: str | int) -> tuple[SeccompRule, ...]:
        """Return the rules of one syscall on one arch in the order they decide: the first match wins.

        Args:
            arch: an arch name.
            syscall: the syscall's name or number.
        """
        if isinstance(syscall, int):
            syscall = syscall_name(arch, syscall) or syscall
        return self._index.get((arch, syscall), ())

    def syscalls(self, arch: str) -> frozenset[str | int]:
        """Return the syscalls that have rules on one arch: names, and numbers of those without a name."""
        return frozenset(syscall for one, syscall in self._index if one == arch)

    def decide(self, syscall: str | int, *args: int | str, arch: str | None = None) -> Decision:
        """Answer one call whose arguments may be symbols; see `encode_call` for what is taken."""
        return self.decide_call(*self.encode_call(syscall, *args, arch=arch))

    def encode_call(
        self, syscall: str | int, *args: int | str, arch: str | None = None
    ) -> tuple[str, int, list[int]]:
        """Return the arch, number and raw registers of a call written with symbols.

        A number says itself whether it is one of x86_64 or of x32: given is what the kernel takes it for,
        unless `arch` says otherwise.

        Args:
            syscall: name or number.
            args: up to six, numbers or symbols (``"AF_UNIX"``, ``"O_WRONLY|O_CREAT"``); missing ones are 0.
            arch: the arch of the call; by default the profile's first.

        Raises:
            UsageError: an unknown syscall, symbol or arch, a number that is none of `arch`, or too many
                arguments.
        """
        asked, arch = arch, self.arch[0] if arch is None else arch
        if arch not in ARCHES:
            raise UsageError(f"no arch {arch!r}", hint="arches: " + ", ".join(ARCHES))
        nr = syscall_nr(arch, syscall) if isinstance(syscall, str) else syscall
        if nr is None:
            error = unknown_syscall(str(syscall), (arch,))
            raise UsageError(error.what, hint=error.hint)
        if isinstance(syscall, int):
            arch = _arch_of_number(arch, nr, is_asked=asked is not None)
        known = signature(arch, syscall_name(arch, nr) or "")
        if len(args) > 6:
            raise UsageError(f"a syscall has at most 6 arguments, not {len(args)}")
        values = []
        for index, one in enumerate(args):
            spec = known.args[index] if known is not None and index < len(known.args) else None
            try:
                if isinstance(one, int):
                    values.append(one & 0xFFFFFFFFFFFFFFFF)
                elif spec is None:
                    values.append(int(one, 0) & 0xFFFFFFFFFFFFFFFF)
                else:
                    values.append(encode_value(arch, spec, one))
            except ValueError:
                raise UsageError(f"argument {index} of {syscall} takes a number, not {one!r}") from None
            except AutoprofileError as error:
                raise UsageError(f"argument {index} of {syscall}: {error.what}", hint=error.hint) from error
        return arch, nr, values

    def decide_call(self, arch: str, nr: int, args: Sequence[int]) -> Decision:
        """Answer one call as the kernel presents it to a filter.

        A call of an arch not in `arch` gets `bad_arch` (x32 is an arch of its own, though the kernel reports
        it as x86_64). Among the rules that match, the most severe action wins, of two equal kinds the one
        with the smaller data. Without a match the answer is `default`.

        Args:
            arch: the arch of the call.
            nr: the number in ``seccomp_data.nr``, so with bit 30 set on x32.
            args: raw registers; those not given are 0.
        """
        if arch not in self.arch:
            return Decision(
                self.bad_arch, None, f"{arch} is not among the profile's arches ({', '.join(self.arch)})"
            )
        rules = self.rules_for(arch, nr)
        for rule in rules:
            if rule.evaluate(args):
                return Decision(rule.action, rule, partial(_why_matched, arch, rule, rules))
        return Decision(self.default, None, partial(_why_default, arch, nr, args, rules, self))


def check_header(
    arch: Sequence[str], level: str, mode: str, default: Action, bad_arch: Action | None = None
) -> None:
    """Raise `ProfileError` when the parts of a header are unknown or contradict each other."""
    arches = (arch,) if isinstance(arch, str) else tuple(arch)
    if not arches:
        raise ProfileError("a profile names at least one arch")
    for one in arches:
        if one not in ARCHES:
            raise ProfileError(f"no arch {one!r}", hint="arches: " + ", ".join(ARCHES))
    if len(set(arches)) != len(arches):
        raise ProfileError(f"an arch is listed twice: {', '.join(arches)}")
    if level not in LEVELS:
        raise ProfileError(f"no level {level!r}", hint="levels: " + ", ".join(LEVELS))
    if mode not in MODES:
        raise ProfileError(f"no mode {mode!r}", hint="modes: " + ", ".join(MODES))
    if mode == "allowlist" and default == Action.ALLOW:
        raise ProfileError(
            "mode allowlist contradicts default allow, which permits every call",
            hint="give a default that refuses, or mode: denylist",
        )
    if mode == "allowlist" and bad_arch == Action.ALLOW:
        raise ProfileError(
            "mode allowlist contradicts bad_arch allow, which permits every call through another entry of "
            "the kernel (int 0x80, x32)",
            hint="list the arch and its calls, or give a bad_arch that refuses",
        )
    if mode == "denylist" and not default.is_permitting:
        raise ProfileError(
            f"mode denylist contradicts default {default}", hint="default allow or log, or mode: allowlist"
        )


def _arch_of_number(arch: str, nr: int, *, is_asked: bool) -> str:
    try:
        check_number(nr, arch)
    except ProfileError as error:
        if is_asked or not 0 <= nr <= 0xFFFFFFFF:
            raise UsageError(error.what) from None
        return arch_from_audit(ARCHES[arch].audit_arch, nr)
    return arch


def _why_matched(arch: str, rule: SeccompRule, rules: tuple[SeccompRule, ...]) -> str:
    from autoprofile.profile.wording import rule_text  # for whom asks why; enforcing starts quicker without

    text = rule_text(arch, rule)
    others = len(rules) - 1
    return f"rule {text}" + (f" (one of {len(rules)} rules of {rule.syscall})" if others else "")


def _why_default(
    arch: str, nr: int, args: Sequence[int], rules: tuple[SeccompRule, ...], profile: Profile
) -> str:
    from autoprofile.profile.wording import arg_name, comparator_text, value_text

    name = display_name(arch, nr)
    tail = f"default {profile.default}"
    if not rules:
        missing = "" if syscall_name(arch, nr) else " (no name known for this number)"
        return f"no rule for {name}{missing}: {tail}"
    # The nearest rule is the one with the fewest comparators that fail, among those that would let it run.
    rules = tuple(rule for rule in rules if not rule.action.is_refusing) or rules
    misses = [
        [one for one in rule.comparators if not one.match(args[one.index] if one.index < len(args) else 0)]
        for rule in rules
    ]
    nearest = min(range(len(rules)), key=lambda at: len(misses[at]))
    syscall = rules[nearest].syscall
    parts = []
    for index in sorted({one.index for one in misses[nearest]}):
        raw = args[index] if index < len(args) else 0
        wanted = " and ".join(
            comparator_text(arch, syscall, one, rules[nearest].comparators)
            for one in misses[nearest]
            if one.index == index
        )
        shown = value_text(
            arch, syscall, index, raw & _width_mask(misses[nearest], index), rules[nearest].comparators
        )
        parts.append(f"{arg_name(arch, syscall, index)} is {shown} where {wanted} is needed")
    nearest_of = f" (the nearest of {len(rules)} rules)" if len(rules) > 1 else ""
    return f"no rule of {name} matches: {', '.join(parts)}{nearest_of}; {tail}"


def _width_mask(comparators: Sequence[Arg], index: int) -> int:
    narrow = all(one.width == 32 for one in comparators if one.index == index)
    return 0xFFFFFFFF if narrow else 0xFFFFFFFFFFFFFFFF
