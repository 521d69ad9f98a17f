"""The durable writer of audit logs: one append per record, losses counted, never in the way of enforcement.

Each record is one write(2) to a file opened O_APPEND, within one page of it, so it survives ``kill -9`` of
this process whole, and several runs may share a log. A log that was moved away (by our own rotation, another
run's, or logrotate) is opened anew, but only as a file of its own: the target may be who moved it. Power
loss: the file is synced at the end, or after each record if asked. A full disk or a broken pipe costs
records, never a denial: they are counted, reported once, and written down as soon as writing works again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any, Literal, Self

from autoprofile.auditlog import AUDIT_SCHEMA_VERSION, AuditRecord
from autoprofile.enforce.rotate import rotate
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autoprofile.enforce.caller import ProgramParts

__all__ = ["MIN_SIZE", "AuditWriter", "Sync", "utc_text"]

#: When data is forced to the disk: at the end of the run, after every record, or when the kernel likes.
Sync = Literal["end", "record", "never"]

#: The smallest size at which a log may be rotated, in bytes.
MIN_SIZE = 64 * 1024

# The kernel looks for a fatal signal between the pages of a write (generic_perform_write() in mm/filemap.c),
# so a line within one page is written whole or not at all.
_PAGE = 4096
_BINARIES_PER_LINE = 24  # of a program record, so that it stays within a page

_REASONS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EAGAIN: "pipe_full",
}


def utc_text(time_ns: int) -> str:
    """Return nanoseconds since the epoch as ISO 8601 in UTC with microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


def _line(entry: Mapping[str, Any]) -> bytes:
    # ASCII: names that are not UTF-8 survive as escapes, and no reader has to guess.
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"


