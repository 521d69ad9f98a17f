"""Learn minimal seccomp profiles from what a program really does, enforce them, report drift.

The public names below are loaded on first use, so that ``import autoprofile`` costs nothing and
loads neither pandas nor pyarrow nor bcc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprofile.errors import AutoprofileError
    from autoprofile.filter import Filter, Program, SockFilter
    from autoprofile.observations import Trace
    from autoprofile.profile import ANY, Action, Arg, Decision, Profile, SeccompRule

__all__ = [
    "ANY",
    "Action",
    "Arg",
    "AutoprofileError",
    "Decision",
    "Filter",
    "Profile",
    "Program",
    "SeccompRule",
    "SockFilter",
    "Trace",
]

_HOMES = {
    "ANY": "profile",
    "Action": "profile",
    "Arg": "profile",
    "AutoprofileError": "errors",
    "Decision": "profile",
    "Filter": "filter",
    "Profile": "profile",
    "Program": "filter",
    "SeccompRule": "profile",
    "SockFilter": "filter",
    "Trace": "observations",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'autoprofile' has no attribute {name!r}")
    value = getattr(import_module(f"autoprofile.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
