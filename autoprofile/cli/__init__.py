"""The command line: the only place that prints, exits and reads the environment.

`main` is the console script. Each verb is one module of `autoprofile.cli.verbs`, imported when it
is asked for.
"""

from __future__ import annotations

from autoprofile.cli.app import main

__all__ = ["main"]
