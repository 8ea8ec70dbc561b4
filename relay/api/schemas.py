"""Response schemas for the OpenAPI document. A test checks every real response against them.

The name of a component is that of its class without "Schema"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from relay.api.choices import OneOf
from relay.engine.transfer.progress import Phase
from relay.errors import Side
from relay.ledger import states
from relay.ledger.states import ListingState, MigrationState, PlanState, TransferState
from relay.receipt import Level, State


class _Schema(BaseModel):
    # Every member is always present, so the schema requires it and a generated client has no
    # optional members.
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


Digests = dict[str, str]
_RESENT = (
    "Number of bytes that were sent again, as far as it is known: what a killed process had sent of"
    " an unfinished object or part does not count."
)


class VersionSchema(_Schema):
    """One version of an object, as its store reported it; null where it did not."""

    etag: str | None
    size: int | None
    last_modified: str | None
    version: str | None = Field(
        description="The store's id of this version, if it keeps several versions."
    )
    digests: Digests = Field(
        description="The digests that the store reported, in hexadecimal, by algorithm."
    )


class ReceiptSchema(_Schema):
    """The source and the destination of a transfer, and the proof of the copy."""

    level: Annotated[str, OneOf(Level)] = Field(description="How the copy was verified.")
    bytes: int = Field(description="Size of the object in bytes.")
    digests: Digests = Field(
        description=(
            "The digests that relay computed of the transferred bytes, in hexadecimal, by"
            " algorithm."
        )
    )
    source: VersionSchema
    destination: VersionSchema
    attempts: int = Field(description="Number of attempts, the first included.")
    bytes_resent: int = Field(description=_RESENT)
    notes: list[str] = Field(description="Remarks about the transfer, for people.")


FilterValue = str | int | bool | list[str]
"""The value of a member of stored filters."""


class MigrationSchema(_Schema):
    """The result of moving one object."""

    id: str
    state: Annotated[str, OneOf(State)] = Field(
        description="`unverified` if only the sizes were compared."
    )
    source: str = Field(description="URL without query and headers, which may be secrets.")
    destination: str = Field(description="URL without query and headers.")
    bytes: int = Field(description="Size of the object in bytes.")
    seconds: float = Field(description="Duration in seconds.")
    receipt: ReceiptSchema | None = Field(description="null if the object was skipped.")


class TroubleSchema(_Schema):
    """A failure that is being retried."""

    what: str = Field(description="What failed: the object, one of its parts, or its completion.")
    error: str = Field(description="The problem code, as in a problem's type.")
    side: str = Field(description="Whose failure it is, as in a problem.")
    detail: str
    failures: int = Field(description="Number of consecutive failures.")
    since: float = Field(description="Time of the first of them, in seconds since 1970, UTC.")
    again: float = Field(description="Time of the next or the current retry, likewise.")


class RetriedSchema(TroubleSchema):
    """A failure of one object, of the listing, or of reading the credentials, that is being
    retried."""

    name: str = Field(
        description=(
            "Name of the object, as in its row; empty for the listing, the credentials and a single"
            " object."
        )
    )


class OutageSchema(_Schema):
    """Why the ledger is unavailable at the moment."""

    code: str = Field(description="The problem code, as in a problem's type.")
    detail: str


class StandingSchema(_Schema):
    """What makes a migration a standing one."""

    phase: Annotated[str, OneOf(states.Phase)]
    every: float = Field(description="A pass begins this many seconds after the one before began.")
    window: str | None = Field(
        description="The hours in which passes begin, such as `22:00-06:00`; null for any hour."
    )
    due: float | None = Field(
        description="When the next pass is due (seconds since 1970); null while one is under way."
    )


class ListedSchema(_Schema):
    """A migration in the ledger, as lists show it."""

    id: str
    number: int = Field(
        description=(
            "Short number that can be used in place of the id; each tenant counts its own. Another"
            " tenant's is written `tenant:number`."
        )
    )
    tenant: str = Field(description="The tenant that it belongs to.")
    state: Annotated[str, OneOf(MigrationState)]
    needs_attention: bool = Field(
        description=(
            "Whether a person should look at it: relay paused it, or it ended with failures that no"
            " person has acknowledged."
        )
    )
    source: str = Field(description="URL without query and headers, which may be secrets.")
    destination: str = Field(description="URL without query and headers.")
    listing: Annotated[str, OneOf(ListingState)] = Field(
        description="State of the listing of the source; `none` for a single object."
    )
    created: float = Field(description="Seconds since 1970, UTC.")
    ended: float | None = Field(description="Seconds since 1970, UTC; null until it has ended.")
    objects: dict[str, int] = Field(description="Number of objects in each state.")
    bytes: dict[str, int] = Field(description="Total size of the objects in each state, in bytes.")
    excluded: int | None = Field(
        description=(
            "Number of objects of the source that the filters left out: so far, while it is being"
            " listed. A folder that was not listed for them counts as one. null without filters."
        )
    )
    standing: StandingSchema | None = Field(
        description="Of a standing migration its phase and its passes; null for any other."
    )
    bytes_in_parts: int = Field(
        description="Bytes of unfinished multipart uploads that the destination has already."
    )
    under_way: int = Field(
        description=(
            "Number of transfers that workers are running or helping with. After a pause or a"
            " cancel they stop within about a second, and the number becomes 0."
        )
    )
    slots: int | None = Field(
        description=(
            "Present number of slots of the workers that run its transfers; null while none runs. A"
            " command's number grows while that helps, a server's is its setting."
        )
    )
    retried: list[RetriedSchema] = Field(
        description=(
            "Failures that any worker is retrying: the listing first, then at most five objects,"
            " the longest-lasting failure first."
        )
    )
    trouble: OutageSchema | None = Field(
        description="Why the server process that answers can't use the ledger; null while it can."
    )


class LimitedSchema(_Schema):
    """Limits of a migration, for all workers together; null is unlimited."""

    slots: int | None = Field(description="Maximum number of concurrent transfers.")
    bytes_per_second: int | None = Field(
        description="Maximum rate of reading and reading back, in bytes per second."
    )
    connections: int | None = Field(
        description="Maximum number of concurrent requests to each of the two stores."
    )


class RecordedSchema(ListedSchema):
    """A migration in the ledger, with all members."""

    options: dict[str, str | bool | dict[str, FilterValue]] = Field(
        description=(
            "The options of the request. `filters` are as they are kept: `include_from` has joined"
            " `include`, and the three lists of names are `files_from`."
        )
    )
    priority: int = Field(description="A greater number runs first.")
    limits: LimitedSchema
    levels: dict[str, int] = Field(
        description="Number of objects that were verified on each level."
    )
    bytes_resent: int = Field(description=_RESENT)
    retries: int = Field(description="Number of retries.")
    error: dict[str, str | int | list[str]] | None = Field(
        description=(
            "Why the whole migration failed, or waits for fresh credentials; `remains`, if it is"
            " there, names what may be left at the destination."
        )
    )


class MigrationsSchema(_Schema):
    """A page of migrations, the newest first."""

    migrations: list[ListedSchema]
    next: str | None = Field(description="URL of the next page, with older migrations, or null.")


class ReportLineSchema(_Schema):
    """One object of a migration, as a line of a report."""

    name: str = Field(description="Name of the object in its tree; empty for a single object.")
    state: Annotated[str, OneOf(TransferState)]
    level: str | None
    bytes: int | None
    seconds: float | None
    attempts: int
    resent: int
    digest: str | None
    error: str | None = Field(description="The problem code, as in a problem's type.")
    detail: str | None


class PassSchema(_Schema):
    """One pass of a standing migration; times are seconds since 1970, UTC."""

    number: int
    kind: Annotated[str, OneOf(states.PassKind)]
    begun: float
    listed_at: float | None = Field(description="When its listing was complete.")
    ended: float | None = Field(description="null while it is under way.")
    complete: bool | None = Field(
        description="Whether the source was listed to its end, with every folder."
    )
    listed: int = Field(description="Number of names in its listing.")
    changed: int = Field(
        description="Names that the listing before did not have, or had in another version."
    )
    gone: int = Field(description="Names that only the listing before had.")
    copied: int = Field(description="Number of objects that were sent.")
    bytes: int = Field(description="Their size in bytes.")
    deleted: int = Field(description="Number of objects that were deleted at the destination.")
    refused: int = Field(
        description="Objects that another writer has changed at the destination, at its end."
    )
    failed: int = Field(description="Objects that have not arrived at its end, with those.")
    p50: float | None = Field(description="Seconds that were forecast for it: half exceed them.")
    p90: float | None = Field(description="Likewise: one of ten exceeds them.")
    outcome: dict[str, Any] | None = Field(
        description="What a rehearsal or an audit found; null without one."
    )


class PassesSchema(_Schema):
    """A page of the passes of a migration, the newest first."""

    passes: list[PassSchema]
    next: str | None = Field(description="URL of the next page; null after the last.")


class FeedVersionSchema(_Schema):
    """A version of an object in a store."""

    etag: str | None
    version: str | None


class FeedPlaceSchema(_Schema):
    """An object at the destination."""

    url: str = Field(description="Its URL, without query and headers.")
    etag: str | None = None
    version: str | None = None


class FeedRowSchema(_Schema):
    """An object of a standing migration that arrived or was refused."""

    seq: int = Field(description="Its number: without gaps, in the order of the commits.")
    at: float = Field(description="Seconds since 1970, UTC.")
    name: str
    event: Annotated[str, OneOf(states.FeedEvent)]
    source: FeedVersionSchema | None
    destination: FeedPlaceSchema
    level: str | None
    digests: dict[str, str] = Field(description="In hex, by algorithm.")


class FeedSchema(_Schema):
    """A page of the feed of a standing migration, in its order."""

    rows: list[FeedRowSchema]
    next: str = Field(description="URL of what follows, now or later.")


class ForecastSchema(_Schema):
    """How long a cutover would take if it began now."""

    p50: float | None = Field(
        description="Seconds that half of all cutovers take at most; null before a pass has ended."
    )
    p90: float | None = Field(description="Seconds that nine of ten take at most.")


class ReasonSchema(_Schema):
    """A reason for which objects of a migration failed."""

    reason: str = Field(description="Its name, for `?reason=` and for a retry.")
    side: str = Field(description="Whose failure it is, as in a problem.")
    code: str = Field(description="The problem code, as in a problem's type.")
    status: int | None = Field(
        description="HTTP status of the store's answer, if the store refused with one."
    )
    objects: int = Field(description="Number of objects that failed for it.")
    bytes: int = Field(description="Their total size in bytes.")
    sample: str = Field(description="Name of one of them.")


class ReasonsSchema(_Schema):
    """The reasons for which objects of a migration failed, the most frequent first."""

    reasons: list[ReasonSchema]


class TransferRowSchema(ReportLineSchema):
    """One object of a migration, with its receipt."""

    id: int
    reason: str | None = Field(description="Why it failed, as in the migration's reasons.")
    receipt: dict[str, object] | None


class TransfersSchema(_Schema):
    """A page of objects, in the order in which they were listed."""

    transfers: list[TransferRowSchema]
    next: str | None = Field(description="URL of the next page, or null.")


class AmountSchema(_Schema):
    """A number of objects, and the sum of their bytes."""

    objects: int
    bytes: int


class RefusedNameSchema(_Schema):
    """An object that would be refused."""

    name: str
    why: str


class LostSchema(_Schema):
    """What the destination can't keep of some objects."""

    what: str
    objects: int = Field(description="Number of the inspected objects that would lose it.")


