"""Who decides at run time: hooks, the person at the terminal, the policy of hybrid profiles; all fail closed."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autoprofile.abi.syscalls import syscall_table
from autoprofile.auditlog import read_audit
from tests.cli.tool import AUTOPROFILE, autoprofile, environment
from tests.conftest import need_program

pytestmark = pytest.mark.kernel

LIMIT_S = 60

DENYLIST = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  getppid: EACCES
"""

HYBRID = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: hybrid
default: notify
syscalls:
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile that refuses getppid with EACCES and allows all else."""
    path = tmp_path / "p.yaml"
    path.write_text(DENYLIST)
    return path


def hook(folder: Path, body: str) -> str:
    path = folder / "hook.py"
    path.write_text(f"import sys\n\ndef decide(event):\n    {body}\n")
    return f"{path}:decide"


# ------------------------------------------------------------------------------------------------------ hooks


@pytest.mark.parametrize(
    ("body", "failed", "error", "event"),
    [
        ('return "allow"', 0, 0, "allow"),
        ('return "log"', 0, 0, "log"),
        ('return "deny"', 5, errno.EPERM, "deny"),
        ('return "ENOENT"', 5, errno.ENOENT, "deny"),
        ("return None", 5, errno.EACCES, "deny"),
        ('return "allow" if event.program.endswith("/refused") else None', 0, 0, "allow"),
        ('return "allow" if event.syscall == "socket" else None', 5, errno.EACCES, "deny"),
    ],
)
def test_a_hook_decides(tracee, profile, tmp_path, body, failed, error, event):
    """What the function returns is what the call gets, and the log says who decided."""
    words = ["enforce", profile, "--hook", hook(tmp_path, body), "--audit", "a.jsonl", "--"]
    done = autoprofile(*words, tracee("refused"), 0, 2, 5, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"netlink 0 0\nunix 0 0\nparent {failed} {error}\n"), (
        done.stderr
    )
    (record,) = read_audit(tmp_path / "a.jsonl")
    assert (record.event, record.count, record.by) == (
        event,
        5,
        "profile" if error == errno.EACCES else "hook",
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError(event.syscall)", "hook.py:4"),
        ("sys.exit(0)", "SystemExit"),
        ("return True", "True, which is no answer"),
        ("return 0", "0, which is no answer"),
        ('return "maybe"', "'maybe', which is no answer"),
        ('return "trap"', "'trap', which is no answer"),
        (
            "return __import__('autoprofile.enforce.judge').enforce.judge.Verdict('deny')",
            "which is no answer",
        ),
        ("return type('Odd', (), {'__repr__': lambda self: 1 / 0})()", "<Odd>, which is no answer"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "(Odd: <Odd>)"),
    ],
)
def test_a_failing_hook_refuses(tracee, profile, tmp_path, body, says):
    """A hook that raises or answers nonsense gives the call what the profile says, and is reported once."""
    words = ["enforce", profile, "--hook", hook(tmp_path, body), "--", tracee("refused"), 0, 0, 5]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.stdout.endswith(f"parent 5 {errno.EACCES}\n"), done.stderr
    assert done.stderr.count("warning: the hook") == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", ["EACCES", "trap"])
@pytest.mark.parametrize("violation", [(), ("--on-violation", "log")])
def test_a_hook_cannot_allow_what_an_allowlist_refuses_by_rule(tracee, tmp_path, violation, answer):
    """An explicit refusal of an allowlist is nobody's to allow, whatever violations get."""
    path = tmp_path / "p.yaml"
    allowed = "".join(f"  {name}: any\n" for name in sorted(syscall_table("x86_64")) if name != "getppid")
    text = f"autoprofile: 1\narch: [x86_64]\nlevel: strict\nmode: allowlist\ndefault: EPERM\nsyscalls:\n{allowed}"
    path.write_text(text + f"deny:\n  getppid: {answer}\n")
    words = ["enforce", path, *violation, "--hook", hook(tmp_path, 'return "allow"'), "--", tracee("refused")]
    done = autoprofile(*words, 0, 0, 5, cwd=tmp_path)
    if answer == "trap":
        assert done.returncode == 159, done.stderr
    else:
        assert done.stdout.endswith(f"parent 5 {errno.EACCES}\n"), done.stderr


