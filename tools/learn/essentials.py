"""Measure which calls the error, signal, locale and lookup paths of glibc and musl need.

Compiles small C programs, traces each with the ptrace source, takes away what the empty program does, and
writes ``autoprofile/learn/data/essentials.tsv``. Run as ``python -m tools.learn.essentials``; prints what
changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.learn.calls import canonical
from autoprofile.trace.source import Command, source_named

if TYPE_CHECKING:
    from autoprofile.observations import Trace

__all__ = ["PROGRAMS", "measure"]

DATA = Path(__file__).parents[2] / "autoprofile" / "learn" / "data" / "essentials.tsv"
INCLUDES = """
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <grp.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
"""


@dataclass(frozen=True)
class SmallProgram:
    """One path through the C library.

    Args:
        name: the reason that profiles show.
        when: "always", or the syscall that a program must have been seen to make before this path concerns
            it.
        code: the body of main, with functions before it if need be, after ``===``.
        libcs: those it is measured with; glibc-static has no loader, which opens files of its own.
    """

    name: str
    when: str
    code: str
    libcs: tuple[str, ...] = ("glibc", "musl")


PROGRAMS = (
    SmallProgram("abort", "always", "abort();"),
    SmallProgram("a failed assertion", "always", "assert(argc == 77);"),
    SmallProgram(
        "heap corruption found by malloc",
        "always",
        "char *p = malloc(64); memset(p - 8, 0x41, 8); free(p); free(p + 16);",
    ),
    SmallProgram(
        "a signal handler",
        "always",
        "struct sigaction a = {0}; a.sa_handler = on; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1);"
        "===static void on(int s) { (void)s; }",
    ),
    SmallProgram(
        "stack overflow with a handler",
        "always",
        "static char alt[65536]; stack_t s = {.ss_sp = alt, .ss_size = sizeof alt}; sigaltstack(&s, 0);"
        "struct sigaction a = {0}; a.sa_handler = on; a.sa_flags = SA_ONSTACK; sigaction(SIGSEGV, &a, 0);"
        "deep(1);"
        "===static void on(int s) { _exit(s); }\nstatic int deep(volatile int n)"
        " { volatile char c[4096]; c[0] = n; return deep(n + 1) + c[0]; }",
    ),
    SmallProgram(
        "malloc failure",
        "always",
        'volatile size_t n = SIZE_MAX / 4; void *p = malloc(n); if (!p) perror("malloc");',
    ),
    SmallProgram(
        "malloc growth and shrinking",
        "always",
        "void *p[200]; for (int i = 0; i < 200; i++) { p[i] = malloc(1 << (i % 22)); }"
        "for (int i = 0; i < 200; i++) p[i] = realloc(p[i], 3 << (i % 22));"
        "for (int i = 0; i < 200; i++) free(p[i]);"
        "void *q = malloc(1 << 26); q = realloc(q, 1 << 27); q = realloc(q, 1 << 20); free(q);",
    ),
    SmallProgram(
        "buffered output",
        "always",
        'printf("%d %f\\n", argc, 1.5); fflush(stdout); fprintf(stderr, "e\\n"); isatty(1);',
        ("glibc", "glibc-static", "musl"),
    ),
    SmallProgram(
        "a thread",
        "always",  # a thread reaches nothing that its process does not
        "pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0);"
        "===static void *run(void *p) { free(malloc(1 << 20)); return p; }",
    ),
    SmallProgram(
        "locale and time zone",
        "openat",
        'setlocale(LC_ALL, ""); puts(nl_langinfo(CODESET)); time_t t = 0; char b[99];'
        'strftime(b, 99, "%c %Z", localtime(&t)); puts(b);',
        ("glibc", "glibc-static", "musl"),
    ),
    SmallProgram(
        "user and group lookup",
        "connect",  # it asks nscd through a Unix socket: no reason to let a program connect that never did
        'struct passwd *p = getpwuid(getuid()); getgrgid(getgid()); getpwnam("nobody");'
        'printf("%p\\n", (void *)p);',
    ),
    SmallProgram(
        "user and group lookup",
        "connect",
        'getpwnam("no such user"); getgrnam("no such group");',
        ("musl",),  # with glibc the modules of the machine's nsswitch.conf would be measured
    ),
    SmallProgram(
        "host lookup",
        "connect",
        'struct addrinfo *a = 0, h = {.ai_socktype = SOCK_STREAM}; getaddrinfo("localhost", "80", &h, &a);'
        'getaddrinfo("no.such.host.invalid", 0, 0, &a);',
    ),
)
EMPTY = SmallProgram("nothing", "always", "(void)argc;")


def _compile(program: SmallProgram, libc: str, folder: Path) -> Path:
    body, _, before = program.code.partition("===")
    source = folder / "p.c"
    source.write_text(
        f"{INCLUDES}{before}\nint main(int argc, char **argv) {{ (void)argv; {body} return 0; }}\n"
    )
    target = folder / f"{libc}.out"
    compiler = {
        "glibc": ["gcc", "-pthread"],
        "glibc-static": ["gcc", "-pthread", "-static"],
        "musl": ["musl-gcc", "-static"],
    }[libc]
    subprocess.run([*compiler, "-O0", "-w", "-o", str(target), str(source)], check=True, timeout=60)
    return target


def _trace(path: Path) -> Trace:
    # Only the process itself matters; its complaints do not.
    saved = os.dup(1), os.dup(2)
    sink = os.open("/dev/null", os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        env = {"PATH": "/usr/bin:/bin", "LANG": "en_US.UTF-8", "TZ": "Europe/Paris"}
        return source_named("ptrace").run(Command((str(path),), env=env)).trace
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (*saved, sink):
            os.close(fd)


def _calls(trace: Trace) -> set[tuple[str, str]]:
    found = set()
    for o in trace.observations:
        name = syscall_name(o.arch, o.nr)
        if name is None or o.arch != "x86_64":
            continue
        specs = constrained_args(o.arch, name)
        values = zip(specs, canonical(specs, o.args), strict=True)
        text = " ".join(f"{s.name}={decode_value(o.arch, s, v)}" for s, v in values if v is not None)
        found.add((name, text or "-"))
    return found


def measure() -> list[tuple[str, str, str, str, str]]:
    """Return rows (syscall, arguments, when, reasons, libcs), sorted."""
    found: dict[tuple[str, str, str], tuple[set[str], set[str]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for libc in ("glibc", "glibc-static", "musl"):
            nothing = _calls(_trace(_compile(EMPTY, libc, folder)))
            for program in (p for p in PROGRAMS if libc in p.libcs):
                for call, text in _calls(_trace(_compile(program, libc, folder))) - nothing:
                    reasons, libcs = found.setdefault((call, text, program.when), (set(), set()))
                    reasons.add(program.name)
                    libcs.add(libc.removesuffix("-static"))
    # what every program may need, it may also need when it does something more
    always = {(call, text) for call, text, when in found if when == "always"}
    return sorted(
        (call, text, when, ", ".join(sorted(reasons)), ",".join(sorted(libcs)))
        for (call, text, when), (reasons, libcs) in found.items()
        if when == "always" or (call, text) not in always
    )


def _glibc() -> str:
    said = subprocess.run(["ldd", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("\n")[0].split()[-1]


def _musl() -> str:
    # the loader names itself on stderr when it is given nothing to load
    said = subprocess.run(["/lib/ld-musl-x86_64.so.1"], capture_output=True, text=True, check=False).stderr
    return next(line.split()[-1] for line in said.splitlines() if line.startswith("Version"))


def main() -> int:
    """Write the data file; exit status 1 when it changed."""
    rows = measure()
    libcs = f"glibc {_glibc()} and musl {_musl()}"
    head = f"# source: measured with tools/learn/essentials.py on x86_64 Linux, {libcs}"
    text = "\n".join([head, *("\t".join(row) for row in rows)]) + "\n"
    changed = not DATA.exists() or DATA.read_text() != text
    DATA.write_text(text)
    print(f"{DATA.name}: {len(rows)} calls, {'changed' if changed else 'unchanged'}")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
