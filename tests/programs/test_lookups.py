"""Programs learned without names look names up tomorrow: they get an answer, and nobody is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.tool import autoprofile
from tests.conftest import need_program

pytestmark = pytest.mark.kernel

_STATIC = r"""
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
#include <time.h>
int main(int argc, char **argv) {
	time_t t = 0;
	struct addrinfo *found = 0;
	puts("begins");
	if (argc > 1) {
		printf("%s", ctime(&t));
		printf("%d\n", getpwnam("nobody") != 0);
		printf("%d\n", getaddrinfo("no.such.host.invalid", "80", 0, &found) != 0);
	}
	return 0;
}
"""


def _learned(tmp: Path, *command: str) -> None:
    words = ["--level", "standard", "--backend", "ptrace", "-o", "p.yaml", "--force"]
    done = autoprofile("learn", *words, "--", *command, cwd=tmp)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("known", "other"),
    [
        (["ls", "-n"], ["ls", "-l"]),
        (["id", "-u"], ["id"]),
        (["stat", "-c", "%s", "sub"], ["stat", "sub"]),
        (["tar", "--numeric-owner", "-cf", "/dev/null", "."], ["tar", "-cvf", "/dev/null", "."]),
    ],
    ids=["ls", "id", "stat", "tar"],
)
def test_names_of_users_are_looked_up(tmp_path: Path, known: list[str], other: list[str]) -> None:
    """Learned with numbers, run with names: the same output as without a filter."""
    need_program(known[0])
    (tmp_path / "sub").mkdir()
    _learned(tmp_path, *known)
    expected = subprocess.run(other, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    done = autoprofile("enforce", "p.yaml", "--", *other, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr


def test_a_server_looks_a_name_up_later(tmp_path: Path) -> None:
    """It was seen to listen and never to connect: the name is not found, and it lives on."""
    script = (
        "import socket, sys\nsocket.create_server(('127.0.0.1', 0)).close()\n"
        "if len(sys.argv) > 1:\n  try: socket.getaddrinfo('no.such.host.invalid', 80)\n"
        "  except OSError: print('not found')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    _learned(tmp_path, *command)
    done = autoprofile("enforce", "p.yaml", "--", *command, "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "not found\n"), done.stderr


def test_a_static_program_asks_for_all_it_never_did(tmp_path: Path) -> None:
    """Time zone, user and host with musl, by a program that was seen to write and to end."""
    musl = need_program("musl-gcc", package="musl-tools")
    (tmp_path / "p.c").write_text(_STATIC)
    command = [musl, "-static", "-o", str(tmp_path / "p"), str(tmp_path / "p.c")]
    subprocess.run(command, check=True, timeout=60)
    _learned(tmp_path, str(tmp_path / "p"))
    done = autoprofile("enforce", "p.yaml", "--", tmp_path / "p", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("begins\nThu Jan  1 00:00:00 1970\n")
    assert done.stdout.endswith("\n1\n")
