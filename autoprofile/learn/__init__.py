"""From observations to a profile: which calls and argument tuples are needed, and how sure that is.

`learn` gives the profile, `infer` also what there is to say about it. Pure: no clock, no kernel, no
environment.
"""

from __future__ import annotations

from autoprofile.learn.baseline import BASELINE, BaselineEntry, baseline
from autoprofile.learn.completeness import Completeness, LeftOut
from autoprofile.learn.infer import LEVELS, MODES, Inference, infer, learn

__all__ = [
    "BASELINE",
    "LEVELS",
    "MODES",
    "BaselineEntry",
    "Completeness",
    "Inference",
    "LeftOut",
    "baseline",
    "infer",
    "learn",
]
