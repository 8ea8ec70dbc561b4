"""The JSON bodies of the API's requests: their members, types and descriptions.

Decided here: names and types, strictly: a mistyped name never selects a default, and no value is
converted. Never here: which URLs are valid (`relay/location.py`), which headers may be sent
(`relay/headers.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from relay.api.choices import OneOf
from relay.api.hub_pauses import HubPauses
from relay.engine.comparison import Compare
from relay.engine.migration_request import (
    Endpoint,
    MigrationRequest,
    if_exists_of,
    refuse_drawn_part,
)
from relay.engine.plan import IfExists, Metadata, Verify, existing_of
from relay.engine.refresh import Refresh
from relay.errors import InvalidType, MissingMember, RequestError, UnknownMember
from relay.filters.filter_set import Filters, read_filters
from relay.ledger.acceptance import other_places
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.standing_values import PassHours, PassTimes
from relay.location import Location
from relay.stores.remotes import Remotes
from relay.stores.url_lists import as_list
from relay.throttle import Bounds


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


B = TypeVar("B", bound=_Strict)
CheckList = Callable[[str], None]
"""Raises an error for the text of a list that the caller may not name."""


class SourceObject(_Strict):
    """A source URL with request headers."""

    url: str = Field(
        description="An absolute http, https or s3 URL. Presigned URLs are sent byte for byte."
    )
    headers: dict[str, str] = Field(
        {},
        description=(
            "Headers of every request to this origin. They are never sent to another origin, and"
            " never shown or logged."
        ),
    )


class DestinationObject(SourceObject):
    """A destination URL with request headers or with an upload method."""

    method: Literal["PUT", "POST"] = Field(
        "PUT", description="HTTP method of the upload. A tree is always uploaded by PUT."
    )


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "object" if isinstance(value, dict | BaseModel) else None


# The discriminator chooses one branch by the JSON type. Without it, pydantic reports the errors of
# both branches: a mistyped member of an object would also be "not a string".
_Text = Annotated[str, Tag("text")]
_KIND = Discriminator(_kind)
_SourceMember = Annotated[_Text | Annotated[SourceObject, Tag("object")], _KIND]
_DestinationMember = Annotated[_Text | Annotated[DestinationObject, Tag("object")], _KIND]


class LimitsSchema(_Strict):
    """Limits of one migration, for all workers together; null removes a limit."""

    slots: int | None = Field(
        None, ge=1, le=100_000, description="Maximum number of concurrent transfers."
    )
    bytes_per_second: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description=(
            "Maximum rate, in bytes per second. It counts the bytes that are read from the source"
            " and the bytes that are read back from the destination."
        ),
    )
    connections: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Maximum number of concurrent requests to each of the two stores.",
    )


_Lines = list[str] | None
_Size = str | Annotated[int, Field(ge=0)] | None


class FiltersSchema(_Strict):
    """Which objects of a tree are chosen, by rclone's rules; the members are named like its flags.
    No file is read: a member `*_from` has the lines of one."""

    include: _Lines = Field(
        None, description="Patterns; only the objects that match one are chosen."
    )
    include_from: _Lines = Field(
        None, description="As `include`; empty lines and comments (`#`, `;`) are left out."
    )
    exclude: _Lines = Field(None, description="Patterns; the objects that match one are left out.")
    exclude_from: _Lines = Field(None, description="As `exclude`, like `include_from`.")
    filter: _Lines = Field(
        None,
        description=(
            "Rules in their order: `+ PATTERN`, `- PATTERN`, or `!`, which clears the rules before"
            " it. They come after all includes and excludes."
        ),
    )
    filter_from: _Lines = Field(None, description="As `filter`, like `include_from`.")
    files_from: _Lines = Field(
        None,
        description=(
            "Names; only these objects are chosen, and no other filter may be given. Like"
            " `include_from`."
        ),
    )
    files_from_raw: _Lines = Field(None, description="Names as they are.")
    files_from0: _Lines = Field(None, description="Names as they are.")
    min_size: _Size = Field(
        None, description="Smallest size: text such as `100K` (a number alone is in KiB), or bytes."
    )
    max_size: _Size = Field(None, description="Largest size, likewise.")
    min_age: str | None = Field(
        None,
        description=(
            "Time since the last change, at least: `30m`, `12h`, `2d`, `1w`, `6M`, `1y`, or a date;"
            " without a zone it is in the server's. It counts from the newest request to list."
        ),
    )
    max_age: str | None = Field(
        None,
        description=(
            "Time since the last change, at most. It counts from the migration's acceptance."
        ),
    )
    ignore_case: bool = Field(False, description="Ignore case in all patterns.")
    exclude_if_present: _Lines = Field(
        None, description="Names of files; each folder that has one is left out."
    )
    hash_filter: str | None = Field(
        None,
        description=(
            "`K/N`: part K of N, by a hash of the name; `@/N` is one of the parts, drawn once for"
            " the migration (not in a plan)."
        ),
    )


class PlanRequest(_Strict):
    """A request to find out what moving one object or a tree would do."""

    source: _SourceMember = Field(
        description="The object to read, or the folder of a tree: a URL, or a URL with headers."
    )
    destination: _DestinationMember = Field(
        description=(
            "Where to write: a URL, or a URL with headers. If the path ends in '/', the source's"
            " name is appended."
        )
    )
    verify: Annotated[str, OneOf(Verify)] = Field(
        Verify.AUTO.value,
        description=(
            "How the copy is verified. `auto` uses the strongest digest that the destination"
            " reports, and reads the object back where it reports none. `read_back` always reads it"
            " back, and is refused if the URL is signed only for the upload. `size` only compares"
            " sizes; the result is then `unverified`."
        ),
    )
    if_exists: Annotated[str, OneOf(IfExists)] | None = Field(
        None,
        description=(
            "What to do if the destination exists: `overwrite` it, overwrite it only if it differs"
            " (`changed`), `skip` the object, or `fail`. Default: `changed` for a tree, `overwrite`"
            " for one object; but `fail` if the source's answer chose a name that its URL does not"
            " have."
        ),
    )
    compare: Annotated[str, OneOf(Compare)] | None = Field(
        None,
        description=(
            "How `if_exists` `changed` compares, which it chooses: by what proves most (`auto`), by"
            " `digest`, by size and `time` of modification, by `size` alone, which proves nothing,"
            " or not at all (`always`). Without it: by digest, else an object of the same size that"
            " is not older is unchanged."
        ),
    )
    server_copy: bool = Field(
        True,
        description=(
            "Let the store copy the object itself (S3 CopyObject, WebDAV COPY) if it holds both"
            " source and destination. The copy is verified like an upload."
        ),
    )
    metadata: Annotated[str, OneOf(Metadata)] = Field(
        Metadata.KEEP.value,
        description=(
            "What to do if the destination can't store all metadata of an object (content type,"
            " disposition, user metadata, tags). `keep` uploads the object and adds a note to its"
            " receipt. `strict` fails the object before it is sent."
        ),
    )
    fail_on_empty: bool = Field(
        False,
        description=(
            "Fail a tree if the folder `source` has no objects, for example because its name is"
            " mistyped."
        ),
    )
    once: bool = Field(
        False,
        description=(
            "Move each content of a tree once: the destination copies the other objects of the same"
            " size and the same MD5 or SHA-256, each with its own metadata, where it can."
        ),
    )
    recursive: bool = Field(
        False,
        description="Move all objects below the folder `source` into the folder `destination`.",
    )
    filters: FiltersSchema | None = Field(
        None, description="Which objects of a tree are chosen. They are a part of the migration."
    )
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="Priority among the migrations in the ledger; a greater number runs first.",
    )
    limits: LimitsSchema = Field(
        default_factory=lambda: LimitsSchema.model_validate({}),
        description="Limits of the migration. They may be changed while it runs.",
    )


_HOURS: Final = r"^([01]?[0-9]|2[0-3]):[0-5][0-9]-([01]?[0-9]|2[0-3]):[0-5][0-9]$"


_Paused = Annotated[
    bool,
    Field(
        description=(
            "Accept the migration as paused, and answer 202: nothing is listed or moved until"
            " `POST /migrations/{id}/resume`."
        ),
    ),
]


class StandingMember(_Strict):
    """When the passes of a standing migration begin."""

    every: float = Field(
        3600.0,
        ge=1,
        le=366 * 86_400,
        description="A pass begins this many seconds after the one before began.",
    )
    window: str | None = Field(
        None,
        description=(
            "Passes begin in these hours only, such as `22:00-06:00`, by the server's clock."
        ),
        json_schema_extra={"pattern": _HOURS},
    )


class MigrateRequest(PlanRequest):
    """A request to move one object or a tree."""

    paused: _Paused = False
    standing: StandingMember | None = Field(
        None,
        description=(
            "Keep a tree current: after the first pass each later one moves what is new or has"
            " changed, until `POST /migrations/{id}/finish`. null ends by itself."
        ),
    )


class PlanStart(_Strict):
    """How the migration of a plan starts."""

    paused: _Paused = False


class Change(_Strict):
    """New priority and limits of a migration; members that are left out keep their values."""

    priority: int = Field(
        0, ge=-100, le=100, description="The new priority; a greater number runs first."
    )
    limits: LimitsSchema = Field(
        default_factory=lambda: LimitsSchema.model_validate({}),
        description="The new limits. A lower limit does not interrupt transfers that are running.",
    )


class Credentials(_Strict):
    """Fresh credentials to resume or retry a migration with.

    Either `source` and `destination`, both with the same location as before; or `list`; or
    all three."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {"source": ["destination"], "destination": ["source"]}
        }
    )

    source: _SourceMember | None = Field(
        None, description="The same source, with fresh credentials or a fresh signature."
    )
    destination: _DestinationMember | None = Field(
        None, description="The same destination, with fresh credentials or a fresh signature."
    )
    list: _SourceMember | None = Field(
        None,
        description=(
            "A list of fresh URLs, for a migration whose source is a list of URLs: text, CSV or"
            " Google's format. A URL replaces the one of the object with the same name; objects"
            " without a fresh URL keep theirs."
        ),
    )


