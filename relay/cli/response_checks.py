"""Check the answers of a relay server before a command uses them.

Decided here: which members a command needs, and their types; other members, and those that an older
server does not send, are optional. Never here: the answers of a server (`relay/api/schemas.py`),
how an answer is printed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relay.ledger.viewer import DEFAULT_TENANT

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of objects or of bytes, up to the largest that a ledger can hold."""
Time = Annotated[float, Field(ge=0, lt=253402300800)]
"""Seconds since 1970, a finite number up to the year 9999."""


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


class _Standing(_Shape):
    phase: str
    every: Time
    window: str | None
    due: Time | None


class Brief(_Shape):
    """A migration as lists and progress lines show it."""

    id: str
    number: Count
    tenant: str = DEFAULT_TENANT
    state: str
    needs_attention: bool = False
    source: str
    destination: str
    listing: str
    created: Time
    ended: Time | None
    objects: dict[str, Count]
    bytes: dict[str, Count]
    excluded: Count | None = None
    standing: _Standing | None = None
    bytes_in_parts: Count = 0
    under_way: Count = 0
    slots: Count | None = None
    retried: list[_Retried] = []
    trouble: _Trouble | None = None


class Whole(Brief):
    """A migration with all its members."""

    options: dict[str, object]
    priority: int
    limits: dict[str, Count | None]
    levels: dict[str, Count]
    bytes_resent: Count
    retries: Count
    error: _Error | None


class MigrationPage(_Shape):
    """A page of migrations; `next` is the URL of older ones, at the same server."""

    migrations: list[Brief]
    next: str | None


class ReportRow(_Shape):
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


class ReportPage(_Shape):
    """A page of rows; `next` is the URL of the following page."""

    transfers: list[ReportRow]
    next: str | None


class _ReasonRow(_Shape):
    reason: str
    objects: Count
    sample: str


class ReasonList(_Shape):
    """The reasons for which objects of a migration failed."""

    reasons: list[_ReasonRow]


def wrong_member(shape: type[_Shape], members: object) -> str | None:
    """Return the name of a member that does not match the shape; None if all match."""
    try:
        shape.model_validate(members)
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    return None
