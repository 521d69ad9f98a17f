"""What is drawn says everything that matters, in words, within its width, and escapes what came from outside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprofile.drift import KINDS, SEVERITIES, DriftRecord, DriftReport
from autoprofile.observations import LossLedger, Observation, ProgramId, Trace, TraceMeta
from autoprofile.profile import Action, Arg, Profile, SeccompRule
from autoprofile.report import Style, TextPage, html
from autoprofile.report.facts import call_rows, counted, program_rows, rule_rows
from autoprofile.report.summary import drift_text, profile_text, trace_text

PROFILE = Profile.loads("""\
autoprofile: 1
arch: [x86_64]
level: strict
mode: allowlist
default: kill
syscalls:
  read: any  # count=3 processes=1
  rt_sigreturn: any  # baseline: handlers return through it
  socket:
    - {family: AF_UNIX, type: SOCK_STREAM, protocol: 0}
  ptrace: any
deny:
  clone3: ENOSYS
""")
HOSTILE = "/tmp/<img src=x onerror=alert(1)>"


def trace() -> Trace:
    def seen(nr: int, count: int, *args: int | None, failed: int | None = None) -> Observation:
        six = (*args, None, None, None, None, None, None)[:6]
        return Observation(
            0, ProgramId(HOSTILE), "x86_64", nr, six, count, nr * 1000, nr * 2000, 1, 1, failed
        )  # type: ignore[arg-type]

    meta = TraceMeta("notify", argv=("prog", "<b>"), complete=False)
    seen_calls = [
        seen(0, 7),
        seen(41, 2, 1, 1, 0, failed=1),
        seen(257, 1, None, None, 0, 0o644),
        seen(9999, 1),
    ]
    return Trace(meta, seen_calls, LossLedger({"interrupted": 1}), 1)


def record(kind: str, severity: str) -> DriftRecord:
    return DriftRecord(
        kind, f"D{kind}", severity, "x86_64", "socket", 41, (16, 3, 0), {"family": "AF_NETLINK", "type": "SOCK_RAW"},
        HOSTILE, (HOSTILE, "/bin/other"), 2, "because <reasons>", "syscalls:\n  socket:\n    - {family: AF_NETLINK}",
        {"source": "audit", "location": "libc.so.6+0x1", "symbol": "socket+0x7", "pid": 9, "comm": "x", "action": "EPERM"},
    )  # fmt: skip


REPORT = DriftReport(tuple(record(k, SEVERITIES[i % 4]) for i, k in enumerate(KINDS)), calls=10, allowed=8)


@pytest.mark.parametrize("width", [40, 80])
def test_text_keeps_to_its_width_and_ends_no_line_with_spaces(width: int) -> None:
    """Profiles, traces and drift fit the width asked for; only edits, which are copied, may be longer."""
    style = Style(width)
    pages = (profile_text(PROFILE, style), trace_text(trace(), style), drift_text(REPORT, style))
    for page in pages:
        for line in page.splitlines():
            assert len(line) <= width or "{family" in line, line
            assert line == line.rstrip()


def test_a_profile_shows_rules_reasons_refusals_and_risks() -> None:
    """The text of a profile holds each rule, why unobserved ones are there, what is refused, what is risky."""
    text = profile_text(PROFILE, Style())
    for word in (
        "family = AF_UNIX",
        "baseline: handlers return through it",
        "clone3",
        "ENOSYS",
        "ptrace",
        "high",
    ):
        assert word in text
    assert [r.syscall for r in rule_rows(PROFILE) if r.risk == "high"] == ["ptrace"]


def test_a_trace_shows_what_the_kernel_read_and_keeps_unknown_numbers() -> None:
    """Arguments that a call does not use are not shown, unknown numbers stay numbers, losses are told."""
    calls = {row.call: row for row in call_rows(trace())}
    assert "openat(flags=O_RDONLY)" in calls
    assert "syscall 9999" in calls
    assert calls["socket(family=AF_UNIX, type=SOCK_STREAM, protocol=0)"].failed == 1
    text = trace_text(trace(), Style())
    assert "interrupted 1" in text
    assert program_rows(trace()) == [(HOSTILE, 4, 11)]


def test_a_long_trace_is_cut_and_says_so() -> None:
    """A limit on the calls listed is told, never silent."""
    assert "and 2 more (--all)" in trace_text(trace(), Style(), limit=2)
    assert "more (--all)" not in trace_text(trace(), Style(), limit=0)


def test_drift_says_severity_and_kind_in_words() -> None:
    """Every record shows its severity as a word, its kind, call, program, code location, reason and edit."""
    text = drift_text(REPORT, Style())
    shown = [kind for kind in KINDS if kind != "unused_rule"]
    for i, kind in enumerate(shown):
        assert f"{SEVERITIES[i % 4].upper()}" in text
        assert kind in text
    for word in (
        "family=AF_NETLINK",
        "libc.so.6+0x1 (socket+0x7)",
        "because <reasons>",
        "and 1 more",
        "to accept it",
    ):
        assert word in text
    assert "1 rule not used" in text


def test_no_drift_says_how_much_was_compared() -> None:
    """An empty report is one line that says what it rests on."""
    assert (
        drift_text(DriftReport((), calls=1, allowed=1), Style()) == "no drift: 1 call compared, all allowed\n"
    )


@pytest.mark.parametrize(
    "page",
    [
        html.profile_page(PROFILE, source="p.yaml"),
        html.trace_page(trace(), source="<t>"),
        html.drift_page(REPORT, PROFILE, source="p.yaml"),
    ],
    ids=["profile", "trace", "drift"],
)
def test_pages_escape_and_need_nothing_from_outside(page: str) -> None:
    """Nothing that came from outside becomes markup, and the page loads nothing."""
    assert "<img" not in page
    assert "<reasons>" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")
    assert "prefers-color-scheme: dark" in page


def test_colour_is_only_decoration() -> None:
    """With colour the words are the same as without."""
    import re

    plain, coloured = drift_text(REPORT, Style(80)), drift_text(REPORT, Style(80, colour=True))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()


def test_numbers_are_readable() -> None:
    """Counts agree with their noun and group their thousands."""
    assert [counted(n, "process", "processes") for n in (0, 1, 12340)] == [
        "0 processes",
        "1 process",
        "12 340 processes",
    ]


def test_a_table_keeps_short_cells_whole() -> None:
    """Only the widest column of a table wraps."""
    page = TextPage(Style(30))
    page.table([("name", "a long text that has to be wrapped somewhere", "7")])
    text = page.render()
    assert "name" in text
    assert max(map(len, text.splitlines())) <= 30


def test_a_denylist_says_what_it_denies() -> None:
    """A profile that allows what it does not name is not shown as one that allows nothing; masks of all bits are =."""
    profile = Profile.loads("""\
autoprofile: 1
program: {argv: [prog, --save, '']}
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  getpgid: ENOSYS
  ptrace: EPERM
""")
    full = SeccompRule("prctl", Action.errno("EPERM"), (Arg(0, "masked_eq", 1, mask=0xFFFFFFFF, width=32),))
    text = profile_text(replace(profile, rules=(*profile.rules, full)), Style(100))
    assert "denied: 3 syscalls, 1 of them only with some arguments; what no rule names: allow" in text
    assert "allowed: 0" not in text
    assert "~(" not in text
    assert "prog --save ''" in text
