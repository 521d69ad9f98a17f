"""The measurements of `bench` as a page of text and as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from autoprofile.enforce.bench import LIBSECCOMP, OURS, SMALLEST
from autoprofile.profile.wording import arg_name, rule_text
from autoprofile.report.text import TextPage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.enforce.bench import CallTiming, Comparison, Timing
    from autoprofile.filter.cost import CallCost
    from autoprofile.profile import SeccompRule
    from autoprofile.report.text import Style

__all__ = ["json_of_bench", "text_of_bench"]


def text_of_bench(style: Style, compared: Comparison, timing: Timing | None) -> str:
    """Render the comparison, what the bitmap answers, and the price of each constraint."""
    page = TextPage(style)
    _show_filters(page, compared, timing)
    _show_bitmap(page, compared, timing)
    _show_constraints(page, compared, timing)
    return page.render()


def _show_filters(page: TextPage, compared: Comparison, timing: Timing | None) -> None:
    page.heading("The filters, per call")
    sizes = {name: str(len(program)) for name, program in compared.filters.items()}
    rows = []
    for name in (SMALLEST, *compared.filters):
        mark = " *" if name in compared.unlike else ""
        row = [_named(name, compared) + mark, sizes.get(name, "-"), f"{compared.instructions[name]:.2f}"]
        if timing is not None:
            mixed = timing.mixed_ns.get(name)
            row += [f"+{timing.ns[name]:.1f}", "-" if mixed is None else f"+{mixed:.1f}"]
        rows.append(row)
    header = ["", "length", "executed", *(["ns", "ns mixed"] if timing else [])]
    page.table(rows, header=header, right=range(1, len(header)))
    if not compared.cost.is_measured:
        page.line("The profile has no counts: all its calls weigh alike.", indent=2)
    if not compared.bitmap:
        page.line("For kernels before 5.11: the filter runs for every call.", indent=2)
    if timing is not None:
        known = timing.reference
        page.line(
            "Added to a call; ns where one call is made over and over, ns mixed where they come in any order."
            f" Linux {os.uname().release}, {timing.arch}, least of {timing.rounds} rounds."
            f" getppid takes {known.no_filter:.0f} ns without a filter, {known.allow_all:.0f} under one that"
            f" allows everything, {known.check:.0f} under one that looks at an argument.",
            "dim",
            indent=2,
        )
        if others := [arch for arch in compared.profile.arch if arch != timing.arch]:
            page.line(f"Not timed: calls of {', '.join(others)}.", indent=2)
    if compared.libseccomp is None:
        page.line("libseccomp is not installed (apt install libseccomp2): not compared.", indent=2)
    elif compared.left_out:
        names = ", ".join(dict.fromkeys(str(rule.syscall) for rule in compared.left_out))
        page.line(f"libseccomp cannot express all rules of {names}: its filters do without them.", indent=2)
    for name, difference in compared.unlike.items():
        page.line(f"* {_named(name, compared)} does another thing: {difference}", indent=2)


def _named(name: str, compared: Comparison) -> str:
    if name == SMALLEST:
        return "smallest for each call"
    for optimize, known in LIBSECCOMP.items():
        if name == known:
            return f"libseccomp {compared.libseccomp}, optimise {optimize}"
    return name


def _show_bitmap(page: TextPage, compared: Comparison, timing: Timing | None) -> None:
    if not compared.bitmap:
        return
    constant = [call for call in compared.cost.calls if call.is_constant]
    share = sum(compared.cost.share(call) for call in constant)
    page.heading(
        f"From the bitmap: {len(constant)} of {len(compared.cost.calls)} calls, {share:.1%} of all made"
    )
    page.line(" ".join(_name(call, compared) for call in constant) or "none", indent=2)
    if compared.profile.default.kind == "allow":
        page.line("and all calls without a rule, which are not counted", indent=2)
    if timing is None:
        return
    if not timing.reference.has_bitmap:
        page.line("This kernel is not seen to have a bitmap: every call runs the filter.", indent=2)
        return
    seen = [one for one in timing.calls if one.is_bitmap]
    not_seen = [one for one in timing.calls if one.is_bitmap is False]
    unclear = [one for one in timing.calls if one.was_called and one.is_bitmap is None]
    untried = [one for one in timing.calls if one.cost.is_constant and not one.was_called]
    page.line(f"By timing: {len(seen)} of the {len(seen) + len(not_seen)} that were called.", indent=2)
    for text, several in (
        ("not seen to be answered from it", not_seen),
        ("too slow a call to tell", unclear),
        ("not called, as nothing they do is harmless", untried),
    ):
        if several:
            page.line(f"{text}: {' '.join(one.cost.name for one in several)}", indent=2)


def _name(call: CallCost, compared: Comparison) -> str:
    return call.name if len(compared.profile.arch) == 1 else f"{call.arch}:{call.name}"


def _show_constraints(page: TextPage, compared: Comparison, timing: Timing | None) -> None:
    cost = compared.cost
    checked = [call for call in cost.calls if not call.is_constant or not compared.bitmap]
    if not checked:
        return
    page.heading("What checking costs" if compared.bitmap else "What the calls cost")
    timed = {(timing.arch, one.cost.nr): one for one in timing.calls} if timing else {}
    bitmap_ns = _bitmap_ns(timing)
    if timing is not None:
        prices = {key: _price(one, bitmap_ns) for key, one in timed.items()}
        checked.sort(key=lambda call: -prices.get((call.arch, call.nr), 0.0))
    rows = []
    for call in checked:
        row = [_name(call, compared), _checks(compared, call), f"{cost.share(call):.2%}"]
        row += [f"{call.instructions:.1f}", f"{call.smallest:.0f}"]
        if timing is not None:
            one = timed.get((call.arch, call.nr))
            row += ["-"] * 3 if one is None else _times(one, bitmap_ns)
        rows.append(row)
    header = ["", "arguments", "share", "exec", "least", *(["ns", "ratio", "price"] if timing else [])]
    page.table(rows, header=header, right=range(2, len(header)))
    if timing is not None:
        total = sum(_price(one, bitmap_ns) for one in timed.values())
        page.line(
            "exec: instructions executed; least: what the smallest filter that could check these calls would"
            f" execute; ns: added to a call (from the bitmap: {bitmap_ns:.1f}); ratio: the time of the whole"
            f" call against that under the smallest filter; price: (ns - {bitmap_ns:.1f}) x share. All prices"
            f" together: {total:.2f} ns on the mean call.",
            "dim",
            indent=2,
        )


def _bitmap_ns(timing: Timing | None) -> float:
    return timing.reference.allow_all - timing.reference.no_filter if timing else 0.0


def _price(one: CallTiming, bitmap_ns: float) -> float:
    return one.share * (one.ns[OURS] - bitmap_ns)


def _times(one: CallTiming, bitmap_ns: float) -> list[str]:
    return [f"+{one.ns[OURS]:.1f}", f"{one.ratio:.2f}", f"{_price(one, bitmap_ns):.2f}"]


def _rules(compared: Comparison, call: CallCost) -> Sequence[SeccompRule]:
    by_name = call.name in compared.profile.syscalls(call.arch)
    return compared.profile.rules_for(call.arch, call.name if by_name else call.nr)


def _checks(compared: Comparison, call: CallCost) -> str:
    rules = _rules(compared, call)
    indexes = sorted({arg.index for rule in rules for arg in rule.comparators if arg.op != "any"})
    if not indexes:
        return "-" if all(rule.action.is_permitting for rule in rules) else "any"
    return ", ".join(arg_name(call.arch, call.name, index) for index in indexes)


def json_of_bench(compared: Comparison, timing: Timing | None) -> dict[str, Any]:
    """Give the content of the JSON document."""
    timed = {(timing.arch, one.cost.nr): one for one in timing.calls} if timing else {}
    bitmap_ns = _bitmap_ns(timing)
    calls = []
    for call in compared.cost.calls:
        one = timed.get((call.arch, call.nr))
        entry: dict[str, Any] = {
            "arch": call.arch,
            "syscall": call.name,
            "nr": call.nr,
            "count": call.count,
            "share": round(compared.cost.share(call), 6),
            "from_bitmap": compared.bitmap and call.is_constant,
            "instructions": round(call.instructions, 3),
            "smallest_instructions": round(call.smallest, 3),
            "rules": [rule_text(call.arch, rule) for rule in _rules(compared, call)],
        }
        if one is not None:
            entry["added_ns"] = {name: round(ns, 2) for name, ns in sorted(one.ns.items())}
            entry["ratio_to_smallest"] = round(one.ratio, 4)
            entry["price_ns"] = round(_price(one, bitmap_ns), 4)
            entry["seen_from_bitmap"] = one.is_bitmap
            entry["was_called"] = one.was_called
        calls.append(entry)
    filters = [
        {
            "name": name,
            "length": len(compared.filters[name]) if name in compared.filters else None,
            "instructions": round(compared.instructions[name], 4),
            "differs": compared.unlike.get(name),
            "added_ns": None if timing is None else round(timing.ns[name], 2),
            "added_ns_mixed": None
            if timing is None or name not in timing.mixed_ns
            else round(timing.mixed_ns[name], 2),
        }
        for name in (SMALLEST, *compared.filters)
    ]
    reference = None
    if timing is not None:
        reference = {
            "syscall": "getppid",
            "no_filter_ns": round(timing.reference.no_filter, 2),
            "allow_all_ns": round(timing.reference.allow_all, 2),
            "check_ns": round(timing.reference.check, 2),
            "has_bitmap": timing.reference.has_bitmap,
        }
    return {
        "kernel": "newer" if compared.bitmap else "older",
        "machine": {"arch": os.uname().machine, "release": os.uname().release},
        "libseccomp": compared.libseccomp,
        "libseccomp_left_out": [rule_text(compared.profile.arch[0], rule) for rule in compared.left_out],
        "is_measured": compared.cost.is_measured,
        "rounds": timing.rounds if timing else 0,
        "noise": round(timing.noise, 4) if timing else None,
        "reference": reference,
        "filters": filters,
        "calls": calls,
    }
