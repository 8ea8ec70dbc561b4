"""Plain HTTP(S) servers as stores: GET and HEAD to read, PUT or POST to write.

Decided here: which statuses are believed, by verb; the redirects of reads; the preconditions and digest fields that
plain HTTP has (RFC 9110 section 13, RFC 9530). Never here: retries, levels of proof.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from relay.digest import WANT, parse_fields
from relay.errors import (
    LengthRequired,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RedirectRefused,
    Rejected,
    RelayError,
    Side,
    SourceChanged,
    StoreError,
    Throttled,
    TooManyRedirects,
    Unauthenticated,
    Unavailable,
)
from relay.location import Location, redirected
from relay.receipt import Version
from relay.stores.interfaces import Found, Opened, Stored
from relay.wire.body import Body
from relay.wire.exchange import Payload, Request, Response, Wire
from relay.wire.http1 import Fields, Framing, Head
from relay.wire.meter import Meter

BELIEVED: Mapping[str, frozenset[int]] = {
    "HEAD": frozenset({200}),
    "GET": frozenset({200}),
    "PUT": frozenset({200, 201, 204}),
    "POST": frozenset({200, 201, 204}),
    "DELETE": frozenset({200, 202, 204, 404, 410}),
}
"""The statuses that mean success, by verb (law 4). 202 to an upload means that nothing is known yet."""

MOVED = frozenset({301, 302, 303, 307, 308})
HEAD_UNTOLD = frozenset({400, 401, 403, 405, 406, 500, 501})
"""Answers to HEAD that don't say anything about GET: many presigned URLs and small servers only know GET."""

