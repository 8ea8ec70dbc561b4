"""The tables of standing migrations (see `schema.py`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, String, Table, Text, text

from relay.ledger.schema import metadata, migration_key


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


passes = Table(
    "passes",
    metadata,
    migration_key(),
    Column("number", Integer, primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("begun", Float, nullable=False),
    Column("listed_at", Float),
    Column("ended", Float),
    Column("complete", Boolean),
    Column("listing", Integer),
    _count("listed"),
    _count("known"),
    _count("changed"),
    _count("gone"),
    _count("copied"),
    _count("bytes"),
    _count("deleted"),
    _count("refused"),
    _count("failed"),
    Column("p50", Float),
    Column("p90", Float),
    Column("outcome", Text),
)
"""The passes of a standing migration (`passes.py`). One without `ended` is under way: a migration
has at most one. `complete` is false as soon as a folder could not be listed, null while that is
open. `listing` is the migration's number of listings at its end, `listed_at` the time at which its
listing ended.

`listed` counts the names of its listing, `known` those of them that the listing of the pass before
had too, `gone` those that only the pass before had, `changed` the names that are new or have
another version. `copied` and `bytes` count the objects that were sent. `failed` counts the objects
that have not arrived at its end, `refused` those among them that another writer has changed at the
destination. `p50` and `p90` are the seconds that were forecast for it. `outcome`, as JSON, is what
a rehearsal or an audit found."""

feed = Table(
    "feed",
    metadata,
    migration_key(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("name", Text, nullable=False),
    Column("event", String(12), nullable=False),
    Column("members", Text, nullable=False),
)
"""An object of a standing migration that arrived or was refused (`feed.py`); `members` is JSON."""

feed_seq = Table(
    "feed_seq",
    metadata,
    migration_key(),
    Column("last", BigInteger, nullable=False),
)
"""The last number of a migration's feed."""
