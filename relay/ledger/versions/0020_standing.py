"""Standing migrations: phases and passes, and the version that an earlier pass has written."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Integer, String, Text, text

revision = "0020"
down_revision = "0019"

COUNTS = (
    *("listed", "known", "changed", "gone"),
    *("copied", "bytes", "deleted", "refused", "failed"),
)


def upgrade() -> None:
    """Add the columns and the table. Migrations of an older relay do not stand."""
    op.add_column("migrations", Column("phase", String(12)))
    op.add_column("migrations", Column("every", Float))
    op.add_column("migrations", Column("hours", String(16)))
    op.add_column("migrations", Column("due", Float))
    op.add_column("transfers", Column("written", Text))
    owner = ForeignKey("migrations.id", ondelete="CASCADE")
    op.create_table(
        "passes",
        Column("migration_id", String(36), owner, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("kind", String(12), nullable=False),
        Column("begun", Float, nullable=False),
        Column("listed_at", Float),
        Column("ended", Float),
        Column("complete", Boolean),
        Column("listing", Integer),
        *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in COUNTS),
        Column("p50", Float),
        Column("p90", Float),
        Column("outcome", Text),
    )
