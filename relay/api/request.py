"""What `POST /migrate` takes: the members, their types, and the plan that they make.

Decided here: names and types, strictly (a typo must not mean a default, and nothing is converted). Never here: what a
good URL is (`relay/location.py`), which headers may be sent (`relay/headers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from relay.engine.plan import IfExists, Plan, Verify
from relay.errors import InvalidType, MissingMember, RequestError, UnknownMember
from relay.location import Location
from relay.stores.remotes import Remotes


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SourceObject(_Strict):
    """A source with headers."""

    url: str = Field(description="An absolute http, https or s3 URL. Presigned URLs are sent byte for byte.")
    headers: dict[str, str] = Field({}, description="Sent to this origin only, and never shown anywhere.")


class DestinationObject(SourceObject):
    """A destination with headers, or with another method than PUT."""

    method: Literal["PUT", "POST"] = Field("PUT", description="How to upload.")


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "object" if isinstance(value, dict | BaseModel) else None


_Text = Annotated[str, Tag("text")]
_KIND = Discriminator(_kind)


class MigrateRequest(_Strict):
    """One object to move."""

    source: Annotated[_Text | Annotated[SourceObject, Tag("object")], _KIND] = Field(
        description="Where the object is: a URL, or a URL with headers."
    )
    destination: Annotated[_Text | Annotated[DestinationObject, Tag("object")], _KIND] = Field(
        description="Where it goes. A destination whose path ends in '/' takes the source's name."
    )
    verify: Literal["auto", "read_back", "size"] = Field(
        "auto",
        description="How much proof: `auto` the strongest that the destination can give without reading again, else "
        "reading back; `read_back` always; `size` only compares sizes, and is never more than unverified.",
    )
    if_exists: Literal["overwrite", "skip", "fail"] = Field(
        "overwrite", description="What to do where the destination has an object already."
    )


def parse_plan(members: Mapping[str, Any], remotes: Remotes) -> Plan:
    """Check a request completely and return its plan; nothing is dialled. Raises a RequestError with its pointer."""
    try:
        order = MigrateRequest.model_validate(dict(members))
    except ValidationError as error:
        raise _first(error) from None
    return Plan(
        _location(remotes, order.source, "/source", destination=False),
        _location(remotes, order.destination, "/destination", destination=True),
        Verify(order.verify),
        IfExists(order.if_exists),
    )


def _location(
    remotes: Remotes, given: str | SourceObject | DestinationObject, pointer: str, destination: bool
) -> Location:
    if isinstance(given, str):
        return remotes.locate(given, pointer=pointer, destination=destination)
    method = given.method if isinstance(given, DestinationObject) else None
    return remotes.locate(
        given.url, method=method, headers=given.headers, pointer=f"{pointer}/url", destination=destination
    )


# -- pydantic's words in ours; none of them repeats a value, which may be a secret

_RANK: Mapping[str, int] = {"extra_forbidden": 0, "missing": 1}


def _first(error: ValidationError) -> RequestError:
    """Return the error to report: an unknown member before a missing one, since a typo makes both."""
    details = error.errors(include_url=False, include_input=False, include_context=True)
    return _told(min(details, key=lambda detail: _RANK.get(detail["type"], 2)))


def _told(detail: ErrorDetails) -> RequestError:
    path = [str(part) for place, part in enumerate(detail["loc"]) if not (place == 1 and part in ("text", "object"))]
    pointer = "".join("/" + part[:100].replace("~", "~0").replace("/", "~1") for part in path)
    name = path[-1][:100] if path else ""
    told: Callable[[str], tuple[type[RequestError], str]] = _TOLD.get(detail["type"], _wrong)
    kind, message = told(name)
    if kind is InvalidType and detail["type"] in ("literal_error", "string_type", "dict_type"):
        message = f"{name!a}: {detail['msg'].removeprefix('Input ')}"
    return kind(message, pointer=pointer)


def _wrong(name: str) -> tuple[type[RequestError], str]:
    return InvalidType, f"{name!a} has the wrong type"


_TOLD: Mapping[str, Callable[[str], tuple[type[RequestError], str]]] = {
    "extra_forbidden": lambda name: (UnknownMember, f"{name!a} is not a member"),
    "missing": lambda name: (MissingMember, f"{name!a} is missing"),
    "union_tag_not_found": lambda name: (InvalidType, f'{name!a} should be a URL or {{"url", "headers"}}'),
}