ERRORS: Mapping[int, type[StoreError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    408: Unavailable,
    410: NotFound,
    411: LengthRequired,
    412: PreconditionFailed,
    425: Unavailable,
    429: Throttled,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
"""What a status means; every other one is Rejected, and final."""

CARRIED = ("content-type", "content-encoding", "content-language", "cache-control")
"""Fields that describe the object and go with it. Content-Encoding, since its bytes are passed on untouched."""
_CARRIABLE = re.compile(r"[\x20-\x7e]{1,256}\Z")


class HttpStore:
    """One HTTP server, for one transfer: `side` is whose failures these are, `meter` what the waits ask."""

    def __init__(self, wire: Wire, side: Side, meter: Meter, *, expect_bytes: int | None = None) -> None:
        """`expect_bytes`: uploads of at least this length ask first (`Expect: 100-continue`)."""
        self._wire, self._side, self._meter = wire, side, meter
        self._expect_bytes = wire.limits.expect_bytes if expect_bytes is None else expect_bytes

    # -- both roles

    def head(self, location: Location) -> Found | None:
        """As Source.head. Redirects are followed, at most five."""
        response, final = self._read("HEAD", location, (("Want-Repr-Digest", WANT),))
        response.body.close()
        status = response.head.status
        if status in HEAD_UNTOLD:
            return None
        if status not in BELIEVED["HEAD"]:
            raise self._refusal(response, "HEAD", final)
        head = response.head
        return Found(_version(head), final, head.get("content-disposition"), _metadata(head))

    def get(self, location: Location, pinned: Version | None = None) -> Opened:
        """As Source.get. With a strong entity tag the request carries If-Match (RFC 9110 section 13.1.1)."""
        fields: Fields = (("Want-Repr-Digest", WANT),)
        if pinned is not None and pinned.strong_etag:
            fields += (("If-Match", pinned.strong_etag),)
        response, final = self._read("GET", location, fields)
        if response.head.status not in BELIEVED["GET"]:
            response.body.close()
            raise self._refusal(response, "GET", final)
        try:
            version = self._pin(_version(response.head), response.body, pinned)
        except BaseException:
            response.body.close()
            raise
        head = response.head
        return Opened(version, final, head.get("content-disposition"), _metadata(head), response.body)

    def _pin(self, version: Version, body: Body, pinned: Version | None) -> Version:
        """Join what HEAD told with what GET tells. Raises SourceChanged where they differ."""
        if pinned is None:
            return version
        size = pinned.size or None  # a HEAD of 0 bytes is what many a server says that does not know
        for name, ours, theirs in (("entity tag", pinned.etag, version.etag), ("size", size, version.size)):
            if ours is not None and theirs is not None and ours != theirs:
                raise SourceChanged(f"the {name} was {ours} and is {theirs} now", side=self._side)
        if size is not None:
            body.promise(size)
        return Version(
            size=body.length,
            etag=version.etag or pinned.etag,
            last_modified=version.last_modified or pinned.last_modified,
            digests={**pinned.digests, **version.digests},
        )

    def _read(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """Read with redirects followed by hand; the answer's body is still to be closed."""
        for _ in range(self._wire.limits.redirects + 1):
            response = self._send(method, location, fields)
            target = response.head.get("location")
            if response.head.status not in MOVED or target is None:
                return response, location
            response.body.close()
            location = redirected(location, target, self._side)
        raise TooManyRedirects(f"{location} is more than {self._wire.limits.redirects} redirects away", side=self._side)

    # -- destination

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
    ) -> Stored:
        """As Destination.put, by the location's method (PUT unless it says POST).

        With `if_absent` carries `If-None-Match: *` (RFC 9110 section 13.1.2); a server may not heed it.
        """
        method = location.method or "PUT"
        own = {name.lower() for name, _ in location.headers}
        fields: Fields = (("Want-Repr-Digest", WANT),)
        fields += tuple((name, value) for name, value in metadata if name.lower() not in own)
        if if_absent:
            fields += (("If-None-Match", "*"),)
        expect = body.length is None or body.length >= self._expect_bytes
        response = self._send(method, location, fields, body, expect)
        if response.head.status not in BELIEVED[method]:
            response.body.close()
            raise self._refusal(response, method, location)
        return self._stored(response, method, location)

    def _stored(self, response: Response, method: str, location: Location) -> Stored:
        head, readable = response.head, location if method == "PUT" else None
        text = _consume(response, self._wire)
        created = head.get("location")
        if method == "POST" and created:
            readable = _created(location, created)
        digests = parse_fields(head.get)
        # RFC 9530 section 3: on an answer with content, the field may speak of that content instead of the object.
        return Stored(Version(etag=head.get("etag"), digests=digests), readable, digests, ambiguous=text)

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete. With a strong entity tag the request carries If-Match."""
        fields: Fields = (("If-Match", version.strong_etag),) if version.strong_etag else ()
        response = self._send("DELETE", location, fields)
        response.body.close()
        if response.head.status not in BELIEVED["DELETE"]:
            raise self._refusal(response, "DELETE", location)

    # -- the exchange

    def _send(
        self, method: str, location: Location, fields: Fields, body: Payload = None, expect: bool = False
    ) -> Response:
        request = Request(
            method=method,
            origin=location.origin,
            host=location.host_header,
            target=location.target,
            side=self._side,
            meter=self._meter,
            fields=location.headers + fields,
            body=body,
            expect=expect,
        )
        return self._wire.exchange(request)

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """Return the error for an answer that is not believed."""
        status, reason = response.head.status, _printable(response.head.reason)
        said = f"{method} {location} was answered {status}" + (f" {reason}" if reason else "")
        if response.early:
            said += f" after {response.sent} bytes of the upload"
        if status in MOVED:
            return RedirectRefused(f"{said}; an upload is not redirected", side=self._side, store_status=status)
        if 200 <= status < 300:
            return Rejected(f"{said}, which does not say that it is done", side=self._side, store_status=status)
        if status == 412 and method == "GET":
            return SourceChanged(f"{said}: it is another version than the one that was pinned", side=self._side)
        kind = ERRORS.get(status, Rejected)
        after = retry_after(response.head.get("retry-after"))
        if status == 503 and after is not None:
            kind = Throttled
        return kind(said, side=self._side, store_status=status, retry_after=after)


def _version(head: Head) -> Version:
    return Version(
        size=head.length,
        etag=_printable(head.get("etag") or "") or None,
        last_modified=_printable(head.get("last-modified") or "") or None,
        digests=parse_fields(head.get),
    )


def _metadata(head: Head) -> tuple[tuple[str, str], ...]:
    """Return what goes with the object; a value that is odd is dropped, not passed on."""
    pairs = ((name, head.get(name)) for name in CARRIED)
    return tuple((name.title(), value) for name, value in pairs if value and _CARRIABLE.match(value))


def _created(location: Location, reference: str) -> Location | None:
    """Return where a POST says it made the object, if that is on the same origin; else nobody reads it."""
    try:
        there = redirected(location, reference, "destination")
    except RelayError:
        return None
    return there if there.origin == location.origin else None


def _consume(response: Response, wire: Wire) -> bool:
    """Read an upload's answer if it is short, so that the connection can carry on; say if it had content."""
    body = response.body
    if body.framing is Framing.CLOSE or (body.length or 0) > wire.limits.text_bytes:
        body.close()
        return True
    try:
        return bool(body.read(wire.limits.text_bytes + 1))
    except RelayError:
        return True  # the answer's head is what counts; its text being cut changes nothing about the object
    finally:
        body.close()


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After (RFC 9110 section 10.2.3) as seconds from now, never negative; None if it says nothing."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    when = _date(text)
    return None if when is None else max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _date(text: str | None) -> datetime | None:
    """Read an HTTP date (RFC 9110 section 5.6.7); None for none, or for what is no date."""
    try:
        when = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _printable(text: str) -> str:
    """Return a peer's short text fit for a message: visible ASCII, at most 128 characters."""
    return "".join(c for c in text if " " <= c <= "~")[:128]
