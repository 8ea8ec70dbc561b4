"""The request of `POST /migrate`: its members, their types, and the plan that they make.

Decided here: names and types, strictly (a typo must not mean a default, and nothing is converted).
Never here: what a good URL is (`relay/location.py`), which headers may be sent
(`relay/headers.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Metadata, Verify
from relay.engine.refresh import Refresh
from relay.errors import InvalidType, InvalidURL, MissingMember, RequestError, UnknownMember
from relay.ledger.migrations import other_places
from relay.ledger.rows import Migration, Spec
from relay.location import FRAGMENT_HINT, Location, has_fragment
from relay.stores.remotes import Remotes
from relay.stores.url_lists import as_list
from relay.throttle import Bounds


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SourceObject(_Strict):
    """A source with headers."""

    url: str = Field(
        description="An absolute http, https or s3 URL. Presigned URLs are sent byte for byte."
    )
    headers: dict[str, str] = Field(
        {}, description="Sent to this origin only, and never shown anywhere."
    )


class DestinationObject(SourceObject):
    """A destination with headers, or with another method than PUT."""

    method: Literal["PUT", "POST"] = Field("PUT", description="How to upload.")


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "object" if isinstance(value, dict | BaseModel) else None


_Text = Annotated[str, Tag("text")]
_KIND = Discriminator(_kind)


class Limits(_Strict):
    """What a migration may use, over all workers together; null takes a limit away."""

    slots: int | None = Field(None, ge=1, le=100_000, description="Its transfers at a time.")
    bytes_per_second: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="What is read of the source, and read back from the destination.",
    )
    connections: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Its requests under way at a time, to each of the two stores.",
    )


class MigrateRequest(_Strict):
    """One object to move, or a tree."""

    source: Annotated[_Text | Annotated[SourceObject, Tag("object")], _KIND] = Field(
        description="Where the object is: a URL, or a URL with headers."
    )
    destination: Annotated[_Text | Annotated[DestinationObject, Tag("object")], _KIND] = Field(
        description="Where it goes. A destination whose path ends in '/' takes the source's name."
    )
    verify: Literal["auto", "read_back", "size"] = Field(
        "auto",
        description=(
            "How much proof: `auto` the strongest that the destination can give without reading"
            " again, else reading back; `read_back` always, refused where the URL is signed for the"
            " upload alone; `size` only compares sizes, and is never more than unverified."
        ),
    )
    if_exists: Literal["overwrite", "changed", "skip", "fail"] | None = Field(
        None,
        description=(
            "What to do where the destination has an object already: `changed` overwrites only what"
            " differs. Left out it is `changed` for a tree, and `overwrite` for one object."
        ),
    )
    server_copy: bool = Field(
        True,
        description=(
            "Where source and destination are one store that can copy by itself (S3 CopyObject,"
            " WebDAV COPY), let it; what was copied is proved as anything else."
        ),
    )
    metadata: Literal["keep", "strict"] = Field(
        "keep",
        description=(
            "What becomes of what describes an object (type, disposition, its own metadata, tags),"
            " where its destination can't keep all of it: `keep` gives its receipt a note; with"
            " `strict` the object fails before anything of it is sent."
        ),
    )
    fail_on_empty: bool = Field(
        False,
        description=(
            "Of a tree: it fails if nothing is found in the folder `source`, as where its name is"
            " mistyped."
        ),
    )
    recursive: bool = Field(
        False, description="All that is below the folder `source`, into the folder `destination`."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Of migrations in the ledger: the greater come first."
    )
    limits: Limits = Field(
        default_factory=lambda: Limits.model_validate({}),
        description="What it may use; may be changed while it runs.",
    )


class Change(_Strict):
    """What is to be another for a migration from now on; what is left out stays."""

    priority: int = Field(0, ge=-100, le=100, description="The greater come first.")
    limits: Limits = Field(
        default_factory=lambda: Limits.model_validate({}),
        description=(
            "What it may use. Transfers that run go on to their end, also where there are to be"
            " fewer."
        ),
    )


class Credentials(_Strict):
    """What to go on with: the same two places again, with fresh credentials or a fresh signature,
    both or none; a list of fresh URLs."""

    source: Annotated[_Text | Annotated[SourceObject, Tag("object")], _KIND] | None = Field(
        None, description="As it was, but for its credentials."
    )
    destination: Annotated[_Text | Annotated[DestinationObject, Tag("object")], _KIND] | None = (
        Field(None, description="As it was, but for its credentials.")
    )
    list: Annotated[_Text | Annotated[SourceObject, Tag("object")], _KIND] | None = Field(
        None,
        description=(
            "Where a list of fresh URLs is, for a migration whose source is a list: a text, CSV or"
            " Google's format, as the source was given. Each is taken for the object of its name;"
            " all others keep theirs."
        ),
    )


def parse_order(members: Mapping[str, Any]) -> MigrationRequest:
    """Check the members of a request. Raises a RequestError with its pointer."""
    try:
        asked = MigrateRequest.model_validate(dict(members))
    except ValidationError as error:
        raise _first(error) from None
    if (
        asked.recursive
        and isinstance(asked.destination, DestinationObject)
        and asked.destination.method == "POST"
    ):
        raise InvalidType(
            "a tree is uploaded by PUT", hint="Leave the method out.", pointer="/destination/method"
        )
    return MigrationRequest(
        _source(asked.source),
        _end(asked.destination),
        recursive=asked.recursive,
        verify=Verify(asked.verify),
        if_exists=IfExists(asked.if_exists) if asked.if_exists else None,
        priority=asked.priority,
        server_copy=asked.server_copy,
        metadata=Metadata(asked.metadata),
        fail_on_empty=asked.fail_on_empty,
        bounds=Bounds(**asked.limits.model_dump()),
    )


def parse_change(members: Mapping[str, Any]) -> dict[str, int | None]:
    """Check what is to be changed; return it by its names in the ledger. Raises a RequestError with
    its pointer."""
    try:
        asked = Change.model_validate(dict(members))
    except ValidationError as error:
        raise _first(error) from None
    named = {"priority": asked.priority} if "priority" in asked.model_fields_set else {}
    return {**named, **asked.limits.model_dump(exclude_unset=True)}


def parse_fresh(members: Mapping[str, Any], migration: Migration, remotes: Remotes) -> Refresh:
    """Check what is fresh for a migration; nothing is dialled.

    Raises a RequestError with its pointer; KeyReused where the places are others.
    """
    try:
        given = Credentials.model_validate(dict(members))
    except ValidationError as error:
        raise _first(error) from None
    return Refresh(_fresh_spec(given, migration, remotes), _fresh_urls(given, remotes))


def _fresh_spec(given: Credentials, migration: Migration, remotes: Remotes) -> Spec | None:
    """Return the same request with fresh credentials, or None where there are none."""
    if given.source is None and given.destination is None:
        return None
    if given.source is None or given.destination is None:
        missing = "source" if given.source is None else "destination"
        raise MissingMember(f"{missing!a} is missing", pointer=f"/{missing}")
    options = migration.options
    order = MigrationRequest(
        _source(given.source),
        _end(given.destination),
        migration.recursive,
        Verify(options["verify"]),
        IfExists(options["if_exists"]),
        server_copy=options.get("server_copy", True),
    )
    spec = order.spec(remotes)
    if (spec.source, spec.destination) != (migration.source, migration.destination):
        raise other_places()
    return spec


def _fresh_urls(given: Credentials, remotes: Remotes) -> Location | None:
    """Return where the list of fresh URLs is, or None where there is none."""
    if given.list is None:
        return None
    end = _source(given.list, "list")
    return remotes.locate(
        as_list(end.text), headers=end.headers, pointer=end.pointer("list"), folder=True
    )


def _source(given: str | SourceObject, name: str = "source") -> Endpoint:
    """As `_end`, of a place that is read. Raises InvalidURL where it has a fragment: the object of
    the name without it may be another one, and no warning reaches the caller of an API."""
    end = _end(given)
    if has_fragment(end.text):
        message = "the URL has a '#' in it, and nothing behind that is sent"
        raise InvalidURL(message, hint=FRAGMENT_HINT, pointer=end.pointer(name))
    return end


def _end(given: str | SourceObject | DestinationObject) -> Endpoint:
    if isinstance(given, str):
        return Endpoint(given)
    method = given.method if isinstance(given, DestinationObject) else None
    return Endpoint(given.url, tuple(given.headers.items()), method, is_object=True)


# -- pydantic's words in ours; none of them repeats a value, which may be a secret

_TAGGED = (("source",), ("destination",), ("list",))
"""The members that may be a text or an object."""
_RANK: Mapping[str, int] = {"extra_forbidden": 0, "missing": 1}


def _first(error: ValidationError) -> RequestError:
    """Return the error to report: an unknown member before a missing one, since a typo makes
    both."""
    details = error.errors(include_url=False, include_input=False, include_context=True)
    return _told(min(details, key=lambda detail: _RANK.get(detail["type"], 2)))


def _told(detail: ErrorDetails) -> RequestError:
    tag = (
        1 if detail["loc"][:1] in _TAGGED else None
    )  # pydantic's word for which of the two forms it took
    path = [
        str(part)
        for place, part in enumerate(detail["loc"])
        if place != tag or part not in ("text", "object")
    ]
    pointer = "".join("/" + part[:100].replace("~", "~0").replace("/", "~1") for part in path)
    name = path[-1][:100] if path else ""
    reported: Callable[[str], tuple[type[RequestError], str]] = _TOLD.get(detail["type"], _wrong)
    kind, message = reported(name)
    if kind is InvalidType and detail["type"] in ("literal_error", "string_type", "dict_type"):
        message = f"{name!a}: {detail['msg'].removeprefix('Input ')}"
    return kind(message, pointer=pointer)


def _wrong(name: str) -> tuple[type[RequestError], str]:
    return InvalidType, f"{name!a} has the wrong type"


_TOLD: Mapping[str, Callable[[str], tuple[type[RequestError], str]]] = {
    "extra_forbidden": lambda name: (UnknownMember, f"{name!a} is not a member"),
    "missing": lambda name: (MissingMember, f"{name!a} is missing"),
    "union_tag_not_found": lambda name: (
        InvalidType,
        f'{name!a} should be a URL or {{"url", "headers"}}',
    ),
}
