"""Parts of one object that several workers move, and large objects that are found among many small
ones."""

from alembic import op
from sqlalchemy import Boolean, Column, Integer, String, Text, text

revision = "0004"
down_revision = "0003"

LARGE = text("state = 'queued' AND size >= 67108864")
TAKEN = text("etag = ''")


def upgrade() -> None:
    """Add the columns and the indexes. An upload of an older relay is resumed by one worker."""
    op.add_column("uploads", Column("pinned", Text))
    op.add_column(
        "uploads", Column("digested", Boolean, nullable=False, server_default=text("true"))
    )
    op.add_column("uploads", Column("total", Integer, nullable=False, server_default=text("0")))
    op.add_column("uploads", Column("next", Integer, nullable=False, server_default=text("1")))
    op.add_column("parts", Column("owner", String(36)))
    op.create_index(
        "parts_taken",
        "parts",
        ["transfer_id", "number"],
        sqlite_where=TAKEN,
        postgresql_where=TAKEN,
    )
    op.create_index(
        "transfers_large",
        "transfers",
        ["migration_id", "size"],
        sqlite_where=LARGE,
        postgresql_where=LARGE,
    )
