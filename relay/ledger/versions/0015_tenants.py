"""Tenants: each has its own migrations, numbers and idempotency keys. The number of migrations in
each state is counted as it changes, and those that need a person are marked."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, String, text

revision = "0015"
down_revision = "0014"

ATTENTION = text("needs_attention")
NUMBERED = "UPDATE migrations SET ordinal = number"
NEEDY = (
    "UPDATE migrations SET needs_attention = true WHERE state IN ('partial', 'failed')"
    " OR (state = 'paused' AND error IS NOT NULL)"
)
COUNTED = (
    "INSERT INTO stage_counts (tenant, runner, state, needs_attention, migrations) SELECT tenant,"
    " coalesce(runner, ''), state, needs_attention, count(*) FROM migrations GROUP BY 1, 2, 3, 4"
)


def upgrade() -> None:
    """Add the columns, the indexes and the table. What exists belongs to the default tenant, and
    keeps its numbers."""
    default = text("'default'")
    op.add_column(
        "migrations", Column("tenant", String(64), nullable=False, server_default=default)
    )
    op.add_column("migrations", Column("ordinal", BigInteger))
    op.add_column(
        "migrations",
        Column("needs_attention", Boolean, nullable=False, server_default=text("false")),
    )
    op.execute(NUMBERED)
    op.execute(NEEDY)
    op.create_index("migrations_numbered", "migrations", ["tenant", "ordinal"], unique=True)
    op.create_index("migrations_by_state", "migrations", ["tenant", "state", "ordinal"])
    op.create_index("migrations_of_all_by_state", "migrations", ["state", "number"])
    op.create_index(
        "migrations_needy",
        "migrations",
        ["tenant", "ordinal"],
        sqlite_where=ATTENTION,
        postgresql_where=ATTENTION,
    )
    op.create_table(
        "stage_counts",
        Column("tenant", String(64), primary_key=True),
        Column("runner", String(12), primary_key=True),
        Column("state", String(12), primary_key=True),
        Column("needs_attention", Boolean, primary_key=True),
        Column("migrations", BigInteger, nullable=False),
    )
    op.execute(COUNTED)
