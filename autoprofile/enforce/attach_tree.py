"""Attach to a process and to what it has started: each under the same filters, parents before children.

Filters bind a process and what it starts from then on; children that run already have to be attached to one
by one. They are known exactly, as a parent stands still while its children are listed. Not found: a process
whose parent ended before we came (a daemon's double fork), which belongs to init or a subreaper by then.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any

from autoprofile import kernel
from autoprofile.enforce.attach import Attachment, attach
from autoprofile.enforce.attach_target import AttachError, status_of
from autoprofile.errors import AutoprofileError
from autoprofile.kernel import KernelError
from autoprofile.trace.status import Child
from autoprofile.trace.targets import descendants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AttachedProcess", "attach_tree"]


def attach_tree(
    pid: int,
    programs: Sequence[bytes],
    *,
    on_attached: Callable[[Attachment], None],
    on_refused: Callable[[int, AutoprofileError], None],
    descendants: bool = True,
    **options: Any,
) -> None:
    """Attach to a process, then to its descendants.

    Args:
        pid: the process.
        programs: see `attach`.
        on_attached: called with each process that was attached to, at once: its listener has to be served.
            Owns the attachment.
        on_refused: called with each descendant that could not be attached to, and why. It runs as it was.
        descendants: whether to attach to those too.
        options: of `attach`.

    Raises:
        AutoprofileError: the process itself was not attached to, and neither was anything else.
    """
    # Those that lose their parent while we work are still known from here.
    known = _opened(descendants_of(pid)) if descendants else {}
    try:
        first = attach(pid, programs, **options)
        started = dict(first.children)
        done = {pid, os.getpid()}  # we may have been started by it, and its filters are not for us
        on_attached(first)
        while descendants and (todo := (started.keys() | known.keys()) - done):
            child = min(todo)
            done.add(child)
            try:
                pidfd = known.get(child)
                if pidfd is None:
                    pidfd = known[child] = kernel.pidfd_open(child)
                    status = status_of(child)
                    # Its parent may have ended since, and another be its parent by now: it is the same still.
                    if status is None or status.started != started[child]:
                        continue  # ended, and its number is someone else's by now
                attached = attach(child, programs, pidfd=pidfd, **options)
            except AutoprofileError as error:
                if _lives(child, known.get(child)):
                    on_refused(child, error)
                continue
            for born, when in attached.children.items():
                started.setdefault(born, when)
            on_attached(attached)
    finally:
        for pidfd in known.values():
            os.close(pidfd)


def _opened(pids: set[int]) -> dict[int, int]:
    opened = {}
    for pid in pids:
        try:
            opened[pid] = kernel.pidfd_open(pid)
        except KernelError:
            continue
    return opened


def _lives(pid: int, pidfd: int | None) -> bool:
    status = status_of(pid)
    return pidfd is not None and not _has_ended(pidfd) and status is not None and not status.has_ended


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


class AttachedProcess(Child):
    """A process that we supervise without being its parent; its exit status is not ours to know.

    Args:
        attachment: its pidfd is closed by `close`.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.pid = attachment.pid
        self.pidfd = attachment.pidfd
        self._wait_status = None

    def poll(self) -> int | None:
        """Return 0 once the process has ended, None while it runs."""
        if self._wait_status is None and _has_ended(self.pidfd):
            self._wait_status = 0
        return self._wait_status

    def wait(self) -> int:
        """Wait for the end of the process; return 0."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        poller.poll()
        self._wait_status = 0
        return 0

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        if not self.send_signal(signal.SIGKILL) and self.poll() is None:
            raise AttachError(f"process {self.pid} cannot be killed")
        self.wait()
