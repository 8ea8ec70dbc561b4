"""The progress of a migration is counted as it happens, and no longer from all of its rows; and an
index finds transfers that lost their runners."""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, String, text

revision = "0005"
down_revision = "0004"

_TAKE = "INSERT INTO counters (migration_id, kind, name, amount) SELECT migration_id"
COUNTED = (
    (
        f"{_TAKE}, 'level', level, count(*) FROM transfers WHERE level IS NOT NULL GROUP BY"
        " migration_id, level"
    ),
    (
        f"{_TAKE}, 'resent', '', sum(resent) FROM transfers GROUP BY migration_id HAVING"
        " sum(resent) > 0"
    ),
    (
        f"{_TAKE}, 'retries', '', sum(attempts - 1) FROM transfers WHERE attempts > 1 GROUP BY"
        " migration_id"
    ),
    (
        "UPDATE uploads SET there = (SELECT coalesce(sum(size), 0) FROM parts WHERE"
        " parts.transfer_id = uploads.transfer_id AND parts.etag != '')"
    ),
)


LAPSED = text("lapses > 0")


def upgrade() -> None:
    """Add the table, the column and the index, and fill them from the existing rows."""
    op.create_index(
        "transfers_lapsed", "transfers", ["id"], sqlite_where=LAPSED, postgresql_where=LAPSED
    )
    op.add_column("uploads", Column("there", BigInteger, nullable=False, server_default=text("0")))
    migration = ForeignKey("migrations.id", ondelete="CASCADE")
    op.create_table(
        "counters",
        Column("migration_id", String(36), migration, primary_key=True),
        Column("kind", String(12), primary_key=True),
        Column("name", String(16), primary_key=True),
        Column("amount", BigInteger, nullable=False),
    )
    for statement in COUNTED:
        op.execute(statement)
