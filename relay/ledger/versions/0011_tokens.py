"""Tokens of the API, sessions of browsers, attempts to sign in, and the audit log."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Text

revision = "0011"
down_revision = "0010"

_ID = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Create the tables. A migration of an older relay belongs to no token."""
    op.add_column("migrations", Column("token", String(8)))
    op.create_index("migrations_by_token", "migrations", ["token"])
    op.create_table(
        "tokens",
        Column("id", String(8), primary_key=True),
        Column("name", String(64), nullable=False),
        Column("tenant", String(64), nullable=False),
        Column("scope", String(8), nullable=False),
        Column("limits", Text, nullable=False),
        Column("hash", String(64), nullable=False),
        Column("previous", String(64)),
        Column("previous_until", Float),
        Column("created", Float, nullable=False),
        Column("expires", Float),
        Column("last_used", Float),
        Column("revoked", Float),
    )
    op.create_index("tokens_by_name", "tokens", ["name"])
    op.create_table(
        "sessions",
        Column("id", String(64), primary_key=True),
        Column("token_id", String(8), ForeignKey("tokens.id", ondelete="CASCADE")),
        Column("token_hash", String(64), nullable=False),
        Column("created", Float, nullable=False),
        Column("seen", Float, nullable=False),
    )
    op.create_table(
        "sign_ins",
        Column("id", _ID, primary_key=True, autoincrement=True),
        Column("address", String(64), nullable=False),
        Column("at", Float, nullable=False),
    )
    op.create_table(
        "audit",
        Column("id", _ID, primary_key=True, autoincrement=False),
        Column("at", Float, nullable=False),
        Column("actor", Text, nullable=False),
        Column("token_id", String(8)),
        Column("tenant", String(64)),
        Column("address", Text, nullable=False),
        Column("verb", String(32), nullable=False),
        Column("object", Text, nullable=False),
        Column("before", Text),
        Column("after", Text),
        Column("hash", String(64), nullable=False),
    )
