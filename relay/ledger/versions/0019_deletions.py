"""Deletions of a move at its source, and of a mirror at its destination."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Text

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the tables. Migrations of an older relay delete nothing."""
    number = BigInteger().with_variant(Integer, "sqlite")
    op.create_table(
        "removals",
        Column(
            "migration_id",
            String(36),
            ForeignKey("migrations.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("kind", String(8), nullable=False),
        Column("settings", Text, nullable=False),
        Column("state", String(8), nullable=False),
        Column("changed", Float, nullable=False),
    )
    op.create_table(
        "deletions",
        Column("id", number, primary_key=True, autoincrement=True),
        Column(
            "migration_id",
            String(36),
            ForeignKey("migrations.id", ondelete="CASCADE"),
            nullable=False,
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
    op.create_index("deletions_by_name", "deletions", ["migration_id", "side", "hash"])
    op.create_index("deletions_by_state", "deletions", ["migration_id", "state", "id"])
