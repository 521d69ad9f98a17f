"""A compiled filter as source text of other languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprofile.filter import Program

__all__ = ["c_array"]


def c_array(program: Program) -> str:
    """Return the program as a C array of ``struct sock_filter`` and its ``struct sock_fprog``."""
    lines = [
        "#include <linux/filter.h>",
        "",
        f"static const struct sock_filter autoprofile_filter[{len(program)}] = {{",
        *(f"\t{{ 0x{i.code:02x}, {i.jt}, {i.jf}, 0x{i.k:08x} }}," for i in program),
        "};",
        "",
        "static const struct sock_fprog autoprofile_program = {",
        f"\t.len = {len(program)},",
        "\t.filter = (struct sock_filter *)autoprofile_filter,",
        "};",
    ]
    return "\n".join(lines) + "\n"
