"""Names that some stores take for one."""

from alembic import op
from sqlalchemy import Column, Integer, text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column. Of what was listed before nothing is known."""
    op.add_column("transfers", Column("twins", Integer, nullable=False, server_default=text("0")))
