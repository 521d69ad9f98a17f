"""What `enforce` makes of its options, on real programs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.abi.syscalls import syscall_table
from tests.cli.tool import HAND_WRITTEN, WITHOUT_PRIVILEGES, autoprofile, environment, hand_written, one_error
from tests.kernel.conftest import tracee

pytestmark = pytest.mark.kernel

__all__ = ["tracee"]

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


# Makes a call that it did not make when it was learned from.
STRAYS = """\
import signal, socket, sys
if 'handle' in sys.argv:
    signal.signal(signal.SIGSYS, lambda *_: print('handled', flush=True))
if 'stray' in sys.argv:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        pass
print('on', flush=True)
"""


@pytest.mark.parametrize("audit", [[], ["--audit", "a.jsonl"]], ids=["filter", "audited"])
@pytest.mark.parametrize(("handles", "status", "says"), [([], 159, ""), (["handle"], 0, "handled\non\n")])
def test_trap_is_sigsys_with_and_without_a_log(
    audit: list[str], handles: list[str], status: int, says: str, tmp_path: Path
) -> None:
    """A call answered with trap meets the program's own SIGSYS handler, or ends it, also where a log is kept."""
    script = [sys.executable, "-I", "-B", "-c", STRAYS, *handles]
    done = autoprofile("learn", "-o", "p.yaml", "--default", "trap", "--", *script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = autoprofile("enforce", "p.yaml", *audit, "--", *script, "stray", cwd=tmp_path)
    # The stray call brings others with it (close), each with a signal of its own.
    once = "".join(dict.fromkeys(done.stdout.splitlines(keepends=True)))
    assert (done.returncode, once) == (status, says), done.stderr
    # What the log cannot have is said.
    assert ("not in the audit log" in done.stderr) == bool(audit)


def test_trap_is_audited_where_close_is_not_allowed(tracee, tmp_path: Path) -> None:
    """A program that never closes a file is supervised with --on-violation trap as with the other answers."""
    program = tracee("refused", "-static")
    done = autoprofile("learn", "-o", "p.yaml", "--", program, 0, 0, 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n  close:" not in (tmp_path / "p.yaml").read_text()
    words = ["enforce", "p.yaml", "--on-violation", "trap", "--audit", "a.jsonl", "--", program, 0, 0]
    for strays, status in ((0, 0), (1, 159)):
        done = autoprofile(*words, strays, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert done.stdout.startswith("netlink 0 0\nunix 0 0\n" if status == 0 else "")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 0, "ENOSYS\n"),
        (["--audit", "a.jsonl"], 0, "ENOSYS\n"),
        (["--on-violation", "notify"], 0, "ENOSYS\n"),
        (["--beyond", "default"], 159, ""),
        (["--beyond", "default", "--audit", "a.jsonl"], 159, ""),
        (["--beyond", "default", "--on-violation", "notify"], 0, "EPERM\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_numbers_newer_than_the_profile(
    options: list[str], status: int, says: str, tracee, tmp_path: Path
) -> None:
    """They fail as on the kernel the profile knows, with and without a supervisor; --beyond default refuses them."""
    known = "".join(f"  {name}: any\n" for name, nr in sorted(syscall_table("x86_64").items()) if nr < 334)
    learned = "learned: {runs: 1, processes: 1, events: 1, lost: 0, kernel: '4.17'}\n"
    text = HAND_WRITTEN.partition("syscalls:")[0] + learned + "syscalls:\n" + known
    hand_written(tmp_path, text)
    program = tracee("filter_calls", "-static")
    membarrier, io_uring_enter = 324, 426  # the latter of Linux 5.1
    made = (membarrier, io_uring_enter)
    (tmp_path / "calls").write_bytes(b"".join(struct.pack("<8Q", 0, nr, 2**64 - 1, *(0,) * 5) for nr in made))
    (tmp_path / "results").write_bytes(bytes(16))
    done = autoprofile("enforce", "p.yaml", *options, "--", program, "-", "calls", "results", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    if status == 0:
        _, newer = struct.unpack("<2q", (tmp_path / "results").read_bytes())
        assert errno.errorcode[-newer] + "\n" == says


def test_the_profile_of_another_program_is_told_from_its_own(tracee, tmp_path: Path) -> None:
    """Another program is named at the start; the same under another name, or one that ran before, is not."""
    program = tracee("refused")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{program} 0 0 0\n")
    script.chmod(0o755)
    shutil.copy(program, tmp_path / "copy")
    (tmp_path / "link").symlink_to(program)
    done = autoprofile("learn", "-o", "p.yaml", "--", "./script", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shell = os.path.realpath("/bin/sh")
    for command in (["./script"], ["sh", "-c", "exit"], [program], ["./copy"], ["./link"]):
        done = autoprofile("enforce", "p.yaml", "--on-violation", "log", "--", *command, cwd=tmp_path)
        assert "learned from" not in done.stderr, (command, done.stderr)
    for audit in ([], ["--audit", "a.jsonl"]):
        words = ["enforce", "p.yaml", "--on-violation", "log", *audit, "--", "cat", "script"]
        done = autoprofile(*words, cwd=tmp_path)
        assert f"p.yaml was learned from {shell}, not from {os.path.realpath('/bin/cat')}\n" in done.stderr
        assert done.stdout == script.read_text()
    text = (tmp_path / "p.yaml").read_text()
    builds = re.findall(f'{re.escape(program)}: "?([0-9a-f]+)', text)
    (tmp_path / "p.yaml").write_text(text.replace(builds[0], "0123456789abcdef"))
    words = ["enforce", "p.yaml", "-v", "--on-violation", "log", "--", program]
    done = autoprofile(*words, cwd=tmp_path)
    assert f"{program} was rebuilt since p.yaml was learned (01234567 → {builds[0][:8]})" in done.stderr
    assert "p.yaml was learned from: ./script\n" in done.stderr


def test_the_kill_of_a_child_is_explained(tracee, tmp_path: Path) -> None:
    """A shell whose last command was killed is not said to be killed itself; other failures are explained with -v."""
    hand_written(tmp_path, DENYLIST.replace("EACCES", "kill"))
    program = tracee("refused")
    for script, options, says in (
        (
            '"$0" 1 0 0; exit $?',
            [],
            "sh ended as if a program that it started was killed by seccomp (SIGSYS)",
        ),
        ('exec "$0" 1 0 0', [], "sh was killed by seccomp (SIGSYS)"),
        ('"$0" 1 0 0 || exit 3', ["-v"], "if it failed because a program that it started was killed"),
        ('"$0" 1 0 0 || exit 3', [], ""),
        ("exit 0", ["-v"], ""),
    ):
        done = autoprofile("enforce", "p.yaml", *options, "--", "sh", "-c", script, program, cwd=tmp_path)
        assert done.returncode == {"exit 3": 3, "exit 0": 0}.get(script[-6:], 159), done.stderr
        assert says in done.stderr
        assert ("--complain --audit" in done.stderr) == bool(says)


def test_comparing_programs_costs_the_start_nothing(learned: Path, tmp_path: Path) -> None:
    """Where the program is the profile's own no file is looked into, and nothing loaded for it."""
    words = ["-X", "importtime", "-m", "autoprofile", "enforce", str(learned), "--", *PYTHON, "AF_UNIX"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "AF_UNIX opened\n"), done.stderr
    assert "autoprofile.enforce.install" in done.stderr
    assert not re.search(r"autoprofile\.(cli\.mismatch|trace\.program_id|enforce\.supervise)", done.stderr)


def test_a_denylist_that_logs_keeps_its_refusals_apart(tmp_path: Path) -> None:
    """In a denylist with default log --on-violation changes what rules refuse, never what is logged."""
    profile = hand_written(tmp_path, DENYLIST.replace("default: allow", "default: log"))
    for options, status, says in (
        ([], 0, "AF_NETLINK Permission denied\n"),
        (["--on-violation", "errno"], 0, "AF_NETLINK Operation not permitted\n"),
        (["--on-violation", "kill"], 159, ""),
    ):
        done = autoprofile("enforce", profile, *options, "--", *PYTHON, "AF_UNIX", "AF_NETLINK", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (status, f"AF_UNIX opened\n{says}"), done.stderr


def test_drift_names_the_cause(learned: Path, tmp_path: Path) -> None:
    """Learn, enforce, drift: the same binaries are the alarm, and a libc that was another when learning is named."""
    words = ["enforce", learned, "--on-violation", "errno", "--audit", "a.jsonl", "--backtrace", "--"]
    autoprofile(*words, *PYTHON, "AF_UNIX", "AF_INET", cwd=tmp_path)
    found = json.loads(autoprofile("drift", learned, "a.jsonl", "--json", cwd=tmp_path).stdout)
    (record,) = [r for r in found["records"] if r["syscall"] == "socket"]
    assert record["attribution"] == "same"
    assert "same binaries, new behaviour" in record["why"]
    shown = json.loads(autoprofile("show", "a.jsonl", "--json", cwd=tmp_path).stdout)
    (call,) = [r for r in shown["records"] if r["syscall"] == "socket"]
    assert call["file"].endswith("libc.so.6")
    assert call["file_build_id"]
    assert any("sock_initobj" in place or "_socket" in place for place in call["backtrace"])
    other = tmp_path / "other.yaml"
    other.write_text(learned.read_text().replace(call["file_build_id"], "0123456789abcdef"))
    found = json.loads(autoprofile("drift", other, "a.jsonl", "--json", cwd=tmp_path).stdout)
    (record,) = [r for r in found["records"] if r["syscall"] == "socket"]
    assert record["attribution"] == "changed"
    assert "libc.so.6 was rebuilt (01234567… → " in record["why"]


def test_a_kill_on_record_points_to_the_log(learned: Path, tmp_path: Path) -> None:
    """After a recorded kill the user is sent to the log, not to another run."""
    done = autoprofile("enforce", learned, "--audit", "a.jsonl", "--", *PYTHON, "AF_INET", cwd=tmp_path)
    assert done.returncode == 159
    assert "autoprofile drift" in done.stderr
    assert "--complain" not in done.stderr


def test_metrics_are_written_to_a_file(learned: Path, tmp_path: Path) -> None:
    """--metrics FILE leaves the counters of the run in the Prometheus text format, and no other file."""
    pytest.importorskip("prometheus_client")
    words = ["enforce", learned, "--on-violation", "errno", "--metrics", "m.prom", "--"]
    done = autoprofile(*words, *PYTHON, "AF_UNIX", "AF_INET", "AF_INET", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "m.prom").read_text().splitlines()
    call = 'action="EPERM",arch="x86_64",by="profile",event="deny",syscall="socket"'
    assert f"autoprofile_calls_total{{{call}}} 2.0" in lines
    assert "autoprofile_up 0.0" in lines
    assert "autoprofile_lost_records_total 0.0" in lines
    assert "autoprofile_supervised_processes 0.0" in lines
    assert [p.name for p in tmp_path.iterdir()] == ["m.prom"]


def test_metrics_replace_nothing_but_metrics(learned: Path, tmp_path: Path) -> None:
    """--metrics FILE leaves a file that holds something else as it is, runs nothing, and replaces its own."""
    pytest.importorskip("prometheus_client")
    profile = hand_written(tmp_path, learned.read_text(), "s.yaml")
    (tmp_path / "a.jsonl").write_text('{"event":"end"}\n')
    (tmp_path / "link").symlink_to("s.yaml")
    for name in ("s.yaml", "a.jsonl", "link"):
        before = (tmp_path / name).read_bytes()
        done = autoprofile("enforce", profile, "--metrics", name, "--", "touch", "ran", cwd=tmp_path)
        assert done.returncode == 125, done.stderr
        assert "holds no metrics" in one_error(done.stderr)
        assert (tmp_path / name).read_bytes() == before
        assert not (tmp_path / "ran").exists()
    (tmp_path / "m.prom").touch()
    for _ in range(2):
        done = autoprofile("enforce", profile, "--metrics", "m.prom", "--", *PYTHON, "AF_UNIX", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.prom").read_bytes().startswith(b"# HELP autoprofile_")


def test_metrics_are_served_on_localhost(learned: Path, tmp_path: Path) -> None:
    """--metrics :PORT answers while the command runs, with its live processes, and is gone afterwards."""
    pytest.importorskip("prometheus_client")
    script = (
        "import sys, urllib.request\n"
        "port = open('err').read().split('metrics at port ')[1].split()[0]\n"
        "text = urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics', timeout=60).read().decode()\n"
        "print([l for l in text.splitlines() if l.startswith(('autoprofile_up', 'autoprofile_supervised'))])\n"
    )
    profile = hand_written(tmp_path, DENYLIST)
    with open(tmp_path / "err", "wb") as stderr:
        words = ["enforce", profile, "--metrics", ":0", "--", sys.executable, "-I", "-B", "-c", script]
        done = autoprofile(*words, cwd=tmp_path, stderr=stderr)
    assert done.returncode == 0, (tmp_path / "err").read_text()
    assert done.stdout == "['autoprofile_up 1.0', 'autoprofile_supervised_processes 1.0']\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--metrics", "9100"], "a port or a file"),
        (["--metrics", ":99999"], "no port 99999"),
        (["--audit-max-size", "10"], "too small"),
        (["--audit-max-size", "much"], "no size"),
        (["--audit-max-size", "1M"], "--audit"),
        (["--backtrace"], "--audit"),
        (["--audit", "new", "--metrics", "./new"], "both name ./new"),
    ],
)
def test_options_that_make_no_sense_are_named(
    options: list[str], says: str, learned: Path, tmp_path: Path
) -> None:
    """A wrong option ends with status 2 before the command runs."""
    done = autoprofile("enforce", learned, *options, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "new").exists()
