"""Control characters that a target chose are shown to people, never obeyed by their terminal."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.cli.output import Output
from autoprofile.printable import printable
from autoprofile.report.text import Style, TextPage

HOSTILE = "e\x1b[2J\x9b31m\r\x7f\u202ex\udcff"
SHOWN = r"e\x1b[2J\x9b31m\x0d\x7f\u202ex\xff"


@given(st.text())
@settings(deadline=None)
def test_what_is_shown_is_harmless_and_stays(text: str) -> None:
    """No control character is left, showing twice changes nothing, and lines and tabs are kept."""
    shown = printable(text)
    assert not [c for c in shown if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert printable(shown) == shown
    assert (shown.count("\n"), shown.count("\t")) == (text.count("\n"), text.count("\t"))
    shown.encode()


def test_ordinary_text_is_unchanged() -> None:
    """Letters of any script, emoji, lines and tabs are not touched."""
    assert printable("größe 网 🙂\n\tx") == "größe 网 🙂\n\tx"
    assert printable(HOSTILE) == SHOWN


@pytest.mark.parametrize("colour", [False, True])
def test_a_page_shows_what_a_target_chose(colour: bool) -> None:
    """Lines, code, cells and headings are escaped before they are styled; the page's own colour works."""
    page = TextPage(Style(80, colour))
    page.line(HOSTILE, "bold")
    page.heading(HOSTILE)
    page.code(HOSTILE)
    page.facts([("program", HOSTILE)])
    text = page.render()
    assert text.count(SHOWN) == 4
    assert "\x1b[2J" not in text
    assert ("\x1b[1m" in text) == colour


@pytest.mark.parametrize("colour", [False, True])
def test_messages_show_what_a_target_chose(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors, hints, warnings, notes, details and lines of text are escaped; labels keep their colour."""
    said, printed = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(sys, "stdout", printed)
    output = Output({})
    output.colour, output.verbosity = colour, 1
    output.error(HOSTILE, HOSTILE)
    output.warn(HOSTILE)
    output.note(HOSTILE)
    output.detail(HOSTILE)
    output.text(HOSTILE)
    assert (said.getvalue().count(SHOWN), printed.getvalue()) == (5, SHOWN)
    assert "\x1b[2J" not in said.getvalue()
    assert ("\x1b[31;1merror:\x1b[0m" in said.getvalue()) == colour
    output.data(HOSTILE)
    assert printed.getvalue().endswith(HOSTILE)  # documents and styled pages are written as they are