class RefusalSchema(_Schema):
    """The objects that would be refused for one reason."""

    code: str = Field(description="The code of the error.")
    objects: int
    bytes: int
    names: list[str] = Field(description="The first of them.")


class FoldsSchema(_Schema):
    """Names that the destination may fold into one: by case, Unicode form, or trailing dots and
    blanks."""

    groups: int
    first: list[list[str]] = Field(description="The first of these groups of names.")


class TimeSchema(_Schema):
    """The time that a migration will need, in seconds, measured by an earlier one between the same
    two stores."""

    about: float
    low: float
    high: float
    migration: str = Field(description="The number of the earlier migration.")
    p50: float | None = Field(
        None, description="Half of the estimates by all earlier migrations of the stores are below."
    )
    p90: float | None = Field(None, description="Nine of ten are below.")


class MoneyItemSchema(_Schema):
    """One item of what a migration costs."""

    side: str
    item: str = Field(description="A kind of request (`list`, `get`, `head`, `put`), or `egress`.")
    amount: int = Field(description="The number of requests, or of bytes.")
    money: str | None = Field(description="A decimal number; null if there is no price: never 0.")
    currency: str | None


class MoneySchema(_Schema):
    """What a migration costs, by the price files."""

    items: list[MoneyItemSchema]
    totals: dict[str, str] = Field(description="The sum of the known items, by currency.")
    unknown: list[str] = Field(description="The items without a price.")
    files: list[str]
    oldest: str | None = Field(description="The oldest date of the prices that were used.")
    warnings: list[str]


