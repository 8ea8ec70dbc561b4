"""The plans of migrations, which are made before anything moves and kept until they are deleted."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Text, text

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "plans",
        Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("id", String(36), nullable=False, unique=True),
        Column("tenant", String(64), nullable=False),
        Column("runner", String(12), nullable=False),
        Column("state", String(12), nullable=False),
        Column("source", Text, nullable=False),
        Column("destination", Text, nullable=False),
        Column("options", Text, nullable=False),
        Column("limits", Text, nullable=False),
        Column("key", String(64), unique=True),
        Column("owner", String(36)),
        Column("fence", Integer, nullable=False, server_default=text("0")),
        Column("lapses", Integer, nullable=False, server_default=text("0")),
        Column("report", Text),
        Column("error", Text),
        Column("migration_id", String(36), ForeignKey("migrations.id", ondelete="SET NULL")),
        Column("created", Float, nullable=False),
        Column("ended", Float),
    )
    op.create_index("plans_of_tenant", "plans", ["tenant", "number"])
    op.create_index("plans_by_state", "plans", ["state", "number"])
    op.create_table(
        "plan_secrets",
        Column("plan_id", String(36), ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True),
        Column("locations", Text, nullable=False),
    )
