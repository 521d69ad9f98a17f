"""Profile → program, or several stacked programs where one would be too large.

Joins the stages: `lower` → `layout` → `assemble`. Pure; the same profile gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import display_name, newest_nr, syscall_nr
from autoprofile.errors import AutoprofileError
from autoprofile.filter import opcodes as op
from autoprofile.filter.assemble import assemble
from autoprofile.filter.layout import lay_out
from autoprofile.filter.limits import MOST_CONVERTED, stacked_length
from autoprofile.filter.lower import Call, Decision, lower_arch
from autoprofile.filter.newer import is_beyond, newest_known
from autoprofile.filter.program import Program
from autoprofile.profile import Action, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from autoprofile.filter.graph import NodeId
    from autoprofile.filter.layout import Layout
    from autoprofile.filter.program import SockFilter
    from autoprofile.profile import Profile

__all__ = ["FilterTooLarge", "compile_asking", "compile_profile", "compile_stack"]

Key: TypeAlias = tuple[str, int]  # a call: (arch, nr)

# What one filter of a stack may hold by estimate, which knows no trampolines: the most that turns out to fit.
_FILLS = (4050, 3950, 3700)


class FilterTooLarge(AutoprofileError):  # noqa: N818 - reads as the fact it states
    """Report a filter above the kernel's 4096 instructions; the hint names the syscalls that cost most."""


class _Source(NamedTuple):
    # A profile, lowered, and the answers beside its rules.
    arches: dict[str, dict[int, Call]]
    default: int
    bad_arch: int
    beyond: int | None
    bitmap: bool

    def part(self, some: Mapping[Key, Call]) -> _Source:
        # The filter that decides these calls alone and leaves all others to the rest of a stack.
        arches = {a: {nr: some[a, nr] for nr in calls if (a, nr) in some} for a, calls in self.arches.items()}
        allow = Action.ALLOW.ret
        return self._replace(arches=arches, default=allow, bad_arch=allow, beyond=None)

    def rest(self, moved: Collection[Key], some: Mapping[Key, Call]) -> _Source:
        # The filter that decides these calls, leaves those that are moved to the rest of a stack and decides
        # all others.
        left = Decision((), Action.ALLOW.ret)

        def of(key: Key, call: Call) -> Call:
            return some[key] if key in some else Call(call.name, left, (), 0.0) if key in moved else call

        arches = {a: {nr: of((a, nr), c) for nr, c in calls.items()} for a, calls in self.arches.items()}
        return self._replace(arches=arches)

    def unweighted(self) -> _Source:
        # Equal decisions get equal trees where nothing was measured: more is shared.
        arches = {
            a: {nr: c._replace(weights=(0.0,) * len(c.weights), final_weight=0.0) for nr, c in calls.items()}
            for a, calls in self.arches.items()
        }
        return self._replace(arches=arches)

    def lay_out(self) -> Layout:
        return lay_out(self.arches, self.default, self.bad_arch, beyond=self.beyond, bitmap=self.bitmap)


def _source(
    profile: Profile, default: Action | None, bad_arch: Action | None, beyond: Action | None, *, bitmap: bool
) -> _Source:
    default = profile.default if default is None else default
    arches = {arch: lower_arch(profile, arch, default) for arch in profile.arch}
    if beyond is not None:
        arches = {arch: _with_newer(profile, arch, calls, default, beyond) for arch, calls in arches.items()}
    return _Source(
        arches,
        default.ret,
        (profile.bad_arch if bad_arch is None else bad_arch).ret,
        None if beyond is None else beyond.ret,
        bitmap,
    )


def _with_newer(
    profile: Profile, arch: str, calls: dict[int, Call], default: Action, beyond: Action
) -> dict[int, Call]:
    # The layout gives `beyond` to all numbers above autoprofile's own table that are not in `calls`. Written
    # out are those of the table that the profile does not know, and those above whose rule says default.
    newer = dict(calls)
    for nr in range(newest_known(profile, arch) + 1, newest_nr(arch) + 1):
        if is_beyond(profile, arch, nr):
            newer[nr] = Call(display_name(arch, nr), Decision((), beyond.ret), (), 0.0)
    for syscall in profile.syscalls(arch):
        if not isinstance(syscall, int) or syscall <= newest_nr(arch) or syscall in newer:
            continue
        if (
            arch_from_audit(ARCHES[arch].audit_arch, syscall) == arch
        ):  # else another arch's, as in `lower_arch`
            newer[syscall] = Call(str(syscall), Decision((), default.ret), (), 0.0)
    return dict(sorted(newer.items()))


