"""From observations to a profile: which calls and argument tuples are needed, and how sure that is.

`learn` gives the profile, `infer` also what there is to say about it. Pure: no clock, no kernel, no
environment.
"""

from __future__ import annotations

from autoprofile.learn.baseline import BASELINE, BaselineEntry, baseline
from autoprofile.learn.completeness import Completeness, LeftOut
from autoprofile.learn.infer import Inference, infer, learn
from autoprofile.learn.levels import Decided
from autoprofile.learn.modes import DEFAULTS
from autoprofile.learn.price import Constraint
from autoprofile.profile.model import LEVELS, MODES

__all__ = [
    "BASELINE",
    "DEFAULTS",
    "LEVELS",
    "MODES",
    "BaselineEntry",
    "Completeness",
    "Constraint",
    "Decided",
    "Inference",
    "LeftOut",
    "baseline",
    "infer",
    "learn",
]
