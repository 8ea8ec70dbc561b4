"""The transaction that wrote each event, so that no reader passes one that is committed late."""

from alembic import op
from sqlalchemy import BigInteger, Column, text

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column and its index. Existing events come first, in the order of their numbers.

    PostgreSQL fills the column by itself, also where an older relay that still runs writes an
    event."""
    op.add_column("events", Column("tx", BigInteger, nullable=False, server_default=text("0")))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE events ALTER COLUMN tx SET DEFAULT (pg_current_xact_id()::text::bigint)"
        )
    op.create_index("events_in_order", "events", ["migration_id", "tx", "id"])
    op.drop_index("events_of", "events")
