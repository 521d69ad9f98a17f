"""Learn a small web service, enforce its profile, abuse it, and see what was refused.

Runs demo/service.py with demo/client.py as its real client, through the command line a user would type; needs
no privileges. Exits 1 when anything does not turn out as it says. Everything happens on the loopback address,
in a temporary directory, and within two minutes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEADLINE_S = 60
# -I -B: neither the user's site-packages nor bytecode files, so that both runs do the same.
PYTHON = [sys.executable, "-I", "-B"]
AUTOPROFILE = [sys.executable, "-m", "autoprofile"]


class DemoFailedError(Exception):
    """Something did not turn out as the demo says it does."""


def say(text: str) -> None:
    """Print a line of the story."""
    is_coloured = (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))) and not os.environ.get(
        "NO_COLOR"
    )
    print(f"\n\x1b[1m# {text}\x1b[0m" if is_coloured else f"\n# {text}", flush=True)


def shown(argv: list[str], scratch: Path) -> str:
    """Return a command as a user would type it."""
    text = shlex.join(argv)
    text = text.replace(shlex.join(AUTOPROFILE), "autoprofile").replace(shlex.join(PYTHON), "python3")
    return text.replace(f"{HERE}/", "demo/").replace(f"{scratch}/", "")


def run(argv: list[str], scratch: Path, *, expect: int = 0) -> None:
    """Show a command, run it, and insist on its exit status."""
    print(f"$ {shown(argv, scratch)}", flush=True)
    status = subprocess.run(
        argv, cwd=scratch, stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=False
    ).returncode
    if status != expect:
        raise DemoFailedError(f"expected exit status {expect}, got {status}")
    if expect:
        print(f"(exit status {status})", flush=True)


def serve(prefix: list[str], scratch: Path, *clients: list[str]) -> None:
    """Run the service behind `prefix`, let each client use it in turn, then ask it to stop."""
    port_file = scratch / "port"
    port_file.unlink(missing_ok=True)
    argv = [*prefix, *PYTHON, str(HERE / "service.py"), port_file.name]
    print(f"$ {shown(argv, scratch)} &", flush=True)
    # The service's own lines go to a file: they would only interleave with the client's.
    with (scratch / "service.log").open("w") as log:
        service = subprocess.Popen(argv, cwd=scratch, stdin=subprocess.DEVNULL, stdout=log)
    try:
        port = wait_for_port(port_file, service)
        for client in clients:
            run([*PYTHON, str(HERE / "client.py"), port, *client], scratch)
        subprocess.run([*PYTHON, str(HERE / "client.py"), port, "--quit"], timeout=DEADLINE_S, check=True)
        status = service.wait(timeout=DEADLINE_S)
    finally:
        if service.poll() is None:
            service.kill()
            service.wait(timeout=DEADLINE_S)
    if status != 0:
        raise DemoFailedError(f"the service ended with exit status {status}")


def wait_for_port(port_file: Path, service: subprocess.Popen[bytes]) -> str:
    """Return the port the service listens on."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if port_file.exists():
            return port_file.read_text()
        if service.poll() is not None:
            raise DemoFailedError(
                f"the service ended with exit status {service.returncode} before it listened"
            )
        time.sleep(0.05)
    raise DemoFailedError("the service does not listen")


def main() -> int:
    """Tell the story."""
    with tempfile.TemporaryDirectory(prefix="autoprofile-demo-") as name:
        scratch = Path(name)
        profile, trace, audit = "web.yaml", "web.parquet", "web.jsonl"
        try:
            say("1. Learn: the service answers its client while every syscall is recorded.")
            serve(
                [*AUTOPROFILE, "learn", "-o", profile, "--trace", trace, "--"],
                scratch,
                [],
            )
            say("2. The profile: these calls, these arguments, nothing else.")
            run([*AUTOPROFILE, "show", profile], scratch)
            say("3. Enforce: the same client, the same answers, nothing refused.")
            serve([*AUTOPROFILE, "enforce", profile, "--"], scratch, [])
            say("4. Abuse: someone runs code inside it. Refused calls are recorded, the rest goes on.")
            enforce = [*AUTOPROFILE, "enforce", profile, "--on-violation", "notify", "--audit", audit, "--"]
            serve(enforce, scratch, ["--abuse"], [])
            say("5. Drift: what was refused, with arguments, program and code location (exit status 3).")
            run([*AUTOPROFILE, "drift", profile, audit], scratch, expect=3)
        except (DemoFailedError, subprocess.SubprocessError, OSError) as error:
            print(f"error: the demo did not work: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
