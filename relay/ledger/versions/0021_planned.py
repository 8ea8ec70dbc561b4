"""The versions of a pair of objects that a plan has seen."""

from alembic import op
from sqlalchemy import Column, Text

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the column. No transfer of an older relay follows a plan."""
    op.add_column("transfers", Column("planned", Text))
