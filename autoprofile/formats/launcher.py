"""What a filter lacks that is installed by a launcher (bwrap, minijail0), before it executes the program.

Pure. A profile is of the program alone, which `enforce` puts the filter on after the program's own execve; a
launcher makes that call under the filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.formats.cover import Call
from autoprofile.formats.fidelity import Note

if TYPE_CHECKING:
    from autoprofile.profile import Profile

__all__ = ["launcher_note"]


def launcher_note(profile: Profile) -> Note | None:
    """Return a note where a profile refuses every execve of its first arch, so that no launcher can start it.

    It is about how the filter is installed, not about what it means: nothing of the profile is lost.
    """
    call = Call(profile.rules_for(profile.arch[0], "execve"), profile.default)
    if any(action.is_permitting for action in call.answers):
        return None
    return Note(
        "kept",
        "execve is not allowed",
        "a launcher that installs this before exec (bwrap, minijail0) needs it, or the program never starts;"
        " for one, add 'execve: any' under 'syscalls:' (widens: the program may then execute others, too);"
        " 'autoprofile enforce' does without",
    )
