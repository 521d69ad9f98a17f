"""Profile → program, or several stacked programs where one would be too large.

Joins the stages: `lower` → `layout` → `assemble`. Pure; the same profile gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from autoprofile.errors import AutoprofileError
from autoprofile.filter import opcodes as op
from autoprofile.filter.assemble import assemble
from autoprofile.filter.layout import lay_out
from autoprofile.filter.lower import Call, Decision, lower_arch
from autoprofile.filter.program import Program
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Collection

    from autoprofile.filter.graph import NodeId
    from autoprofile.filter.layout import Layout
    from autoprofile.filter.program import SockFilter
    from autoprofile.profile import Profile

__all__ = ["FilterTooLarge", "compile_profile", "compile_stack"]

Key: TypeAlias = tuple[str, int]  # a call: (arch, nr)

_MOST_FILTERS = 8
_FILL = 3700  # what one filter of a stack may hold by estimate, without trampolines and the number tree


class FilterTooLarge(AutoprofileError):  # noqa: N818 - reads as the fact it states
    """Report a filter above the kernel's 4096 instructions; the hint names the syscalls that cost most."""


@dataclass(frozen=True)
class _Source:
    # A profile, lowered, and the answers beside its rules.
    arches: dict[str, dict[int, Call]]
    default: int
    bad_arch: int
    beyond: int | None
    bitmap: bool

    def part(self, keys: Collection[Key]) -> _Source:
        # The filter that decides these calls alone and leaves all others to the rest of a stack.
        arches = {
            a: {nr: c for nr, c in calls.items() if (a, nr) in keys} for a, calls in self.arches.items()
        }
        allow = Action.ALLOW.ret
        return replace(self, arches=arches, default=allow, bad_arch=allow, beyond=None)

    def without(self, keys: Collection[Key]) -> _Source:
        # The filter that leaves these calls to the rest of a stack and decides all others.
        left = Decision((), Action.ALLOW.ret)
        arches = {
            a: {nr: Call(c.name, left, (), 0.0) if (a, nr) in keys else c for nr, c in calls.items()}
            for a, calls in self.arches.items()
        }
        return replace(self, arches=arches)

    def unweighted(self) -> _Source:
        # Equal decisions get equal trees where nothing was measured: more is shared.
        arches = {
            a: {nr: replace(c, weights=(0.0,) * len(c.weights), final_weight=0.0) for nr, c in calls.items()}
            for a, calls in self.arches.items()
        }
        return replace(self, arches=arches)

    def lay_out(self) -> Layout:
        return lay_out(self.arches, self.default, self.bad_arch, beyond=self.beyond, bitmap=self.bitmap)


def _source(
    profile: Profile, default: Action | None, bad_arch: Action | None, beyond: Action | None, *, bitmap: bool
) -> _Source:
    default = profile.default if default is None else default
    return _Source(
        {arch: lower_arch(profile, arch, default) for arch in profile.arch},
        default.ret,
        (profile.bad_arch if bad_arch is None else bad_arch).ret,
        None if beyond is None else beyond.ret,
        bitmap,
    )


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
        beyond: an answer to give, in place of the default, to numbers above the newest call autoprofile knows
            that have no rule: ``Action.errno("ENOSYS")`` lets libc fall back to older calls.
        bitmap: whether the kernel answers constant allows from its bitmap (Linux ≥ 5.11). It changes the
            order of tests only: False weighs all calls, as older kernels run the filter for all of them.

    Raises:
        FilterTooLarge: the program would exceed 4096 instructions; see `compile_stack`.
    """
    source = _source(profile, default, bad_arch, beyond, bitmap=bitmap)
    instructions, notes, layout = _assembled(source)
    if len(instructions) > op.MAX_INSTRUCTIONS:
        raise _too_large(source, layout, len(instructions))
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
    sizes = {key: size for key, size in _sizes(layout).items() if size > 1}
    worst = sorted(sizes, key=lambda key: (-sizes[key], key))[:5]
    texts = [f"{source.arches[arch][nr].name} ({arch}, about {sizes[arch, nr]})" for arch, nr in worst]
    return FilterTooLarge(
        f"the filter needs {size} instructions, the kernel takes {op.MAX_INSTRUCTIONS}",
        hint="most go to " + ", ".join(texts),
    )


def compile_stack(
    profile: Profile,
    *,
    default: Action | None = None,
    bad_arch: Action | None = None,
    beyond: Action | None = None,
    bitmap: bool = True,
) -> tuple[Program, ...]:
    """Compile a profile to as few stacked filters as hold it, in the order in which to install them.

    The kernel runs all stacked filters and takes the most severe answer. Each call's rules are in one of the
    filters, the others allow it, so together they answer as `Profile.decide_call` does; the last one has the
    default, the foreign arches and ``seccomp``, which has to work until it is installed. Calls that are
    always allowed are so in every filter, and stay answered from the bitmap.

    Args: as of `compile_profile`.

    Raises:
        FilterTooLarge: one call's rules alone exceed a filter, eight filters do not suffice, or the calls
            that are notified exceed one filter (only one of a stack can have a listener).
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
    parts = _packed(layout, stay)
    moved = [key for keys in parts for key in keys]
    programs = []
    for one in (*(source.part(keys) for keys in parts), source.without(moved)):
        instructions, notes, layout = _assembled(one)
        if len(instructions) > op.MAX_INSTRUCTIONS or len(parts) >= _MOST_FILTERS:
            raise _too_large(one, layout, len(instructions))
        programs.append(Program(instructions, notes))
    return tuple(programs)


def _notifies(decision: Decision) -> bool:
    return any(
        Action.from_ret(r).kind == "notify" for r in (decision.final, *(c.ret for c in decision.cases))
    )


def _packed(layout: Layout, stay: Collection[Key]) -> list[set[Key]]:
    # First fit, the largest first; calls that are decided by the same code go together. What stays behind for
    # the last filter is small: constant answers.
    together: dict[NodeId, set[Key]] = {}
    for key, node in layout.calls.items():
        if key not in stay:
            together.setdefault(node, set()).add(key)
    sizes = {node: len(layout.graph.reachable(node)) for node in together}
    bins: list[tuple[int, set[Key]]] = []
    for node in sorted(together, key=lambda n: (-sizes[n], min(together[n]))):
        for at, (filled, keys) in enumerate(bins):
            if filled + sizes[node] <= _FILL:
                bins[at] = filled + sizes[node], keys | together[node]
                break
        else:
            bins.append((sizes[node], together[node]))
    return [keys for _, keys in bins]