def test_a_hook_kills(tracee, profile, tmp_path):
    """A hook's kill ends the program by SIGSYS."""
    words = ["enforce", profile, "--hook", hook(tmp_path, 'return "kill"'), "--", tracee("refused"), 0, 0, 5]
    assert autoprofile(*words, cwd=tmp_path).returncode == 159


@pytest.mark.parametrize("remembers", [True, False])
def test_identical_calls_are_asked_about_once(tracee, profile, tmp_path, remembers):
    """An answer holds for identical calls, unless the hook says that it does not."""
    lines = [
        "from autoprofile.enforce.judge import Verdict",
        "from autoprofile.profile import Action",
        "def decide(event):",
        "    open('asked', 'a').write(event.symbol + '\\n')",
        f"    return Verdict(Action.errno('EPERM'), remember={remembers})",
    ]
    (tmp_path / "hook.py").write_text("\n".join(lines))
    words = ["enforce", profile, "--hook", "hook.py:decide", "--", tracee("refused"), 0, 0, 7]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.stdout.endswith(f"parent 7 {errno.EPERM}\n"), done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == (1 if remembers else 7)
    assert asked[0].startswith("syscall+0x")


HANGS = """\
import threading

def decide(event):
    open("asked", "a").write(f"{event.pid}\\n")
    threading.Event().wait()
    return "allow"
"""


