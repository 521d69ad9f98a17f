"""Charts as inline SVG that follows the colours of the page; without matplotlib there are none."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprofile.report.facts import call_rows

if TYPE_CHECKING:
    from autoprofile.observations import Trace

__all__ = ["Chart", "trace_charts"]

# matplotlib has no notion of "the colour of the text around": these stand for it until the SVG is written.
_INK, _ACCENT = "#010203", "#040506"
_TOP = 15


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: an ``<svg>`` element and a sentence about it."""

    svg: str
    caption: str


def trace_charts(trace: Trace) -> tuple[Chart, ...]:
    """Return the discovery curve and the most frequent calls; empty when matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return ()
    if not trace.observations:
        return ()
    matplotlib.use("svg")
    settings = {
        "svg.hashsalt": "autoprofile",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        return (_discovery(trace), _most_frequent(trace))


def _discovery(trace: Trace) -> Chart:
    figure, axes = _figure(3.2)
    firsts: dict[tuple[str, int, tuple[int | None, ...]], int] = {}
    for o in trace.observations:
        key = (o.arch, o.nr, o.args)
        firsts[key] = min(o.first_ns, firsts.get(key, o.first_ns))
    times = sorted(ns / 1e9 for ns in firsts.values())
    last = max(o.last_ns for o in trace.observations) / 1e9
    axes.step(
        [0, *times, last],
        [0, *range(1, len(times) + 1), len(times)],
        where="post",
        color=_ACCENT,
        linewidth=2,
    )
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("different calls seen")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return Chart(
        _svg(figure),
        "When something new appeared. A curve that is still rising at its end says the run was too short.",
    )


def _most_frequent(trace: Trace) -> Chart:
    totals: dict[str, int] = {}
    for row in call_rows(trace):
        totals[row.syscall] = totals.get(row.syscall, 0) + row.count
    top = sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    figure, axes = _figure(0.5 + 0.24 * len(top))
    axes.barh([name for name, _ in top], [n for _, n in top], color=_ACCENT, height=0.7)
    axes.invert_yaxis()
    axes.set_xlabel("calls")
    axes.tick_params(axis="y", length=0)
    return Chart(_svg(figure), f"The {len(top)} most frequent syscalls.")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, max(height, 2.2)), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    # The metadata element would say nothing but the addresses of its own vocabularies.
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace(_INK, "currentColor").replace(_ACCENT, "var(--accent)")
