"""Keyed hashes that identify a migration, and an object of a list.

Theory of operation. A location is identified by its store, its endpoint and its whole URL, whose
query may hold a secret. So only an HMAC is stored, under a random key of this ledger: a reader of a
row can't test guesses against it. Rows of one ledger can be compared with each other, and that is
all.

Decided here: the hashed values. Never here: which parts of a URL name an object
(`relay/identity.py`)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select

from relay.identity import is_whole, same_text, selecting_headers
from relay.ledger.migration_values import Spec
from relay.ledger.schema import keys
from relay.process.identities import machine_id


@dataclass(frozen=True, kw_only=True)
class IdentityHashes:
    """The keyed hashes of a request: of the whole request, of its two locations, and of their
    accounts."""

    spec: str
    places: str
    place: str | None
    """The place of the destination: a hash of its server, and its path; None if unknown."""
    owner: str
    """That of the accounts; its second half is `machine`, if there is one."""
    machine: str
    """Half a hash, of the machine and the volumes that the locations depend on; or empty."""
    older_owner: str
    """The hash of the accounts of an older relay, which hashed neither the machine nor volumes."""


def identity_hashes_of(connection: Connection, spec: Spec) -> IdentityHashes:
    """Return the keyed hashes of a request."""
    key = key_of(connection)
    places = spec.places or (spec.source, spec.destination)
    named = [spec.named] if any(spec.named) else []  # no headers: the hash of an older relay
    # SQLite's file is used on one machine only.
    is_shared = spec.of_machine and connection.dialect.name != "sqlite"
    ids = [*([machine_id()] if is_shared else []), *spec.volumes]
    accounts = keyed_hash(key, spec.owners)
    machine = keyed_hash(key, *ids)[32:] if ids else ""
    return IdentityHashes(
        spec=keyed_hash(key, places, spec.options, *named),
        places=keyed_hash(key, places, *named),
        place=_place_hash(key, spec.place) if spec.place else None,
        # The column has 64 characters, so each hash gives half of its own.
        owner=accounts[:32] + machine if machine else accounts,
        machine=machine,
        older_owner=accounts,
    )


def place_hash(connection: Connection, place: tuple[str, str]) -> str:
    """Return the place of a destination as a row has it: a hash of its server, and its path."""
    return _place_hash(key_of(connection), place)


def _place_hash(key: bytes, place: tuple[str, str]) -> str:
    return keyed_hash(key, place[0])[:32] + place[1]


def is_unnamed(
    connection: Connection, row: Any, spec: Spec, secret: Mapping[str, Any] | None
) -> bool:
    """Return whether the row of an older relay, which hashed no headers, has the same locations, by
    the headers in its `secret`."""
    if not any(spec.named) or secret is None:
        return False
    plain = identity_hashes_of(connection, replace(spec, named=([], [])))
    return bool(row.places == plain.places) and _headers(secret) == _headers(spec.secret)


def _headers(secret: Mapping[str, Any]) -> list[list[list[str]]]:
    return [
        selecting_headers(map(tuple, secret[side]["headers"])) for side in ("source", "destination")
    ]


def key_of(connection: Connection) -> bytes:
    """Return this ledger's key."""
    return bytes.fromhex(
        connection.execute(select(keys.c.value).where(keys.c.name == "identity")).scalar_one()
    )


def keyed_hash(key: bytes, *what: Any) -> str:
    """Return the keyed hash (HMAC-SHA256) of plain values, as 64 hex digits."""
    return hmac.digest(key, json.dumps(what, sort_keys=True).encode(), hashlib.sha256).hex()


def is_older(row: Any, spec: Spec, secret: Mapping[str, Any] | None) -> bool:
    """Return whether the row of an older relay, which stored a digest of the printed request, is
    certainly of the same request.

    `secret` has its locations; None: they were deleted, and their queries are unknown."""
    if row.places is not None or row.spec != spec.printed_digest:
        return False
    if secret is None:
        return "?" not in spec.source + spec.destination
    return all(map(same_text, _texts(secret), _texts(spec.secret)))


def is_whole_text(secret: Mapping[str, Any]) -> bool:
    """Return whether the texts of both locations are complete without remotes or other settings."""
    return all(map(is_whole, _texts(secret)))


def _texts(secret: Mapping[str, Any]) -> Sequence[str]:
    ends = (secret.get("source"), secret.get("destination"))
    return [str(end.get("text", "")) if isinstance(end, Mapping) else "" for end in ends]
