"""Servers of the study: each task starts one, lets clients use it, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from study.workload import CLIENT_TIMEOUT_S, Program, Task, client, wait_for

if TYPE_CHECKING:
    from study.workload import Place

__all__ = ["SERVERS"]


def _end(place: Place, signum: int = signal.SIGTERM) -> None:
    # The server may have ended by itself or been killed by its filter.
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((place.folder / "pid").read_text()), signum)


_NGINX = """daemon off; pid {dir}/pid; error_log {dir}/error.log; %s
events { worker_connections 200; }
http {
  access_log {dir}/access.log; types { text/html html; }
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  %s
  server { listen 127.0.0.1:{port}; root {dir}/www; %s }
}
"""


def _nginx(place: Place) -> None:
    place.folder.chmod(0o755)  # workers run as another user
    place.write("a.conf", _NGINX % ("worker_processes 1;", "", ""))
    place.write(
        "b.conf",
        _NGINX
        % (
            "worker_processes 2; worker_rlimit_nofile 500;",
            """gzip on; gzip_min_length 100; sendfile on; tcp_nopush on; keepalive_timeout 5;
            open_file_cache max=9; client_max_body_size 1m;""",
            """location /list/ { autoindex on; } location /api/ { proxy_pass http://127.0.0.1:{port}/list/; }
            error_page 404 /index.html; location /old { return 301 /index.html; }""",
        ),
    )
    place.write("www/index.html", "<p>hello</p>\n" * 40)
    place.write("www/list/big.html", "<b>0123456789</b>\n" * 50_000)
    place.write("www/list/small.txt", "x")


def _nginx_a(place: Place) -> None:
    wait_for(place)
    base = f"http://127.0.0.1:{place.port}"
    client(place, "curl", "-s", f"{base}/index.html", f"{base}/list/big.html", f"{base}/missing")
    client(place, "wrk", "-t1", "-c4", "-d1", f"{base}/index.html")
    _end(place, signal.SIGQUIT)


def _nginx_b(place: Place) -> None:
    wait_for(place)
    base = f"http://127.0.0.1:{place.port}"
    client(place, "curl", "-s", "--compressed", f"{base}/list/", f"{base}/list/big.html", f"{base}/none")
    client(place, "curl", "-s", "-I", "-r", "10-2000", f"{base}/list/big.html", f"{base}/old")
    client(place, "curl", "-s", "-X", "POST", "-d", "x=1" * 9000, f"{base}/api/", f"{base}/index.html")
    client(place, "wrk", "-t2", "-c40", "-d1", "-H", "Accept-Encoding: gzip", f"{base}/list/big.html")
    _end(place, signal.SIGHUP)  # reload
    time.sleep(0.3)
    client(place, "curl", "-s", f"{base}/api/big.html")
    _end(place, signal.SIGUSR1)  # reopen the logs
    time.sleep(0.1)
    _end(place, signal.SIGTERM)


def _redis_cli(place: Place, *lines: str) -> None:
    client(place, "redis-cli", "-p", "{port}", stdin="\n".join(lines))


def _redis_a(place: Place) -> None:
    wait_for(place)
    _redis_cli(place, "SET a 1", "INCR a", "GET a", "EXPIRE a 100", "BGSAVE", "INFO")
    client(place, "redis-benchmark", "-p", "{port}", "-q", "-n", "2000", "-c", "5", "-t", "set,get")
    _redis_cli(place, "SHUTDOWN")


def _redis_b(place: Place) -> None:
    wait_for(place)
    _redis_cli(place, "LPUSH l a b c", "ZADD z 1 x 2 y", "HSET h f v", "SADD s 1 2", "SORT l ALPHA")
    _redis_cli(
        place, "EVAL \"return redis.call('GET', KEYS[1])\" 1 a", "MULTI", "SET b 2", "EXEC", "SUBSCRIBE"
    )
    client(place, "redis-benchmark", "-p", "{port}", "-q", "-n", "5000", "-c", "30", "-P", "16", "-d", "5000",
           "-t", "lpush,zadd,mset")  # fmt: skip
    _redis_cli(
        place, "BGREWRITEAOF", "CONFIG SET maxmemory 50mb", "MEMORY USAGE l", "CLIENT LIST", "SLOWLOG GET"
    )
    _redis_cli(place, "FLUSHALL ASYNC", "DEBUG SLEEP 0.01", "SAVE", "XADD x * f v", "GEOADD g 1 2 p")
    client(place, "redis-cli", "-s", "{dir}/sock", stdin="PING\nSHUTDOWN")


def _memcached_talk(place: Place, *lines: str) -> None:
    with socket.create_connection(("127.0.0.1", place.port), timeout=CLIENT_TIMEOUT_S) as connection:
        for line in lines:
            connection.sendall(line.encode() + b"\r\n")
            connection.recv(65_536)


def _memcached_a(place: Place) -> None:
    wait_for(place)
    for n in range(5):
        _memcached_talk(place, f"set k{n} 0 0 5\r\nhello", f"get k{n}", "stats", "quit")
    _end(place)


def _memcached_b(place: Place) -> None:
    wait_for(place)
    big = "v" * 200_000
    connections = [socket.create_connection(("127.0.0.1", place.port), timeout=9) for _ in range(30)]
    for n in range(3):
        _memcached_talk(place, f"set b{n} 0 1 {len(big)}\r\n{big}", f"get b{n}", "delete b0", "incr c 1")
    _memcached_talk(place, "set c 0 0 1\r\n1", "incr c 5", "append c 0 0 1\r\n2", "gets c", "touch c 9")
    _memcached_talk(place, "flush_all", "stats slabs", "stats settings", "version", "bogus", "verbosity 1")
    for connection in connections:
        connection.close()
    time.sleep(1.2)  # its clock and its crawler tick
    _end(place, signal.SIGINT)


SERVERS = (
    Program(
        "nginx",
        "web server",
        ("nginx", "wrk", "curl"),
        _nginx,
        (Task(("nginx", "-c", "{dir}/a.conf"), _nginx_a),),
        (Task(("nginx", "-c", "{dir}/b.conf"), _nginx_b),),
    ),
    Program(
        "redis",
        "database in memory",
        ("redis-server", "redis-cli", "redis-benchmark"),
        lambda _: None,
        (Task(("redis-server", "--port", "{port}", "--dir", "{dir}"), _redis_a),),
        (
            Task(
                (
                    "redis-server",
                    "--port",
                    "{port}",
                    "--dir",
                    "{dir}",
                    "--appendonly",
                    "yes",
                    "--loglevel",
                    "verbose",
                    "--logfile",
                    "{dir}/log",
                    "--unixsocket",
                    "{dir}/sock",
                    "--save",
                    "60 1000",
                ),
                _redis_b,
            ),
        ),
        is_held_out=True,
    ),
    Program(
        "memcached",
        "cache server with threads",
        ("memcached",),
        lambda place: place.folder.chmod(0o777),  # it gives its rights up
        (
            Task(
                ("memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", "{port}", "-P", "{dir}/pid"),
                _memcached_a,
            ),
        ),
        (
            Task(
                (
                    "memcached",
                    "-u",
                    "nobody",
                    "-l",
                    "127.0.0.1",
                    "-p",
                    "{port}",
                    "-P",
                    "{dir}/pid",
                    "-m",
                    "16",
                    "-t",
                    "8",
                    "-c",
                    "100",
                    "-v",
                    "-R",
                    "5",
                    "-o",
                    "hashpower=14",
                ),
                _memcached_b,
            ),
        ),
        is_held_out=True,
    ),
)
