"""The digests that a list of URLs declares."""

from alembic import op
from sqlalchemy import Column, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; nothing that was written before has any."""
    op.add_column("transfers", Column("digests", Text))
