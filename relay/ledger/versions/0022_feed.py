"""The completion feed of standing migrations."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, String, Text

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Add the tables. What arrived before is not in the feed."""
    op.create_table(
        "feed",
        Column(
            "migration_id",
            String(36),
            ForeignKey("migrations.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("at", Float, nullable=False),
        Column("name", Text, nullable=False),
        Column("event", String(12), nullable=False),
        Column("members", Text, nullable=False),
    )
    op.create_table(
        "feed_seq",
        Column(
            "migration_id",
            String(36),
            ForeignKey("migrations.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("last", BigInteger, nullable=False),
    )
