"""The present number of slots of each worker, which may grow."""

from alembic import op
from sqlalchemy import Column, Integer

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column. A worker of an older relay has no number."""
    op.add_column("runners", Column("slots", Integer))
