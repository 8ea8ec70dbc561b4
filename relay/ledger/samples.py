"""What was done for each migration over time: a sample each ten seconds, fewer of them later.

Theory of operation. Each worker writes what it has done since its last sample, so that the sum over
all rows is the whole. Rows of more than an hour ago are merged to one a minute, those of more than
a day ago to one in ten minutes, over all workers; those of an ended migration to MOST_ENDED in all.
Merged rows have no worker. Where two workers would merge the same rows at once, one of them leaves
it to the other.

Never here: the counts themselves (`relay/engine/worker/traffic.py`)."""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from relay.ledger.counters import tallies_of
from relay.ledger.live_tables import samples
from relay.ledger.sample_values import SAMPLE_SECONDS, Sample, Traffic
from relay.ledger.schema import migrations
from relay.ledger.states import ENDED, PENDING

THINNED: Final = ((60, 3600), (600, 24 * 3600))
"""Rows are merged to one for each of the first number of seconds, once they are older than the
second."""
MOST_ENDED: Final = 200
"""Maximum number of samples of an ended migration."""
THIN_SECONDS: Final = 60
"""How often samples of a running migration are merged."""

SAMPLES: Final = 0x52454C
"""The class of PostgreSQL's advisory locks that samples take."""


def write_samples(
    connection: Connection, runner: str, done: Mapping[str, Traffic], now: float | None = None
) -> set[str]:
    """Write what a worker has done for some migrations in the last SAMPLE_SECONDS; migrations for
    which it has done nothing may be named too. Return those that have ended, or were deleted."""
    now = time.time() if now is None else now
    at = (int(now) - SAMPLE_SECONDS) // SAMPLE_SECONDS * SAMPLE_SECONDS
    query = select(migrations.c.id, migrations.c.state).where(migrations.c.id.in_(list(done)))
    states = {row.id: row.state for row in connection.execute(query)}
    tallies = tallies_of(connection, states)
    for id in sorted(states):
        traffic = done[id]
        if traffic != Traffic():
            settled = sum(
                count.objects for state, count in tallies[id].items() if state not in PENDING
            )
            row = _row(id, at, runner, SAMPLE_SECONDS)
            _merge(connection, [{**row, **_values(traffic), "objects": settled}])
        if states[id] in ENDED or at % THIN_SECONDS == 0:
            thin(connection, id, now, ended=states[id] in ENDED)
    return {id for id in done if states.get(id) is None or states[id] in ENDED}


def thin(connection: Connection, id: str, now: float, *, ended: bool) -> None:
    """Merge the samples of a migration that are older than those which are kept as they are."""
    if connection.dialect.name != "sqlite":
        key = zlib.crc32(id.encode()) >> 1  # a signed number of 32 bits
        if not connection.execute(select(func.pg_try_advisory_xact_lock(SAMPLES, key))).scalar():
            return
    if not ended:
        for step, kept in THINNED:
            _merge_older(connection, id, step, int(now - kept) // step * step)
        return
    ends = select(func.min(samples.c.at), func.max(samples.c.at))
    first, last = connection.execute(ends.where(samples.c.migration_id == id)).one()
    if first is not None:
        step = ceil((last - first) / (MOST_ENDED - 1) / SAMPLE_SECONDS) * SAMPLE_SECONDS
        _merge_older(connection, id, step, last + 1)


def samples_of(
    connection: Connection, ids: Collection[str], since: int = 0
) -> dict[str, list[Sample]]:
    """Return the samples of some migrations that begin at `since` or later, in order, over all
    workers."""
    query = select(samples).where(samples.c.migration_id.in_(ids), samples.c.at >= since)
    rows = (row._asdict() for row in connection.execute(query))
    found: dict[str, list[Sample]] = {id: [] for id in ids}
    for row in _sums_by(rows, lambda row: (row["migration_id"], row["at"], row["step"])):
        sample = Sample(
            at=row["at"],
            seconds=row["step"],
            moved=row["moved"],
            read_back=row["read_back"],
            objects=row["objects"],
            slot_seconds=json.loads(row["slots"]),
        )
        found[row["migration_id"]].append(sample)
    return found


# -- merging


def _merge_older(connection: Connection, id: str, step: int, until: int) -> None:
    """Merge all samples of less than `step` seconds that begin before `until`."""
    rows = _take(
        connection,
        (samples.c.migration_id == id) & (samples.c.at < until) & (samples.c.step < step),
    )
    moved = [{**row, **_row(id, row["at"] // step * step, "", step)} for row in rows]
    _merge(connection, moved)


def _merge(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, each merged with one that is there in its place."""
    if not rows:
        return
    id, runner = rows[0]["migration_id"], rows[0]["runner"]
    places = sorted({row["at"] for row in rows})
    here = (samples.c.migration_id == id) & (samples.c.runner == runner)
    there = _take(connection, here & samples.c.at.between(places[0], places[-1]))
    connection.execute(insert(samples), _sums_by([*there, *rows], lambda row: row["at"]))


def _take(connection: Connection, where: ColumnElement[bool]) -> list[dict[str, Any]]:
    """Delete rows, and return them."""
    query = delete(samples).where(where).returning(*samples.c)
    return [dict(row._mapping) for row in connection.execute(query)]


def _sums_by(rows: Iterable[Mapping[str, Any]], key: Any) -> list[dict[str, Any]]:
    """Return the sums of the rows with equal keys, in order."""
    groups: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return [_sum(groups[one]) for one in sorted(groups)]


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    traffic = Traffic()
    for row in rows:
        traffic.add(
            Traffic(
                moved=row["moved"],
                read_back=row["read_back"],
                slot_seconds=json.loads(row["slots"]),
            )
        )
    first = _row(rows[0]["migration_id"], rows[0]["at"], rows[0]["runner"], 0)
    return {
        **first,
        "step": max(row["step"] for row in rows),
        "objects": max(row["objects"] for row in rows),
        **_values(traffic),
    }


def _row(id: str, at: int, runner: str, step: int) -> dict[str, Any]:
    return {"migration_id": id, "at": at, "runner": runner, "step": step}


def _values(traffic: Traffic) -> dict[str, Any]:
    seconds = {phase: round(spent, 1) for phase, spent in sorted(traffic.slot_seconds.items())}
    return {"moved": traffic.moved, "read_back": traffic.read_back, "slots": json.dumps(seconds)}