class AuditWriter:
    """Write the records of one supervised run; use `close` in any case, or as a context manager.

    Args:
        path: a regular file (created with mode 0600, appended to) or a FIFO with a reader.
        argv: the command, for the ``start`` record.
        profile: the profile file it runs under.
        mode: "enforce" or "complain".
        sync: when to force data to the disk.
        max_size: bytes at which the log is moved to ``A.jsonl.1`` (and that one to ``A.jsonl.2`` …) and begun
            anew; None for no end.
        keep: how many such files are kept; what is in the one that falls off is counted as lost.
        on_trouble: called once, with one sentence, when records start to get lost.

    Raises:
        AutoprofileError: the path cannot be opened, is neither a regular file nor a FIFO, or holds something
            that is no audit log (a profile, by a slip of the hand).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        argv: Sequence[str] = (),
        profile: str | None = None,
        mode: Literal["enforce", "complain"] = "enforce",
        sync: Sync = "end",
        max_size: int | None = None,
        keep: int = 5,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.session = os.urandom(8).hex()
        self.lost = 0
        self._sync = sync
        self._max_size = max_size
        self._keep = keep
        self._on_trouble = on_trouble
        self._unreported: dict[str, int] = {}
        self._is_torn = False
        self._told: set[str] = set()
        self._fd = _open(self.path)
        if _holds_something_else(self._fd):
            os.close(self._fd)
            self._fd = -1
            raise AutoprofileError(
                "this file is no audit log; nothing was written to it",
                where=self.path,
                hint="name a new file, or a log to append to",
            )
        if _ends_torn(self._fd):
            self._is_torn = True
            self._unreported["broken_line"] = 1
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._has_begun = False
        self._start: dict[str, Any] = {
            "argv": list(argv),
            "profile": profile,
            "mode": mode,
            "kernel": os.uname().release,
            "pid": 0,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:  # closed without totals: a reader sees a run that did not end properly
            os.close(self._fd)
            self._fd = -1

    def begin(self, pid: int = 0) -> None:
        """Write the ``start`` record, unless that is done; a run that never begins leaves no trace.

        Args:
            pid: the first process of the run, 0 when not known.
        """
        if not self._has_begun:
            self._has_begun = True
            self._start = {**self._head("start"), **self._start, "pid": pid}
            self._append(self._start)

    def program(self, parts: ProgramParts) -> None:
        """Write what a program whose calls are recorded is made of."""
        self.begin()
        items = sorted(parts.binaries.items())
        for at in range(0, max(1, len(items)), _BINARIES_PER_LINE):
            self._append(
                {
                    **self._head("program"),
                    "program": parts.program.path,
                    "build_id": parts.program.build_id,
                    "libc": parts.libc,
                    "binaries": dict(items[at : at + _BINARIES_PER_LINE]),
                }
            )

    def call(self, record: AuditRecord) -> None:
        """Write a distinct call at first sight."""
        self.begin()
        self._append(record.to_dict())

    def summary(self, record: AuditRecord) -> None:
        """Write the totals so far of a distinct call already written."""
        totals = {"id": record.id, "count": record.count, "processes": record.processes, "last": record.last}
        self._append({**self._head("summary"), **totals})

    def lose(self, reason: str, count: int = 1) -> None:
        """Count records that will never be written; a ``lost`` record says so with the next one."""
        self.lost += count
        self._unreported[reason] = self._unreported.get(reason, 0) + count

    def close(self, *, denials: int, distinct: int) -> None:
        """Write what is still owed and the ``end`` record, sync, and close; later calls do nothing."""
        if self._fd < 0:
            return
        self.begin()
        self._append({**self._head("end"), "denials": denials, "distinct": distinct, "lost": self.lost})
        if self._sync != "never":
            with contextlib.suppress(OSError):  # a FIFO cannot be synced, a full disk was reported already
                os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _head(self, event: str) -> dict[str, Any]:
        return {
            "schema_version": AUDIT_SCHEMA_VERSION,
            "event": event,
            "session": self.session,
            "time": utc_text(time.time_ns()),
        }

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._fd < 0:
            return
        if self._is_file:
            self._follow_the_name(entry)
        # The torn line of an earlier failure is ended first, and owned up to in the very next line.
        owed = sorted(self._unreported, key=lambda reason: (reason != "broken_line", reason))
        lines = [
            _line({**self._head("lost"), "reason": reason, "count": self._unreported[reason]})
            for reason in owed
        ]
        lines.append(_line(entry))
        if self._is_torn:
            lines[0] = b"\n" + lines[0]
        elif self._is_file:
            lines[0] = self._padding(sum(map(len, lines))) + lines[0]
        data = b"".join(lines)
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._fail(_REASONS.get(error.errno or 0, "write_error"), error.strerror or "write failed")
            return
        if written == len(data):
            self._is_torn = False
            self._unreported.clear()
            if self._sync == "record":
                with contextlib.suppress(OSError):
                    os.fdatasync(self._fd)
            return
        # A short write: a disk that just became full, or a FIFO with little room left. The lines that went
        # out whole are settled; this record is lost, as a torn line if the cut went through one.
        end = 0
        for reason, line in zip(owed, lines, strict=False):
            end += len(line)
            if end <= written:
                del self._unreported[reason]
        if written:
            self._is_torn = bool(data[:written].rpartition(b"\n")[2].strip())
        self._fail("broken_line" if self._is_torn else "disk_full", os.strerror(errno.ENOSPC))

    def _follow_the_name(self, entry: Mapping[str, Any]) -> None:
        # Cheap enough for each record: distinct calls are rare. What was owed to the old file goes to the
        # new.
        status = os.fstat(self._fd)
        if (
            self._max_size is not None
            and status.st_size + _PAGE // 2 >= self._max_size
            and self._is_at_name(status)
        ):
            try:
                gone, told = rotate(self.path, self._keep, status.st_ino)
            except OSError as error:
                self._tell(
                    "rotate", f"cannot rotate the audit log {self.path}: {error.strerror}; it goes on growing"
                )
                self._max_size = None
                return
            if gone:
                self.lose("rotated_out", gone)
            for reason, count in told.items():
                # Told before, by some run, in the file that is gone: said again, and no loss of this run.
                self._unreported[reason] = self._unreported.get(reason, 0) + count
        elif self._is_at_name(status):
            return
        try:
            fd = _reopen(self.path, status.st_uid)
        except AutoprofileError as error:
            self._tell(
                "move",
                f"the audit log {self.path} was moved away and cannot be begun anew ({error.what}); "
                "records go on into the old file",
            )
            return
        os.close(self._fd)
        self._fd = fd
        self._is_torn = False
        self._unreported.pop("broken_line", None)  # the reader sees the torn end of the old file itself
        if entry is not self._start:
            self._append(self._start)

    def _is_at_name(self, status: os.stat_result) -> bool:
        try:
            now = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino)

    def _padding(self, length: int) -> bytes:
        # Blanks before a JSON object are part of its line, and alone at the end of a file they are no torn
        # line.
        room = _PAGE - os.fstat(self._fd).st_size % _PAGE
        return b" " * room if room < length <= _PAGE else b""

    def _fail(self, reason: str, cause: str) -> None:
        self.lose(reason)
        self._tell(
            "write",
            f"cannot write the audit log {self.path}: {cause}; "
            "calls are still answered as before, and the records that are lost are counted",
        )

    def _tell(self, what: str, message: str) -> None:
        # Once for each kind of trouble: a full disk meets every record.
        if what not in self._told and self._on_trouble is not None:
            self._told.add(what)
            self._on_trouble(message)


def _reopen(path: str, owner: int) -> int:
    # Whoever supervises may have more rights than the target, which may put anything at the name of the log:
    # no link is followed, and nothing is written to what is another's, is no log, or has a second name.
    fd = _open(path, os.O_NOFOLLOW)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        what = "no regular file is there now"
    elif status.st_uid not in (owner, os.geteuid()):
        what = "another user's file is there now"
    elif status.st_nlink > 1:
        what = "a file with several names is there now"
    elif _holds_something_else(fd):
        what = "a file that is no audit log is there now"
    else:
        return fd
    os.close(fd)
    raise AutoprofileError(what, where=path)


def _open(path: str, more_flags: int = 0) -> int:
    flags = more_flags | os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    try:
        # Nonblocking: a FIFO without a reader, or with a slow one, must not hold the supervised program.
        fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:
            what, hint = "nobody reads this pipe", "start its reader first"
        else:
            what, hint = f"cannot open the audit log: {error.strerror}", None
        raise AutoprofileError(what, where=path, hint=hint) from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(fd)
        raise AutoprofileError(
            "an audit log must be a regular file or a pipe",
            where=path,
            hint="name a file that may be created",
        )
    return fd


def _holds_something_else(fd: int) -> bool:
    # Every record begins with a brace; a log torn at its very start, with nothing or part of one.
    return _bytes_at(fd, 0, 1) not in (b"{", b"\n", b"")


def _ends_torn(fd: int) -> bool:
    tail = _bytes_at(fd, max(0, os.fstat(fd).st_size - _PAGE), _PAGE)
    return bool(tail.rpartition(b"\n")[2].strip())


def _bytes_at(fd: int, offset: int, length: int) -> bytes:
    # Empty where there is none, or where a file may be appended to but not read: then it cannot be seen.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return b""
    try:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(reader, length, offset)
    finally:
        os.close(reader)