TEXT: Final = r"^[^\x00]*$"
"""The pattern of a text that the ledger compares: PostgreSQL refuses a NUL."""


class Retry(Credentials):
    """What a retry queues again, and the fresh credentials for it. Without a reason, everything
    that failed, was cancelled or could not be verified."""

    reason: str | None = Field(
        None,
        max_length=128,
        pattern=TEXT,
        description=(
            "Queue again only the objects that failed for this reason: the `reason` of one of the"
            " migration's reasons. Its source is not listed again."
        ),
    )


def parse_order(members: Mapping[str, Any]) -> MigrationRequest:
    """Return the migration that the members of a request ask for. Raises a RequestError with the
    JSON Pointer of the member at fault."""
    asked = _validate(MigrateRequest, members)
    return replace(_order_of(asked), paused=asked.paused, standing=_times_of(asked.standing))


def _times_of(asked: StandingMember | None) -> PassTimes | None:
    """Return when the passes of a standing migration begin. Raises InvalidType for hours without
    an end."""
    if asked is None:
        return None
    try:
        hours = None if asked.window is None else PassHours.parse(asked.window)
    except ValueError:
        raise InvalidType(
            f"{asked.window!a} is not a part of a day",
            hint="Write it as 22:00-06:00, with two different times.",
            pointer="/standing/window",
        ) from None
    return PassTimes(asked.every, hours)


