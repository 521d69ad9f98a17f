"""Write what the study found: one JSON document, the tables of the page, and the calibration plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from study.measure import Calibration, Result

__all__ = ["BEGIN", "END", "document", "into_page", "plot", "tables"]

BEGIN = "<!-- begin: written by benchmarks/inference_study.py -->"
END = "<!-- end -->"
_OF_B = ("refused of B at standard", "tasks of B that end alike", "B holds")


def document(results: Sequence[Result], calibration: Sequence[Calibration], facts: dict[str, object]) -> str:
    """Return everything as JSON with sorted keys."""
    found = {
        "schema_version": 1,
        "facts": facts,
        "programs": {r.name: r.to_dict() for r in results},
        "calibration": [asdict(c) for c in calibration],
        "summary": _summary(results, calibration),
    }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _measured(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if not r.error]


def _summary(results: Sequence[Result], calibration: Sequence[Calibration]) -> dict[str, object]:
    measured = _measured(results)
    found: dict[str, object] = {
        "programs": len(measured),
        "b_holds": sum(r.b_holds for r in measured),
        "b_holds_held_out": sum(r.b_holds for r in measured if r.is_held_out),
        "held_out": sum(r.is_held_out for r in measured),
        "replays": sum(r.replays for r in measured),
        "replays_refused": sum(r.replays_refused for r in measured),
    }
    for level in sorted({c.level for c in calibration}):
        own = [c for c in calibration if c.level == level]
        found[f"calibration_{level}"] = {
            "points": len(own),
            "predicted": _mean([c.predicted for c in own]),
            "seen": _mean([c.seen for c in own]),
            "mean_error": _mean([abs(c.predicted - c.seen) for c in own]),
            "bound_holds": _mean([float(c.seen <= c.upper) for c in own]),
            "predicted_mass": _mean([c.predicted_mass for c in own]),
            "seen_mass": _mean([c.seen_mass for c in own]),
        }
    return found


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _calls(calls: dict[str, int]) -> str:
    # of one syscall one example is enough for a table
    names: dict[str, str] = {}
    for text in sorted(calls):
        names.setdefault(text.partition("(")[0], text)
    shown = [f"`{text}`".replace("|", "\\|") for text in list(names.values())[:4]]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def tables(results: Sequence[Result], calibration: Sequence[Calibration], facts: dict[str, object]) -> str:
    """Return the Markdown between the marks of the page."""
    measured = _measured(results)
    lines = [
        "Measured with " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        "",
        *_short(measured, calibration),
        "",
        "### Strict replays A, standard survives B",
        "",
        _row(
            "program", "kind", "set", "tasks A, B", "A replayed at strict", "refused of B at strict", *_OF_B
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in measured:
        alike = sum(a == b for a, b in zip(*r.b_statuses, strict=True))
        lines.append(
            _row(
                r.name,
                r.kind,
                "held out" if r.is_held_out else "tuning",
                f"{r.tasks[0]}, {r.tasks[1]}",
                f"{r.replays - r.replays_refused} of {r.replays} without denial",
                f"{r.b_strict[0]} of {r.b_strict[1]} distinct calls",
                len(set(r.b_denials) | set(r.b_traced)),
                f"{alike} of {len(r.b_statuses[0])}",
                "yes" if r.b_holds else "**no**",
            )
        )
    for name, chosen in (
        ("tuning set", [r for r in measured if not r.is_held_out]),
        ("held-out set", [r for r in measured if r.is_held_out]),
        ("all", measured),
    ):
        lines.append(_row(name, "", "", "", *[""] * 4, _holding(chosen)))
    lines += ["", "What standard refused of B:", ""]
    for r in measured:
        calls = {**r.b_traced, **r.b_denials}
        if calls or r.b_answered or not r.b_holds:
            answered = f"; answered with an error: {_calls(r.b_answered)}" if r.b_answered else ""
            lines.append(f"* {r.name}: {_calls(calls) or 'nothing by default'}{answered}")
    lines += ["", _single(measured)]
    for r in results:
        if r.error:
            lines.append(f"* {r.name} was not measured: {r.error}")
    lines += ["", "### Attack surface", "", *_surface(measured)]
    lines += ["", "### Calibration", "", *_calibration(calibration), "", *_foretold(measured)]
    return "\n".join(lines) + "\n"


def _short(measured: Sequence[Result], calibration: Sequence[Calibration]) -> list[str]:
    replays = sum(r.replays for r in measured)
    good = replays - sum(r.replays_refused for r in measured)
    least = min((r.surface["standard"]["refused_unused"] for r in measured), default=0.0)
    held_out = _holding([r for r in measured if r.is_held_out])
    lines = [
        f"* strict: {good} of {replays} replays of A met no denial;",
        f"* standard: B holds for {_holding(measured)} programs, {held_out} of those held out;",
        f"* standard refuses at least {least:.1%} of the primitives that the program does not use;",
    ]
    for level in ("strict", "standard"):
        own = [c for c in calibration if c.level == level]
        if own:
            predicted, seen = _mean([c.predicted for c in own]), _mean([c.seen for c in own])
            bound = sum(c.seen <= c.upper for c in own)
            lines.append(
                f"* {level}: predicted {predicted:.2f} of the other tasks to be refused something, seen"
                f" {seen:.2f}, below the upper bound in {bound} of {len(own)} cases;"
            )
    return [*lines[:-1], lines[-1].rstrip(";") + "."]


def _holding(results: Sequence[Result]) -> str:
    return f"{sum(r.b_holds for r in results)} of {len(results)}"


def _single(measured: Sequence[Result]) -> str:
    # by names: the others refuse the same after one pass as after all
    more = [r.name for r in measured if set(r.b_single) - set(r.b_traced)]
    if not more:
        return "A single pass of A gave a standard that refuses the same of B in every program."
    worse = ", ".join(more)
    return f"After a single pass of A standard would have refused more of B in {len(more)} programs: {worse}."


def _surface(measured: Sequence[Result]) -> list[str]:
    columns = [c for c in ("docker", "names", "standard", "strict") if c in measured[0].surface]
    titles = {
        "docker": "Docker's default",
        "names": "names only",
        "standard": "standard",
        "strict": "strict",
    }
    lines = [
        "Shares refused: of all syscalls, and of the attack primitives that the program does not use itself:",
        "",
        _row("program", "used", *(f"{titles[c]}: calls | primitives" for c in columns)),
        _row("---", "---", *("---|---" for _ in columns)),
    ]
    for r in measured:
        cells = []
        for c in columns:
            s = r.surface[c]
            cells.append(f"{s['syscalls_refused'] / s['syscalls']:.0%} | {s['refused_unused']:.1%}")
        lines.append(_row(r.name, int(r.surface["standard"]["primitives_used"]), *cells))
    means = []
    for c in columns:
        share = _mean([r.surface[c]["syscalls_refused"] / r.surface[c]["syscalls"] for r in measured])
        refused = _mean([r.surface[c]["refused_unused"] for r in measured])
        means.append(f"{share:.0%} | {refused:.1%}")
    lines.append(_row("mean", "", *means))
    return lines


def _calibration(calibration: Sequence[Calibration]) -> list[str]:
    lines = [
        "Means over the programs, by the number of tasks learned from:",
        "",
        "| level | tasks | programs | predicted `unseen` | seen | bound holds | predicted mass | seen mass |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for level in sorted({c.level for c in calibration}, reverse=True):
        for runs in sorted({c.runs for c in calibration}):
            own = [c for c in calibration if c.level == level and c.runs == runs]
            if not own:
                continue
            lines.append(
                _row(
                    level,
                    runs,
                    len(own),
                    f"{_mean([c.predicted for c in own]):.2f}",
                    f"{_mean([c.seen for c in own]):.2f}",
                    f"{sum(c.seen <= c.upper for c in own)} of {len(own)}",
                    f"{_mean([c.predicted_mass for c in own]):.3f}",
                    f"{_mean([c.seen_mass for c in own]):.3f}",
                )
            )
    return lines


def _foretold(measured: Sequence[Result]) -> list[str]:
    own = [r for r in measured if r.unseen_task is not None]
    lines = [
        "What the tasks of A foretold of the tasks of B at standard (programs whose A has several tasks):",
        "",
        "| program | tasks of A | predicted `unseen` | tasks of B that fell | share |",
        "|---|---|---|---|---|",
    ]
    for r in own:
        shown = f"{_fallen(r)} of {r.tasks[1]}"
        lines.append(
            _row(r.name, r.tasks[0], f"{r.unseen_task:.2f}", shown, f"{_fallen(r) / r.tasks[1]:.2f}")
        )
    predicted = _mean([r.unseen_task or 0.0 for r in own])
    seen = _mean([_fallen(r) / r.tasks[1] for r in own])
    return [*lines, _row("mean", "", f"{predicted:.2f}", "", f"{seen:.2f}")]


def _fallen(result: Result) -> int:
    # tasks of B that were refused something by default, or that took an error for failure
    return max(result.b_tasks_refused, sum(a != b for a, b in zip(*result.b_statuses, strict=True)))


def into_page(page: Path, text: str) -> None:
    """Put the tables between the marks of a page.

    Raises:
        ValueError: the page lacks the marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: the marks {BEGIN} and {END} are missing")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def plot(calibration: Sequence[Calibration], target: Path) -> None:
    """Draw predicted against seen, for both estimates, as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "autoprofile", "font.size": 8})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6))
    for axes, names, title in (
        (left, ("predicted", "seen"), "P(another task is refused something)"),
        (right, ("predicted_mass", "seen_mass"), "share of another task's tuples that are new"),
    ):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        for level, marker, colour in (("strict", "o", "tab:blue"), ("standard", "x", "tab:orange")):
            own = [c for c in calibration if c.level == level]
            if axes is right and level != "strict":
                continue  # the mass is of what was seen, which no level changes
            axes.scatter(
                [getattr(c, names[0]) for c in own],
                [getattr(c, names[1]) for c in own],
                s=[4 + 3 * c.runs for c in own],
                marker=marker,
                color=colour,
                alpha=0.7,
                linewidths=0.8,
                label=level,
            )
        shown = [getattr(c, name) for c in calibration for name in names]
        most = 1.02 if axes is left else 1.1 * max(shown, default=1.0) or 1.0
        axes.set(title=title, xlabel="predicted", ylabel="seen", xlim=(-0.02, most), ylim=(-0.02, most))
    left.legend(loc="upper left", frameon=False)
    figure.tight_layout()
    figure.savefig(target, format="svg", metadata={"Date": None})
    plt.close(figure)
