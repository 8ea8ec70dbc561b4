"""The public interface of the ledger for sessions of browsers: every call is one transaction, and
raises as those of `Ledger`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from relay.ledger import ledger_log, session_rows
from relay.ledger.ledger_access import LedgerAccess


@dataclass(frozen=True)
class SessionLedger:
    """The sessions of a ledger. A session is named by the hash of its cookie's value."""

    access: LedgerAccess

    def cookie_key(self) -> bytes:
        """As session_rows.cookie_key."""
        return self.access.read(session_rows.cookie_key)

    def start(self, hash: str, token_id: str | None, token_hash: str, now: float) -> None:
        """As session_rows.start."""

        def start(connection: Connection) -> None:
            session_rows.start(connection, hash, token_id, token_hash, now)
            self.access.record(connection, "sign in", f"session {hash[:8]}")

        self.access.write(start)
        ledger_log.log_session(self.access.actor, starts=True)

    def look_up(self, hash: str) -> session_rows.SessionRow | None:
        """As session_rows.look_up."""
        return self.access.read(lambda c: session_rows.look_up(c, hash))

    def note_request(self, hash: str, at: float) -> None:
        """As session_rows.note_request."""
        self.access.write(lambda c: session_rows.note_request(c, hash, at))

    def end(self, hash: str) -> None:
        """As session_rows.end."""

        def end(connection: Connection) -> None:
            session_rows.end(connection, hash)
            self.access.record(connection, "sign out", f"session {hash[:8]}")

        self.access.write(end)
        ledger_log.log_session(self.access.actor, starts=False)

    def count_attempt(self, address: str, now: float) -> float:
        """As session_rows.count_attempt."""
        return self.access.write(lambda c: session_rows.count_attempt(c, address, now))
