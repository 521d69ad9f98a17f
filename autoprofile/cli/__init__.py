"""The command line: the only place that prints, exits and reads the environment.

`main` is the console script. Each verb is one module of `autoprofile.cli.verbs`, imported when it
is asked for.
"""

from __future__ import annotations

import gc

# Importing allocates much and frees next to nothing: looking for garbage every 700 objects, as Python does
# by default, costs a seventh of the time it takes to start. The library leaves the default alone.
gc.set_threshold(100_000, 20, 20)

from autoprofile.cli.app import main  # noqa: E402 - the line above is for this one

__all__ = ["main"]
