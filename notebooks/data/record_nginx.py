"""Record ``nginx.parquet`` again: ``python notebooks/data/record_nginx.py`` (needs nginx; no root).

Three runs of a web server as a container starts it: a shell script that fills in the configuration, checks it, and
becomes nginx, which answers real HTTP requests. The first run serves files, the second also meets errors and lists a
folder, the third also takes uploads and reads its configuration again. The ptrace source records, so that returned
errors are there too.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from autoprofile import Trace
from autoprofile.trace.source import Command, source_named

HERE = Path(__file__).parent
TARGET = HERE / "nginx.parquet"
PREFIX = Path("/tmp/nginx-demo")

TEMPLATE = """
error_log PREFIX/logs/error.log warn;
pid PREFIX/nginx.pid;
daemon off;
worker_processes 2;
events { worker_connections 64; }
http {
    access_log PREFIX/logs/access.log;
    client_body_temp_path PREFIX/tmp/body;
    proxy_temp_path PREFIX/tmp/proxy;
    fastcgi_temp_path PREFIX/tmp/fastcgi;
    uwsgi_temp_path PREFIX/tmp/uwsgi;
    scgi_temp_path PREFIX/tmp/scgi;
    sendfile on;
    tcp_nopush on;
    gzip on;
    gzip_min_length 1k;
    gzip_types text/plain;
    keepalive_timeout 2;
    server {
        listen 127.0.0.1:PORT;
        root PREFIX/site;
        location /list/ { autoindex on; }
        location /put/ { client_max_body_size 1m; proxy_pass http://127.0.0.1:PORT/; }
    }
}
"""

ENTRY = """#!/bin/sh
set -e
mkdir -p PREFIX/logs PREFIX/tmp
sed -e "s,PORT,$PORT,g" PREFIX/nginx.template > PREFIX/nginx.conf
nginx -p PREFIX -c PREFIX/nginx.conf -q -t
exec nginx -p PREFIX -c PREFIX/nginx.conf
"""

REQUESTS = [
    ("GET", "/", {}, None, 200),
    ("GET", "/big.bin", {}, None, 200),
    ("GET", "/words.txt", {"Accept-Encoding": "gzip"}, None, 200),
    ("GET", "/big.bin", {"Range": "bytes=1000-1999"}, None, 206),
    ("HEAD", "/words.txt", {}, None, 200),
    ("GET", "/missing", {}, None, 404),
    ("GET", "/list/", {}, None, 200),
    ("GET", "/private.txt", {}, None, 403),
    ("POST", "/put/", {}, b"x" * 200_000, 405),
]
KINDS_OF_RUN = {1: 5, 2: 8, 3: 9}  # how many of the requests above a run draws from


def _prepare() -> None:
    shutil.rmtree(PREFIX, ignore_errors=True)
    site = PREFIX / "site"
    (site / "list").mkdir(parents=True)
    (site / "index.html").write_text("<h1>It works</h1>\n")
    (site / "big.bin").write_bytes(bytes(range(256)) * 4096)
    (site / "words.txt").write_text("so many words " * 2000)
    (site / "list" / "one.txt").write_text("one\n")
    (site / "private.txt").write_text("not for you\n")
    (site / "private.txt").chmod(0)
    (PREFIX / "nginx.template").write_text(TEMPLATE.replace("PREFIX", str(PREFIX)))
    entry = PREFIX / "entry.sh"
    entry.write_text(ENTRY.replace("PREFIX", str(PREFIX)))
    entry.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client(port: int, requests: list[int], failures: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for number in requests:
        method, path, headers, body, expected = REQUESTS[number]
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != expected:
            failures.append(f"{method} {path}: {answer.status}, not {expected}")
    connection.close()


def _drive(port: int, run: int, failures: list[str]) -> None:
    pid_file = PREFIX / "nginx.pid"
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    chance = random.Random(run)
    kinds = KINDS_OF_RUN[run]
    time.sleep(0.5)
    for burst in range(3):
        clients = []
        for _ in range(run):
            requests = [chance.randrange(kinds) for _ in range(23)]
            clients.append(threading.Thread(target=_client, args=(port, requests, failures)))
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if burst == 1 and run == 3:
            os.kill(int(pid_file.read_text()), signal.SIGHUP)  # read the configuration again, with new workers
        time.sleep(0.5)
    os.kill(int(pid_file.read_text()), signal.SIGQUIT)  # let requests end, then stop


def main() -> None:
    """Record three runs, merge them, and write the trace."""
    _prepare()
    merged: Trace | None = None
    for run in KINDS_OF_RUN:
        port = _free_port()
        failures: list[str] = []
        driver = threading.Thread(target=_drive, args=(port, run, failures))
        driver.start()
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PORT": str(port)}
        result = source_named("ptrace").run(Command((str(PREFIX / "entry.sh"),), env=environment))
        driver.join()
        assert not failures, failures
        assert result.status == 0, result.status
        print(f"run {run}: {result.trace}")
        merged = result.trace if merged is None else merged.merge(result.trace)
    assert merged is not None
    # The flavour of the recording machine's kernel says nothing about nginx.
    meta = replace(merged.meta, kernel=(merged.meta.kernel or "").partition("-")[0])
    Trace(meta, merged.observations, merged.ledger, merged.process_count).save(TARGET)
    shutil.rmtree(PREFIX)
    version = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True, timeout=10)
    print(version.stderr.strip(), "->", TARGET, TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    sys.exit(main())
