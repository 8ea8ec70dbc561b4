"""The place of each migration's destination, by which destinations are compared."""

from alembic import op
from sqlalchemy import Column, Text, text

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column and its indexes. An older migration has no known place: its printed
    destination is compared. PostgreSQL's B-tree refuses a long path, and its hash index finds no
    null."""
    op.add_column("migrations", Column("place", Text))
    op.create_index("migrations_by_place", "migrations", ["place"], postgresql_using="hash")
    without = text("place IS NULL")
    op.create_index(
        "migrations_without_place",
        "migrations",
        ["id"],
        sqlite_where=without,
        postgresql_where=without,
    )
