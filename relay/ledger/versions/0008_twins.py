"""Names that some stores take for one."""

from alembic import op
from sqlalchemy import Column, Integer, text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column. Nothing is known of names that were listed before."""
    op.add_column("transfers", Column("twins", Integer, nullable=False, server_default=text("0")))
