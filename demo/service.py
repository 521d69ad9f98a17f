"""A small web service, real enough to learn: Python's own http.server behind a few handlers.

Serves /, /files/NAME (from the folder beside this file) and POST /echo. The /abuse/ handlers do what an
attacker who got code to run inside it would try next; under an enforced profile each answers 403 with the
error the kernel gave. Listens on the loopback address only and stops after a while on its own.

    python service.py PORT_FILE      writes the port it got to PORT_FILE once it listens
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = Path(__file__).parent / "files"
LIFETIME_S = 120  # a forgotten service ends itself
MAX_BODY = 1 << 20


def spawn_a_shell() -> str:
    """Run a shell command, the classic first step; when no child can be made, become the shell."""
    shell = ["/bin/sh", "-c", "id"]
    try:
        child = os.fork()
    except OSError:
        os.execv(shell[0], shell)
    if child == 0:
        os.execv(shell[0], shell)
    os.waitpid(child, 0)
    return "the shell ran"


def open_a_raw_socket() -> str:
    """Open a raw socket, to forge packets."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "the raw socket is open"


def open_a_netlink_socket() -> str:
    """Open a netlink socket to the kernel's packet filter, where many privilege escalations began."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()  # 12: NETLINK_NETFILTER
    return "the netlink socket is open"


def unshare_a_namespace() -> str:
    """Make a user namespace, to be root inside it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "the service is root in a new user namespace"


ABUSES: dict[str, Callable[[], str]] = {
    "shell": spawn_a_shell,
    "raw-socket": open_a_raw_socket,
    "netlink": open_a_netlink_socket,
    "unshare": unshare_a_namespace,
}


class Handler(BaseHTTPRequestHandler):
    """Answer one request."""

    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds a silent client may hold the only thread

    def do_GET(self) -> None:
        """Serve the greeting, a file, or an abuse."""
        if self.path == "/":
            self._answer(200, b"hello\n")
        elif self.path.startswith("/files/"):
            self._answer_file(self.path.removeprefix("/files/"))
        elif self.path.startswith("/abuse/"):
            self._answer_abuse(self.path.removeprefix("/abuse/"))
        else:
            self._answer(404, b"not found\n")

    def do_POST(self) -> None:
        """Send the body back, or stop the service."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAX_BODY))
        if self.path == "/quit":
            self.server.is_asked_to_stop = True  # type: ignore[attr-defined]
        self._answer(200, body)

    def _answer_file(self, name: str) -> None:
        path = FILES / Path(name).name  # one folder, no way out of it
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            self._answer(404, b"no such file\n")
            return
        self._answer(200, body)

    def _answer_abuse(self, name: str) -> None:
        abuse = ABUSES.get(name)
        if abuse is None:
            self._answer(404, b"no such abuse\n")
            return
        try:
            self._answer(200, abuse().encode() + b"\n")
        except OSError as error:
            self._answer(403, f"{error.strerror}\n".encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write one line per request to stdout, which is the service's own."""
        print(f"service: {format % args}", flush=True)


def main() -> None:
    """Serve until POST /quit, or until the lifetime is over."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.timeout = 1
    server.is_asked_to_stop = False  # type: ignore[attr-defined]
    port_file = Path(sys.argv[1])
    port_file.with_suffix(".part").write_text(str(server.server_port))
    port_file.with_suffix(".part").replace(port_file)  # a reader sees the whole number or none
    end = time.monotonic() + LIFETIME_S
    while not server.is_asked_to_stop and time.monotonic() < end:  # type: ignore[attr-defined]
        server.handle_request()
    server.server_close()


if __name__ == "__main__":
    main()
