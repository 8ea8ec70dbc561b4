"""The moving objects of each worker, the watched migrations, and samples of the work over time."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Text

revision = "0013"
down_revision = "0012"


def _migration() -> ForeignKey:
    return ForeignKey("migrations.id", ondelete="CASCADE")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "watches",
        Column("migration_id", String(36), _migration(), primary_key=True),
        Column("until", Float, nullable=False),
    )
    op.create_table(
        "live",
        Column(
            "runner", String(36), ForeignKey("runners.id", ondelete="CASCADE"), primary_key=True
        ),
        Column("at", Float, nullable=False),
        Column("members", Text, nullable=False),
    )
    op.create_table(
        "samples",
        Column("migration_id", String(36), _migration(), primary_key=True),
        Column("at", BigInteger, primary_key=True),
        Column("runner", String(36), primary_key=True),
        Column("step", Integer, nullable=False),
        Column("moved", BigInteger, nullable=False),
        Column("read_back", BigInteger, nullable=False),
        Column("objects", BigInteger, nullable=False),
        Column("slots", Text, nullable=False),
    )
