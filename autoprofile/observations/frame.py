"""The tidy view of a trace: one row per observation, arguments decoded to the names people read.

A rendering only: nothing decides on this text. Loads pandas when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.constants import decode_value
from autoprofile.abi.risk import call_risk
from autoprofile.abi.signatures import call_signature, constrained_args
from autoprofile.abi.syscalls import display_name, syscall_name
from autoprofile.observations.columns import frame_from_observations
from autoprofile.observations.model import ARGS, Args

if TYPE_CHECKING:
    import pandas as pd

    from autoprofile.observations.trace import Trace

__all__ = ["decode_args", "tidy_frame"]


def decode_args(arch: str, nr: int, args: Args) -> list[tuple[int, str, str]]:
    """Return (index, kernel's name, decoded value) of each constrained argument that the call reads."""
    name = syscall_name(arch, nr)
    if name is None:
        return []
    # The call's own values refine the symbols (what fcntl's argument means follows from its command).
    values = tuple(a or 0 for a in args)
    refined = call_signature(arch, name, values)
    specs = refined.args if refined is not None else ()
    decoded = []
    for plain in constrained_args(arch, name):
        value = args[plain.index]
        if value is not None and (plain.used_if is None or plain.used_if.holds(values)):
            spec = specs[plain.index]
            decoded.append((spec.index, spec.name, decode_value(arch, spec, value)))
    return decoded


def tidy_frame(trace: Trace) -> pd.DataFrame:
    """Return the frame `Trace.frame` documents."""
    import pandas as pd

    raw = frame_from_observations(trace.observations)
    texts: list[str] = []
    columns: list[list[str | None]] = [[] for _ in range(ARGS)]
    risks: list[str | None] = []
    severities: list[str | None] = []
    for o in trace.observations:
        decoded = decode_args(o.arch, o.nr, o.args)
        texts.append(" ".join(f"{name}={value}" for _, name, value in decoded))
        by_index = {index: value for index, _, value in decoded}
        for i in range(ARGS):
            columns[i].append(by_index.get(i))
        risk = _risk(o.arch, o.nr, o.args)
        risks.append(risk[0] if risk else None)
        severities.append(risk[1] if risk else None)
    frame = raw[["run", "program", "build_id", "arch"]].copy()
    frame["syscall"] = [display_name(o.arch, o.nr) for o in trace.observations]
    frame["nr"] = raw["nr"]
    frame["args"] = pd.Series(texts, dtype="object")
    for i in range(ARGS):
        frame[f"arg{i}"] = pd.Series(columns[i], dtype="object")
    for i in range(ARGS):
        frame[f"a{i}"] = raw[f"a{i}"]
    frame["count"] = raw["count"]
    frame["first_s"] = raw["first_ns"] / 1e9
    frame["last_s"] = raw["last_ns"] / 1e9
    for name in ("processes", "ok", "failed", "last_return", "classes", "errors"):
        frame[name] = raw[name]
    frame["risk"] = pd.Series(risks, dtype="object")
    frame["risk_severity"] = pd.Series(severities, dtype="object")
    return frame


def _risk(arch: str, nr: int, args: Args) -> tuple[str, str] | None:
    name = syscall_name(arch, nr)
    if name is None:
        return None
    risk = call_risk(arch, name, tuple(a or 0 for a in args))
    return (risk.name_class, risk.severity) if risk else None
