"""The caller of a request: which token it sent, whose migrations it sees, and what it may do.

Decided here: nothing. `relay/api/auth.py` finds the caller of each request and puts it into
`flask.g.caller`; every view that depends on it asks `current_caller`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from flask import g

from relay.ledger.audit_log import Actor
from relay.ledger.token_values import EVERY_SCOPE, NO_LIMITS, Scope, TokenHolder, TokenLimits
from relay.ledger.viewer import DEFAULT_TENANT, Viewer


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request that may be answered."""

    token_id: str | None = None
    """The id of its token in the ledger; None for a token of RELAY_TOKENS_FILE, and without
    tokens."""
    name: str
    """The name of its token, for the audit log and for people."""
    tenant: str | None
    """The tenant of what it creates. None: it belongs to no tenant, and sees all of them."""
    scopes: frozenset[Scope]
    limits: TokenLimits = NO_LIMITS

    @property
    def holder(self) -> TokenHolder | None:
        """Its token as the ledger counts its migrations; None without one."""
        if self.token_id is None:
            return None
        return TokenHolder(
            token_id=self.token_id,
            migrations=self.limits.migrations,
            bytes_per_day=self.limits.bytes_per_day,
        )

    @property
    def is_counted(self) -> bool:
        """Whether its token has limits that the ledger counts: then every object is moved by a
        migration in the ledger."""
        return self.limits.migrations is not None or self.limits.bytes_per_day is not None

    @property
    def visible_tenant(self) -> str | None:
        """The only tenant whose migrations it sees, or None if it sees all tenants."""
        return None if Scope.ADMIN in self.scopes else self.tenant

    @property
    def viewer(self) -> Viewer:
        """Whose migrations it sees in the ledger; the viewer's tenant is that of what it
        creates."""
        tenant = DEFAULT_TENANT if self.tenant is None else self.tenant
        return Viewer(tenant=tenant, sees_all=self.visible_tenant is None)


LOCAL: Final = Caller(name="local", tenant=None, scopes=EVERY_SCOPE)
"""Any user of this machine, on a server without tokens."""
FILE: Final = Caller(name="tokens file", tenant=None, scopes=EVERY_SCOPE)
"""A caller with a token of RELAY_TOKENS_FILE."""
SCRAPER: Final = Caller(name="metrics token file", tenant="", scopes=frozenset())
"""A caller with a token of RELAY_METRICS_TOKEN_FILE: it may read the metrics, and nothing else."""
ANONYMOUS: Final = Caller(name="anonymous", tenant="", scopes=frozenset())
"""A caller of a path that needs no token: it may do nothing else."""


def current_actor() -> Actor:
    """Return the caller of this request as the audit log names it."""
    caller = current_caller()
    return Actor(
        name=caller.name,
        token_id=caller.token_id,
        tenant=caller.tenant,
        address=g.client.address,
        request=request_id(),
    )


def request_id() -> str:
    """Return the id of the request that this greenlet answers: the log has it, and the `instance`
    of a problem, unless that names a transfer."""
    found: str | None = g.get("request_id")
    if found is None:
        found = g.request_id = str(uuid.uuid4())
    return found


def current_caller() -> Caller:
    """Return the caller of the request that this greenlet answers."""
    found: Caller = g.caller
    return found