class FindingsSchema(_Schema):
    """What was found out about a migration before anything moves: so far, while the plan's state is
    `planning`."""

    objects: int = Field(description="Number of objects at the source that can be moved.")
    bytes: int = Field(description="Their total size in bytes.")
    unsized: int = Field(description="Number of them without a known size.")
    excluded: int = Field(
        0, description="Number of objects and unlisted folders that the filters would leave out."
    )
    complete: bool = Field(description="Whether both sides were listed as a whole.")
    incomplete: list[str] = Field([], description="Why not, in sentences.")
    destination_empty: bool = Field(description="Whether the destination has nothing.")
    refused: int = Field(description="Number of names that would be refused.")
    names: list[RefusedNameSchema] = Field(description="The first refused names.")
    looked: int = Field(description="Number of objects that were inspected by requests.")
    found: dict[str, int] = Field(
        description="Those by the comparison: `new`, `unchanged`, `differs` or `unknown`."
    )
    fates: dict[str, int] = Field(
        description=(
            "The objects that listings or requests decided, by their fate: `moved`, `overwritten`,"
            " `skipped`, `failed` or `unknown`."
        )
    )
    decisions: dict[str, AmountSchema] = Field(
        description=(
            "The decisions about all objects: `copy`, `skip`, `replace`, `refuse` or `unknown`."
        )
    )
    estimated: bool = Field(description="Whether the decisions come from a sample of the objects.")
    in_parts: AmountSchema = Field(description="The objects that would be sent in parts.")
    server_copy: bool = Field(description="Whether the store would copy the objects itself.")
    unkept: int = Field(description="Number of inspected objects that would lose metadata.")
    lost: list[LostSchema] = Field([], description="What they would lose.")
    bases: dict[str, dict[str, int]] = Field(
        {}, description="The decided objects by decision, and by what that rests on."
    )
    first: dict[str, list[str]] = Field({}, description="The first names of each decision.")
    reasons: list[RefusalSchema] = Field([], description="Why objects would be refused.")
    sorted: list[str] = Field(
        [],
        description=(
            "The sides whose listings came in another order than that of names, and were begun"
            " again to be sorted."
        ),
    )
    extra: int = Field(0, description="Number of names that only the destination has; they stay.")
    folds: FoldsSchema = Field(
        default_factory=lambda: FoldsSchema(groups=0, first=[]),
        description="Names that the destination may fold into one; a migration asks it first.",
    )
    level: Annotated[str, OneOf(Level)] = Field(description="The level of proof to expect.")
    requests: int = Field(description="Number of requests to the stores to expect.")
    money: MoneySchema | None = Field(None, description="What these and the traffic cost.")
    time: TimeSchema | None = Field(
        description="null until the plan is ready, and if no earlier migration was measured."
    )
    retry: TroubleSchema | None = Field(
        description="Why the listing of the source is retried at the moment; null if it is not."
    )


