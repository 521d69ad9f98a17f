"""The real client of the demo's service: ordinary requests that must succeed, or the abuses.

python client.py PORT            ordinary use; exit 1 when an answer is not the expected one
python client.py PORT --abuse    try every abuse and say what the service answered
python client.py PORT --quit     ask the service to stop
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection
from pathlib import Path

TIMEOUT_S = 10
FILES = Path(__file__).parent / "files"
ABUSES = {
    "shell": "run a shell command",
    "raw-socket": "open a raw socket",
    "netlink": "open a netfilter netlink socket",
    "unshare": "make a user namespace",
}


def use(port: int) -> int:
    """Make ordinary requests and return how many were answered wrongly."""
    readme = (FILES / "readme.txt").read_bytes()
    large = bytes(range(256)) * 400  # more than one socket buffer's worth of reads
    wanted: list[tuple[str, str, bytes | None, int, bytes | None]] = [
        ("GET", "/", None, 200, b"hello\n"),
        ("GET", "/files/readme.txt", None, 200, readme),
        ("GET", "/files/missing.txt", None, 404, None),
        ("GET", "/nowhere", None, 404, None),
        ("POST", "/echo", b"twice two is four", 200, b"twice two is four"),
        ("POST", "/echo", large, 200, large),
    ]
    wrong = 0
    for method, path, body, status, answer in wanted * 3:
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request(method, path, body)
        response = connection.getresponse()
        got = response.read()
        connection.close()
        if response.status != status or (answer is not None and got != answer):
            print(f"client: {method} {path}: expected {status}, got {response.status} {got[:60]!r}")
            wrong += 1
    print(f"client: {len(wanted) * 3} requests, {wrong} answered wrongly")
    return wrong


def abuse(port: int) -> int:
    """Try every abuse and return how many worked."""
    worked = 0
    for name, what in ABUSES.items():
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request("GET", f"/abuse/{name}")
        response = connection.getresponse()
        text = response.read().decode().strip()
        connection.close()
        worked += response.status == 200
        print(f"client: {what:32} -> {response.status} {text}")
    return worked


def quit_service(port: int) -> None:
    """Ask the service to stop."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("POST", "/quit", b"")
    connection.getresponse().read()
    connection.close()


def main() -> int:
    """Do what the command line says."""
    port = int(sys.argv[1])
    if "--quit" in sys.argv:
        quit_service(port)
        return 0
    return 1 if (abuse(port) if "--abuse" in sys.argv else use(port)) else 0


if __name__ == "__main__":
    sys.exit(main())
