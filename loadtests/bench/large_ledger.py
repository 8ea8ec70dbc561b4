"""Fill a ledger that relay has just made: ten thousand migrations, and one of a million objects.

Theory of operation. The database makes the rows itself, from a row of numbers, in one statement a
table; relay would take minutes to list and settle them. The counts that relay keeps beside the rows
(tallies, counters, reasons, stage counts) are then the sums of these rows. SQLite and PostgreSQL
run the same statements.

Decided here: the rows. Never here: the tables, which relay makes; a test compares every count with
the rows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

TENANT, KIND = "default", "server"
OBJECTS_OF_SMALL = 3
"""Number of objects of each small migration."""
SAMPLES = 360
"""Number of samples of the large migration: one in ten seconds of the last hour."""
REASONS = (
    ("source:store-permission-denied:403", "source", "store-permission-denied", 403),
    ("destination:key-too-long", "destination", "key-too-long", None),
    ("source:source-changed", "source", "source-changed", None),
)
"""The reasons of failures: their text, side, code and status."""
RECEIPT = {
    "level": "whole_digest",
    "bytes": 65536,
    "digests": {"crc64nvme": "83db9b3294cefcc3"},
    "source": {"etag": '"9b2cf535f27731c974343645a3985328"', "size": 65536},
    "destination": {"etag": '"9b2cf535f27731c974343645a3985328"', "size": 65536},
    "attempts": 1,
    "bytes_resent": 0,
    "notes": [],
}


@dataclass(frozen=True, kw_only=True)
class LedgerSize:
    """The number of migrations, and of the objects of the last one."""

    migrations: int = 10_000
    objects: int = 1_000_000

    @property
    def large(self) -> str:
        """The number of the large migration, by which people name it."""
        return str(self.migrations)


def fill_ledger(address: str, size: LedgerSize, now: float | None = None) -> None:
    """Fill the empty ledger of a RELAY_LEDGER. The large migration is paused for its credentials,
    and has objects in five states; of the others, most have succeeded. Raises the database's
    error."""
    with closing(_connect(address)) as connection:
        for statement in _statements(size, time.time() if now is None else now):
            connection.execute(statement)
        connection.commit()
        if isinstance(connection, psycopg.Connection):  # its server does so by itself after a while
            connection.execute("ANALYZE")
            connection.commit()


def _connect(address: str) -> Any:
    if address.startswith("sqlite:///"):
        made = sqlite3.connect(address.removeprefix("sqlite:///"))
        made.execute("PRAGMA synchronous = OFF")
        return made
    return psycopg.connect(address.replace("postgresql+psycopg:", "postgresql:"))


def _numbers(last: int) -> str:
    """Return the table n of the numbers i from 1 to `last`."""
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"


def _id(number: str) -> str:
    """Return the id of the migration with a number."""
    return f"'00000000-0000-4000-8000-' || substr(CAST(1000000000000 + {number} AS TEXT), 2)"


_TRUE = "1 = 1"
"""True, in both databases."""
_STATE = (
    "CASE WHEN i % 20 = 0 THEN 'partial' WHEN i % 100 = 1 THEN 'failed' WHEN i % 50 = 2 THEN"
    " 'cancelled' WHEN i % 50 = 3 THEN 'paused' ELSE 'succeeded' END"
)
"""The state of small migration i."""
_SMALL_OBJECT = (
    "CASE m.state WHEN 'succeeded' THEN 'verified' WHEN 'paused' THEN 'queued' WHEN 'partial' THEN"
    " CASE WHEN n.i = 1 THEN 'failed' ELSE 'verified' END ELSE m.state END"
)


def _large_object(count: int) -> str:
    """Return the state of object i of `count`: the last ones wait for their turn."""
    return (
        f"CASE WHEN i > {count * 4 // 5} THEN 'queued' WHEN i % 100 = 0 THEN 'failed' WHEN i % 100 <="
        " 80 THEN 'verified' WHEN i % 100 <= 82 THEN 'unverified' ELSE 'skipped' END"
    )


def _statements(size: LedgerSize, now: float) -> Iterator[str]:
    options = json.dumps({"recursive": True, "verify": "auto", "if_exists": "changed"})
    error = json.dumps({"code": "store-unauthenticated", "side": "source", "detail": "401"})
    columns = (
        "id, number, tenant, ordinal, state, needs_attention, source, destination, options, spec,"
        " places, place, runner, listing, listings, entries, error, created, ended"
    )
    last, large = size.migrations, _id(size.large)
    yield (
        f"INSERT INTO migrations ({columns}) {_numbers(last - 1)} SELECT {_id('i')}, i, '{TENANT}',"
        f" i, {_STATE}, i % 40 = 0, 'old:photos/' || i, 'new:backup/' || i, '{options}', 'spec' ||"
        f" i, 'places' || i, 'place' || i, '{KIND}', 'done', 1, {OBJECTS_OF_SMALL}, NULL, {now} -"
        f" {last} + i, CASE WHEN i % 50 = 3 THEN NULL ELSE {now} - {last} + i END FROM n"
    )
    yield (
        f"INSERT INTO migrations ({columns}) VALUES ({large}, {last}, '{TENANT}', {last}, 'paused',"
        f" {_TRUE}, 'old:photos', 'new:backup/photos', '{options}', 'large', 'large', 'large',"
        f" '{KIND}', 'done', 1, {size.objects}, '{error}', {now - 7200}, NULL)"
    )
    yield (
        "INSERT INTO stage_counts (tenant, runner, state, needs_attention, migrations) SELECT"
        " tenant, runner, state, needs_attention, count(*) FROM migrations GROUP BY tenant, runner,"
        " state, needs_attention"
    )
    yield from _objects(size, now)
    yield from _counts()
    yield (
        "INSERT INTO samples (migration_id, at, runner, step, moved, read_back, objects, slots)"
        f" {_numbers(SAMPLES)} SELECT {large}, {int(now) // 10 * 10 - 10 * SAMPLES} + 10 * i, '',"
        " 10, 1000000000 + i % 7 * 10000000, 0, i, '{\"piping\": 80.0}' FROM n"
    )


def _objects(size: LedgerSize, now: float) -> Iterator[str]:
    small = (
        f"SELECT m.id AS migration_id, 'object' || n.i AS name, 65536 AS size, {_SMALL_OBJECT} AS"
        f" state, 1 AS attempts, m.number * {OBJECTS_OF_SMALL} + n.i AS i FROM migrations m, n WHERE"
        f" m.number < {size.migrations}"
    )
    yield _insert_objects(OBJECTS_OF_SMALL, small, now)
    large = (
        f"SELECT {_id(size.large)} AS migration_id, 'photos/' || (i % 1000) || '/' || CAST(100000000"
        f" + i AS TEXT) || '.jpg' AS name, 65536 + i % 1000 * 1000 AS size, {_large_object(size.objects)} AS"
        " state, CASE WHEN i % 500 = 1 THEN 2 ELSE 1 END AS attempts, i"
        " FROM n"
    )
    yield _insert_objects(size.objects, large, now)
    for number, (reason, side, code, status) in enumerate(REASONS):
        members = {"code": code, "side": side, "detail": "it did not work", "hint": "Look there."}
        error = json.dumps(members | ({} if status is None else {"status": status}))
        yield (
            f"UPDATE transfers SET error = '{error}', reason = '{reason}' WHERE state = 'failed'"
            f" AND id / 50 % {len(REASONS)} = {number}"
        )
    yield (
        f"INSERT INTO receipts (transfer_id, receipt) SELECT id, '{json.dumps(RECEIPT)}' FROM"
        " transfers WHERE state IN ('verified', 'unverified')"
    )


def _insert_objects(last: int, objects: str, now: float) -> str:
    """Return the statement for objects that a query makes from the numbers up to `last`."""
    return (
        "INSERT INTO transfers (migration_id, name, size, etag, listings, state, attempts, bytes,"
        f" seconds, level, ended) {_numbers(last)}, made AS ({objects}) SELECT migration_id, name,"
        " size, '\"' || CAST(100000000 + i AS TEXT) || '\"', 1, state, attempts, CASE WHEN state IN"
        " ('verified', 'unverified') THEN size END, CASE WHEN state IN ('verified', 'unverified')"
        " THEN 0.02 END, CASE state WHEN 'verified' THEN CASE WHEN i % 50 = 1 THEN 'read_back' ELSE"
        " 'whole_digest' END WHEN 'unverified' THEN 'size' END, CASE WHEN state <> 'queued' THEN"
        f" {now - 3600} END FROM made ORDER BY i"
    )


def _counts() -> Iterator[str]:
    """Yield the statements for the counts of the objects."""
    moved = "sum(COALESCE(bytes, size))"
    yield (
        "INSERT INTO tallies (migration_id, state, objects, bytes) SELECT migration_id, state,"
        f" count(*), {moved} FROM transfers GROUP BY migration_id, state"
    )
    yield (
        "INSERT INTO counters (migration_id, kind, name, amount) SELECT migration_id, 'level',"
        " level, count(*) FROM transfers WHERE level IS NOT NULL GROUP BY migration_id, level"
    )
    yield (
        "INSERT INTO counters (migration_id, kind, name, amount) SELECT migration_id, 'retries',"
        " '', sum(attempts - 1) FROM transfers WHERE attempts > 1 GROUP BY migration_id"
    )
    for reason, side, code, status in REASONS:
        yield (
            "INSERT INTO reasons (migration_id, reason, side, code, status, objects, bytes, sample)"
            f" SELECT migration_id, '{reason}', '{side}', '{code}', {status or 'NULL'}, count(*),"
            f" {moved}, min(name) FROM transfers WHERE reason = '{reason}' GROUP BY migration_id"
        )
