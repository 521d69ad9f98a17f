"""Counters of supervised and watched runs in the Prometheus text format, in a file or at an HTTP address.

`Sample`s in, metrics out, through the official client library, which is optional and loaded only here. The
numbers are taken when they are asked for; the threads that serve a program do nothing for them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from autoprofile.atomic import write_atomic
from autoprofile.errors import AutoprofileError, MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from autoprofile.enforce.supervise import NotifySupervisor

__all__ = ["Metrics", "MetricsTarget", "Sample", "parse_metrics_target"]

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]*):(?P<port>\d{1,5})")
_PERIOD_S = 5.0
_LINKS = 40  # as many as the kernel follows (MAXSYMLINKS)
_OURS = b"# HELP autoprofile_"  # how every file of ours begins


@dataclass(frozen=True, slots=True)
class Sample:
    """The numbers of one run, now.

    Args:
        calls: (event, syscall, arch, action, by) to the number of calls that the profile does not allow.
        lost: records, or calls, that were lost.
        processes: ids of its live processes; None when they are not known.
        is_up: whether it is still served or watched.
    """

    calls: Mapping[tuple[str, str, str, str, str], int]
    lost: int = 0
    processes: frozenset[int] | None = None
    is_up: bool = True


@dataclass(frozen=True, slots=True)
class MetricsTarget:
    """Where metrics go: a `path`, or a `host` and `port` to listen at."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0


def parse_metrics_target(text: str) -> MetricsTarget:
    """Read ``FILE``, ``:PORT`` (localhost only), ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        UsageError: it is a bare number, or no possible port.
    """
    if text.isdecimal():
        raise UsageError(
            f"is {text} a port or a file?", hint=f"write :{text} for the port, ./{text} for the file"
        )
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return MetricsTarget(path=text)
    port = int(match["port"])
    if port > 65535:
        raise UsageError(f"there is no port {port}")
    return MetricsTarget(host=match["host"].strip("[]") or "127.0.0.1", port=port)


