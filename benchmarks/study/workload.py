"""What the study runs: programs, their two workloads, and the scratch folder both work in.

A workload is a list of tasks; a task is one start of the program. Workload A trains; workload B is something
else that an ordinary user of the same program does. B was written before any result was seen.
"""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["CLIENT_TIMEOUT_S", "Place", "Program", "Task", "client", "wait_for"]

CLIENT_TIMEOUT_S = 30


@dataclass(frozen=True)
class Place:
    """Where one pass of a workload happens.

    Args:
        folder: a scratch folder of its own.
        port: a TCP port that was free.
        built: programs compiled for the study, by name.
    """

    folder: Path
    port: int
    built: Path

    def text(self, template: str) -> str:
        """Fill ``{dir}``, ``{port}`` and ``{built}`` in."""
        return (
            template.replace("{dir}", str(self.folder))
            .replace("{port}", str(self.port))
            .replace("{built}", str(self.built))
        )

    def write(self, name: str, content: str) -> None:
        """Write a file into the scratch folder, placeholders filled in."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(content))


@dataclass(frozen=True)
class Task:
    """One start of the program.

    Args:
        argv: the command, with the placeholders of `Place.text`.
        drive: for a server, what its clients do; runs beside it and has to end it.
        stdin: name of a file in the scratch folder, or nothing to read.
    """

    argv: tuple[str, ...]
    drive: Callable[[Place], None] | None = None
    stdin: str = ""


@dataclass(frozen=True)
class Program:
    """A real program with the workload to learn from and the one to survive.

    Args:
        name: in the tables.
        kind: what it stands for.
        needs: commands that have to be installed; the Debian package in brackets for the reader.
        prepare: makes the files both workloads start from; may return what ends a server that they need.
        a: the training workload.
        b: the different workload of the same kind of use.
        is_held_out: not looked at while the level was being improved.
        build: compiles it into `Place.built`, once.
    """

    name: str
    kind: str
    needs: tuple[str, ...]
    prepare: Callable[[Place], Callable[[], None] | None]
    a: tuple[Task, ...]
    b: tuple[Task, ...]
    is_held_out: bool = False
    build: Callable[[Place], None] | None = None


def client(place: Place, *argv: str, stdin: str = "") -> None:
    """Run a client of a server to its end; what it answers does not matter here."""
    subprocess.run(
        [place.text(word) for word in argv],
        input=stdin.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=CLIENT_TIMEOUT_S,
        cwd=place.folder,
        check=False,
    )


def wait_for(place: Place) -> None:
    """Wait until something listens on the port.

    Raises:
        TimeoutError: nothing does.
    """
    end = time.monotonic() + CLIENT_TIMEOUT_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", place.port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {place.port}")
