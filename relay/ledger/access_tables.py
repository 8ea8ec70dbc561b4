"""The tables of callers: tokens, sessions of browsers, and the audit log (see `schema.py`)."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
)

from relay.ledger.schema import ROW_ID, metadata

tokens = Table(
    "tokens",
    metadata,
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
"""Tokens of the API (`tokens.py`). `hash` is the SHA-256 of the whole token, `previous` that of the
token which a rotation replaced, valid until `previous_until`. `limits` is JSON. A row stays after
its token has expired or was revoked."""
Index("tokens_by_name", tokens.c.name)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("token_id", String(8), ForeignKey("tokens.id", ondelete="CASCADE")),
    Column("token_hash", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
)
"""Sessions of browsers (`session_rows.py`). `id` is the SHA-256 of the cookie's value; `token_hash`
that of the token with which the session began, `token_id` null for a token of a file. `seen` is the
time of a request of the session, at most some minutes before its last one."""

sign_ins = Table(
    "sign_ins",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("address", String(64), nullable=False),
    Column("at", Float, nullable=False),
)
"""Attempts to sign in during the last minute, so that all workers together limit them."""

audit = Table(
    "audit",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=False),
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
"""Who changed what (`audit_log.py`). `before` and `after` are JSON without secrets. `hash` is the
SHA-256 of the row and of the hash before it; the ends of the chain are the row `audit` of
`keys`."""
