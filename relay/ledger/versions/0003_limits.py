"""The limits of a migration, and how often its credentials were renewed."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; nothing that was accepted before is limited."""
    op.add_column("migrations", Column("slots", Integer))
    op.add_column("migrations", Column("bytes_per_second", BigInteger))
    op.add_column("migrations", Column("connections", Integer))
    op.add_column(
        "migrations", Column("renewed", Integer, nullable=False, server_default=text("0"))
    )
