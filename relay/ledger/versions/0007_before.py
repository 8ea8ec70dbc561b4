"""The state of the destination before the first byte of an object was sent; when the destination of
a tree was found empty; and the form in which some stores fold two names into one."""

from alembic import op
from sqlalchemy import Column, Float, Text, text

revision = "0007"
down_revision = "0006"

UNKNOWN = (
    """UPDATE transfers SET before = '{"known": false, "version": null, "sent": null}'"""
    " WHERE fence > 0 AND state NOT IN ('verified', 'skipped')"
)
FOLDED = text("folded IS NOT NULL")


def upgrade() -> None:
    """Add the columns and the index. Nothing is known of objects that an older relay started, so
    they are inspected again."""
    op.add_column("migrations", Column("looked", Float))
    op.add_column("transfers", Column("before", Text))
    op.add_column("transfers", Column("folded", Text))
    op.execute(UNKNOWN)
    op.create_index(
        "transfers_folded",
        "transfers",
        ["migration_id", "folded"],
        sqlite_where=FOLDED,
        postgresql_where=FOLDED,
    )
