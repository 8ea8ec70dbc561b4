"""Sessions of browsers in the ledger, and how often an address may try to begin one.

The ledger keeps the hash of a session's cookie, so a copy of the ledger opens no session. All
workers of a ledger count attempts together.

Decided here: when a session ends by itself, and the number of attempts. Never here: cookies, and
who may begin a session (`relay/api/sessions.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, delete, insert, or_, select, text, update

from relay.ledger.access_tables import sessions, sign_ins
from relay.ledger.identity_hashes import key_of, keyed_hash
from relay.ledger.schema import APPLICATION_ID

IDLE_SECONDS: Final = 12 * 3600.0
"""Seconds without a request after which a session ends."""
MOST_SECONDS: Final = 7 * 86400.0
"""Longest life of a session."""
SEEN_SECONDS: Final = 60.0
"""Resolution of the time of a session's last request."""
WINDOW_SECONDS: Final = 60.0
ATTEMPTS, ALL_ATTEMPTS = 10, 100
"""Attempts to sign in within WINDOW_SECONDS: of one address, and of all."""
COUNTING: Final = APPLICATION_ID + 2
"""Key of the PostgreSQL advisory lock under which attempts are counted."""


@dataclass(frozen=True, kw_only=True)
class SessionRow:
    """One session. Times are seconds since 1970."""

    token_id: str | None
    token_hash: str = field(repr=False)
    created: float
    seen: float

    def is_over(self, now: float) -> bool:
        """Return whether it has ended by itself."""
        return now - self.seen >= IDLE_SECONDS or now - self.created >= MOST_SECONDS


def start(
    connection: Connection, hash: str, token_id: str | None, token_hash: str, now: float
) -> None:
    """Begin a session whose cookie has this `hash`, and delete those that have ended."""
    over = or_(sessions.c.seen <= now - IDLE_SECONDS, sessions.c.created <= now - MOST_SECONDS)
    connection.execute(delete(sessions).where(over))
    row = {"id": hash, "token_id": token_id, "token_hash": token_hash, "created": now, "seen": now}
    connection.execute(insert(sessions), row)


def look_up(connection: Connection, hash: str) -> SessionRow | None:
    """Return the session whose cookie has this hash, or None."""
    row = connection.execute(select(sessions).where(sessions.c.id == hash)).first()
    if row is None:
        return None
    return SessionRow(
        token_id=row.token_id, token_hash=row.token_hash, created=row.created, seen=row.seen
    )


def note_request(connection: Connection, hash: str, at: float) -> None:
    """Note a request of a session, which may have ended meanwhile."""
    row = (sessions.c.id == hash) & (sessions.c.seen < at)
    connection.execute(update(sessions).where(row).values(seen=at))


def end(connection: Connection, hash: str) -> None:
    """End a session. Idempotent."""
    connection.execute(delete(sessions).where(sessions.c.id == hash))


def cookie_key(connection: Connection) -> bytes:
    """Return the key with which this ledger's servers authenticate cookies."""
    return bytes.fromhex(keyed_hash(key_of(connection), "sessions"))


def count_attempt(connection: Connection, address: str, now: float) -> float:
    """Count an attempt to sign in and return 0, or the seconds after which the address may try
    again; that attempt does not count."""
    if connection.dialect.name != "sqlite":  # there a writing transaction has the lock already
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": COUNTING})
    # Those of later than now were counted before a clock was set back.
    is_old = sign_ins.c.at <= now - WINDOW_SECONDS
    connection.execute(delete(sign_ins).where(is_old | (sign_ins.c.at > now + WINDOW_SECONDS)))
    rows = connection.execute(select(sign_ins.c.address, sign_ins.c.at).order_by(sign_ins.c.at))
    attempts = [(row.address, row.at) for row in rows]
    wait = seconds_to_wait(attempts, address, now)
    if not wait:
        connection.execute(insert(sign_ins), {"address": address, "at": now})
    return wait


def seconds_to_wait(attempts: Sequence[tuple[str, float]], address: str, now: float) -> float:
    """Return the seconds until an address may try again, by the `attempts` of the last minute, the
    oldest first; 0 if it may try now."""
    ours = [at for other, at in attempts if other == address]
    due = [
        times[-most] + WINDOW_SECONDS - now
        for times, most in ((ours, ATTEMPTS), ([at for _, at in attempts], ALL_ATTEMPTS))
        if len(times) >= most
    ]
    return max(0.0, *due) if due else 0.0
