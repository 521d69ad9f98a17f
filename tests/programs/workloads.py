"""The real programs on which learning and enforcement are tried: how to run each, and what it must print.

A workload owns a scratch folder, so that learning, enforcing and a plain run meet the same files.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need_program

__all__ = ["COMMANDS", "SERVICES", "CommandWorkload", "ServiceWorkload"]

TIMEOUT_S = 90


@dataclass(frozen=True)
class CommandWorkload:
    """A program that runs to its end by itself.

    Attributes:
        prepare: builds what the program needs in a scratch folder and returns the command line.
        is_deterministic: two runs make the same set of calls, so two backends must learn the same rules.
        cpus: the processors it may use ("0"), where its calls would otherwise depend on how fast others run:
            Go yields to the scheduler only under contention, which tracing slows away.
        enforce_options: what it is enforced with; --complain where no number of runs shows every call.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    is_deterministic: bool = True
    cpus: str = ""
    enforce_options: tuple[str, ...] = ()


def _run(argv: list[str], **options: object) -> None:
    subprocess.run(argv, check=True, timeout=TIMEOUT_S, capture_output=True, **options)  # type: ignore[call-overload]


def _ls(scratch: Path) -> list[str]:
    folder = scratch / "folder"
    folder.mkdir(exist_ok=True)
    for name in ("one", "two", "three"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1_000_000, 1_000_000))
    return [need_program("ls"), "-l", "--time-style=+%s", str(folder)]


def _git_log(scratch: Path) -> list[str]:
    git, repo = need_program("git"), scratch / "repo"
    if not repo.exists():
        _run([git, "init", "-q", str(repo)])
        for n in range(5):
            (repo / f"file{n}").write_text(f"{n}\n" * (n + 1))
            _run([git, "-C", str(repo), "add", "."])
            identity = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
            _run([git, "-C", str(repo), *identity, "commit", "-q", "-m", f"commit {n}"])
    return [git, "-C", str(repo), "--no-pager", "log", "--stat", "--format=%s"]


def _python_threads(scratch: Path) -> list[str]:
    code = """
        import subprocess, sys, threading
        results = [None] * 5
        def work(i):
            results[i] = subprocess.run(["/bin/echo", str(i * i)], capture_output=True, text=True).stdout.strip()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        print(results)
    """
    return [_system_python(), "-c", textwrap.dedent(code)]


def _system_python() -> str:
    return str(Path(sys.executable).resolve())


def _sqlite(scratch: Path) -> list[str]:
    (scratch / "db.sqlite").unlink(missing_ok=True)
    script = (
        "create table t(a integer primary key, b text);"
        "begin; insert into t(b) values('one'),('two'),('three'); commit;"
        "update t set b = upper(b) where a > 1; select count(*), group_concat(b) from t; drop table t;"
    )
    return [need_program("sqlite3"), str(scratch / "db.sqlite"), script]


def _tar_gzip(scratch: Path) -> list[str]:
    _ls(scratch)
    need_program("tar")
    need_program("gzip")
    return ["/bin/sh", "-c", f"cd {scratch} && tar cf - folder | gzip -n | gzip -dc | tar tf - | sort"]


def _busybox(scratch: Path) -> list[str]:
    _ls(scratch)
    busybox = need_program("busybox", "busybox-static")
    script = f"cd {scratch}/folder && busybox ls | busybox sort -r && busybox sha256sum one two three"
    return [busybox, "sh", "-c", script]


def _compiled(scratch: Path, source: str, *flags: str) -> str:
    binary = scratch / "program"
    if not binary.exists():
        (scratch / "program.c").write_text(textwrap.dedent(source))
        _run([need_program("gcc"), *flags, "-O1", "-o", str(binary), str(scratch / "program.c"), "-lpthread"])
    return str(binary)


C_PROGRAM = """
    #include <fcntl.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void *work(void *arg) { return (void *)((long)arg * 3); }
    int main(void) {
        int pair[2];
        char text[8] = "";
        void *result;
        pthread_t thread;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) return 2;
        if (write(pair[0], "pong", 5) != 5 || read(pair[1], text, 5) != 5) return 3;
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED || mprotect(page, 4096, PROT_READ)) return 4;
        pthread_create(&thread, NULL, work, (void *)14L);
        pthread_join(thread, &result);
        int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC), status;
        pid_t child = fork();
        if (child == 0) _exit(7);
        waitpid(child, &status, 0);
        printf("%s %ld %d %zu-bit\\n", text, (long)result, WEXITSTATUS(status), 8 * sizeof(void *));
        return fd < 0;
    }
"""


def _c32(scratch: Path) -> list[str]:
    return [_compiled(scratch, C_PROGRAM, "-m32")]


def _c_static(scratch: Path) -> list[str]:
    return [_compiled(scratch, C_PROGRAM, "-static")]


def _go(scratch: Path) -> list[str]:
    go, binary = need_program("go", "golang-go"), scratch / "program"
    if not binary.exists():
        (scratch / "main.go").write_text(
            textwrap.dedent("""
                package main
                import ("fmt"; "net"; "os/exec"; "sync")
                func main() {
                    var group sync.WaitGroup
                    sum := 0
                    var lock sync.Mutex
                    for i := 0; i < 10; i++ {
                        group.Add(1)
                        go func(n int) { defer group.Done(); lock.Lock(); sum += n; lock.Unlock() }(i)
                    }
                    group.Wait()
                    listener, err := net.Listen("tcp", "127.0.0.1:0")
                    if err != nil { panic(err) }
                    go func() { c, _ := listener.Accept(); c.Write([]byte("pong")); c.Close() }()
                    conn, err := net.Dial("tcp", listener.Addr().String())
                    if err != nil { panic(err) }
                    text := make([]byte, 4)
                    conn.Read(text)
                    out, err := exec.Command("/bin/echo", "child").Output()
                    fmt.Println(sum, string(text), string(out), err)
                }
            """)
        )
        _run(
            [go, "build", "-o", str(binary), str(scratch / "main.go")],
            env={"HOME": str(scratch), "GOFLAGS": "-mod=mod", "GO111MODULE": "off", "PATH": "/usr/bin:/bin"},
        )
    return [str(binary)]


