"""How complete a trace is, in words: what further runs showed, and what each would have met without itself.

In: an estimate of `autoprofile.learn`. Out: text. The numbers are those of the strict level, which allows the
observed calls and no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.report.facts import counted, left_out_text
from autoprofile.report.text import Style, TextPage

if TYPE_CHECKING:
    from autoprofile.learn import Completeness
    from autoprofile.learn.distributions import Distribution
    from autoprofile.observations import Trace

__all__ = ["completeness_facts", "completeness_text", "curve_text", "estimate_of", "over_time_text"]

_POINTS = 8  # of the discovery curve in text
_CALLS = 5  # of one run, as profiles keep them (learn/infer.py)


def estimate_of(trace: Trace) -> Completeness | None:
    """Return how complete a trace is at level strict; None when it holds no call that can be learned from."""
    from autoprofile.abi.arch import ARCHES
    from autoprofile.learn import infer

    return infer(trace).completeness if any(o.arch in ARCHES for o in trace.observations) else None


def curve_text(points: tuple[tuple[int, float], ...]) -> str:
    """Return a discovery curve as ``22 after 1 run, 25.5 after 2``: at most eight points, the last too."""
    step = max(1, -(-len(points) // _POINTS))
    few = [p for at, p in enumerate(points) if (len(points) - 1 - at) % step == 0]
    shown = [f"{calls:g}" if calls == int(calls) else f"{calls:.1f}" for _, calls in few]
    texts = [f"{calls} after {runs}" for calls, (runs, _) in zip(shown, few, strict=True)]
    if few:
        texts[0] = f"{shown[0]} after {counted(few[0][0], 'run')}"
    return ", ".join(texts)


def _few(calls: list[str]) -> list[str]:
    return calls if len(calls) <= _CALLS else [*calls[:_CALLS], f"and {len(calls) - _CALLS} more"]


def over_time_text(points: tuple[tuple[float, int], ...]) -> str:
    """Return when the first run showed half of its distinct calls, nine tenths, and the last new one."""
    total = points[-1][1]
    marks = [next(at for at, calls in points if calls * 10 >= total * share) for share in (5, 9)]
    half, most = (f"{at:.3g} s" for at in marks)
    return (
        f"of {total} in the first run, half had come after {half}, nine in ten after {most},"
        f" the last new one after {points[-1][0]:.3g} s"
    )


def _most_open(distributions: tuple[Distribution, ...]) -> list[str]:
    # Arguments and joint tuples of which another run would bring most that is new.
    left = [one for one in distributions if one.unseen_mass]
    left.sort(key=lambda one: (-(one.unseen_mass or 0), str(one.syscall), one.argument or "", one.arch))
    texts = []
    for one in left[:_CALLS]:
        what = f"{one.syscall} {one.argument}" if one.argument else f"{one.syscall} (all arguments together)"
        texts.append(f"{what}: {one.unseen_mass:.0%} new, {one.observed} seen of at least {one.richness:.0f}")
    return texts


def completeness_facts(estimate: Completeness) -> list[tuple[str, str]]:
    """Return what the runs say about further ones, as labelled texts."""
    facts = []
    if estimate.unseen is None:
        facts.append(
            ("another run", "unknown: one run says nothing about others (learn --runs, --until-stable)")
        )
    else:
        left_out = {
            one.run + 1: _few([text for text, _ in one.denials]) for one in estimate.left_out if one.denials
        }
        facts += [
            ("another run", f"needs something unseen with a chance of {estimate.unseen:.1%}"),
            ("left out", left_out_text(left_out, estimate.runs)),
            ("discovery", f"distinct calls: {curve_text(estimate.discovery)}"),
        ]
    if estimate.discovery_time:
        facts.append(("over time", over_time_text(estimate.discovery_time)))
    if estimate.richness is not None:
        facts.append(("there are", f"at least {estimate.richness:.0f} distinct calls (Chao2)"))
    if open_ones := _most_open(estimate.distributions):
        facts.append(("varies most", "; ".join(open_ones)))
    if estimate.lost:
        facts.append(("lost", f"{counted(estimate.lost, 'call')}: the chance is not smaller than that"))
    return facts


def completeness_text(estimate: Completeness, style: Style) -> str:
    """Return these facts under a heading."""
    page = TextPage(style)
    page.heading("how complete")
    page.facts(completeness_facts(estimate))
    return page.render()
