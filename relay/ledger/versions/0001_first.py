"""The first schema.

It is written out here, and not taken from `schema.py`: that changes, and this must not.
"""

from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None

_ID = BigInteger().with_variant(Integer, "sqlite")


def _of(table: str, kind: Any, **more: Any) -> Column[Any]:
    return Column(f"{table}_id", kind, ForeignKey(f"{table}s.id", ondelete="CASCADE"), **more)


def upgrade() -> None:
    """Make the tables."""
    zero = text("0")
    op.create_table(
        "migrations",
        Column("id", String(36), primary_key=True),
        Column("number", _ID, nullable=False, unique=True),
        Column("state", String(12), nullable=False),
        Column("source", Text, nullable=False),
        Column("destination", Text, nullable=False),
        Column("options", Text, nullable=False),
        Column("spec", String(64), nullable=False),
        Column("key", String(255), unique=True),
        Column("priority", Integer, nullable=False, server_default=zero),
        Column("listing", String(12), nullable=False),
        Column("listing_owner", String(36)),
        Column("listing_fence", Integer, nullable=False, server_default=zero),
        Column("cursor", Text),
        Column("destination_empty", Boolean, nullable=False, server_default=text("false")),
        Column("error", Text),
        Column("created", Float, nullable=False),
        Column("ended", Float),
    )
    op.create_table(
        "secrets",
        _of("migration", String(36), primary_key=True),
        Column("locations", Text, nullable=False),
    )
    op.create_table(
        "transfers",
        Column("id", _ID, primary_key=True, autoincrement=True),
        _of("migration", String(36), nullable=False),
        Column("name", Text, nullable=False),
        Column("url", Text),
        Column("size", BigInteger),
        Column("etag", Text),
        Column("modified", Float),
        Column("state", String(12), nullable=False),
        Column("owner", String(36)),
        Column("fence", Integer, nullable=False, server_default=zero),
        Column("attempts", Integer, nullable=False, server_default=zero),
        Column("lapses", Integer, nullable=False, server_default=zero),
        Column("not_before", Float, nullable=False, server_default=zero),
        Column("bytes", BigInteger),
        Column("resent", BigInteger, nullable=False, server_default=zero),
        Column("seconds", Float),
        Column("level", String(16)),
        Column("error", Text),
        Column("ended", Float),
        UniqueConstraint("migration_id", "name"),
    )
    running = text("state = 'running'")
    op.create_index("transfers_by_state", "transfers", ["migration_id", "state", "id"])
    op.create_index(
        "transfers_running", "transfers", ["owner"], sqlite_where=running, postgresql_where=running
    )
    op.create_table(
        "uploads",
        _of("transfer", _ID, primary_key=True),
        Column("upload_id", Text, nullable=False),
        Column("checked", Boolean, nullable=False),
        Column("place", Text, nullable=False),
        Column("etag", Text, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("part_bytes", BigInteger, nullable=False),
        Column("digest", Text),
        Column("begun", Float, nullable=False),
    )
    op.create_table(
        "parts",
        _of("transfer", _ID, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("etag", Text, nullable=False),
        Column("digest", String(16), nullable=False),
        Column("checked", Boolean, nullable=False),
    )
    op.create_table(
        "receipts", _of("transfer", _ID, primary_key=True), Column("receipt", Text, nullable=False)
    )
    op.create_table(
        "tallies",
        _of("migration", String(36), primary_key=True),
        Column("state", String(12), primary_key=True),
        Column("objects", BigInteger, nullable=False),
        Column("bytes", BigInteger, nullable=False),
    )
    op.create_table(
        "runners",
        Column("id", String(36), primary_key=True),
        Column("host", Text, nullable=False),
        Column("boot", String(64), nullable=False),
        Column("process", String(64), nullable=False),
        Column("until", Float, nullable=False),
    )
    op.create_table(
        "events",
        Column("id", _ID, primary_key=True, autoincrement=True),
        _of("migration", String(36), nullable=False),
        Column("at", Float, nullable=False),
        Column("kind", String(24), nullable=False),
        Column("members", Text, nullable=False),
    )
    op.create_index("events_of", "events", ["migration_id", "id"])
