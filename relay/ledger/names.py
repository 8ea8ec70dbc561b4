"""Find transfers by their names in either database, some at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, func

from relay.ledger.schema import transfers

T = TypeVar("T")


def has_name(connection: Connection, names: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition for transfers with some names. In PostgreSQL it compares the MD5 of the
    names, which its index has, so the caller must compare the names as well."""
    if connection.dialect.name == "sqlite":
        return transfers.c.name.in_(list(names))
    return func.md5(transfers.c.name).in_([md5(name) for name in names])


def md5(name: str) -> str:
    """Return the MD5 of a name in hex, as in PostgreSQL's index."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def in_chunks(some: Sequence[T], most: int = 500) -> Iterable[Sequence[T]]:
    """Return ids or names in chunks of `most`: databases limit the number of bound values."""
    return (some[i : i + most] for i in range(0, len(some), most))
