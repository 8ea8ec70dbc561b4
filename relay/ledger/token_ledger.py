"""The public interface of the ledger for tokens: every call is one transaction, and raises as those
of `Ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from relay.ledger import ledger_log, tokens
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.token_values import Scope, TokenLimits


@dataclass(frozen=True)
class TokenLedger:
    """The tokens of a ledger, as one actor reads and changes them."""

    access: LedgerAccess

    def create(
        self,
        name: str,
        *,
        tenant: str,
        scope: Scope,
        limits: TokenLimits,
        expires: float | None = None,
    ) -> tuple[tokens.Token, str]:
        """As tokens.create; `expires` is in seconds since 1970."""

        def create(connection: Connection) -> tuple[tokens.Token, str]:
            tokens.lock_changes(connection)
            made, value = tokens.create(
                connection,
                name,
                tenant=tenant,
                scope=scope,
                limits=limits,
                expires=expires,
                now=time.time(),
            )
            self.access.record(connection, "token create", name, after=made.to_json())
            return made, value

        found = self.access.write(create)
        ledger_log.log_token(self.access.actor, "token create", name, tenant)
        return found

    def every(self) -> list[tokens.Token]:
        """As tokens.every."""
        return self.access.read(tokens.every)

    def live(self) -> tokens.LiveTokens:
        """As tokens.live, for now."""
        return self.access.read(lambda c: tokens.live(c, time.time()))

    def limit(self, name: str, change: Mapping[str, Any]) -> tokens.Token:
        """As tokens.limit."""
        return self._change("token limit", name, lambda c: tokens.limit(c, name, change))

    def rotate(self, name: str, overlap: float) -> tuple[tokens.Token, str]:
        """As tokens.rotate."""
        values: list[str] = []

        def rotate(connection: Connection) -> tokens.Token:
            rotated, value = tokens.rotate(connection, name, overlap, time.time())
            values.append(value)
            return rotated

        return self._change("token rotate", name, rotate), values[-1]

    def revoke(self, name: str) -> tokens.Token:
        """As tokens.revoke."""
        return self._change("token revoke", name, lambda c: tokens.revoke(c, name, time.time()))

    def forget(self, name: str) -> tokens.Token:
        """As tokens.forget."""
        return self._change("token forget", name, lambda c: tokens.forget(c, name))

    def _change(
        self, verb: str, name: str, change: Callable[[Connection], tokens.Token]
    ) -> tokens.Token:
        def change_recorded(connection: Connection) -> tokens.Token:
            tokens.lock_changes(connection)
            before = tokens.find(connection, name)
            after = change(connection)
            states = {"before": before.to_json(), "after": after.to_json()}
            self.access.record(connection, verb, after.name, **states)
            return after

        found = self.access.write(change_recorded)
        ledger_log.log_token(self.access.actor, verb, found.name, found.tenant)
        return found

    def note_use(self, id: str, at: float) -> None:
        """As tokens.note_use."""
        self.access.write(lambda c: tokens.note_use(c, id, at))
