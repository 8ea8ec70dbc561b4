"""The reasons of failures: each failed object has one, and the objects of each are counted."""

import json
from collections.abc import Iterator
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text, text

revision = "0016"
down_revision = "0015"

FAILED = text("state = 'failed'")
MOST, OTHER = 200, "other"
PAGE = 1000
READ = text(
    "SELECT id, migration_id, name, error, coalesce(bytes, size, 0) AS size FROM transfers WHERE"
    " state = 'failed' AND id > :after ORDER BY id LIMIT :most"
)
MARK = text("UPDATE transfers SET reason = :reason WHERE id = :id")
COUNT = text(
    "INSERT INTO reasons (migration_id, reason, side, code, status, objects, bytes, sample)"
    " VALUES (:migration_id, :reason, :side, :code, NULL, :objects, :bytes, :sample)"
)


def upgrade() -> None:
    """Add the column, the index and the table, and fill them from the failed transfers."""
    op.add_column("transfers", Column("reason", String(128)))
    migration = ForeignKey("migrations.id", ondelete="CASCADE")
    op.create_table(
        "reasons",
        Column("migration_id", String(36), migration, primary_key=True),
        Column("reason", String(128), primary_key=True),
        Column("side", String(16), nullable=False),
        Column("code", String(64), nullable=False),
        Column("status", Integer),
        Column("objects", BigInteger, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("sample", Text, nullable=False),
    )
    _fill()
    op.create_index(
        "transfers_failed",
        "transfers",
        ["migration_id", "reason", "id"],
        sqlite_where=FAILED,
        postgresql_where=FAILED,
    )


def _fill() -> None:
    connection = op.get_bind()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for page in _pages(connection):
        marks = []
        for row in page:
            error = json.loads(row.error) if row.error else {}
            side, code = str(error.get("side", "relay"))[:16], str(error.get("code", ""))[:64]
            known = found.setdefault(row.migration_id, {})
            reason = f"{side}:{code}"
            if reason not in known and len(known) >= MOST - 1:
                reason, side, code = OTHER, "relay", OTHER
            counted = {"side": side, "code": code, "sample": row.name, "objects": 0, "bytes": 0}
            one = known.setdefault(reason, counted)
            one["objects"] += 1
            one["bytes"] = min(one["bytes"] + row.size, 2**62)
            marks.append({"id": row.id, "reason": reason})
        connection.execute(MARK, marks)
    rows = [
        {"migration_id": id, "reason": reason, **one}
        for id, known in found.items()
        for reason, one in known.items()
    ]
    if rows:
        connection.execute(COUNT, rows)


def _pages(connection: Any) -> Iterator[Any]:
    after = 0
    while page := connection.execute(READ, {"after": after, "most": PAGE}).all():
        yield page
        after = page[-1].id
