"""Run the command line as ``python -m autoprofile``."""

from __future__ import annotations

import sys

from autoprofile.cli import main

if __name__ == "__main__":
    sys.exit(main())
