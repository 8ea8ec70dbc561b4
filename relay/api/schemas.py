"""Response schemas for the OpenAPI document. A test holds every real response to them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    # Every member is always there, so a generated client need not ask.
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


Digests = dict[str, str]


class Version(_Answer):
    """One version of an object, as far as its store named it."""

    etag: str | None
    size: int | None
    last_modified: str | None
    version: str | None = Field(
        description="The store's own name of this version, where it keeps several."
    )
    digests: Digests = Field(description="In hexadecimal, by algorithm.")


class Receipt(_Answer):
    """What was proved."""

    level: Literal["read_back", "whole_digest", "part_digests", "size"]
    bytes: int
    digests: Digests = Field(description="Ours, of the bytes that passed, in hexadecimal.")
    source: Version
    destination: Version
    attempts: int
    bytes_resent: int
    notes: list[str]


class Migration(_Answer):
    """How one object was moved."""

    id: str
    state: Literal["verified", "unverified", "skipped"] = Field(
        description="`size` alone is never `verified`."
    )
    source: str = Field(description="Without query and headers, which may be secrets.")
    destination: str
    bytes: int
    seconds: float
    receipt: Receipt | None = Field(description="null when it was skipped.")


class Trouble(_Answer):
    """Something that failed and is tried again."""

    what: str = Field(description="The object, one of its parts, or its completion.")
    error: str = Field(description="As a problem's type.")
    side: str
    detail: str
    failures: int = Field(description="How often it has failed since the trouble began.")
    since: float = Field(description="When that was: seconds since 1970, UTC.")
    again: float = Field(description="When it is tried next, or was.")


class Retried(Trouble):
    """The same, of an object of a migration."""

    name: str = Field(description="The object's, as in its row; empty where there is but one.")


class Outage(_Answer):
    """Why the ledger does not answer at the moment."""

    code: str = Field(description="As a problem's type.")
    detail: str


class Listed(_Answer):
    """A migration in the ledger, as lists show it."""

    id: str
    number: int = Field(description="What people may call it by, in place of the id.")
    state: Literal["running", "paused", "succeeded", "partial", "failed", "cancelled"]
    source: str = Field(description="Without query and headers, which may be secrets.")
    destination: str
    listing: Literal["none", "due", "running", "done", "failed"]
    created: float = Field(description="Seconds since 1970, UTC.")
    ended: float | None
    objects: dict[str, int] = Field(description="How many objects are in each state.")
    bytes: dict[str, int] = Field(description="How many bytes those have.")
    bytes_in_parts: int = Field(
        description=(
            "How many bytes the destination has already, in parts of objects that are not whole"
            " yet."
        )
    )
    under_way: int = Field(
        description=(
            "How many transfers workers make, or move parts of, at the moment. What was paused or"
            " cancelled stops within about a second; it rests when there is none left."
        )
    )
    retried: list[Retried] = Field(
        description=(
            "What is tried again at the moment, whichever worker does it: the listing, which has no"
            " name, then the objects, that which has lasted the longest first; five of those at"
            " most."
        )
    )
    trouble: Outage | None = Field(
        description="Why the process that answers can't work; null while it can."
    )


class Limited(_Answer):
    """What a migration may use, over all workers together; null where nobody said."""

    slots: int | None
    bytes_per_second: int | None
    connections: int | None


class Recorded(Listed):
    """A migration in the ledger, whole."""

    options: dict[str, str | bool]
    priority: int
    limits: Limited
    levels: dict[str, int] = Field(description="How many objects were proved on each level.")
    bytes_resent: int
    retries: int
    error: dict[str, str] | None = Field(
        description="Why it failed as a whole, or waits for credentials."
    )


class Migrations(_Answer):
    """The newest migrations first; `next` leads to older ones."""

    migrations: list[Listed]
    next: str | None


class Told(_Answer):
    """One object of a migration, as a line."""

    name: str
    state: Literal["queued", "running", "verified", "unverified", "skipped", "failed", "cancelled"]
    level: str | None
    bytes: int | None
    seconds: float | None
    attempts: int
    resent: int
    digest: str | None
    error: str | None = Field(description="The code of a problem.")
    detail: str | None


class TransferRow(Told):
    """One object of a migration, whole."""

    id: int
    receipt: dict[str, object] | None


class Transfers(_Answer):
    """Objects in the order in which they were listed; `next` leads on."""

    transfers: list[TransferRow]
    next: str | None


class FieldError(_Answer):
    """One member of the request that is at fault."""

    pointer: str = Field(description="A JSON Pointer into the request.")
    detail: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    side: Literal["source", "destination", "relay", "request"]
    retryable: bool
    hint: str
    instance: str
    errors: list[FieldError] = []


class Progress(_Answer):
    """A line of progress; `rate` in bytes a second."""

    event: Literal["progress"]
    id: str
    phase: Literal["waiting", "opening", "piping", "verifying", "settled"]
    bytes: int
    total: int | None
    attempt: int
    seconds: float
    rate: int
    trouble: Trouble | None = Field(
        description="What is tried again, why, and when next; null while all goes well."
    )


class ResultLine(Migration):
    """The last line of a stream that ended well."""

    event: Literal["result"]


class ProblemLine(Problem):
    """The last line of a stream that failed."""

    event: Literal["problem"]


class RecordedProgress(Listed):
    """A line of progress of a migration in the ledger."""

    event: Literal["progress"]


class RecordedResult(Recorded):
    """The last line of a migration in the ledger: it has ended, or is paused, or the server stops;
    `state` says."""

    event: Literal["result"]


class Slots(_Answer):
    """The transfers of one worker."""

    held: int
    free: int
    waiting: int


class Ready(_Answer):
    """Whether the worker that answered takes new transfers."""

    ready: bool
    ledger: str = Field(description="`ok`, or the code of what is wrong with it.")
    running: int
    slots: Slots


class Health(_Answer):
    """The worker's loop turns."""

    status: Literal["ok"]


class Root(_Answer):
    """Where to read on."""

    name: str
    version: str
    openapi: str


LINES: tuple[type[BaseModel], ...] = (
    Progress,
    ResultLine,
    ProblemLine,
    RecordedProgress,
    RecordedResult,
)
"""What a line of `application/x-ndjson` that follows a migration may be."""
