"""What the command line says, and where: data on stdout, everything else on stderr.

stdout belongs to the data asked for or to the traced program. Messages, warnings, errors and the
progress line go to stderr; colour follows ``--color``, then ``NO_COLOR``, then ``FORCE_COLOR``, then
whether the stream is a terminal.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from autoprofile.cli import exit as exits
from autoprofile.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autoprofile.report.text import Style

__all__ = ["JSON_SCHEMA_VERSION", "STDOUT", "Output", "ProgressLine", "json_document"]

JSON_SCHEMA_VERSION = 1
STDOUT = "standard output"  # its name in errors
TEXT_WIDTH = 80  # text for people is never wider; on a pipe it is exactly this wide

_STYLES = {"error": "31;1", "warning": "33;1", "hint": "36", "note": "2"}


def json_document(kind: str, content: Mapping[str, Any]) -> str:
    """Render the one document that ``--json`` prints: sorted keys, a kind and a schema version."""
    import json

    document = {**content, "kind": kind, "schema_version": JSON_SCHEMA_VERSION}
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


class Output:
    """The streams and manners of one invocation.

    Args:
        environ: where ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM`` are read.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.verbosity = 0  # -1 with -q, 1 with -v, 2 with -vv
        self.colour: bool | None = None  # --color / --no-color
        self.failure_status = exits.FAILED  # of operational errors; NOT_RUN until a command ran
        self.stdout_is_closed = False  # since the start: what is written there is lost
        self._open_line: ProgressLine | None = None

    def colours(self, stream: TextIO) -> bool:
        """Tell whether text written to the stream may carry colour."""
        if self.colour is not None:
            return self.colour
        if self._environ.get("NO_COLOR"):
            return False
        if self._environ.get("FORCE_COLOR"):
            return True
        return stream.isatty() and self._environ.get("TERM") != "dumb"

    def data(self, text: str) -> None:
        """Write a result to stdout as it is: a document, or a page whose parts are escaped already.

        Raises:
            OSError: it cannot be written; `filename` is `STDOUT`.
        """
        with self._naming_stdout():
            sys.stdout.write(text)

    def text(self, text: str) -> None:
        """Write lines for people to stdout, control characters shown instead of obeyed."""
        self.data(printable(text))

    def binary(self, data: bytes) -> None:
        """Write bytes to stdout; raises as `data` does."""
        with self._naming_stdout():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def flush(self) -> None:
        """Write what is buffered to stdout; raises as `data` does."""
        if not self.stdout_is_closed:
            with self._naming_stdout():
                sys.stdout.flush()

    @contextmanager
    def _naming_stdout(self) -> Iterator[None]:
        if self.stdout_is_closed:
            raise OSError(errno.EBADF, "it was closed when this program started", STDOUT)
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = STDOUT
            raise

    def json(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write the one JSON document of a reporting verb to stdout."""
        self.data(json_document(kind, content))

    def error(self, what: str, hint: str | None = None) -> None:
        """Say on stderr what failed, and what to do about it; never silenced."""
        self._say("error", what)
        if hint:
            self._say("hint", hint)

    def warn(self, what: str, hint: str | None = None) -> None:
        """Say on stderr what a result must not be taken for; never silenced."""
        self._say("warning", what)
        if hint:
            self._say("hint", hint)

    def note(self, what: str) -> None:
        """Say on stderr what is being done; silenced by ``-q``."""
        if self.verbosity >= 0:
            self._write(f"{printable(what)}\n")

    def detail(self, what: str) -> None:
        """Say on stderr what only ``-v`` asks for."""
        if self.verbosity >= 1:
            self._write(f"{self._styled('note', printable(what))}\n")

    def progress(self) -> ProgressLine:
        """Return a line that shows progress on a terminal, and nothing elsewhere or with ``-q``."""
        self._open_line = ProgressLine(sys.stderr, shown=self.verbosity >= 0 and sys.stderr.isatty())
        return self._open_line

    def style(self) -> Style:
        """Return how text for stdout may look: never wider than 80 columns, 80 on a pipe."""
        from autoprofile.report.text import Style

        width = TEXT_WIDTH
        if sys.stdout.isatty():
            width = min(TEXT_WIDTH, _terminal_width())
        return Style(width, self.colours(sys.stdout))

    def _say(self, label: str, what: str) -> None:
        self._write(f"{self._styled(label, label + ':')} {printable(what)}\n")

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colours(sys.stderr) else text

    def _write(self, text: str) -> None:
        if self._open_line is not None:
            self._open_line.clear()
        # A closed or full stderr must not change what the tool does.
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((TEXT_WIDTH, 24)).columns


class ProgressLine:
    """One line on a terminal, written over and over; the traced program may write to the same terminal.

    Starts after a second, so that short runs show nothing, and leaves the cursor in column one, so that
    what the program prints next replaces it.
    """

    DELAY_S = 1.0
    INTERVAL_S = 0.25

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self._stream = stream
        self._shown = shown
        self._next = time.monotonic() + self.DELAY_S
        self._is_drawn = False

    def update(self, text: str) -> None:
        """Show the text, unless nobody could see it or the last one is too recent."""
        if not self._shown:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.INTERVAL_S
        columns = _terminal_width()
        with suppress(OSError):
            self._stream.write(f"\r\x1b[K{printable(text)[: columns - 1]}\r")
            self._stream.flush()
            self._is_drawn = True

    def clear(self) -> None:
        """Take the line away."""
        if self._is_drawn:
            with suppress(OSError):
                self._stream.write("\r\x1b[K")
                self._stream.flush()
            self._is_drawn = False
