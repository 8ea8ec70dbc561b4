"""The parameters of statements that are built once.

A statement of SQLAlchemy is some hundred objects in cycles, which only the garbage collector frees;
a page of migrations would leave thousands. So the statements behind pages, and those that clients
who follow a migration cause each second, are built once for each form, with these parameters in
place of values: `connection.execute(statement, {"ids": ids})`."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, BindParameter, Float, Integer, String, bindparam

FORMS: Final = 64
"""Maximum number of forms of one statement that are kept."""
IDS: Final[BindParameter[Any]] = bindparam("ids", type_=String, expanding=True)
"""Ids of migrations."""
MOVING: Final[BindParameter[Any]] = bindparam("moving", type_=String, expanding=True)
"""Those of them whose transfers are running."""
NOW: Final[BindParameter[Any]] = bindparam("now", type_=Float)
"""Seconds since 1970."""
MIGRATION: Final[BindParameter[Any]] = bindparam("migration", type_=String)
TENANT: Final[BindParameter[Any]] = bindparam("tenant", type_=String)
VIEWER: Final[BindParameter[Any]] = bindparam("viewer", type_=String)
"""The tenant of a migration, and that of its reader."""
RUNNER: Final[BindParameter[Any]] = bindparam("runner", type_=String)
NUMBER: Final[BindParameter[Any]] = bindparam("number", type_=BigInteger)
"""The number by which people name a migration."""
TEXT: Final[BindParameter[Any]] = bindparam("text", type_=String)
"""What a search looks for; a '/' is before each character with a meaning for LIKE."""
BEFORE: Final[BindParameter[Any]] = bindparam("before", type_=BigInteger)
AFTER: Final[BindParameter[Any]] = bindparam("after", type_=BigInteger)
"""The places in an order, at which a page begins."""
LIMIT: Final[BindParameter[Any]] = bindparam("limit", type_=Integer)
WINDOW_LIMIT: Final[BindParameter[Any]] = bindparam("window", type_=Integer)
"""Number of rows: of a page, and of those that a search looks at."""
REASON: Final[BindParameter[Any]] = bindparam("reason", type_=String)
TRANSFER: Final[BindParameter[Any]] = bindparam("transfer", type_=BigInteger)
LEVEL: Final[BindParameter[Any]] = bindparam("level", type_=String)
PREFIX: Final[BindParameter[Any]] = bindparam("prefix", type_=String)
LETTERS: Final[BindParameter[Any]] = bindparam("letters", type_=Integer)
"""The length of the prefix."""