def compile_profile(
    profile: Profile,
    *,
    default: Action | None = None,
    bad_arch: Action | None = None,
    beyond: Action | None = None,
    bitmap: bool = True,
) -> Program:
    """Compile a profile; the program answers every call as `Profile.decide_call` does.

    Args:
        profile: the rules.
        default: an answer to give in place of the profile's default.
        bad_arch: an answer to give in place of the profile's `bad_arch`.
        beyond: an answer to give, in place of the default, to numbers newer than the profile that have no
            rule (see `newer`): ``Action.errno("ENOSYS")`` lets libc fall back to older calls.
        bitmap: whether the kernel answers constant allows from its bitmap (Linux ≥ 5.11). It changes the
            order of tests only: False weighs all calls, as older kernels run the filter for all of them.

    Raises:
        FilterTooLarge: the program would exceed 4096 instructions; see `compile_stack`.
    """
    source = _source(profile, default, bad_arch, beyond, bitmap=bitmap)
    instructions, notes, layout = _assembled(source)
    if len(instructions) > op.MAX_INSTRUCTIONS:
        error = _too_large(source, layout, len(instructions))
        error.hint = (
            f"{error.hint}; several stacked filters may hold it: `autoprofile compile`, `compile_stack`"
        )
        raise error
    return Program(instructions, notes)


def _assembled(source: _Source) -> tuple[list[SockFilter], dict[int, str], Layout]:
    layout = source.lay_out()
    instructions, notes = assemble(layout.graph, layout.root)
    if len(instructions) > op.MAX_INSTRUCTIONS:
        # A slower filter that fits is better than none.
        layout = source.unweighted().lay_out()
        shorter, shorter_notes = assemble(layout.graph, layout.root)
        if len(shorter) < len(instructions):
            instructions, notes = shorter, shorter_notes
    return instructions, notes, layout


def _sizes(layout: Layout) -> dict[Key, int]:
    return {key: len(layout.graph.reachable(node)) for key, node in layout.calls.items()}


def _too_large(source: _Source, layout: Layout, size: int) -> FilterTooLarge:
    return FilterTooLarge(
        f"the filter needs {size} instructions, the kernel takes {op.MAX_INSTRUCTIONS}",
        hint="most go to " + _costliest(source, layout),
    )


def _costliest(source: _Source, layout: Layout) -> str:
    sizes = {key: size for key, size in _sizes(layout).items() if size > 1}
    worst = sorted(sizes, key=lambda key: (-sizes[key], key))[:5]
    return ", ".join(
        f"{source.arches[arch][nr].name} ({arch}, about {sizes[arch, nr]})" for arch, nr in worst
    )


def compile_stack(
    profile: Profile,
    *,
    default: Action | None = None,
    bad_arch: Action | None = None,
    beyond: Action | None = None,
    bitmap: bool = True,
) -> tuple[Program, ...]:
    """Compile a profile to few stacked filters, in the order in which to install them.

    The kernel runs all stacked filters and takes the most severe answer. Each call's rules are in one of the
    filters, the others allow it, so together they answer as `Profile.decide_call` does; the last one has the
    default, the foreign arches and ``seccomp``, which has to work until it is installed. One call whose rules
    alone exceed a filter is divided by the values of an argument. Calls that are always allowed are so in
    every filter, and stay answered from the bitmap.

    Calls are dealt out by size, the largest first, each to the first filter with room: close to as few
    filters as there can be, not always the fewest (that is bin packing). Each one runs for every call outside
    the bitmap.

    Args: as of `compile_profile`.

    Raises:
        FilterTooLarge: one call's rules can be divided no further, the kernel does not take as many filters
            as there would be, or the calls that are notified exceed one filter (only one of a stack can have
            a listener; see `compile_asking`).
    """
    source = _source(profile, default, bad_arch, beyond, bitmap=bitmap)
    instructions, notes, layout = _assembled(source)
    if len(instructions) <= op.MAX_INSTRUCTIONS:
        return (Program(instructions, notes),)
    stay = {
        (arch, nr)
        for arch, calls in source.arches.items()
        for nr, call in calls.items()
        if call.name == "seccomp" or (not call.decision.cases) or _notifies(call.decision)
    }
    alone = source.rest(layout.calls.keys() - stay, {})
    instructions, _, made = _assembled(alone)
    if len(instructions) > op.MAX_INSTRUCTIONS:
        raise _too_large(alone, made, len(instructions))
    bins = _Bins(source, layout, stay, len(instructions))
    for fill in _FILLS:
        try:
            programs = _stacked(source, bins.packed(fill))
            break
        except FilterTooLarge:
            if fill == _FILLS[-1]:
                raise
    if (converted := stacked_length(programs)) > MOST_CONVERTED:
        raise FilterTooLarge(
            f"{len(programs)} stacked filters come to {converted} of the kernel's own instructions, "
            f"a process may have {MOST_CONVERTED}",
            hint="most go to " + _costliest(source, source.lay_out()),
        )
    return tuple(programs)


