"""Classes of sizes and pointers: their text, and how two become one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.observations import Observation, ProgramId, Trace, TraceMeta
from autoprofile.observations.classes import (
    Class,
    Pointer,
    Size,
    classes_from_text,
    joined_classes,
    text_from_classes,
)

pointers = st.sampled_from([Pointer(True, False), Pointer(False, True), Pointer(True, True)])


def size(values: list[int]) -> Size:
    """Return the class of some values, as the kernel's counters have it."""
    return Size(sum({1 << min(value.bit_length(), 63) for value in values}), min(values), max(values))


sizes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5).map(size)
classes = st.fixed_dictionaries({0: pointers, 2: sizes}) | st.fixed_dictionaries({0: pointers})


@given(classes)
def test_the_text_holds_everything(found: dict[int, Class]) -> None:
    """Classes and their text are inverse, sizes beyond 63 bits included."""
    assert classes_from_text(text_from_classes(found)) == found


@given(classes, classes, classes)
def test_joining_is_a_union(a: dict[int, Class], b: dict[int, Class], c: dict[int, Class]) -> None:
    """Two observations joined have both ranges and magnitudes, in any grouping and order."""
    x, y, z = map(text_from_classes, (a, b, c))
    assert joined_classes(x, y) == joined_classes(y, x)
    assert joined_classes(joined_classes(x, y), z) == joined_classes(x, joined_classes(y, z))
    assert joined_classes(x, x) == x


def test_unseen_makes_unseen() -> None:
    """A source that does not note classes makes those of the whole unknown; a call without any has none."""
    assert joined_classes(None, '{"a0":"null"}') is None
    assert text_from_classes({}) is None
    assert classes_from_text(None) == {}
    with pytest.raises(ValueError, match="not the classes"):
        classes_from_text('{"a0": 7}')


def test_files_without_the_column_are_read(tmp_path: Path) -> None:
    """A trace written before the column came has unknown classes."""
    import pyarrow.parquet as pq

    seen = Observation(0, ProgramId("/x"), "x86_64", 0, (None,) * 6, 1, 0, 0, 1, classes='{"a1":"null"}')
    Trace(TraceMeta("ebpf"), [seen]).save(tmp_path / "new.parquet")
    assert Trace.load(tmp_path / "new.parquet").observations == [seen]
    table = pq.read_table(tmp_path / "new.parquet")
    pq.write_table(table.drop_columns(["classes"]), tmp_path / "old.parquet")
    (old,) = Trace.load(tmp_path / "old.parquet").observations
    assert old.classes is None
    assert old.count == 1
