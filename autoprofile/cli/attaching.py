"""`enforce --pid`: bring what runs already under a profile, and stay with it where somebody has to answer.

In: a plan's filters and what makes its supervisors. Out: an exit status. Without a supervisor the tool is
done once the filters are in place; with one it stays until the last process has ended, or Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprofile.cli import exit as exits
from autoprofile.enforce.attach_target import status_of
from autoprofile.enforce.attach_tree import AttachedProcess, attach_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autoprofile.cli.output import Output
    from autoprofile.enforce.attach import Attachment
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.supervise import NotifySupervisor
    from autoprofile.errors import AutoprofileError

    Supervised: TypeAlias = tuple[NotifySupervisor, AuditWriter | None]

__all__ = ["Attaching"]

_WAIT_S = 0.5
_SHOWN = 4  # sizes of filters


class Attaching:
    """One `enforce --pid`.

    Args:
        output: where to say what happens.
        new_supervisor: makes the supervisor of one process and its log, when there is to be one.
        complain: nothing is refused while we supervise.
    """

    def __init__(
        self, output: Output, *, new_supervisor: Callable[[], Supervised] | None, complain: bool
    ) -> None:
        self._output = output
        self._new_supervisor = new_supervisor
        self._complain = complain
        self._serving: list[tuple[threading.Thread, NotifySupervisor]] = []
        self._refused = 0
        # One ahead: a log that cannot be written is found out before anything is done.
        self._next = None if new_supervisor is None else new_supervisor()
        self._is_stopping = False

    def run(self, pid: int, programs: Sequence[bytes], *, descendants: bool, **options: Any) -> int:
        """Attach to a process (and its descendants), supervise them if need be, and return the exit status.

        Raises:
            AutoprofileError: the process was not attached to.
        """
        if self._new_supervisor is not None:
            # A filter cannot be taken off again: what the end of this means has to be known before it begins.
            mode = ", in complain mode too" if self._complain else ""
            self._output.warn(
                "supervising lasts until this ends; from then on every call that would have to be answered"
                f" fails with ENOSYS{mode}, and programs may crash of that",
                "stop the process first, or leave this running as long as it runs",
            )
        with self._stopping_with_signals(), self._closing_unused():
            attach_tree(
                pid,
                programs,
                on_attached=self._attached,
                on_refused=self._not_attached,
                descendants=descendants,
                new_listener=self._new_supervisor is not None,
                **options,
            )
            if self._serving:
                self._output.note("supervising; Ctrl-C ends this, not the process")
            for thread, _ in self._serving:
                # In slices, so that signals are handled meanwhile.
                while thread.is_alive():
                    thread.join(_WAIT_S)
        failed = next((s.error for _, s in self._serving if s.error is not None), None)
        if failed is not None:
            raise failed
        return exits.FAILED if self._refused else exits.DONE

    @property
    def supervisors(self) -> list[NotifySupervisor]:
        """Return the supervisors there were, one for each process."""
        return [supervisor for _, supervisor in self._serving]

    def _attached(self, attachment: Attachment) -> None:
        status = status_of(attachment.pid)
        name = status.name if status is not None else str(attachment.pid)
        threads = "1 thread" if attachment.threads == 1 else f"{attachment.threads} threads"
        below = ""
        if attachment.filters_before:
            count = attachment.filters_before
            below = f", on top of {count} filter{'' if count == 1 else 's'}"
            if attachment.foreign is not None:
                sizes = [str(len(p)) for p in attachment.foreign[:_SHOWN]]
                more = ", …" if len(attachment.foreign) > _SHOWN else ""
                below += (
                    f" ({', '.join(sizes)}{more} instructions;"
                    f" see them with: autoprofile dump --pid {attachment.pid})"
                )
        self._output.note(f"process {name}: {threads} filtered{below}")
        self._output.detail(f"it stood still for {attachment.stopped_s * 1e3:.1f} ms")
        if attachment.listener is None or self._new_supervisor is None:
            os.close(attachment.pidfd)
            return
        if self._next is None:
            try:
                self._next = self._new_supervisor()
            except BaseException:
                os.close(attachment.listener)  # what it would have to ask for fails from now on
                raise
        supervisor, _ = self._next
        self._next = None
        thread = threading.Thread(target=_serve, args=(supervisor, attachment), daemon=True)
        self._serving.append((thread, supervisor))
        thread.start()
        if self._is_stopping:
            supervisor.stop()

    def _not_attached(self, pid: int, error: AutoprofileError) -> None:
        self._refused += 1
        self._output.warn(f"{error}; descendant {pid} runs on as it was", error.hint)

    @contextmanager
    def _closing_unused(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._next is not None and self._next[1] is not None:
                self._next[1].close(denials=0, distinct=0)  # nothing was attached to, so nothing is missing

    @contextmanager
    def _stopping_with_signals(self) -> Iterator[None]:
        if self._new_supervisor is None:
            yield
            return

        def stop(_signum: int, _frame: object) -> None:
            self._is_stopping = True
            for _, supervisor in self._serving:
                supervisor.stop()

        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {s: signal.signal(s, stop) for s in signals if signal.getsignal(s) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _serve(supervisor: NotifySupervisor, attachment: Attachment) -> None:
    assert attachment.listener is not None
    process = AttachedProcess(attachment)
    try:
        supervisor.serve(attachment.listener, process)
    except BaseException:  # noqa: BLE001 - kept in supervisor.error, and raised by `run`
        return
    finally:
        os.close(attachment.listener)
        process.close()