def compile_asking(
    profile: Profile, *, beyond: Action | None = None, bitmap: bool = True
) -> tuple[Program, tuple[str, ...]]:
    """Compile a profile that is too large into one filter that asks the supervisor about some calls whole.

    For filters with a listener, whose supervisor answers what it is asked as the profile says: the costliest
    syscalls are notified whatever their arguments, until the rest fits. That changes the price of their
    allowed calls (some microseconds each), not what they get. Syscalls with rules that only a filter can
    carry out (errno, trap, kill, trace) are left as they are.

    Returns:
        The filter, and the syscalls that are notified whole.

    Raises:
        FilterTooLarge: it does not fit even so.
    """
    asked: list[str] = []
    while True:
        source = _source(profile, None, None, beyond, bitmap=bitmap)
        instructions, notes, layout = _assembled(source)
        excess = len(instructions) - op.MAX_INSTRUCTIONS
        if excess <= 0:
            return Program(instructions, notes), tuple(sorted(asked))
        for syscall in _costliest_names(profile, source, layout, excess):
            asked.append(str(syscall))
            where = tuple(arch for arch in profile.arch if profile.rules_for(arch, syscall))
            others = tuple(rule for rule in profile.rules if rule.syscall != syscall)
            profile = replace(profile, rules=(*others, SeccompRule(syscall, Action.NOTIFY, arch=where)))
            excess = -1
        if excess >= 0:
            raise _too_large(source, layout, len(instructions))


def _costliest_names(profile: Profile, source: _Source, layout: Layout, excess: int) -> list[str | int]:
    # As many of the costliest as free what is too much by estimate, at least one where there is any.
    sizes: dict[str | int, int] = {}
    by_key = _sizes(layout)
    for arch in profile.arch:
        for syscall in profile.syscalls(arch):
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            size = by_key.get((arch, -1 if nr is None else nr), 0)
            kinds = {rule.action.kind for rule in profile.rules_for(arch, syscall)}
            if (
                size > 1
                and source.arches[arch][nr or 0].decision.cases
                and kinds <= {"allow", "log", "notify"}
            ):
                sizes[syscall] = sizes.get(syscall, 0) + size
    found: list[str | int] = []
    for syscall in sorted(sizes, key=lambda s: (-sizes[s], str(s))):
        if excess < 0:
            break
        found.append(syscall)
        excess -= sizes[syscall]
    return found


def _notifies(decision: Decision) -> bool:
    return any(
        Action.from_ret(r).kind == "notify" for r in (decision.final, *(c.ret for c in decision.cases))
    )


def _stacked(source: _Source, packed: list[dict[Key, Call]]) -> list[Program]:
    last, *parts = packed
    moved = {key for part in parts for key in part}
    programs = []
    for one in (*(source.part(part) for part in parts), source.rest(moved, last)):
        instructions, notes, made = _assembled(one)
        if len(instructions) > op.MAX_INSTRUCTIONS:
            raise _too_large(one, made, len(instructions))
        programs.append(Program(instructions, notes))
    return programs


class _Bins(NamedTuple):
    # What is dealt out over a stack: all calls but those that stay in the last filter, which has so many
    # instructions without any of them.
    source: _Source
    layout: Layout
    stay: Collection[Key]
    least: int

    def packed(self, fill: int) -> list[dict[Key, Call]]:
        from autoprofile.filter.divide import divided  # few profiles are that large

        # What each filter decides, that of the last one first. First fit, the largest first; calls that are
        # decided by the same code go together.
        together: dict[NodeId, set[Key]] = {}
        for key, node in self.layout.calls.items():
            if key not in self.stay:
                together.setdefault(node, set()).add(key)
        sizes = {node: len(self.layout.graph.reachable(node)) for node in together}
        bins: list[tuple[int, dict[Key, Call]]] = [(self.least, {})]

        def put(size: int, some: dict[Key, Call]) -> None:
            for at, (filled, held) in enumerate(bins):
                # A piece of a divided call never joins another piece of it: each part has a call once.
                if filled + size <= fill and not held.keys() & some.keys():
                    bins[at] = filled + size, held | some
                    return
            bins.append((size, some))

        for node in sorted(together, key=lambda n: (-sizes[n], min(together[n]))):
            keys = sorted(together[node])
            calls = {(arch, nr): self.source.arches[arch][nr] for arch, nr in keys}
            if sizes[node] <= fill:
                put(sizes[node], calls)
                continue
            for decision, size in divided(calls[keys[0]].decision, sizes[node], fill):
                piece = Call("", decision, (0.0,) * len(decision.cases), 0.0)
                put(size, {key: piece._replace(name=call.name) for key, call in calls.items()})
        return [held for _, held in bins]