def end(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill the tool and the program that asked, should they live."""
    if process.poll() is None:
        for pid in (process.pid, *map(int, (folder / "asked").read_text().split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(LIMIT_S)


def asks_a_hook(tracee, profile: Path) -> list[object]:
    """Return the words that enforce a program with one refused call, which the function decide answers."""
    hook = ["--hook", "hook.py:decide", "--audit", "a.jsonl"]
    return ["enforce", profile, *hook, "--", tracee("refused"), 0, 0, 1]


def hanging(tracee, profile: Path, folder: Path) -> subprocess.Popen[str]:
    """Start a program whose call a hook never decides, and return once the hook has been asked."""
    (folder / "hook.py").write_text(HANGS)
    process = subprocess.Popen(
        [*AUTOPROFILE, *map(str, asks_a_hook(tracee, profile))],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + LIMIT_S
    while not (folder / "asked").exists() or not (folder / "asked").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_hook_that_hangs_does_not_outlive_the_program(tracee, profile, tmp_path):
    """SIGTERM ends a program whose call the hook never decides, and the tool with it; the log is complete."""
    process = hanging(tracee, profile, tmp_path)
    try:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        end(process, tmp_path)
    audit = read_audit(tmp_path / "a.jsonl")
    assert audit.is_complete
    assert [(r.event, r.action) for r in audit] == [("deny", "EACCES")]


def test_control_c_ends_the_wait_for_a_hook(tracee, profile, tmp_path):
    """SIGINT to the tool alone is no answer of the hook's: the call gets what the profile says, and the run goes on."""
    process = hanging(tracee, profile, tmp_path)
    try:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
        assert out.endswith(f"parent 1 {errno.EACCES}\n"), err
        assert process.returncode == 0
    finally:
        end(process, tmp_path)


def test_a_hook_that_takes_too_long_is_not_waited_for(tracee, profile, tmp_path):
    """After its timeout_s a hook has no opinion, nor on the calls that come before it returns; both are said once."""
    (tmp_path / "hook.py").write_text(HANGS + "\ndecide.timeout_s = 0.3\n")
    script = 'for i in 1 2 3; do "$0" 0 0 4; done'
    words = ["enforce", profile, "--hook", "hook.py:decide", "--", "sh", "-c", script, tracee("refused")]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.stdout.count(f"parent 4 {errno.EACCES}\n") == 3, done.stderr
    assert done.stderr.count("did not answer getppid within 0.3 s") == 1
    assert done.stderr.count("has not answered an earlier call yet") == 1
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_what_a_dead_caller_was_allowed_was_not_let_pass(tracee, profile, tmp_path):
    """A call whose caller is killed while the hook thinks is not recorded as let pass, whatever the hook says."""
    lines = [
        "import os, signal, time",
        "def decide(event):",
        "    os.kill(event.pid, signal.SIGKILL)",
        "    while open(f'/proc/{event.pid}/stat').read().rpartition(')')[2].split()[0] != 'Z':",
        "        time.sleep(0.001)",
        "    return 'allow'",
    ]
    (tmp_path / "hook.py").write_text("\n".join(lines))
    done = autoprofile(*asks_a_hook(tracee, profile), cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    assert [(r.event, r.count) for r in read_audit(tmp_path / "a.jsonl")] == [("deny", 1)]
    assert "let pass" not in done.stderr


@pytest.mark.parametrize("timeout", ["0", "-1", "'soon'", "True", "float('nan')", "float('inf')"])
def test_a_hooks_time_limit_has_to_be_one(profile, tmp_path, timeout):
    """A timeout_s that is no time is an error before anything runs."""
    (tmp_path / "hook.py").write_text(f"def decide(event):\n    pass\ndecide.timeout_s = {timeout}\n")
    done = autoprofile("enforce", profile, "--hook", "hook.py:decide", "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "timeout_s" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("hook.py", "names no hook"),
        ("nothing.py:decide", "no such file"),
        ("hook.py:absent", "no function absent"),
        ("broken.py:decide", "broken.py:1"),
    ],
)
def test_a_hook_that_cannot_be_loaded_is_an_error_before_anything_runs(profile, tmp_path, spec, says):
    """A wrong --hook ends with status 2 and one error, and the command is not run."""
    hook(tmp_path, "return None")
    (tmp_path / "broken.py").write_text("def decide(:\n")
    done = autoprofile("enforce", profile, "--hook", spec, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "__pycache__").exists()


def test_who_decides_must_be_one(profile, tmp_path):
    """--ask, --hook, --complain and --let-pass exclude each other, and --let-pass needs a hybrid profile."""
    for options in (["--ask", "--complain"], ["--ask", "--hook", "h.py:f"], ["--let-pass", "low"]):
        done = autoprofile("enforce", profile, *options, "--", "true", cwd=tmp_path)
        assert done.returncode == 2
        assert "exclude each other" in done.stderr or "hybrid" in done.stderr


# ----------------------------------------------------------------------------------------------------- hybrid


def learned_hybrid(tracee, tmp_path: Path) -> Path:
    path = tmp_path / "h.yaml"
    words = ["learn", "--mode", "hybrid", "--backend", "notify", "-o", path, "--", tracee("refused"), 0, 1, 0]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(
    ("options", "netlink", "parent"),
    [
        ([], f"3 {errno.EPERM}", "0 0"),
        (["--let-pass", "medium"], "0 0", "0 0"),
        (["--let-pass", "none"], f"3 {errno.EPERM}", "0 0"),
        (["--on-violation", "errno"], f"3 {errno.EPERM}", f"5 {errno.EPERM}"),
    ],
)
def test_a_hybrid_profile_lets_the_harmless_pass(tracee, tmp_path, options, netlink, parent):
    """Unknown calls of class medium and high are refused, ordinary ones run; both are recorded, known ones are not."""
    path = learned_hybrid(tracee, tmp_path)
    words = ["enforce", path, *options, "--audit", "a.jsonl", "--", tracee("refused"), 3, 1, 5]
    done = autoprofile(*words, cwd=tmp_path)
    assert done.stdout == f"netlink {netlink}\nunix 0 0\nparent {parent}\n", done.stderr
    found = {
        (r.syscall, r.event, r.by): r.count for r in read_audit(tmp_path / "a.jsonl") if r.syscall != "close"
    }
    passed = options != ["--on-violation", "errno"]
    assert found == {
        ("socket", "allow", "policy") if netlink == "0 0" else ("socket", "deny", "profile"): 3,
        ("getppid", "allow", "policy") if passed else ("getppid", "deny", "profile"): 5,
    }


# ----------------------------------------------------------------------------------------------- the terminal


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *argv: object, cwd: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in argv]
            os.execvpe(words[0], words, environment())
        self.text = ""
        self._seen = 0

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until something new matches."""
        deadline = time.monotonic() + 60
        while True:
            match = re.search(pattern, self.text[self._seen :])
            if match:
                self._seen += match.end()
                return match
            assert time.monotonic() < deadline, self.text
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.text += os.read(self.fd, 4096).decode()
                except OSError:
                    raise AssertionError(f"ended without {pattern}: {self.text}") from None

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def answer(self, text: str) -> None:
        """Answer the next question; CODE stands for the code it shows."""
        code = self.wait_for(r"o ([0-9a-f]{8}) = allow once.* > ")[1]
        self.type(text.replace("CODE", code) + "\n")

    def end(self) -> int:
        """Read to the end; return the shell status."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.text += data.decode()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ([""], f"3 {errno.EPERM}"),
        (["d"], f"3 {errno.EPERM}"),
        (["a CODE"], "0 0"),
        (["o CODE", "o CODE", "o CODE"], "0 0"),
        (["o CODE", "d"], f"2 {errno.EPERM}"),
        (["o 00"], f"3 {errno.EPERM}"),
        (["a CODEx"], f"3 {errno.EPERM}"),
        (["o CODE CODE"], f"3 {errno.EPERM}"),
        (["o", "y", "what"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_user_decides(tracee, profile, tmp_path, answers, result):
    """Enter, d and a wrong code refuse for good, o lets one call pass and a all of them, with the code shown; else nothing passes."""
    words = [*AUTOPROFILE, "enforce", profile, "--ask", "--audit", "a.jsonl", "--", tracee("refused"), 0, 0]
    count = 3 if result is not None else 1
    terminal = Terminal(*words, count, cwd=tmp_path)
    if result is None:
        terminal.answer(answers[0])
        for text in answers[1:]:
            terminal.wait_for("not understood.*\n.* > ")
            terminal.type(text + "\n")
        result = f"1 {errno.EACCES}"  # no answer: what the profile says
    else:
        for text in answers:
            terminal.answer(text)
    assert terminal.end() == 0
    assert f"parent {result}" in terminal.text
    assert "refused (process" in terminal.text
    assert "getppid(" in terminal.text
    assert sum(r.count for r in read_audit(tmp_path / "a.jsonl")) == count


def test_the_target_cannot_read_the_answer_away(tracee, profile, tmp_path):
    """While a question is open a program that reads the terminal gets nothing of it; afterwards it reads on."""
    terminal = Terminal(*AUTOPROFILE, "enforce", profile, "--ask", "--", tracee("reads_tty"), cwd=tmp_path)
    terminal.answer("a CODE")
    terminal.wait_for("errno 0")
    terminal.type("for the program\n")
    terminal.wait_for("line for the program")
    assert terminal.end() == 0


def test_a_question_is_withdrawn_when_its_caller_ends(tracee, profile, tmp_path):
    """Killing the program that a question is about ends the question and the run."""
    terminal = Terminal(
        *AUTOPROFILE, "enforce", profile, "--ask", "--", tracee("refused"), 0, 0, 1, cwd=tmp_path
    )
    pid = int(terminal.wait_for(r"refused \(process (\d+)")[1])
    terminal.wait_for(" > ")
    os.kill(pid, signal.SIGKILL)
    assert terminal.end() == 128 + signal.SIGKILL


def test_control_c_at_a_question_refuses(tracee, profile, tmp_path):
    """Ctrl-C at the question is no answer: the call gets what the profile says, and the run goes on."""
    terminal = Terminal(
        *AUTOPROFILE, "enforce", profile, "--ask", "--", tracee("refused"), 0, 0, 1, cwd=tmp_path
    )
    terminal.wait_for(" > ")
    terminal.type("\x03")
    assert terminal.end() == 0
    assert f"parent 1 {errno.EACCES}" in terminal.text


def test_names_of_the_target_cannot_paint_the_terminal(tracee, profile, tmp_path):
    """Control characters in the path of a program are shown as escapes."""
    odd = tmp_path / "x\x1b[2Jy"
    os.symlink(tracee("refused"), odd)
    copy = tmp_path / "copy\x1b[2J"
    copy.write_bytes(Path(tracee("refused")).read_bytes())
    copy.chmod(0o755)
    terminal = Terminal(*AUTOPROFILE, "enforce", profile, "--ask", "--", copy, 0, 0, 1, cwd=tmp_path)
    terminal.answer("d")
    assert terminal.end() == 0
    assert "copy\\x1b[2J" in terminal.text
    assert "\x1b[2J" not in terminal.text


def test_without_a_terminal_there_is_no_asking(profile, tmp_path):
    """--ask without a terminal is a usage error that names the way out, and the command is not run."""
    words = ["enforce", profile, "--ask", "--", "touch", "ran"]
    done = autoprofile(*words, cwd=tmp_path, start_new_session=True)
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "--hook" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_what_the_target_pushes_into_the_terminal_permits_nothing(tracee, profile, tmp_path):
    """Answers that the program itself puts into the terminal's input (TIOCSTI) let no call pass."""
    terminal = Terminal(*AUTOPROFILE, "enforce", profile, "--ask", "--", tracee("pushes_tty"), cwd=tmp_path)
    code = terminal.wait_for(r"o ([0-9a-f]{8}) = allow once")[1]
    # It may have refused itself by now, or still wait for an answer; only the code permits.
    terminal.type("d\nd\nd\n")
    assert terminal.end() == 0
    assert re.search(rf"errno ({errno.EPERM}|{errno.EACCES})\b", terminal.text), (code, terminal.text)


def test_guessing_ends_the_asking(tracee, tmp_path):
    """After three wrong codes nothing is asked any more: calls get what the profile says, and the user is told."""
    profile = tmp_path / "p.yaml"
    profile.write_text(DENYLIST + "  socket: EACCES\n")
    program = Path(tracee("refused"))
    other = tmp_path / "other"
    shutil.copy(program, other)
    script = '"$0" 1 1 1; "$1" 1 1 1; "$1" 0 0 2'
    words = [*AUTOPROFILE, "enforce", profile, "--ask", "--", "sh", "-c", script, program, other]
    terminal = Terminal(*words, cwd=tmp_path)
    for _ in range(3):
        terminal.answer("a 00000000")
    assert terminal.end() == 0
    assert terminal.text.count("allow once") == 3
    assert "3 wrong codes" in terminal.text
    assert f"parent 2 {errno.EACCES}" in terminal.text


def test_a_question_ends_lines_as_usual(tracee, profile, tmp_path):
    """Whatever characters end and edit lines at the terminal before, at a question newline and the usual ones do."""
    need_program("stty", package="coreutils")
    shell = ["sh", "-c", 'stty eol a eol2 e erase 0 && exec "$@"', "sh"]
    words = [*shell, *AUTOPROFILE, "enforce", profile, "--ask", "--", tracee("refused"), 0, 0, 1]
    terminal = Terminal(*words, cwd=tmp_path)
    terminal.answer("a CODE")
    assert terminal.end() == 0
    assert "parent 0 0" in terminal.text


def test_a_terminal_that_goes_away_refuses(tracee, profile, tmp_path):
    """When the terminal is hung up during a question, or before the next, calls are refused and nothing hangs."""
    words = [*AUTOPROFILE, "enforce", profile, "--ask", "--audit", "a.jsonl", "--"]
    terminal = Terminal(
        "sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *words, tracee("refused"), 0, 0, 2, cwd=tmp_path
    )
    terminal.wait_for(" > ")
    os.close(terminal.fd)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 0
    audit = read_audit(tmp_path / "a.jsonl")
    assert audit.is_complete
    assert [(r.event, r.action, r.count) for r in audit] == [("deny", "EACCES", 2)]
