"""What a constraint is worth and what it costs: the ledger of every candidate, kept or dropped.

In: what a constraint shuts out, and how often the call was made. Out: a `Constraint` with both figures. A
constraint whose gain does not pay for its price is dropped by inference and listed as dropped, never
silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.learn.risks import WEIGHT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.abi.risk import Risk

__all__ = ["CHECK_NS", "WORTH", "Constraint", "gain_of", "price_ns"]

CHECK_NS = 31.0
"""Nanoseconds that a call costs more when the filter must run for it than when the kernel answers from its
bitmap of constant-allow calls (Linux 5.11 and later): 178 against 147 ns, as docs/learning.md says."""

WORTH = 1.0
"""Gain that each nanosecond on the mean call has to bring, unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """Weigh the constraint of one syscall.

    Args:
        arch: of the call.
        syscall: its name.
        form: ``exact`` (the joint tuples seen), ``values`` (each argument's values seen), ``bits`` (the flag
            bits seen), ``open`` (everything but risks that were not seen), or ``any`` (none).
        shuts_out: risk classes it refuses, but for the very calls that were seen, most severe first.
        gain: the summed weight of these.
        share: the call's share of all calls seen.
        price_ns: nanoseconds it adds to the mean call.
        kept: whether it is in the profile.
        why: one sentence.
    """

    arch: str
    syscall: str
    form: str
    shuts_out: tuple[str, ...]
    gain: float
    share: float
    price_ns: float
    kept: bool
    why: str

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "arch": self.arch,
            "syscall": self.syscall,
            "form": self.form,
            "shuts_out": list(self.shuts_out),
            "gain": self.gain,
            "share": round(self.share, 6),
            "price_ns": round(self.price_ns, 4),
            "kept": self.kept,
            "why": self.why,
        }


def gain_of(risks: Iterable[Risk]) -> tuple[float, tuple[str, ...]]:
    """Return the gain of shutting out these risks and their classes; a class counts once, at its worst."""
    worst: dict[str, float] = {}
    for risk in risks:
        worst[risk.name_class] = max(worst.get(risk.name_class, 0.0), WEIGHT[risk.severity])
    classes = sorted(worst, key=lambda name: (-worst[name], name))
    return sum(worst.values()), tuple(classes)


def price_ns(share: float) -> float:
    """Return what checking a call costs, in nanoseconds on the mean call, when it is `share` of all calls."""
    return share * CHECK_NS
