"""Record the strace logs in this folder again: ``python tests/data/traces/record.py`` (needs gcc and strace).

Every log of ``varied/`` is of the same program with the same calls, written in another of strace's ways.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WAYS = {
    "numbered": ["-f", "-n", "-X", "raw"],
    "raw": ["-f", "-X", "raw", "-ttt"],
    "symbolic": ["-f", "-tt", "-T", "-y"],
    "verbose": ["-f", "-X", "verbose", "-i", "-r", "-Y"],
}


def main() -> None:
    """Compile the program, write all logs, and say in meta.json where they come from."""
    target = HERE / "varied"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        source = HERE.parent.parent / "tracees" / "varied.c"
        subprocess.run(
            ["gcc", "-O1", "-pthread", str(source), "-o", "varied"], cwd=scratch, check=True, timeout=60
        )

        def strace(*args: str, **options: object) -> None:
            done = subprocess.run(
                ["strace", *args, "./varied"], cwd=scratch, timeout=60, check=False, **options
            )  # type: ignore[call-overload]
            assert done.returncode == 7, done

        for name, options in WAYS.items():
            strace(*options, "-o", str(target / f"{name}.log"))
        strace("-ff", "-ttt", "-o", str(target / "files.log"))
        with (target / "terminal.log").open("w") as log:
            strace("-f", "-t", stderr=log)
        with (target / "quiet.log").open("w") as log:
            strace("-f", "-qq", stderr=log)
    version = subprocess.run(["strace", "-V"], capture_output=True, text=True, check=True, timeout=10).stdout
    meta = {
        "program": "tests/tracees/varied.c",
        "argv": ["./varied"],
        "arch": platform.machine(),
        "kernel": os.uname().release.partition("-")[0],
        "tracer": version.splitlines()[0],
        "lost": 0,
    }
    (target / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
