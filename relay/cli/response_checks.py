"""Check the answers of a relay server before a command uses them.

Decided here: which members a command needs, and their types; others, and those that an older server
does not tell, may be there or not. Never here: what a server answers (`relay/api/schemas.py`), how
an answer is printed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Of objects, or of bytes: as many as a ledger can hold."""
Time = Annotated[float, Field(ge=0, lt=253402300800)]
"""Seconds since 1970 that have a date: up to the year 9999, and a number."""


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Trouble(_Shape):
    detail: str


class _Retried(_Trouble):
    name: str
    what: str
    side: str
    again: Time


class _Error(_Shape):
    side: str
    detail: str
    hint: str


class Brief(_Shape):
    """A migration as lists and lines of progress tell of it."""

    id: str
    number: Count
    state: str
    source: str
    destination: str
    listing: str
    created: Time
    ended: Time | None
    objects: dict[str, Count]
    bytes: dict[str, Count]
    bytes_in_parts: Count = 0
    under_way: Count = 0
    retried: list[_Retried] = []
    trouble: _Trouble | None = None


class Whole(Brief):
    """A migration, whole."""

    options: dict[str, object]
    priority: int
    limits: dict[str, Count | None]
    levels: dict[str, Count]
    bytes_resent: Count
    retries: Count
    error: _Error | None


class Page(_Shape):
    """A page of migrations; `next` leads to older ones of the same server."""

    migrations: list[Brief]
    next: str | None


class Row(_Shape):
    """One object of a migration."""

    name: str
    state: str
    level: str | None
    bytes: Count | None
    seconds: Annotated[float, Field(allow_inf_nan=False)] | None
    attempts: Count
    resent: Count
    digest: str | None
    error: str | None
    detail: str | None


class Rows(_Shape):
    """A page of them; `next` leads to those that follow."""

    transfers: list[Row]
    next: str | None


def lack(shape: type[_Shape], members: object) -> str | None:
    """Return the name of a member that is not as the shape has it; None where all are."""
    try:
        shape.model_validate(members)
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    return None
