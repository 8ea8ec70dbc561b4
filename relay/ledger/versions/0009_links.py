"""Indexes that find the migrations of one destination, and the links by which trees were written
elsewhere."""

from alembic import op
from sqlalchemy import Column, ForeignKey, String, Text

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the indexes and the table. PostgreSQL's B-tree refuses a long URL, and its hash index
    takes any."""
    op.create_index(
        "migrations_by_destination", "migrations", ["destination"], postgresql_using="hash"
    )
    op.create_index("migrations_by_places", "migrations", ["places"])
    migration = ForeignKey("migrations.id", ondelete="CASCADE")
    op.create_table(
        "links",
        Column("migration_id", String(36), migration, primary_key=True),
        Column("mark", String(32), primary_key=True),
        Column("path", Text, nullable=False),
        Column("target", Text, nullable=False),
    )
