"""Print what pyproject.toml asks for and this interpreter lacks, one a line; exit 1 when there is any.

Reads the installed metadata, so it answers in milliseconds, offline, and cannot go stale as a stamp
file would.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

__all__ = ["missing"]

ROOT = Path(__file__).resolve().parent.parent


def _wanted(project: dict[str, Any], extra: str) -> list[str]:
    extras: dict[str, list[str]] = project["optional-dependencies"]
    found: list[str] = []
    for requirement in extras[extra]:
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
        if own:
            for name in own[1].split(","):
                found += _wanted(project, name.strip())
        else:
            found.append(requirement)
    return found


def missing() -> list[str]:
    """Return the requirements of the package and its ``dev`` extra that are not met here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *_wanted(project, "dev")]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return wanted
    lacking = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = distribution(requirement.name).version
        except PackageNotFoundError:
            lacking.append(text)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            lacking.append(f"{text} (has {version})")
    if not _is_installed_from_here(project):
        lacking.append(f"{project['name']} itself, from {ROOT}")
    return lacking


def _is_installed_from_here(project: dict[str, Any]) -> bool:
    # Installed in editable form from this clone, with every console script of pyproject.toml.
    try:
        installed = distribution(project["name"])
    except PackageNotFoundError:
        return False
    origin = installed.read_text("direct_url.json") or ""
    if f'"file://{ROOT}"' not in origin:
        return False
    scripts = {e.name: e.value for e in installed.entry_points if e.group == "console_scripts"}
    return scripts == project["scripts"]


if __name__ == "__main__":
    lacking = missing()
    print("\n".join(lacking))
    sys.exit(bool(lacking))