def _rust(scratch: Path) -> list[str]:
    rustc, binary = need_program("rustc"), scratch / "program"
    if not binary.exists():
        (scratch / "main.rs").write_text(
            textwrap.dedent("""
                use std::{fs, process::Command, sync::mpsc, thread};
                fn main() {
                    let (sender, receiver) = mpsc::channel();
                    for n in 0..8u64 {
                        let sender = sender.clone();
                        thread::spawn(move || sender.send(n * n).unwrap());
                    }
                    drop(sender);
                    let sum: u64 = receiver.iter().sum();
                    let out = Command::new("/bin/echo").arg("child").output().unwrap();
                    let length = fs::read_to_string("/etc/hostname").unwrap().len();
                    print!("{} {} {}", sum, length > 0, String::from_utf8_lossy(&out.stdout));
                }
            """)
        )
        _run([rustc, "-O", "-o", str(binary), str(scratch / "main.rs")])
    return [str(binary)]


COMMANDS = [
    CommandWorkload("ls", _ls),
    CommandWorkload("git-log", _git_log),
    CommandWorkload("python-threads", _python_threads, is_deterministic=False),
    CommandWorkload("sqlite3", _sqlite),
    CommandWorkload("tar-gzip-sh", _tar_gzip),
    CommandWorkload("busybox-static", _busybox),
    CommandWorkload("c-m32", _c32),
    CommandWorkload("c-static", _c_static),
    CommandWorkload("go", _go, is_deterministic=False, cpus="0", enforce_options=("--complain",)),
    CommandWorkload("rust", _rust, is_deterministic=False),
]


@dataclass(frozen=True)
class ServiceWorkload:
    """A server, the client that drives it, and how it is told to stop.

    Attributes:
        prepare: writes the configuration and returns the command line; takes the scratch folder and a port.
        drive: uses the running service for real and returns what it answered.
        stop: asks it to end.
    """

    name: str
    prepare: Callable[[Path, int], list[str]]
    drive: Callable[[Path, int], str]
    stop: Callable[[Path, int], None]


def wait_for_port(port: int, timeout_s: float = 30) -> None:
    """Return when something listens on a loopback port."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


def _nginx(scratch: Path, port: int) -> list[str]:
    (scratch / "html").mkdir(exist_ok=True)
    scratch.chmod(0o755)
    (scratch / "html" / "index.html").write_text("<p>hello</p>\n" * 50)
    (scratch / "nginx.conf").write_text(
        textwrap.dedent(f"""
            {"user root; " if os.geteuid() == 0 else ""}daemon off; worker_processes 2; pid {scratch}/nginx.pid; error_log {scratch}/error.log;
            events {{ worker_connections 64; }}
            http {{
                access_log {scratch}/access.log; sendfile on; gzip on;
                client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy;
                fastcgi_temp_path {scratch}/fcgi; uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
                server {{ listen 127.0.0.1:{port}; root {scratch}/html; }}
            }}
        """)
    )
    return [need_program("nginx", "nginx-light"), "-p", str(scratch), "-c", str(scratch / "nginx.conf")]


def _nginx_drive(scratch: Path, port: int) -> str:
    answers = []
    for path in ("/", "/index.html", "/missing"):
        for _ in range(5):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
                    answers.append(f"{response.status} {len(response.read())}")
            except urllib.error.HTTPError as error:
                answers.append(str(error.code))
    return "\n".join(answers)


def _nginx_stop(scratch: Path, port: int) -> None:
    _run(["/bin/sh", "-c", f"kill -TERM $(cat {scratch}/nginx.pid)"])


def _redis(scratch: Path, port: int) -> list[str]:
    server = need_program("redis-server")
    need_program("redis-benchmark", "redis-tools")
    return [
        server,
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(scratch),
        "--save",
        "",
        "--daemonize",
        "no",
    ]


def _redis_drive(scratch: Path, port: int) -> str:
    command = [need_program("redis-benchmark", "redis-tools"), "-p", str(port), "-n", "300", "-c", "5", "-q"]
    result = subprocess.run(
        [*command, "-t", "ping,set,get,lpush,lrange_100"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert "requests per second" in result.stdout
    cli = need_program("redis-cli", "redis-tools")
    say = subprocess.run(
        [cli, "-p", str(port), "eval", "return redis.call('strlen', KEYS[1]) >= 0", "1", "key"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return say.stdout


def _redis_stop(scratch: Path, port: int) -> None:
    subprocess.run(
        [need_program("redis-cli", "redis-tools"), "-p", str(port), "shutdown", "nosave"],
        timeout=TIMEOUT_S, capture_output=True, check=False,
    )  # fmt: skip


SERVICES = [
    ServiceWorkload("nginx", _nginx, _nginx_drive, _nginx_stop),
    ServiceWorkload("redis", _redis, _redis_drive, _redis_stop),
]
