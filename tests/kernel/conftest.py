"""Small C programs for the kernel tests, compiled once per session."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TESTS, _skip_or_fail, need_program


@pytest.fixture(scope="session")
def tracee(tmp_path_factory):
    """Return a function that compiles ``tests/tracees/NAME.c`` with extra compiler flags and gives its path."""
    folder = tmp_path_factory.mktemp("tracees")
    built: dict[tuple[str, ...], Path] = {}

    def build(name: str, *flags: str) -> str:
        key = (name, *flags)
        if key not in built:
            gcc = need_program("gcc")
            place = folder / ("-".join(flag.strip("-") for flag in flags if "=" not in flag) or "plain")
            place.mkdir(exist_ok=True)
            target = place / (f"{name}.so" if "-shared" in flags else name)
            source = TESTS / "tracees" / f"{name}.c"
            done = subprocess.run(
                [gcc, "-O1", "-g", "-pthread", *flags, str(source), "-o", str(target), "-ldl"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode and "-m32" in flags:
                _skip_or_fail(
                    "gcc cannot build for i386 (Debian package gcc-multilib)", "AUTOPROFILE_REQUIRE_KERNEL"
                )
            assert done.returncode == 0, done.stderr
            built[key] = target
        return os.fspath(built[key])

    return build