def parse_plan(members: Mapping[str, Any]) -> MigrationRequest:
    """Return the migration that is to be planned. Raises as `parse_order`."""
    order = _order_of(_validate(PlanRequest, members))
    refuse_drawn_part(order.filters)
    return order


def is_paused_start(members: Mapping[str, Any]) -> bool:
    """Return whether the migration of a plan starts as paused. Raises as `parse_order`."""
    return _validate(PlanStart, members).paused


def _order_of(asked: PlanRequest) -> MigrationRequest:
    compare = Compare(asked.compare) if asked.compare else None
    if_exists = IfExists(asked.if_exists) if asked.if_exists else None
    return MigrationRequest(
        _end(asked.source),
        _end(asked.destination),
        recursive=asked.recursive,
        verify=Verify(asked.verify),
        if_exists=existing_of(if_exists, compare),
        compare=compare,
        priority=asked.priority,
        server_copy=asked.server_copy,
        metadata=Metadata(asked.metadata),
        fail_on_empty=asked.fail_on_empty,
        once=asked.once,
        bounds=Bounds(**asked.limits.model_dump()),
        filters=_filters_of(asked.filters),
    )


def _filters_of(asked: FiltersSchema | None) -> Filters | None:
    if asked is None:
        return None
    return read_filters(asked.model_dump(), datetime.now(UTC), HubPauses().step)


