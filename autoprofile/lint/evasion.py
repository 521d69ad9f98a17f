"""Checks for answers that the program itself can turn: tracers of its own, and halves of registers.

Each names a call, or a pair of calls, that the profile decides as the finding says.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from autoprofile.abi.signatures import kernel_value, signature, width_in_rule
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.lint.finding import Finding
from autoprofile.lint.view import allowed, witness_text
from autoprofile.profile.arg import listed_values
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.abi.signatures import Signature
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["trace_action", "upper_halves"]

_TRIES = 2048


def trace_action(profile: Profile) -> Iterator[Finding]:
    """Calls are answered with ``trace``: that asks whoever traces the program, perhaps the program itself."""
    traced = [rule for rule in profile.rules if rule.action.kind == "trace"]
    is_default = profile.default.kind == "trace"
    if not traced and not is_default:
        return
    calls = sorted({str(rule.syscall) for rule in traced})
    what = "calls that no rule names are" if is_default else f"{', '.join(calls)}: "
    open_on = [arch for arch in profile.arch if allowed(profile, arch, "ptrace")]
    if open_on:
        # ptrace(2): PTRACE_O_TRACESECCOMP; any tracer of the thread may let the call run.
        yield Finding(
            "trace-escapable",
            "high",
            "the program can let its own calls pass",
            f"{what} answered with trace, and ptrace is allowed on {', '.join(open_on)}: the program can "
            "trace a child, or have a child trace it, with PTRACE_O_TRACESECCOMP, and run what should be "
            "asked about",
            (*calls, "ptrace"),
            "refuse ptrace, or use notify, whose supervisor the program cannot become",
        )
    else:
        yield Finding(
            "trace-action",
            "low",
            "answers depend on a tracer",
            f"{what} answered with trace: without a tracer that asks for it they fail with ENOSYS, and "
            "whoever may trace the program from outside decides about them",
            tuple(calls),
            "use notify or an error instead, unless a tracer is part of the design",
        )


def upper_halves(profile: Profile) -> Iterator[Finding]:
    """A rule compares 64 bits of an argument of which the kernel reads 32, and errs to the wrong side."""
    for arch in profile.arch:
        for call in sorted(c for c in profile.syscalls(arch) if isinstance(c, str)):
            known, nr = signature(arch, call), syscall_nr(arch, call)
            if known is None or nr is None:
                continue
            rules = profile.rules_for(arch, call)
            wide = [(rule, at) for rule in rules for at in _wide(rule, known)]
            if not wide:
                continue
            found = _pair(profile, arch, nr, rules, known, {at for _, at in wide})
            if found is None:
                continue
            dirty, clean = found
            refused = profile.decide_call(arch, nr, clean).action
            shown = next(
                f"{spec.name}={dirty[spec.index]:#x}" for spec in known.args if dirty[spec.index] >> 32
            )
            yield Finding(
                "upper-half-bypass",
                "high",
                "garbage in the upper half of a register goes around a rule",
                f"{witness_text(arch, call, clean)} is answered with {refused}, but with {shown} it is "
                "allowed: the rule compares 64 bits, the kernel reads the lower 32 and sees the same call "
                f"({rule_text(arch, wide[0][0])})",
                (call,),
                "compare 32 bits: leave the width to autoprofile, or mask with 0xffffffff in other formats",
                arch,
            )


def _wide(rule: SeccompRule, known: Signature) -> list[int]:
    return [
        one.index
        for one in rule.comparators
        if one.width == 64
        and one.op != "any"
        and one.index < len(known.args)
        and _narrow_width(rule, known, one.index) == 32
    ]


def _narrow_width(rule: SeccompRule, known: Signature, index: int) -> int:
    # Where the command decides how much is read, the smaller width counts if the rule covers such a command.
    spec = known.args[index]
    decides = spec.other_width_if
    deciding = None if decides is None else listed_values(rule.comparators, decides.index)
    return width_in_rule(spec, deciding, is_refusing=True)


def _pair(
    profile: Profile,
    arch: str,
    nr: int,
    rules: tuple[SeccompRule, ...],
    known: Signature,
    wide: set[int],
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    # Two calls that are one to the kernel, the clean one refused and the dirty one let through.
    values: list[list[int]] = [[0] for _ in range(6)]
    for rule in rules:
        for one in rule.comparators:
            near = [v + d for v in one.values for d in (0, 1, -1) if v + d >= 0]
            values[one.index] += near if one.index in wide else one.values
    for at in wide:
        values[at] = sorted({v & 0xFFFFFFFF for v in values[at]})
    # Constants that stand for something make the finding readable: they are tried first.
    for tried, low in enumerate(product(*(sorted(set(v)) for v in values))):
        if tried > _TRIES:
            return None
        clean = tuple(
            kernel_value(known.args[at], v) if at < len(known.args) else v for at, v in enumerate(low)
        )
        if profile.decide_call(arch, nr, clean).action.is_permitting:
            continue
        for at in wide:
            dirty = tuple(v | 1 << 32 if i == at else v for i, v in enumerate(clean))
            if profile.decide_call(arch, nr, dirty).action.is_permitting:
                return dirty, clean
    return None
