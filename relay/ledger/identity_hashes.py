"""Keyed hashes that identify a migration, and an object of a list.

Theory of operation. What tells one place from another is its store, its endpoint, and the whole of
its URL, and a query may hold a secret. So only an HMAC of it is kept, under a random key of the
ledger's own: whoever sees a row can't try out what was hashed. Two rows of one ledger can be
compared, and nothing else.

Decided here: what is hashed. Never here: what of a URL names an object (`relay/identity.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select

from relay.identity import is_whole, named_by, same_text
from relay.ledger.rows import Spec
from relay.ledger.schema import keys


@dataclass(frozen=True)
class IdentityHashes:
    """The keyed hashes of a request: of all of it, of its two places, and of the accounts that
    speak to them."""

    spec: str
    places: str
    owner: str


def identity_hashes_of(connection: Connection, spec: Spec) -> IdentityHashes:
    """Return the marks of a request."""
    key = key_of(connection)
    places = spec.places or (spec.source, spec.destination)
    named = [spec.named] if any(spec.named) else []  # without any it is as it always was
    return IdentityHashes(
        keyed_hash(key, places, spec.options, *named),
        keyed_hash(key, places, *named),
        keyed_hash(key, spec.owners),
    )


def is_unnamed(
    connection: Connection, row: Any, spec: Spec, secret: Mapping[str, Any] | None
) -> bool:
    """Say if the row of a relay that took no header for a name is of the same places, by all that
    its `secret` has."""
    if not any(spec.named) or secret is None:
        return False
    plain = identity_hashes_of(connection, replace(spec, named=([], [])))
    return bool(row.places == plain.places) and _headers(secret) == _headers(spec.secret)


def _headers(secret: Mapping[str, Any]) -> list[list[list[str]]]:
    return [named_by(map(tuple, secret[side]["headers"])) for side in ("source", "destination")]


def key_of(connection: Connection) -> bytes:
    """Return the ledger's own key."""
    return bytes.fromhex(
        connection.execute(select(keys.c.value).where(keys.c.name == "identity")).scalar_one()
    )


def keyed_hash(key: bytes, *what: Any) -> str:
    """Return the keyed hash of plain values: 64 letters."""
    return hmac.digest(key, json.dumps(what, sort_keys=True).encode(), hashlib.sha256).hex()


def is_older(row: Any, spec: Spec, secret: Mapping[str, Any] | None) -> bool:
    """Say if the row of an older relay, which kept a digest of what is printed, is of the same
    request for certain.

    `secret` is what it kept of its places; None: it was forgotten, and tells nothing of their
    queries."""
    if row.places is not None or row.spec != spec.printed_digest:
        return False
    if secret is None:
        return "?" not in spec.source + spec.destination
    return all(map(same_text, _texts(secret), _texts(spec.secret)))


def is_whole_text(secret: Mapping[str, Any]) -> bool:
    """Say if the texts of both places tell where they are without anybody's settings."""
    return all(map(is_whole, _texts(secret)))


def _texts(secret: Mapping[str, Any]) -> Sequence[str]:
    ends = (secret.get("source"), secret.get("destination"))
    return [str(end.get("text", "")) if isinstance(end, Mapping) else "" for end in ends]
