"""Find transfers by their names in either database, some at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, func

from relay.ledger.schema import transfers

T = TypeVar("T")


def has_name(connection: Connection, names: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition for transfers of some names; in PostgreSQL, for those whose names have
    the same MD5, which is what its index has: compare the names."""
    if connection.dialect.name == "sqlite":
        return transfers.c.name.in_(list(names))
    return func.md5(transfers.c.name).in_([md5(name) for name in names])


def md5(name: str) -> str:
    """Return what PostgreSQL's index has of a name."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def in_chunks(some: Sequence[T], most: int = 500) -> Iterable[Sequence[T]]:
    """Return ids or names a few at a time: no database takes any number of values."""
    return (some[i : i + most] for i in range(0, len(some), most))
