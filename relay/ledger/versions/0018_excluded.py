"""How many entries of a listing the migration's filters have left out."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the column. Migrations of an older relay have no filters."""
    op.add_column("migrations", Column("excluded", BigInteger))
