"""Sort the rows of a listing, with a limited number of them in memory.

Theory of operation. Rows are collected up to a limit, sorted, and written as one run; the runs are
merged at the end. A short listing is sorted in memory, without any file. A file loses its name as
soon as it is open, so nothing is left of it, even if the process is killed. It holds names and
sizes, never payload (law 8).

Decided here: when rows are written, and how much a disk may take. Never here: the order itself
(`rows.py`)."""

from __future__ import annotations

import heapq
import marshal
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from io import BufferedRandom
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Final

from relay.errors import SpillFailed
from relay.sorting.rows import TreeRow, row_of_values, values_of_row

HELD_ROWS: Final = 50_000
"""Number of rows that are sorted in memory."""
HELD_CHARACTERS: Final = 8 << 20
"""Maximum length of their names together, in characters."""
MOST_RUNS: Final = 64
"""Number of runs that become one, so that the number of open files has a limit."""
BLOCK_ROWS: Final = 128
"""Number of rows that are written, and read, together."""
TWINS: Final = "two entries of the listing have this name"
"""The error of a row that stands for different objects of one name."""

_KEY: Final = attrgetter("key")
_FORMAT: Final = 2
"""The format of `marshal` without references, which cost more time than they save here. No other
process reads a run."""
_LENGTH_BYTES: Final = 4


@dataclass(eq=False)
class SpillSpace:
    """The folder for runs, and the bytes that all of them together may take."""

    folder: Path
    """It is made when the first run is written."""
    limit_bytes: int
    _: KW_ONLY
    held_rows: int = HELD_ROWS
    pause: Callable[[], None] = lambda: None
    """Called between blocks of rows: a server has other work, too."""
    used_bytes: int = 0
    """The bytes of all runs now."""

    def write(self, rows: Iterable[TreeRow]) -> _Run:
        """Write sorted rows as one run. Raises SpillFailed; then nothing of it is left."""
        run = _Run(self._open())
        try:
            for block in _blocks(rows):
                length = _LENGTH_BYTES + len(block)
                if self.used_bytes + length > self.limit_bytes:
                    raise SpillFailed(
                        f"sorting the listing needs more than {self.limit_bytes:,} bytes of disk"
                    )
                run.file.write(len(block).to_bytes(_LENGTH_BYTES, "big"))
                run.file.write(block)
                run.length += length
                self.used_bytes += length
                self.pause()
            run.file.flush()
        except OSError as error:
            self.drop(run)
            raise self._failure(error) from error
        except BaseException:
            self.drop(run)
            raise
        return run

    def read(self, run: _Run) -> Iterator[TreeRow]:
        """Yield the rows of a run. Raises SpillFailed."""
        try:
            run.file.seek(0)
            length = run.file.read(_LENGTH_BYTES)
            while length:
                block = marshal.loads(run.file.read(int.from_bytes(length, "big")))
                yield from map(row_of_values, block)
                self.pause()
                length = run.file.read(_LENGTH_BYTES)
        except OSError as error:
            raise self._failure(error) from error

    def drop(self, run: _Run) -> None:
        """Give the disk's space back."""
        self.used_bytes -= run.length
        run.length = 0
        try:
            run.file.close()
        except OSError:  # the rest of its buffer did not fit
            run.file.raw.close()

    def _open(self) -> BufferedRandom:
        path = self.folder / f".relay-spill-{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.fdopen(os.open(path, flags, 0o600), "w+b")
            path.unlink()
        except OSError as error:
            raise self._failure(error) from error
        return file

    def _failure(self, error: OSError) -> SpillFailed:
        return SpillFailed(f"a sorted listing can't be kept in {self.folder}: {error.strerror}")


@dataclass(eq=False)
class _Run:
    """Sorted rows in a file without a name."""

    file: BufferedRandom
    length: int = 0


def _blocks(rows: Iterable[TreeRow]) -> Iterator[bytes]:
    values = map(values_of_row, rows)
    block = list(islice(values, BLOCK_ROWS))
    while block:
        yield marshal.dumps(block, _FORMAT)
        block = list(islice(values, BLOCK_ROWS))


class RowSorter:
    """Takes rows in any order, and yields them in the order of their names, each name once: a
    listing that was requested again repeats rows. Rows of one name that describe different objects
    become one with the error TWINS: which of them a request means is unknown.

    `close` it, or read `rows` to the end: nothing is left on the disk then."""

    def __init__(self, space: SpillSpace) -> None:
        self._space = space
        self._runs: list[_Run] = []
        self._held: list[TreeRow] = []
        self._characters = 0

    def add(self, row: TreeRow) -> None:
        """Take one more row. Raises SpillFailed."""
        self._held.append(row)
        self._characters += len(row.name)
        if len(self._held) < self._space.held_rows and self._characters < HELD_CHARACTERS:
            return
        self._held.sort(key=_KEY)
        self._runs.append(self._space.write(_one_of_each(self._held)))
        self._held, self._characters = [], 0
        if len(self._runs) == MOST_RUNS:
            self._runs = [_merge_into_one(self._runs, self._space)]

    def rows(self) -> Iterator[TreeRow]:
        """Yield the rows in order. Raises SpillFailed."""
        try:
            self._held.sort(key=_KEY)
            yield from _one_of_each(_merge(self._runs, self._space, self._held))
        finally:
            self.close()

    def close(self) -> None:
        """Give the disk's space back."""
        for run in self._runs:
            self._space.drop(run)
        self._runs = []


def sort_rows(rows: Iterable[TreeRow], space: SpillSpace) -> Iterator[TreeRow]:
    """Yield rows as RowSorter. Raises SpillFailed and what `rows` raises; nothing is left on the
    disk."""
    sorter = RowSorter(space)
    try:
        for row in rows:
            sorter.add(row)
        yield from sorter.rows()
    finally:
        sorter.close()


def _merge_into_one(runs: Sequence[_Run], space: SpillSpace) -> _Run:
    """Return one run of all; their space is given back."""
    merged = space.write(_one_of_each(_merge(runs, space, ())))
    for run in runs:
        space.drop(run)
    return merged


def _merge(runs: Sequence[_Run], space: SpillSpace, held: Sequence[TreeRow]) -> Iterator[TreeRow]:
    if not runs:
        return iter(held)
    # Of equal names the earlier run comes first: `heapq.merge` is stable.
    return heapq.merge(*(space.read(run) for run in runs), held, key=_KEY)


def _one_of_each(rows: Iterable[TreeRow]) -> Iterator[TreeRow]:
    last: TreeRow | None = None
    for row in rows:
        if last is None:
            last = row
        elif row.key == last.key:
            last = _one_of_two(last, row)
        else:
            yield last
            last = row
    if last is not None:
        yield last


def _one_of_two(before: TreeRow, row: TreeRow) -> TreeRow:
    """Return the one row of two that have one name."""
    if before.error != TWINS and _object_of(before) == _object_of(row):
        return row
    return TreeRow(row.name, error=TWINS, is_chosen=before.is_chosen or row.is_chosen)


def _object_of(row: TreeRow) -> tuple[object, ...]:
    return row.size, row.etag, row.digests, row.url