class PlanSchema(_Schema):
    """A plan: a request of a migration, kept with what was found out about it."""

    id: str
    tenant: str = Field(description="The tenant that it belongs to.")
    state: Annotated[str, OneOf(PlanState)]
    source: str = Field(description="URL without query and headers, which may be secrets.")
    destination: str = Field(description="URL without query and headers.")
    options: dict[str, str | bool | dict[str, FilterValue]] = Field(
        description=(
            "The options of the request. `filters` are as they are kept: `include_from` has joined"
            " `include`, and the three lists of names are `files_from`."
        )
    )
    priority: int = Field(description="A migration with a greater number runs first.")
    limits: LimitedSchema
    created: float = Field(description="Seconds since 1970, UTC.")
    ended: float | None = Field(
        description="When it was ready, failed or was cancelled, likewise; null until then."
    )
    findings: FindingsSchema | None = Field(description="null until something was found.")
    error: dict[str, str | int | list[str]] | None = Field(description="Why it failed.")
    migration: str | None = Field(
        description="The id of the migration that it has started; null until then."
    )


class PlansSchema(_Schema):
    """A page of plans, the newest first."""

    plans: list[PlanSchema]
    next: str | None = Field(description="URL of the next page, with older plans, or null.")


class FieldErrorSchema(_Schema):
    """One invalid member of the request."""

    pointer: str = Field(description="A JSON Pointer into the request (RFC 6901).")
    detail: str


