"""A page of text: headings, facts, tables and lines, at most 80 columns wide, with colour only when asked.

The text renderers of this package fill a `TextPage` and return what it renders. Colour is decoration: every
severity is also a word. Control characters in what is added are shown, never obeyed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autoprofile.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

__all__ = ["SEVERITY_STYLES", "Style", "TextPage"]

SEVERITY_STYLES = {
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "info": "dim",
}


class Style(NamedTuple):
    """How wide text may be, and whether it may carry colour."""

    width: int = 80
    colour: bool = False


class TextPage:
    """Collect parts and render them.

    Args:
        style: the width and whether to colour.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._parts: list[RenderableType] = []
        self._unwrapped: set[int] = set()  # ids of the parts that keep their lines

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        """Add a line, wrapped when it is too long."""
        from rich.padding import Padding
        from rich.text import Text

        self._parts.append(Padding(Text(printable(text), style=style), (0, 0, 0, indent)))

    def heading(self, text: str) -> None:
        """Add an empty line and a heading."""
        if self._parts:
            self.line()
        self.line(text, "bold")

    def code(self, text: str, *, indent: int = 0) -> None:
        """Add text that must not be wrapped, so that it can be copied."""
        from rich.text import Text

        for line in printable(text).rstrip("\n").split("\n"):
            part = Text(" " * indent + line, style="green")
            self._unwrapped.add(id(part))
            self._parts.append(part)

    def facts(self, facts: Iterable[tuple[str, str]], *, indent: int = 2) -> None:
        """Add labelled facts, one a row."""
        self.table([(label, value) for label, value in facts], indent=indent, styles=("dim", ""))

    def table(
        self,
        rows: Iterable[Sequence[str]],
        *,
        header: Sequence[str] = (),
        indent: int = 2,
        styles: Sequence[str] = (),
        right: Sequence[int] = (),
    ) -> None:
        """Add rows of aligned cells without borders; the widest column wraps where it must.

        Args:
            rows: the cells.
            header: names of the columns.
            indent: spaces in front.
            styles: one per column.
            right: columns aligned to the right.
        """
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        kept = [[printable(cell) for cell in row] for row in rows]
        if not kept:
            return
        table = Table(
            box=None, show_header=bool(header), padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
        )
        widths = [max(len(row[i]) for row in kept) for i in range(len(kept[0]))]
        header_widths = [len(header[i]) if header else 0 for i in range(len(widths))]
        widest = widths.index(max(widths))
        for index in range(len(kept[0])):
            table.add_column(
                header[index] if header else "",
                style=styles[index] if index < len(styles) else "",
                justify="right" if index in right else "left",
                # Only the widest column gives way, so that names and numbers stay whole.
                min_width=None if index == widest else max(widths[index], header_widths[index]),
                overflow="fold",
            )
        for row in kept:
            table.add_row(*(Text(cell, style=_cell_style(cell)) for cell in row))
        self._parts.append(Padding(table, (0, 0, 0, indent)))

    def render(self) -> str:
        """Return the text, every line ended and none with spaces at its end."""
        import io

        from rich.console import Console

        stream = io.StringIO()
        console = Console(
            file=stream,
            width=self._style.width,
            force_terminal=self._style.colour,
            color_system="standard" if self._style.colour else None,
            no_color=not self._style.colour,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )
        for part in self._parts:
            console.print(part, soft_wrap=id(part) in self._unwrapped)
        return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def _cell_style(cell: str) -> str:
    return SEVERITY_STYLES.get(cell.lower(), "") if cell.isalpha() else ""
