"""Tokens of the API in the ledger: create, list, change, rotate, revoke.

A token's row keeps its hash, never the token. A rotation gives the same row another token; the one
that it replaces stays valid for a while. A row stays when its token has expired or was revoked, so
that a server which once had tokens never answers without one again. `forget` deletes it.

Decided here: which tokens are valid at a time. Never here: what a token may do
(`token_values.py`), and the comparison of a token that a client sent (`relay/api/`)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from relay.errors import ConfigError, TokenExists, TokenUnknown
from relay.ledger.access_tables import tokens
from relay.ledger.schema import APPLICATION_ID
from relay.ledger.token_format import hash_of, new_id, new_value
from relay.ledger.token_values import Scope, TokenLimits

CHANGING: Final = APPLICATION_ID + 4
"""Key of the PostgreSQL advisory lock under which tokens are created and changed."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.I)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as the ledger keeps it. Times are seconds since 1970."""

    id: str
    name: str
    tenant: str
    scope: Scope
    limits: TokenLimits
    created: float
    expires: float | None
    last_used: float | None
    revoked: float | None
    hash: str = field(repr=False)
    previous: str | None = field(repr=False)
    """Hash of the token that the last rotation replaced."""
    previous_until: float | None

    def is_live(self, now: float) -> bool:
        """Return whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def to_json(self) -> dict[str, Any]:
        """Return it as members of JSON, without its hashes."""
        return {
            "id": self.id,
            "name": self.name,
            "tenant": self.tenant,
            "scope": self.scope.value,
            "limits": self.limits.to_json(),
            "created": self.created,
            "expires": self.expires,
            "last_used": self.last_used,
            "revoked": self.revoked,
        }

    def hashes(self, now: float) -> tuple[str, ...]:
        """Return the hashes of the one or two tokens that are valid."""
        if self.previous is None or self.previous_until is None or now >= self.previous_until:
            return (self.hash,)
        return self.hash, self.previous


@dataclass(frozen=True, kw_only=True)
class LiveTokens:
    """The tokens that are neither revoked nor expired, and whether the ledger ever had one."""

    tokens: tuple[Token, ...]
    ever: bool


def lock_changes(connection: Connection) -> None:
    """Lock out other transactions that create or change a token, until this one ends: each looks at
    the rows before it writes. In SQLite every writing transaction has that lock already."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(func.pg_advisory_xact_lock(CHANGING)))


def create(
    connection: Connection,
    name: str,
    *,
    tenant: str,
    scope: Scope,
    limits: TokenLimits,
    expires: float | None,
    now: float,
) -> tuple[Token, str]:
    """Create a token; return its row and the token itself, which is stored nowhere.

    Raises ConfigError for a name or a tenant with other characters than those of a word, and
    TokenExists if a live token has the name."""
    for what, text in (("name of a token", name), ("tenant", tenant)):
        if not _NAME.fullmatch(text):
            raise ConfigError(
                f"{text[:80]!a} can't be the {what}",
                hint="Use 1 to 64 letters, digits, dots, hyphens and underscores.",
            )
    if any(token.name == name for token in live(connection, now).tokens):
        raise TokenExists(f"there is a token {name} already")
    id = new_id()
    value = new_value(id)
    row = {
        "id": id,
        "name": name,
        "tenant": tenant,
        "scope": scope.value,
        "limits": json.dumps(limits.to_json()),
        "hash": hash_of(value),
        "created": now,
        "expires": expires,
    }
    connection.execute(insert(tokens), row)
    return find(connection, name), value


def every(connection: Connection) -> list[Token]:
    """Return all tokens, the oldest first; also those that have expired or were revoked."""
    rows = connection.execute(select(tokens).order_by(tokens.c.created, tokens.c.id))
    return [_token(row) for row in rows]


def live(connection: Connection, now: float) -> LiveTokens:
    """Return the tokens that are valid now."""
    valid = tokens.c.revoked.is_(None) & or_(tokens.c.expires.is_(None), tokens.c.expires > now)
    found = tuple(_token(row) for row in connection.execute(select(tokens).where(valid)))
    ever = bool(found) or connection.execute(select(func.count()).select_from(tokens)).scalar_one()
    return LiveTokens(tokens=found, ever=bool(ever))


def find(connection: Connection, name: str) -> Token:
    """Return the newest token with this name, or the one with this id. Raises TokenUnknown."""
    if "\0" in name:  # PostgreSQL refuses it
        raise TokenUnknown(f"there is no token {name[:80]!a}")
    wanted = or_(tokens.c.name == name, tokens.c.id == name)
    newest = (tokens.c.revoked.is_(None).desc(), tokens.c.created.desc())
    row = connection.execute(select(tokens).where(wanted).order_by(*newest).limit(1)).first()
    if row is None:
        raise TokenUnknown(f"there is no token {name[:80]!a}")
    return _token(row)


def limit(connection: Connection, name: str, change: Mapping[str, Any]) -> Token:
    """Change limits of a token; members that `change` does not name stay. Raises TokenUnknown."""
    found = find(connection, name)
    limits = json.dumps(replace(found.limits, **change).to_json())
    return _update(connection, found, limits=limits)


def rotate(connection: Connection, name: str, overlap: float, now: float) -> tuple[Token, str]:
    """Give a token another value; the present one stays valid for `overlap` seconds, and one that
    was replaced earlier ends at once. Return the row and the new token.

    Raises TokenUnknown, also for a token that has expired or was revoked."""
    found = find(connection, name)
    if not found.is_live(now):
        raise TokenUnknown(
            f"the token {found.name} has expired or was revoked",
            hint="Create another one: `relay token create`.",
        )
    value = new_value(found.id)
    values = {"hash": hash_of(value), "previous": found.hash, "previous_until": now + overlap}
    return _update(connection, found, **values), value


def revoke(connection: Connection, name: str, now: float) -> Token:
    """Revoke a token, and the one that its last rotation replaced. Idempotent. Raises
    TokenUnknown."""
    found = find(connection, name)
    return found if found.revoked is not None else _update(connection, found, revoked=now)


def forget(connection: Connection, name: str) -> Token:
    """Delete a token's row, and return it as it was. Raises TokenUnknown."""
    found = find(connection, name)
    connection.execute(delete(tokens).where(tokens.c.id == found.id))
    return found


def note_use(connection: Connection, id: str, at: float) -> None:
    """Note that a token was used, unless a later use is noted."""
    earlier = or_(tokens.c.last_used.is_(None), tokens.c.last_used < at)
    connection.execute(update(tokens).where(tokens.c.id == id, earlier).values(last_used=at))


def _update(connection: Connection, found: Token, **values: Any) -> Token:
    connection.execute(update(tokens).where(tokens.c.id == found.id).values(**values))
    return find(connection, found.id)


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        scope=Scope(row.scope),
        limits=TokenLimits.from_json(json.loads(row.limits)),
        created=row.created,
        expires=row.expires,
        last_used=row.last_used,
        revoked=row.revoked,
        hash=row.hash,
        previous=row.previous,
        previous_until=row.previous_until,
    )