class ProblemSchema(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    side: Side
    retryable: bool
    hint: str
    instance: str
    errors: list[FieldErrorSchema] = []


class ProgressSchema(_Schema):
    """A line of progress of a transfer; `rate` in bytes per second."""

    event: Literal["progress"]
    id: str
    phase: Phase
    bytes: int
    total: int | None
    attempt: int
    seconds: float
    rate: int
    trouble: TroubleSchema | None = Field(
        description="The failure that is being retried; null without one."
    )


class ResultLineSchema(MigrationSchema):
    """The last line of a stream whose transfer succeeded."""

    event: Literal["result"]


class ProblemLineSchema(ProblemSchema):
    """The last line of a stream whose transfer failed."""

    event: Literal["problem"]


class RecordedProgressSchema(ListedSchema):
    """A line of progress of a migration in the ledger."""

    event: Literal["progress"]


class RecordedResultSchema(RecordedSchema):
    """The last line of a migration in the ledger that has ended or was paused; see `state`."""

    event: Literal["result"]


class ServerEventSchema(BaseModel):
    """One event of a stream: its fields, as clients of server-sent events read them."""

    model_config = ConfigDict(extra="forbid")

    event: str = Field(
        description="The kind of an event of the migration; `progress`, `resync` or `bye`."
    )
    data: str = Field(description="A JSON object; of `progress` a migration.")
    id: str = Field("", description="For `Last-Event-ID`; empty if the event has no place.")
    retry: int = Field(0, description="Milliseconds to wait before the next connection.")


class SlotsSchema(_Schema):
    """The transfer slots of one server process."""

    held: int
    free: int
    waiting: int = Field(description="Number of transfers that wait for a slot.")


class ReadySchema(_Schema):
    """Whether the server process that answers accepts new transfers."""

    ready: bool
    ledger: str = Field(description="`ok`, or the problem code of the ledger's failure.")
    tls: str = Field(description="The TLS library and its version.")
    running: int = Field(description="Number of running transfers.")
    slots: SlotsSchema


class HealthSchema(_Schema):
    """The server process is alive."""

    status: Literal["ok"]


class RootSchema(_Schema):
    """The server's name and version."""

    name: str
    version: str
    openapi: str = Field(description="Path of this document.")


LINES: tuple[type[BaseModel], ...] = (
    ProgressSchema,
    ResultLineSchema,
    ProblemLineSchema,
    RecordedProgressSchema,
    RecordedResultSchema,
)
"""The kinds of line of an `application/x-ndjson` answer that follows a migration."""
