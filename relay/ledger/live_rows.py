"""What the workers move at the moment: one row a worker, written only while somebody watches.

Theory of operation. Any server process may serve the browser of any client, so live state goes
through the ledger. A watcher notes until when a migration is watched (`watches`). A worker sees
that in the poll that it makes anyway, and writes its moving objects into its row of `live` each
second. Nobody deletes that row while the worker lives: an old one does not count.

Times are those of PostgreSQL's server, since the workers' clocks may differ; SQLite's workers share
one machine.

Never here: which objects a worker names (`relay/engine/worker/live_reporter.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Float, literal, literal_column, select, text

from relay.ledger.live_tables import live, watches
from relay.ledger.parameters import NOW
from relay.ledger.sample_values import Moving, MovingObject

WATCHED_SECONDS: Final = 15.0
"""How long a migration counts as watched after a watcher has said so."""
FRESH_SECONDS: Final = 5.0
"""How old a worker's row may be: it is written each second."""
_SERVER_TIME: Final = "extract(epoch from clock_timestamp())::float8"
_WATCH: Final = (
    "INSERT INTO watches (migration_id, until) SELECT id, {now} + :seconds FROM migrations WHERE id"
    " = :id ON CONFLICT (migration_id) DO UPDATE SET until = excluded.until"
)
_WRITE: Final = (
    "INSERT INTO live (runner, at, members) SELECT id, {now}, :members FROM runners WHERE id ="
    " :runner ON CONFLICT (runner) DO UPDATE SET at = excluded.at, members = excluded.members"
)


def watch(connection: Connection, ids: Collection[str]) -> None:
    """Note that some migrations are watched for the next WATCHED_SECONDS. A deleted one is left
    out."""
    sqlite = connection.dialect.name == "sqlite"
    now = ":now" if sqlite else _SERVER_TIME
    row = {"seconds": WATCHED_SECONDS} | ({"now": time.time()} if sqlite else {})
    # In one order, so that two watchers never wait for each other.
    connection.execute(text(_WATCH.format(now=now)), [{**row, "id": id} for id in sorted(ids)])


def is_watched(sqlite: bool) -> ColumnElement[Any]:
    """Return the condition that a migration's row of `watches` holds now, which is the parameter
    `now` for SQLite."""
    return watches.c.until > (NOW if sqlite else literal_column(_SERVER_TIME, Float))


def write_live(connection: Connection, runner: str, members: str) -> None:
    """Replace the row of a worker. One that is not registered has none."""
    sqlite = connection.dialect.name == "sqlite"
    now = ":now" if sqlite else _SERVER_TIME
    row = {"runner": runner, "members": members} | ({"now": time.time()} if sqlite else {})
    connection.execute(text(_WRITE.format(now=now)), row)


def moving(connection: Connection, ids: Collection[str]) -> dict[str, Moving]:
    """Return what the workers move of some migrations, as of the last seconds."""
    fresh = live.c.at > _now(connection.dialect.name == "sqlite") - FRESH_SECONDS
    found = {id: Moving() for id in ids}
    rows = connection.execute(select(live.c.members).where(fresh).order_by(live.c.runner))
    for members in rows.scalars():
        _add(found, json.loads(members))
    return found


def _add(found: dict[str, Moving], members: Mapping[str, Any]) -> None:
    for id, count in members["moving"].items():
        if id in found:
            objects = [
                MovingObject(**one) for one in members["objects"] if one["migration_id"] == id
            ]
            before = found[id]
            found[id] = Moving(objects=(*before.objects, *objects), count=before.count + count)


def _now(sqlite: bool) -> ColumnElement[Any]:
    return literal(time.time(), Float) if sqlite else literal_column(_SERVER_TIME, Float)
