"""The tables of plans (see `schema.py`)."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from relay.ledger.schema import ROW_ID, metadata

plans = Table(
    "plans",
    metadata,
    Column("number", ROW_ID, primary_key=True),
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
"""A migration that is planned before it starts (`plans.py`). `tenant` to `options` are as in
`migrations`; `limits` is JSON of the priority and the bounds. `number` is the order of acceptance.
`key` is a hash of the request and of the key that its client sent. While its state is `planning`,
the worker in `owner` makes it, with the `fence` of its claim; null means that any worker may.
`lapses` counts the workers that were lost with it. `report` is JSON: the findings so far, and at
the end all of them; `ended` is the time of that. `migration_id` is the migration that it
started."""
Index("plans_of_tenant", plans.c.tenant, plans.c.number)
Index("plans_by_state", plans.c.state, plans.c.number)

plan_secrets = Table(
    "plan_secrets",
    metadata,
    Column("plan_id", String(36), ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True),
    Column("locations", Text, nullable=False),
)
"""As `secrets`, for a plan. Deleted when it starts a migration, which has its own, or is not
started for a day."""
