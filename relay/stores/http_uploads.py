"""Upload and delete objects over HTTP: PUT or POST, and DELETE.

Decided here: which statuses of an upload and a DELETE are believed, what the answer to an upload
proves, and which metadata plain HTTP sends along. Never here: the name that an upload has
(`webdav/staged_names.py`)."""

from __future__ import annotations

from relay.digest import empty_digest, parse_fields
from relay.errors import RelayError
from relay.location import Location
from relay.receipt import Version
from relay.redirects import is_neighbour, redirect_target
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import strong_tag, upload_fields
from relay.stores.http_reads import WITH_DIGEST, shows_no_digest
from relay.stores.interfaces import PutResult
from relay.stores.metadata import CARRIED, unkept_notes
from relay.wire.body import Body
from relay.wire.exchange import Response
from relay.wire.http1 import Fields

STORED = frozenset({200, 201, 204})
"""Statuses of an upload that mean success (law 4). A 202 only means that it was accepted, not that
it is stored."""
DELETED = frozenset({200, 202, 204, 404, 410})
"""Statuses of a DELETE that mean success."""


def carried_metadata(metadata: Fields) -> Fields:
    """Return the metadata that can be sent as fields of an upload."""
    return tuple((name, value) for name, value in metadata if name.lower() in CARRIED)


def unkept_metadata(location: Location, metadata: Fields) -> tuple[str, ...]:
    """As Destination.unkept_metadata: standard HTTP fields are sent with the upload; HTTP has no
    user metadata and no tags."""
    return unkept_notes(metadata, lambda name: name in CARRIED, location, "the destination")


def put_object(
    client: HttpClient,
    location: Location,
    body: Body,
    metadata: Fields,
    if_absent: bool,
    *,
    place: Location | None = None,
    notes: tuple[str, ...] = (),
) -> PutResult:
    """Store the whole of `body`, by the location's method (PUT unless it says POST), with the
    fields of its `metadata`. The result has these `notes`, and `place` as the final location.

    With `if_absent` the request carries `If-None-Match: *` (RFC 9110 section 13.1.2); a server may
    ignore it. Raises as Destination.put."""
    method = location.method or "PUT"
    fields = WITH_DIGEST + upload_fields(location, metadata, if_absent)
    response = client.send(method, location, fields, body, expect=client.expects_continue(body))
    if response.head.status not in STORED:
        raise client.refusal(response, method, location)
    stored = _read_upload(client, response, method, location, place=place, notes=notes)
    client.trust_proved(response, location, body.digests, stored.digests)
    return stored


def delete_object(client: HttpClient, location: Location, version: Version) -> None:
    """As Destination.delete. With a strong entity tag the request carries If-Match."""
    fields: Fields = (("If-Match", version.strong_etag),) if version.strong_etag else ()
    response = client.send("DELETE", location, fields)
    if response.head.status not in DELETED:
        raise client.refusal(response, "DELETE", location)
    client.drain(response)


def _read_upload(
    client: HttpClient,
    response: Response,
    method: str,
    location: Location,
    *,
    place: Location | None,
    notes: tuple[str, ...],
) -> PutResult:
    head, readable = response.head, location if method == "PUT" else None
    text = client.drain(response)
    created = head.get("location")
    there = _created_location(location, created) if created else None
    if method == "POST" and created:
        readable = there
    # The digest of zero bytes describes the answer itself, which has no content.
    digests = {
        name: value
        for name, value in parse_fields(head.by_name.get).items()
        if value != empty_digest(name)
    }
    # RFC 9530 section 3: in an answer with content, the field may describe that content instead of
    # the object.
    return PutResult(
        Version(etag=strong_tag(head.get("etag")), digests=digests),
        readable,
        digests,
        ambiguous=text,
        place=place,
        notes=notes,
        undigested=client.wire.memory.has(location.origin, shows_no_digest(location)),
        other=there if readable is location and there and is_neighbour(location, there) else None,
    )


def _created_location(location: Location, reference: str) -> Location | None:
    """Return the location of the object that an upload created, or None if it is on another
    origin: then the object can't be read back."""
    try:
        there = redirect_target(location, reference, "destination")
    except RelayError:
        return None
    return there if there.origin == location.origin else None
