"""Running the command line the way a user's shell does: in a process of its own, without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 60
# Root without any capability and without a way to gain one: what an ordinary user has, with root's files.
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
AUTOPROFILE = [sys.executable, "-m", "autoprofile"]

HAND_WRITTEN = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: allowlist
default: kill
syscalls:
  read: any
  socket:
    - {family: AF_UNIX, type: SOCK_STREAM, protocol: 0}
"""


def environment(**changes: str | None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    env |= {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def autoprofile(
    *args: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*prefix, *AUTOPROFILE, *map(str, args)],
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )


def hand_written(folder: Path, text: str = HAND_WRITTEN, name: str = "p.yaml") -> Path:
    """Write a profile file."""
    path = folder / name
    path.write_text(text)
    return path


def one_error(stderr: str) -> str:
    """Return the only error message of stderr, which shows no traceback; fail when there is another number."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert "Traceback" not in stderr, stderr
    return errors[0].removeprefix("error: ")
