"""A profile's compiled filter as C source: a ``struct sock_filter`` array, ready for prctl(2) or seccomp(2).

Exact: the program is the very one that `autoprofile compile` makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.filter import compile_profile
from autoprofile.filter.newer import answer_beyond, with_fallbacks
from autoprofile.formats.fidelity import Exported, Note
from autoprofile.formats.launcher import launcher_note

if TYPE_CHECKING:
    from autoprofile.filter import Program
    from autoprofile.profile import Profile

__all__ = ["c_array", "export_c"]


def c_array(*programs: Program) -> str:
    """Return programs as C arrays of ``struct sock_filter`` and their ``struct sock_fprog``.

    One is ``autoprofile_program``; of several, ``autoprofile_program_1`` has to be installed first.
    """
    lines = ["#include <linux/filter.h>"]
    for number, program in enumerate(programs, 1):
        suffix = f"_{number}" if len(programs) > 1 else ""
        lines += [
            "",
            f"static const struct sock_filter autoprofile_filter{suffix}[{len(program)}] = {{",
            *(f"\t{{ 0x{i.code:02x}, {i.jt}, {i.jf}, 0x{i.k:08x} }}," for i in program),
            "};",
            "",
            f"static const struct sock_fprog autoprofile_program{suffix} = {{",
            f"\t.len = {len(program)},",
            f"\t.filter = (struct sock_filter *)autoprofile_filter{suffix},",
            "};",
        ]
    return "\n".join(lines) + "\n"


def export_c(profile: Profile) -> Exported:
    """Return the C source of a profile's filter."""
    program = compile_profile(with_fallbacks(profile), beyond=answer_beyond(profile))
    launch = launcher_note(profile)
    notes = (Note("kept", f"{len(profile.rules)} rules, all of them"), *([launch] if launch else []))
    return Exported(c_array(program).encode(), notes)
