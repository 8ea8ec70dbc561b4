"""Sorted listings: the order is that of names' bytes, whatever fits into memory, and nothing is left
on the disk."""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.errors import SpillFailed
from relay.sorting.merge import in_order, pair_rows
from relay.sorting.rows import TreeRow, bytes_of_row, row_of_values, values_of_row
from relay.sorting.spill import MOST_RUNS, TWINS, SpillSpace, sort_rows

letters = st.sampled_from('aAb-/.\n "é\U0001f600\ufffd\udce9')
names = st.text(letters, min_size=1, max_size=4)
listed = st.lists(st.tuples(names, st.integers(0, 9)), max_size=60)


def rows_of(pairs: list[tuple[str, int]]) -> list[TreeRow]:
    return [TreeRow(name, size=size) for name, size in pairs]


def key(row: TreeRow) -> bytes:
    return bytes_of_row(row.name)


def sorted_model(rows: list[TreeRow]) -> list[TreeRow]:
    """Return one row of each name, ordered; rows that differ are objects of one name."""
    found = [list(same) for _, same in groupby(sorted(rows, key=key), key=key)]
    return [
        same[-1] if same.count(same[-1]) == len(same) else TreeRow(same[-1].name, error=TWINS)
        for same in found
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=listed, held=st.integers(1, 70))
def test_rows_are_sorted_with_few_in_memory(
    tmp_path: Path, pairs: list[tuple[str, int]], held: int
) -> None:
    rows = rows_of(pairs)
    space = SpillSpace(tmp_path, 1 << 20, held_rows=held)
    assert list(sort_rows(rows, space)) == sorted_model(rows)
    assert space.used_bytes == 0
    assert not list(tmp_path.iterdir())


def test_many_runs_become_one(tmp_path: Path) -> None:
    rows = rows_of([(f"{(i * 7919) % 500:05}", i) for i in range(1000)])
    opened: set[str] = set()
    before = set(os.listdir("/proc/self/fd"))
    space = SpillSpace(tmp_path, 1 << 20, held_rows=2)
    for _ in (found := sort_rows(rows, space)):
        opened = set(os.listdir("/proc/self/fd")) - before
        break
    assert 0 < len(opened) <= MOST_RUNS
    found.close()  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) - before == set()
    assert list(sort_rows(rows, SpillSpace(tmp_path, 1 << 20, held_rows=2))) == sorted_model(rows)


def test_the_limit_of_the_disk_is_kept(tmp_path: Path) -> None:
    """What does not fit fails, and is never cut."""
    rows = rows_of([(f"name-{i}", i) for i in range(1000)])
    space = SpillSpace(tmp_path, 10_000, held_rows=10)
    with pytest.raises(SpillFailed, match="more than 10,000 bytes"):
        list(sort_rows(rows, space))
    assert space.used_bytes == 0


def test_a_run_is_for_its_user_alone(tmp_path: Path) -> None:
    """A run has no name, so a kill leaves no file; only its user may read it."""
    folder = tmp_path / "new" / "folder"

    def stat_if_run(descriptor: str) -> os.stat_result | None:
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{folder}/"):
                return os.fstat(int(descriptor))
        return None

    found = sort_rows(rows_of([("b", 1), ("a", 2)]), SpillSpace(folder, 1 << 20, held_rows=1))
    next(found)
    (kept, _) = [file for file in map(stat_if_run, os.listdir("/proc/self/fd")) if file is not None]
    assert (stat.S_IMODE(kept.st_mode), kept.st_nlink) == (0o600, 0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not list(folder.iterdir())


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    space = SpillSpace(tmp_path / "file", 1 << 20, held_rows=1)
    with pytest.raises(SpillFailed, match="can't be kept in"):
        list(sort_rows(rows_of([("a", 1)]), space))


@given(
    name=names,
    size=st.none() | st.integers(0, 1 << 60),
    value=st.binary(max_size=8),
    error=st.none() | names,
)
def test_a_row_comes_back(name: str, size: int | None, value: bytes, error: str | None) -> None:
    row = TreeRow(name, size=size, digests={"md5": value}, url=name, error=error, is_chosen=False)
    assert row_of_values(marshal.loads(marshal.dumps(values_of_row(row), 2))) == row


@given(ours=listed, theirs=listed)
def test_two_listings_are_paired(
    ours: list[tuple[str, int]], theirs: list[tuple[str, int]]
) -> None:
    here, there = sorted_model(rows_of(ours)), sorted_model(rows_of(theirs))
    pairs = list(pair_rows(iter(here), iter(there)))
    assert [one for one, _ in pairs if one is not None] == here
    assert [other for _, other in pairs if other is not None] == there
    found = [{row.key for row in pair if row is not None} for pair in pairs]
    keys = [one for (one,) in map(tuple, found)]  # both rows of a pair have one name
    assert keys == sorted(set(keys))


def test_an_entry_out_of_order_is_an_error() -> None:
    def disorder(before: str, name: str) -> Exception:
        return ValueError(f"{name} after {before}")

    def check(*some: str) -> Iterator[TreeRow]:
        return in_order(map(TreeRow, some), disorder)

    assert len(list(check("a-b", "a/b", "a0", "é", "\U0001f600"))) == 5
    with pytest.raises(ValueError, match="a after b"):
        list(check("a0", "b", "a"))
    with pytest.raises(ValueError, match="b after b"):
        list(check("b", "b"))
