"""The tables of deletions (see `schema.py`)."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, String, Table, Text

from relay.ledger.schema import ROW_ID, metadata, migration_key

removals = Table(
    "removals",
    metadata,
    migration_key(),
    Column("kind", String(8), nullable=False),
    Column("settings", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("changed", Float, nullable=False),
)
"""A migration that deletes: a `move` deletes what arrived at the source, a `mirror` what the source
lacks at the destination. `settings` are the options of its newest command, as JSON, and `state` is
a RemovalState; `changed` is when one of the two changed."""

deletions = Table(
    "deletions",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column(
        "migration_id", String(36), ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False
    ),
    Column("side", String(12), nullable=False),
    Column("hash", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(12), nullable=False),
    Column("version", Text, nullable=False),
    Column("basis", String(32)),
    Column("reason", String(32)),
    Column("detail", Text),
    Column("marker", Text),
    Column("note", String(32)),
    Column("at", Float, nullable=False),
    Column("undone", Float),
)
"""One object that is deleted, or that was kept. `name` is as in `transfers`, and `hash` its MD5,
since an index entry has a maximum length. `version`, as JSON, is the one that may be deleted.
`basis` is why it may be; `reason` and `detail` are why it was kept. Of one that is or was deleted
`detail` is its copy in a trash (TrashCopy), or null. `marker` is the id of the delete marker that
the store made. `note` is `window` where the store did not compare the version itself. `at` is the
time of the state; `undone` that of an undo."""
Index("deletions_by_name", deletions.c.migration_id, deletions.c.side, deletions.c.hash)
Index("deletions_by_state", deletions.c.migration_id, deletions.c.state, deletions.c.id)
