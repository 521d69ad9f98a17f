"""The versioned columns of a trace file, and the Parquet file itself.

The column table below is the definition: its units and meanings go into the Parquet field metadata, and
docs/trace-format.md repeats them (a test compares). Reading checks everything it relies on; writing is whole
or not at all.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprofile.abi.syscalls import display_name
from autoprofile.errors import AutoprofileError
from autoprofile.observations.model import ARGS, LossLedger, Observation, ProgramId, TraceMeta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from autoprofile.observations.trace import Trace

__all__ = [
    "COLUMNS",
    "METADATA_KEY",
    "TRACE_SCHEMA_VERSION",
    "Column",
    "frame_from_observations",
    "observations_from_frame",
    "read_parquet",
    "write_parquet",
]

TRACE_SCHEMA_VERSION = 1
"""Version of the columns; a reader refuses a greater one."""

METADATA_KEY = b"autoprofile.trace"
"""Key of the JSON document in the Parquet schema metadata."""


@dataclass(frozen=True, slots=True)
class Column:
    """Define one column.

    Args:
        name: column name.
        dtype: Arrow type, as ``pyarrow.type_for_alias`` knows it.
        nullable: whether a value may be missing.
        unit: unit of the values, ``-`` for none.
        meaning: one line for the reader.
        is_later: it was added within the version of the columns: older files do not have it.
    """

    name: str
    dtype: str
    nullable: bool
    unit: str
    meaning: str
    is_later: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("run", "int32", False, "-", "index of the run, from 0"),
    Column("program", "string", False, "-", "path of the executable that made the calls; ? when unknown"),
    Column("build_id", "string", True, "hex", "ELF build-id of the executable"),
    Column("arch", "string", False, "-", "arch of the call; an audit token as 0x… when it has no name"),
    Column("nr", "uint32", False, "-", "syscall number, the x32 bit included"),
    Column("syscall", "string", False, "-", "name of the number when written; for people, ignored when read"),
    *(
        Column(f"a{i}", "uint64", True, "-", f"argument {i} as the kernel reads it; missing: not constrained")
        for i in range(ARGS)
    ),
    Column("count", "uint64", False, "calls", "calls counted"),
    Column("first_ns", "int64", False, "ns", "start of the run to the first such call"),
    Column("last_ns", "int64", False, "ns", "start of the run to the last such call"),
    Column("processes", "int32", False, "processes", "distinct thread groups that made the call"),
    Column("ok", "uint64", True, "calls", "calls that returned without error; missing: returns not seen"),
    Column("failed", "uint64", True, "calls", "calls that returned an error; missing: returns not seen"),
    Column("last_return", "string", True, "-", "ok, or the last call's errno name; missing: none seen"),
    Column("classes", "string", True, "-", "JSON: classes of sizes and pointers; missing: not seen", True),
    Column("errors", "string", True, "-", "errors of all failed calls; missing: none, or not noted", True),
)

_DERIVED = {"syscall"}
_PANDAS = {"int32": "int32", "int64": "int64", "uint32": "uint32", "uint64": "uint64", "string": "object"}
_NULLABLE_PANDAS = {"uint64": "UInt64", "string": "object"}


# The bytes that are not UTF-8 in a name (PEP 383), and what looks like the text they become.
_TO_ESCAPE = r"[\udc80-\udcff]|\\(?=x[0-9a-f]{2})"
_ESCAPED = r"\\x([89a-f][0-9a-f]|5c)"


def _text_from_path(path: str) -> str:
    # Arrow's strings are UTF-8, file names any bytes: \xff stands for a byte that is not UTF-8.
    def escaped(match: re.Match[str]) -> str:
        return f"\\x{ord(match[0]) & 0xFF:02x}"

    # Other surrogates are no bytes of a name; nobody but a caller of this library can have put them there.
    return re.sub(_TO_ESCAPE, escaped, path).encode("utf-8", "replace").decode()


def _path_from_text(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        return os.fsdecode(bytes.fromhex(match[1]))

    return re.sub(_ESCAPED, plain, text) if "\\" in text else text


def _columns_of(observations: Sequence[Observation]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "run": [o.run for o in observations],
        "program": [_text_from_path(o.program.path) for o in observations],
        "build_id": [o.program.build_id for o in observations],
        "arch": [o.arch for o in observations],
        "nr": [o.nr for o in observations],
        "syscall": [display_name(o.arch, o.nr) for o in observations],
    }
    for i in range(ARGS):
        columns[f"a{i}"] = [o.args[i] for o in observations]
    for name in ("count", "first_ns", "last_ns", "processes", "ok", "failed", "last_return"):
        columns[name] = [getattr(o, name) for o in observations]
    for name in ("classes", "errors"):
        columns[name] = [getattr(o, name) for o in observations]
    return columns


def frame_from_observations(observations: Sequence[Observation]) -> pd.DataFrame:
    """Return the raw columns as a data frame, one row per observation."""
    import pandas as pd

    data = _columns_of(observations)
    series = {}
    for column in COLUMNS:
        dtype = (_NULLABLE_PANDAS if column.nullable else _PANDAS)[column.dtype]
        series[column.name] = pd.Series(data[column.name], dtype=dtype)
    return pd.DataFrame(series)


def observations_from_frame(frame: pd.DataFrame, where: str | None = None) -> list[Observation]:
    """Return the observations a frame of raw columns holds; further columns are ignored."""
    import pandas as pd

    needed = [
        c for c in COLUMNS if c.name not in _DERIVED and not (c.is_later and c.name not in frame.columns)
    ]
    if missing := [c.name for c in needed if c.name not in frame.columns]:
        raise AutoprofileError(f"no trace: column {missing[0]!r} is missing", where=where)
    data: dict[str, list[Any]] = {}
    for column in needed:
        absent = frame[column.name].isna()
        if not column.nullable and absent.any():
            raise AutoprofileError(f"no trace: column {column.name!r} has missing values", where=where)
        # pd.NA and NaN both mean missing; to_list keeps u64 exact, which a float detour would not.
        values = frame[column.name].to_list()
        convert = str if column.dtype == "string" else int
        try:
            data[column.name] = [None if pd.isna(v) else convert(v) for v in values]
        except (TypeError, ValueError) as error:
            raise AutoprofileError(
                f"no trace: column {column.name!r} does not hold {column.dtype} values", where=where
            ) from error
    return _observations_from_columns(data)


def _observations_from_columns(data: Mapping[str, list[Any]]) -> list[Observation]:
    programs: dict[tuple[str, str | None], ProgramId] = {}
    for path, build_id in zip(data["program"], data["build_id"], strict=True):
        programs.setdefault((path, build_id), ProgramId(_path_from_text(path), build_id))
    return [
        Observation(run, programs[path, build_id], arch, nr, args, *rest)
        for run, path, build_id, arch, nr, args, *rest in zip(
            data["run"],
            data["program"],
            data["build_id"],
            data["arch"],
            data["nr"],
            zip(*(data[f"a{i}"] for i in range(ARGS)), strict=True),
            data["count"],
            data["first_ns"],
            data["last_ns"],
            data["processes"],
            data["ok"],
            data["failed"],
            data["last_return"],
            data.get("classes") or [None] * len(data["run"]),
            data.get("errors") or [None] * len(data["run"]),
            strict=True,
        )
    ]


def write_parquet(trace: Trace, path: Path) -> None:
    """Write a trace file; the columns' units and meanings go into the field metadata.

    Raises:
        AutoprofileError: the file cannot be written, or a value is none of its column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    document = {
        "schema_version": TRACE_SCHEMA_VERSION,
        "meta": trace.meta.to_dict(),
        "ledger": trace.ledger.to_dict(),
        "process_count": trace.process_count,
    }
    fields = [
        pa.field(
            c.name,
            pa.type_for_alias(c.dtype),
            nullable=c.nullable,
            metadata={"unit": c.unit, "description": c.meaning},
        )
        for c in COLUMNS
    ]
    schema = pa.schema(fields, metadata={METADATA_KEY: json.dumps(document, sort_keys=True)})
    try:
        table = pa.table(_columns_of(trace.observations), schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise AutoprofileError(f"the trace cannot be written: {error}", where=str(path)) from error
    from autoprofile.atomic import write_atomic

    write_atomic(path, sink.getvalue().to_pybytes())


def read_parquet(path: Path) -> Trace:
    """Read a trace file written by this or an earlier version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from autoprofile.observations.trace import Trace

    where = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AutoprofileError(f"cannot read the trace: {error.strerror}", where=where) from error
    try:
        # Without threads: Arrow's that have just begun abort a process that ends then ("terminate called
        # without an active exception"), one in ten that had only an error to report.
        table = pq.ParquetFile(pa.BufferReader(raw), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if raw[:4] == b"PAR1":
            raise AutoprofileError(
                "the trace file is damaged or was cut short", where=where, hint="record it again"
            ) from error
        raise AutoprofileError("not a trace: no Parquet file", where=where) from error
    document = _document(table.schema.metadata, where)
    meta, ledger = _provenance(document, where)
    for column in COLUMNS:
        if column.name in _DERIVED or (column.is_later and column.name not in table.schema.names):
            continue
        if column.name not in table.schema.names:
            raise AutoprofileError(f"no trace: column {column.name!r} is missing", where=where)
        if table.schema.field(column.name).type != pa.type_for_alias(column.dtype):
            raise AutoprofileError(f"no trace: column {column.name!r} is not {column.dtype}", where=where)
        if not column.nullable and table.column(column.name).null_count:
            raise AutoprofileError(f"no trace: column {column.name!r} has missing values", where=where)
    observations = _observations_from_columns(
        {
            c.name: table.column(c.name).to_pylist()
            for c in COLUMNS
            if c.name not in _DERIVED and c.name in table.schema.names
        }
    )
    return Trace(meta, observations, ledger, int(document.get("process_count", 0)))


def _document(metadata: Mapping[bytes, bytes] | None, where: str) -> dict[str, Any]:
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        raise AutoprofileError(
            "a Parquet file, but not a trace",
            where=where,
            hint="traces are written by `autoprofile learn --trace FILE`",
        )
    try:
        document = json.loads(text)
    except ValueError as error:
        raise AutoprofileError("the trace's metadata is damaged", where=where) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise AutoprofileError("the trace's metadata has no schema_version", where=where)
    if version > TRACE_SCHEMA_VERSION:
        raise AutoprofileError(
            f"the trace has schema version {version}; this autoprofile reads up to {TRACE_SCHEMA_VERSION}",
            where=where,
            hint="use the autoprofile that wrote it, or a newer one",
        )
    return dict(document)


def _provenance(document: Mapping[str, Any], where: str) -> tuple[TraceMeta, LossLedger]:
    try:
        fields = dict(document["meta"])
        fields["argv"] = tuple(fields["argv"])
        ledger = document["ledger"]
        return TraceMeta(**fields), LossLedger(ledger["entries"], ledger["details"])
    except (KeyError, TypeError, AttributeError) as error:
        raise AutoprofileError(f"the trace's metadata is damaged: {error}", where=where) from error
