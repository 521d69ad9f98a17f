"""Learn the profiles in this folder again: ``python tests/data/profiles/record.py [NAME...]``.

Each is the strict profile of one run of a real program, with the counts of that run: what the filter compiler is
measured on. Programs that are not installed are left out and named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent

THREADS = """
import json, subprocess, threading
results = []
def work(n):
    results.append(sum(i * i for i in range(n)))
threads = [threading.Thread(target=work, args=(1000,)) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
subprocess.run(["true"], check=True)
print(json.dumps(results))
"""
PROGRAM = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
MAKEFILE = "all: a b c\n%:\n\techo $@ > $@\n"
NGINX = """
worker_processes 2; pid nginx.pid; error_log stderr; daemon off;
events { worker_connections 64; }
http { access_log access.log; server { listen 127.0.0.1:18081; root .; } }
"""

COMMANDS: dict[str, list[str]] = {
    "ls": ["ls", "-lR", "/etc"],
    "find": ["find", "/usr/share/doc", "-name", "copyright", "-size", "+10k"],
    "grep": ["grep", "-r", "root", "/etc/default", "/etc/passwd"],
    "git": ["git", "log", "--stat"],
    "tar-gzip": ["sh", "-c", "tar cf - /etc/default | gzip > out.tar.gz"],
    "sqlite": ["sqlite3", "x.db", "create table t(a, b); insert into t values (1, 2); select * from t;"],
    "python": [sys.executable, "-c", THREADS],
    "perl": ["perl", "-e", "my %h; $h{$_ % 97}++ for 1..1000; print join(',', sort keys %h), \"\\n\""],
    "sort": ["sh", "-c", "seq 200000 | sort -R --parallel=2 | sort -n | tail -1"],
    "gcc": ["gcc", "-O1", "hello.c", "-o", "hello"],
    "make": ["make", "-j2", "all"],
    "openssl": [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "k",
        "-out",
        "c",
        "-subj",
        "/CN=x",
    ],
    "xz": ["xz", "-k", "-T2", "words"],
    "dd": ["dd", "if=/dev/zero", "of=zeros", "bs=4k", "count=2000"],
    "nginx": ["nginx", "-p", ".", "-c", "nginx.conf"],
    "redis": ["redis-server", "--port", "18082", "--save", "", "--io-threads", "2"],
}


def prepare(scratch: Path) -> None:
    """Write the files the commands work on."""
    (scratch / "hello.c").write_text(PROGRAM)
    (scratch / "Makefile").write_text(MAKEFILE)
    (scratch / "nginx.conf").write_text(NGINX)
    (scratch / "index.html").write_text("hello\n" * 100)
    (scratch / "words").write_text("some words to compress\n" * 50_000)
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "hello.c", "Makefile"],
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "first"],
    ):
        subprocess.run(command, cwd=scratch, check=True, timeout=60)


def use(name: str, scratch: Path) -> None:
    """Make requests of a service, then end it."""
    time.sleep(3)
    if name == "nginx":
        for path in ("index.html", "missing", "words") * 5:
            subprocess.run(
                ["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:18081/{path}"], check=False, timeout=30
            )
        subprocess.run(
            ["nginx", "-p", ".", "-c", "nginx.conf", "-s", "quit"], cwd=scratch, check=True, timeout=30
        )
    else:
        benchmark = ["redis-benchmark", "-q", "-p", "18082", "-n", "500", "-c", "8", "-t", "set,get,lpush"]
        subprocess.run(benchmark, check=True, timeout=120, stdout=subprocess.DEVNULL)
        subprocess.run(["redis-cli", "-p", "18082", "shutdown", "nosave"], check=True, timeout=30)


def main(names: list[str]) -> None:
    """Record all, or those named."""
    for name in names or COMMANDS:
        command = COMMANDS[name]
        if shutil.which(command[0]) is None:
            print(f"{name}: {command[0]} is not installed", file=sys.stderr)
            continue
        target = HERE / f"{name}.yaml"
        target.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            scratch.chmod(0o755)  # nginx's workers drop their privileges
            prepare(scratch)
            learn = [
                sys.executable,
                "-m",
                "autoprofile",
                "learn",
                "-q",
                "--backend",
                "notify",
                "-o",
                str(target),
                "--",
            ]
            with subprocess.Popen([*learn, *command], cwd=scratch, stdout=subprocess.DEVNULL) as process:
                if name in ("nginx", "redis"):
                    use(name, scratch)
                process.wait(timeout=300)
        text = target.read_text().replace(str(scratch), "/tmp/scratch")
        text = text.replace(os.path.realpath(sys.executable), "/usr/bin/python3.11")
        target.write_text(text.replace(sys.executable, "/usr/bin/python3"))
        print(f"{name}: {len(text.splitlines())} lines", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
