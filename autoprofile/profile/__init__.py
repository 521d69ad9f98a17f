"""What a program may do: actions, comparators, rules, profiles; deciding, merging, comparing and their file.

Pure: no clock, environment or process; the same input gives the same bytes. Only `file` touches the disk.
"""

from __future__ import annotations

from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY, Arg
from autoprofile.profile.model import LEVELS, MODES, Decision, Learned, Profile, Program
from autoprofile.profile.rule import Evidence, SeccompRule

__all__ = [
    "ANY",
    "LEVELS",
    "MODES",
    "Action",
    "Arg",
    "Decision",
    "Evidence",
    "Learned",
    "Profile",
    "Program",
    "SeccompRule",
]
