"""What `enforce` makes of its options, on real programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.tool import WITHOUT_PRIVILEGES, autoprofile, hand_written

pytestmark = pytest.mark.kernel

# Opens a socket of each family given, and says what came of it.
SOCKETS = (
    "import socket, sys\n"
    "for name in sys.argv[1:]:\n"
    "    try:\n"
    "        socket.socket(getattr(socket, name), socket.SOCK_DGRAM).close()\n"
    "        print(name, 'opened', flush=True)\n"
    "    except OSError as error:\n"
    "        print(name, error.strerror, flush=True)\n"
)
PYTHON = [sys.executable, "-I", "-B", "-c", SOCKETS]

DENYLIST = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  socket: [{family: AF_NETLINK, type: any, protocol: any, action: EACCES}]
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the script above, learned with one family of sockets."""
    folder = tmp_path_factory.mktemp("learned")
    done = autoprofile("learn", "-o", "s.yaml", "--", *PYTHON, "AF_UNIX", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "AF_UNIX opened\n"), done.stderr
    return folder / "s.yaml"


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 159, ""),
        (["--on-violation", "kill"], 159, ""),
        (["--on-violation", "trap"], 159, ""),
        (["--on-violation", "errno"], 0, "AF_INET Operation not permitted\n"),
        (["--on-violation", "notify"], 0, "AF_INET Operation not permitted\n"),
        (["--on-violation", "log"], 0, "AF_INET opened\n"),
        (["--complain"], 0, "AF_INET opened\n"),
        (["--on-violation", "kill", "--audit", "a.jsonl"], 159, ""),
        (["--on-violation", "log", "--audit", "a.jsonl"], 0, "AF_INET opened\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("prefix", [[], WITHOUT_PRIVILEGES], ids=["as-it-is", "unprivileged"])
def test_each_answer_to_a_violation(
    options: list[str], status: int, says: str, prefix: list[str], learned: Path, tmp_path: Path
) -> None:
    """Each action does to an unknown call what it says, with and without privileges, and nothing to known ones."""
    command = ["enforce", learned, *options, "--", *PYTHON, "AF_UNIX", "AF_INET"]
    done = autoprofile(*command, cwd=tmp_path, prefix=prefix)
    assert (done.returncode, done.stdout) == (status, f"AF_UNIX opened\n{says}"), done.stderr


@pytest.mark.parametrize(
    "options", [["--on-violation", "notify"], ["--complain"], ["--on-violation", "kill"]]
)
def test_the_audit_log_holds_each_refused_call(options: list[str], learned: Path, tmp_path: Path) -> None:
    """Refused and complained-about calls are recorded with arguments and program, allowed ones are not."""
    words = ["enforce", learned, *options, "--audit", "a.jsonl", "--", *PYTHON, "AF_UNIX", "AF_INET"]
    autoprofile(*words, cwd=tmp_path)
    shown = json.loads(autoprofile("show", "a.jsonl", "--json", cwd=tmp_path).stdout)
    (record,) = [r for r in shown["records"] if r["syscall"] == "socket"]
    assert record["decoded"]["family"] == "AF_INET"
    assert "python" in record["program"]
    assert record["location"]
    assert not shown["losses"]
    assert autoprofile("drift", learned, "a.jsonl", cwd=tmp_path).returncode == 3


def test_a_run_without_violations_leaves_a_complete_log(learned: Path, tmp_path: Path) -> None:
    """Nothing refused is no drift, and a command that was never started leaves no doubt either."""
    for argv, status in ((PYTHON, 0), (["./nothing-there"], 127)):
        done = autoprofile("enforce", learned, "--audit", "a.jsonl", "--", *argv, "AF_UNIX", cwd=tmp_path)
        assert done.returncode == status, done.stderr
    done = autoprofile("drift", learned, "a.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no drift: 0 calls compared, all allowed\n")


def test_a_denylist_refuses_what_its_rules_name(tmp_path: Path) -> None:
    """In a denylist a violation is what a rule refuses: that is answered as asked, recorded, and nothing else is."""
    profile = hand_written(tmp_path, DENYLIST)
    families = ["AF_UNIX", "AF_NETLINK"]
    for options, status, says in (
        ([], 0, "AF_NETLINK Permission denied\n"),
        (["--on-violation", "kill"], 159, ""),
        (["--audit", "a.jsonl"], 0, "AF_NETLINK Permission denied\n"),
        (["--complain", "--audit", "c.jsonl"], 0, "AF_NETLINK opened\n"),
    ):
        done = autoprofile("enforce", profile, *options, "--", *PYTHON, *families, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (status, f"AF_UNIX opened\n{says}"), done.stderr
    for log in ("a.jsonl", "c.jsonl"):
        shown = json.loads(autoprofile("show", log, "--json", cwd=tmp_path).stdout)
        assert [r["decoded"]["family"] for r in shown["records"]] == ["AF_NETLINK"]


def test_new_privileges_need_root(learned: Path, tmp_path: Path) -> None:
    """--allow-new-privs is refused without the privilege, before the command runs."""
    words = ["enforce", learned, "--allow-new-privs", "--", "touch", "ran"]
    done = autoprofile(*words, cwd=tmp_path, prefix=WITHOUT_PRIVILEGES)
    assert done.returncode == 125
    assert "CAP_SYS_ADMIN" in done.stderr
    assert not (tmp_path / "ran").exists()