class Metrics:
    """Publish counters while entered.

    A file is written anew every five seconds and at the end, in one step (for the node exporter's textfile
    collector). A file that holds anything else (a profile, by a slip of the hand) is not replaced. A symbolic
    link is followed only if it and what it points to are the caller's own, and not again after the start: the
    program may be able to put one there. An address answers ``GET /metrics``;
    anyone who can reach it can read the program's denials, so it is localhost unless a host is given.

    Args:
        target: where.

    Raises:
        MachineError: prometheus_client is not installed.
        AutoprofileError: the file cannot be written or holds something else, or the address cannot be
            listened at.
    """

    def __init__(self, target: MetricsTarget) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise MachineError(
                "metrics need the Python package prometheus_client, which is not installed",
                hint='install it, for instance with: pip install "autoprofile[metrics]"',
            ) from error
        self._client = prometheus_client
        self._target = target
        self._path = None if target.path is None else _real_path(target.path)
        if self._path is not None:
            _expect_metrics(self._path)
        self._sources: list[Callable[[], Sample]] = []
        self._is_up = True
        self._done = threading.Event()
        self._writer: threading.Thread | None = None
        self._server: Any = None
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        #: The port listened at, which the kernel chose where 0 was asked for; None for a file.
        self.port: int | None = None

    def watch(self, supervisor: NotifySupervisor) -> None:
        """Count what a supervisor sees, from its start to the end of this."""
        self.add(lambda: _sample_of(supervisor))

    def add(self, source: Callable[[], Sample]) -> None:
        """Publish what `source` returns; it is called from another thread, whenever somebody asks."""
        self._sources.append(source)

    def __enter__(self) -> Self:
        if self._target.path is not None:
            self._write()
            self._writer = threading.Thread(target=self._keep_writing, name="metrics", daemon=True)
            self._writer.start()
            return self
        try:
            self._server, _ = self._client.start_http_server(
                self._target.port, self._target.host, registry=self._registry
            )
        except (OSError, OverflowError) as error:
            raise AutoprofileError(
                f"cannot listen at {self._target.host}:{self._target.port} for metrics: {error}"
            ) from error
        self.port = self._server.server_port
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_up = False
        self._done.set()
        if self._writer is not None:
            self._writer.join()
            self._write()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def collect(self) -> Iterator[Any]:
        """Yield the metric families (the collector protocol of prometheus_client)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        samples = [source() for source in tuple(self._sources)]
        up = GaugeMetricFamily(
            "autoprofile_up", "1 while calls are answered or watched, 0 once that has ended or failed."
        )
        up.add_metric([], float(self._is_up and all(sample.is_up for sample in samples)))
        yield up
        calls: Counter[tuple[str, str, str, str, str]] = Counter()
        for sample in samples:
            calls.update(sample.calls)
        denials = CounterMetricFamily(
            "autoprofile_calls",
            "Calls that the profile does not allow, by what came of them: deny, kill, complain, log, allow.",
            labels=["event", "syscall", "arch", "action", "by"],
        )
        for labels, count in sorted(calls.items()):
            denials.add_metric(list(labels), count)
        yield denials
        known = [sample.processes for sample in samples if sample.processes is not None]
        if known or not samples:
            gauge = GaugeMetricFamily(
                "autoprofile_supervised_processes", "Live processes of the command and its descendants."
            )
            gauge.add_metric([], len(frozenset().union(*known)))
            yield gauge
        losses = CounterMetricFamily("autoprofile_lost_records", "Audit records that were lost.")
        losses.add_metric([], sum(sample.lost for sample in samples))
        yield losses

    def _keep_writing(self) -> None:
        while not self._done.wait(_PERIOD_S):
            try:
                self._write()
            except AutoprofileError:
                continue  # a full disk now may have room later; the last write reports

    def _write(self) -> None:
        assert self._path is not None
        # Not the library's write_to_textfile(), which opens a name that the program can foretell.
        write_atomic(self._path, self._client.generate_latest(self._registry), follow=False)


def _real_path(path: str) -> str:
    # Each link on the way, and what is at its end, has to be ours; a file named itself may be anyone's.
    real = path
    for _ in range(_LINKS):
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            return real
        except OSError as error:
            raise AutoprofileError(f"cannot write the metrics: {error.strerror}", where=real) from error
        is_link = stat.S_ISLNK(status.st_mode)
        if (is_link or real != path) and status.st_uid != os.geteuid():
            raise AutoprofileError(
                "this link, or what it points to, belongs to another user; no metrics are written there",
                where=path,
                hint="name a file of your own",
            )
        if not is_link:
            return real
        real = os.path.join(os.path.dirname(real), os.readlink(real))  # noqa: PTH115, PTH118, PTH120
    raise AutoprofileError(f"cannot write the metrics: {os.strerror(errno.ELOOP)}", where=path)


def _expect_metrics(path: str) -> None:
    # Replaced without a word is only what an earlier run has left there. Not a link: `_real_path` followed
    # those that may be; not blocking, should it be a pipe.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AutoprofileError(
            f"cannot tell whether this file may be replaced: {error.strerror}", where=path
        ) from error
    try:
        status = os.fstat(fd)
        # What is no regular file is refused by whoever writes.
        if stat.S_ISREG(status.st_mode) and status.st_size and os.pread(fd, len(_OURS), 0) != _OURS:
            raise AutoprofileError(
                "this file holds no metrics of autoprofile; it was not replaced",
                where=path,
                hint="name a new file, or one that an earlier --metrics wrote",
            )
    finally:
        os.close(fd)


def _sample_of(supervisor: NotifySupervisor) -> Sample:
    calls: Counter[tuple[str, str, str, str, str]] = Counter()
    for tally in supervisor.witness.tallies:
        record = tally.record
        key = (record.event, record.syscall or str(record.nr), record.arch, record.action, record.by)
        calls[key] += tally.count
    return Sample(calls, supervisor.lost, _alive_below(supervisor.root), is_up=supervisor.error is None)


def _alive_below(root: int | None) -> frozenset[int]:
    # Descendants that were orphaned have another parent by now and are not counted.
    found: set[int] = set()
    todo = [] if root is None else [root]
    while todo:
        pid = todo.pop()
        if pid in found:
            continue
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                state = file.read().rpartition(b")")[2].split()[0]
            tids = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
        except (OSError, IndexError):
            continue
        if state not in (b"Z", b"X"):
            found.add(pid)
        for tid in tids:
            try:
                with open(f"/proc/{pid}/task/{tid}/children", "rb") as file:  # noqa: PTH123
                    todo += [int(child) for child in file.read().split()]
            except OSError:
                continue
    return frozenset(found)
