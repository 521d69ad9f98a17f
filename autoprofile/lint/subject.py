"""What the checks look at: a profile, and what else is known about it.

Only the profile is always there. A check that needs more says nothing without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.errors import UsageError
from autoprofile.lint.comments import is_of_a_person

if TYPE_CHECKING:
    from autoprofile.observations import Observation
    from autoprofile.profile.model import Profile

__all__ = ["Subject", "kernel_version"]


@dataclass(frozen=True, slots=True)
class Subject:
    """Hold a profile and its surroundings.

    Args:
        profile: what is checked.
        explained: calls whose entry in the file carries a person's comment, as (arch, syscall); arch is None
            for entries of all arches. None without the file: then the reasons beside the rules count.
        kernel: version of the kernel that will enforce the profile.
        observations: what the program did later, to tell which rules nothing used.
        runs: how many runs these are of.
    """

    profile: Profile
    explained: frozenset[tuple[str | None, str]] | None = None
    kernel: tuple[int, int] | None = None
    observations: tuple[Observation, ...] | None = None
    runs: int = 0

    def is_explained(self, arch: str, syscall: str) -> bool:
        """Tell whether a person wrote a comment beside the entry of a call."""
        if self.explained is None:
            rules = self.profile.rules_for(arch, syscall)
            return any(r.evidence is not None and is_of_a_person(r.evidence.reason) for r in rules)
        return (None, syscall) in self.explained or (arch, syscall) in self.explained


def kernel_version(text: str) -> tuple[int, int]:
    """Return major and minor version of a kernel release (``6.1``, ``5.10.0-8-amd64``).

    Raises:
        UsageError: it begins with no version.
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", text)
    if match is None:
        raise UsageError(f"{text!r} is no kernel version", hint="write it as 6.1, or as `uname -r` does")
    return int(match[1]), int(match[2])
