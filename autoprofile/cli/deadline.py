"""An end to a run that does not end by itself."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Deadline", "deadline"]

GRACE_S = 5.0  # between asking the program to end and killing it


@dataclass
class Deadline:
    """Tells whether the time was over before the run was."""

    is_over: bool = False


@contextmanager
def deadline(timeout_s: float | None, interrupt: Callable[[], None]) -> Iterator[Deadline]:
    """End the run inside this context when its time is over: SIGTERM first, SIGKILL five seconds later.

    Args:
        timeout_s: seconds; None for no end.
        interrupt: the source's own: the first call marks the run interrupted, the second kills the program.
    """
    state = Deadline()
    if timeout_s is None:
        yield state
        return
    done = threading.Event()

    def watch() -> None:
        if done.wait(timeout_s):
            return
        state.is_over = True
        interrupt()
        # Sources pass SIGTERM on to the program; that is the only way to it that all of them have.
        os.kill(os.getpid(), signal.SIGTERM)
        if not done.wait(GRACE_S):
            interrupt()

    # A signal that comes when the source has just stopped passing it on must not end this process.
    before = signal.signal(signal.SIGTERM, lambda _signum, _frame: None)
    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    try:
        yield state
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)
