"""The audit log: who changed what, from where, and when. Rows are added, and deleted only when they
are 400 days old.

Theory of operation. Each row has a hash of its own members and of the hash before it. The row
`audit` of the table `keys` has both ends of the chain: the first row that is kept, and the last
one. So a row that was changed, taken out or added by hand is found, also at the ends, unless the
one who did it computes the whole chain again. Copy the last hash to another place now and then
(`relay audit log --verify` prints it): it proves everything before it.

Decided here: the chain. Never here: which changes are recorded (`ledger.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, text, update

from relay.ledger.access_tables import audit
from relay.ledger.schema import APPLICATION_ID, keys

KEPT_SECONDS: Final = 400 * 86400.0
"""How long a row is kept."""
DELETED: Final = 100
"""Old rows that one new row deletes at most."""
CHAINING: Final = APPLICATION_ID + 3
"""Key of the PostgreSQL advisory lock under which the chain grows."""
_ENDS: Final = "audit"
_START: Final = "0" * 64
"""The hash before the first row."""
PAGE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who changes something."""

    name: str
    token_id: str | None = None
    tenant: str | None = None
    address: str = ""
    """Address of the client; empty for a command on this machine."""
    request: str | None = None
    """The id of its request, for the log; the audit log does not keep it."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One change. `before` and `after` are members of JSON, None where there are none."""

    id: int
    at: float
    actor: Actor
    verb: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    hash: str


@dataclass(frozen=True, kw_only=True)
class ChainCheck:
    """What a check of the whole chain found."""

    rows: int
    hash: str
    """The last hash."""
    fault: str | None
    """The first fault, or None."""


def append(
    connection: Connection,
    actor: Actor,
    verb: str,
    object: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    now: float,
) -> None:
    """Add a row, and delete rows that are too old. No member may hold a secret."""
    if connection.dialect.name != "sqlite":  # there a writing transaction has the lock already
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAINING})
    ends = _ends(connection)
    row = {
        "id": ends["last"] + 1,
        "at": now,
        "actor": actor.name,
        "token_id": actor.token_id,
        "tenant": actor.tenant,
        "address": actor.address,
        "verb": verb,
        "object": object,
        "before": None if before is None else json.dumps(before),
        "after": None if after is None else json.dumps(after),
    }
    hash = _hash_after(ends["hash"], row)
    connection.execute(insert(audit), {**row, "hash": hash})
    ends |= {"last": row["id"], "hash": hash, **_forget_old(connection, ends, now)}
    changed = update(keys).where(keys.c.name == _ENDS).values(value=json.dumps(ends))
    connection.execute(changed)


def newest(connection: Connection, limit: int) -> list[AuditRow]:
    """Return the newest rows, the newest first."""
    rows = connection.execute(select(audit).order_by(audit.c.id.desc()).limit(limit))
    return [_row(row) for row in rows]


def verify(connection: Connection) -> ChainCheck:
    """Check the whole chain."""
    found = connection.execute(select(keys.c.value).where(keys.c.name == _ENDS)).scalar()
    if found is None:
        stray = connection.execute(select(audit.c.id).limit(1)).first()
        return ChainCheck(rows=0, hash=_START, fault="its ends are missing" if stray else None)
    ends = json.loads(found)
    expected, hash, count = ends["first"], ends["start"], 0
    for row in _every(connection):
        if row.id != expected:
            return ChainCheck(rows=count, hash=hash, fault=f"row {expected} is missing")
        hash = _hash_after(hash, row._asdict())
        if hash != row.hash:
            return ChainCheck(rows=count, hash=hash, fault=f"row {row.id} was changed")
        expected, count = expected + 1, count + 1
    fault = None
    if expected != ends["last"] + 1:
        fault = f"row {expected} is missing"
    elif hash != ends["hash"]:
        fault = f"row {ends['last']} was changed"
    return ChainCheck(rows=count, hash=hash, fault=fault)


def _ends(connection: Connection) -> dict[str, Any]:
    """Return both ends of the chain, those of an empty chain before the first row."""
    found = connection.execute(select(keys.c.value).where(keys.c.name == _ENDS)).scalar()
    if found is not None:
        ends: dict[str, Any] = json.loads(found)
        return ends
    ends = {"first": 1, "start": _START, "last": 0, "hash": _START}
    connection.execute(insert(keys), {"name": _ENDS, "value": json.dumps(ends)})
    return ends


def _forget_old(connection: Connection, ends: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Delete rows that are too old, from the first on; return the new first end, or {}."""
    first = select(audit.c.id, audit.c.at, audit.c.hash).order_by(audit.c.id).limit(DELETED)
    old = None
    for row in connection.execute(first):
        if row.at > now - KEPT_SECONDS:
            break
        old = row
    if old is None:
        return {}
    connection.execute(delete(audit).where(audit.c.id <= old.id))
    return {"first": old.id + 1, "start": old.hash}


def _every(connection: Connection) -> Iterator[Row[Any]]:
    after = 0
    while True:
        page = select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(PAGE)
        rows = connection.execute(page).all()
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1].id


def _hash_after(hash: str, row: Mapping[str, Any]) -> str:
    """Return the hash of a row, given that of the row before it."""
    members = [row[column.name] for column in audit.c if column.name != "hash"]
    return sha256(f"{hash}\n{json.dumps(members)}".encode()).hexdigest()


def _row(row: Row[Any]) -> AuditRow:
    return AuditRow(
        id=row.id,
        at=row.at,
        actor=Actor(name=row.actor, token_id=row.token_id, tenant=row.tenant, address=row.address),
        verb=row.verb,
        object=row.object,
        before=None if row.before is None else json.loads(row.before),
        after=None if row.after is None else json.loads(row.after),
        hash=row.hash,
    )