def parse_change(members: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the new priority and limits, by their names in the ledger. Raises a RequestError with
    the JSON Pointer of the member at fault."""
    asked = _validate(Change, members)
    # 0 is a valid priority, and null removes a limit: only members that were sent count.
    named = {"priority": asked.priority} if "priority" in asked.model_fields_set else {}
    return {**named, **asked.limits.model_dump(exclude_unset=True)}


def check_empty(members: Mapping[str, Any]) -> None:
    """Raise UnknownMember, with a JSON Pointer, for a member of a request that takes none."""
    _validate(_Strict, members)


def _allow_every_list(text: str) -> None:
    """Allow a list, as in a terminal, where any list may be named."""


def parse_fresh(
    members: Mapping[str, Any],
    migration: Migration,
    remotes: Remotes,
    check_list: CheckList = _allow_every_list,
) -> Refresh:
    """Return the fresh credentials and URLs for a migration. Connects to no store.

    Raises a RequestError with the JSON Pointer of the member at fault, and KeyReused where the
    source or the destination is not the migration's.
    """
    given = _validate(Credentials, members)
    urls = _fresh_urls(given, remotes, check_list)
    return Refresh(_fresh_spec(given, migration, remotes), urls)


def parse_retry(
    members: Mapping[str, Any],
    migration: Migration,
    remotes: Remotes,
    check_list: CheckList = _allow_every_list,
) -> Refresh:
    """Return as `parse_fresh`, with the reason whose objects are retried."""
    given = _validate(Retry, members)
    urls = _fresh_urls(given, remotes, check_list)
    return Refresh(_fresh_spec(given, migration, remotes), urls, reason=given.reason)


def _fresh_spec(given: Credentials, migration: Migration, remotes: Remotes) -> Spec | None:
    """Return the migration's request with the fresh credentials, or None without any."""
    if given.source is None and given.destination is None:
        return None
    if given.source is None or given.destination is None:
        missing = "source" if given.source is None else "destination"
        raise MissingMember(f"{missing!a} is missing", pointer=f"/{missing}")
    options = migration.options
    order = MigrationRequest(
        _end(given.source),
        _end(given.destination),
        recursive=migration.recursive,
        verify=Verify(options["verify"]),
        if_exists=if_exists_of(options),
        # A migration that an early version accepted has no such member.
        server_copy=options.get("server_copy", True),
    )
    spec = order.spec(remotes)
    if (spec.source, spec.destination) != (migration.source, migration.destination):
        raise other_places()
    return spec


def _fresh_urls(given: Credentials, remotes: Remotes, check_list: CheckList) -> Location | None:
    """Return the location of the list of fresh URLs, or None without one."""
    if given.list is None:
        return None
    end = _end(given.list)
    check_list(end.text)
    return remotes.locate(
        as_list(end.text), headers=end.headers, pointer=end.pointer("list"), folder=True
    )


def _end(given: str | SourceObject | DestinationObject) -> Endpoint:
    if isinstance(given, str):
        return Endpoint(given)
    method = given.method if isinstance(given, DestinationObject) else None
    return Endpoint(given.url, headers=tuple(given.headers.items()), method=method, is_object=True)


# -- pydantic's errors as relay's; no message repeats a value, which may be a secret

_TAGGED = (("source",), ("destination",), ("list",))
"""The members that may be a string or an object."""
_SIZES = (("filters", "min_size"), ("filters", "max_size"))
"""The members that may be a string or a number."""
_RANK: Mapping[str, int] = {"extra_forbidden": 0, "missing": 1}


def _validate(body: type[B], members: Mapping[str, Any]) -> B:
    """Return the members as a `body`. Raises a RequestError with the JSON Pointer of the member at
    fault."""
    try:
        return body.model_validate(dict(members))
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> RequestError:
    """Return the error to report: an unknown member before a missing one, since one mistyped name
    causes both."""
    details = error.errors(include_url=False, include_input=False, include_context=True)
    return _request_error(min(details, key=lambda detail: _RANK.get(detail["type"], 2)))


def _request_error(detail: ErrorDetails) -> RequestError:
    if detail["loc"][:2] in _SIZES:
        name = detail["loc"][1]
        why = f"{name!a} must be a text such as '100K', or a number of bytes"
        return InvalidType(why, pointer=f"/filters/{name}")
    # The path of a member that may be a string or an object has pydantic's tag in second place.
    tag = 1 if detail["loc"][:1] in _TAGGED else None
    path = [
        str(part)
        for place, part in enumerate(detail["loc"])
        if place != tag or part not in ("text", "object")
    ]
    # A JSON Pointer escapes '~' and '/' (RFC 6901 section 3). The client chose the names, so they
    # may be of any length.
    pointer = "".join("/" + part[:100].replace("~", "~0").replace("/", "~1") for part in path)
    name = path[-1][:100] if path else ""
    describe: Callable[[str], tuple[type[RequestError], str]] = _DESCRIBED.get(
        detail["type"], _wrong_type
    )
    kind, message = describe(name)
    if kind is InvalidType and detail["type"] in ("literal_error", "string_type", "dict_type"):
        message = f"{name!a}: {detail['msg'].removeprefix('Input ')}"
    return kind(message, pointer=pointer)


def _wrong_type(name: str) -> tuple[type[RequestError], str]:
    return InvalidType, f"{name!a} has the wrong type"


_DESCRIBED: Mapping[str, Callable[[str], tuple[type[RequestError], str]]] = {
    "extra_forbidden": lambda name: (UnknownMember, f"{name!a} is not a member of this request"),
    "missing": lambda name: (MissingMember, f"{name!a} is missing"),
    "string_pattern_mismatch": lambda name: (InvalidType, f"{name!a} has a NUL"),
    "union_tag_not_found": lambda name: (
        InvalidType,
        f'{name!a} must be a URL or an object {{"url", "headers"}}',
    ),
}
