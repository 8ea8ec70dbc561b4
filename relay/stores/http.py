"""Plain HTTP(S) servers as stores: GET and HEAD to read, PUT or POST to write.

Decided here: which statuses are believed, by verb; the redirects of reads; the preconditions and
digest fields that plain HTTP has (RFC 9110 section 13, RFC 9530). Never here: retries, levels of
proof."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial

from relay.digest import WANT, of_nothing, parse_fields
from relay.errors import (
    ConnectionLost,
    KeyCollision,
    LengthRequired,
    Locked,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeIgnored,
    RedirectRefused,
    Rejected,
    RelayError,
    Side,
    SourceChanged,
    StoreError,
    StoreFull,
    StoreTimeout,
    Throttled,
    TooManyRedirects,
    Unauthenticated,
    Unavailable,
)
from relay.location import Location, redirected
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.error_messages import hide_secrets, may_have_message, message_of, secrets_of
from relay.stores.folders import walk_folders
from relay.stores.http_fields import (
    ENCODED,
    content_range,
    is_transcoded,
    printable,
    retry_after,
    strong_tag,
    upload_fields,
)
from relay.stores.index_links import segments_of
from relay.stores.index_pages import ACCEPT, Page, read_entries
from relay.stores.interfaces import (
    ByteRange,
    Entry,
    ObjectInfo,
    OpenedObject,
    PartLimits,
    PutResult,
    UnknownObject,
)
from relay.stores.listing_retries import ListingRetries
from relay.stores.metadata import CARRIED, MTIME, metadata_of_head, require, unkept_notes
from relay.stores.pieces import pieces_of
from relay.wire.body import Body
from relay.wire.exchange import Payload, Request, Response, Wire, Wrapping
from relay.wire.http1 import Fields, Framing, Head
from relay.wire.watchdog import Watchdog

BELIEVED: Mapping[str, frozenset[int]] = {
    "HEAD": frozenset({200}),
    "GET": frozenset({200}),
    "PUT": frozenset({200, 201, 204}),
    "POST": frozenset({200, 201, 204}),
    "DELETE": frozenset({200, 202, 204, 404, 410}),
}
"""Statuses that mean success, by verb (law 4). A 202 to an upload only means that it was accepted,
not that it is stored."""

MOVED = frozenset({301, 302, 303, 307, 308})
COMPLAINTS = frozenset({429, 503})
"""Statuses of a store that limits the request rate; S3's SlowDown is a 503."""
HEAD_UNTOLD = frozenset({400, 401, 403, 405, 406, 500, 501})
"""Statuses of HEAD that say nothing about GET: many presigned URLs and small servers support only
GET."""
PAGES = frozenset({"text/html", "application/xhtml+xml"})
"""Content types of web pages: a folder's page, or a login page."""
FRESH: Fields = (("Cache-Control", "no-cache"),)
GONE = frozenset({404, 410})
HEAD_KNOWN = "answers HEAD with 200"
HEAD_UNANSWERED = "does not answer HEAD"

ERRORS: Mapping[int, type[StoreError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    408: Unavailable,
    410: NotFound,
    411: LengthRequired,
    412: PreconditionFailed,
    423: Locked,
    425: Unavailable,
    429: Throttled,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: StoreFull,
}
"""The error of each status. Any other status is Rejected, which is final."""

PAGE_BYTES = 16 << 20
"""Maximum size of one page of a listing, in bytes, if the protocol has pages: a thousand names of a
kilobyte, and the same size again for markup."""


class HttpStore:
    """One HTTP server, for one transfer. `side` is the side that errors name; `meter` is the
    watchdog that every wait asks."""

    asked: Fields = (("Want-Repr-Digest", WANT),)
    """Fields of every request that reads or writes an object."""
    believed: Mapping[str, frozenset[int]] = BELIEVED
    head_is_advice = True
    """Whether a HEAD that fails, or is answered 404, may only mean that the server does not support
    HEAD."""

    def __init__(
        self, wire: Wire, side: Side, meter: Watchdog, *, expect_bytes: int | None = None
    ) -> None:
        """`expect_bytes`: uploads of at least this length send `Expect: 100-continue`."""
        self._wire, self._side, self._meter = wire, side, meter
        self._expect_bytes = wire.limits.expect_bytes if expect_bytes is None else expect_bytes

    # -- both roles

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Follows up to `limits.redirects` redirects.

        A server that never answered a HEAD with 200 may not support HEAD: then only GET says
        whether the object exists. This is remembered for each folder at the root, since one host
        may have a different server for each."""
        asked, known = self._fresh_fields(), _head_known(location)
        advice = self.head_is_advice and not self._wire.memory.has(location.origin, known)
        if advice and self._wire.memory.has(location.origin, HEAD_UNANSWERED):
            return UnknownObject(
                StoreTimeout(f"{location.origin} does not answer HEAD", side=self._side)
            )
        try:
            response, final = self._read("HEAD", location, asked)
        except (ConnectionLost, StoreTimeout) as error:
            if not advice:
                raise
            if isinstance(error, StoreTimeout):
                self._wire.memory.learn(location.origin, HEAD_UNANSWERED)
            return UnknownObject(error)
        response.body.close()
        self._refuse_folder_at(location, final)
        self._refuse_negotiated(location, response.head.get("content-location"))
        if self._is_elsewhere_at(location, final):
            return UnknownObject(self._leads_elsewhere(location, final))
        if self._is_head_uninformative(response.head.status) or (
            advice and response.head.status in GONE
        ):
            return UnknownObject(self._refusal(response, "HEAD", final))
        if response.head.status not in self.believed["HEAD"]:
            raise self._refusal(response, "HEAD", final)
        self._wire.memory.learn(location.origin, known)
        head = response.head
        ranges = "bytes" in (head.get("accept-ranges") or "").lower()
        return ObjectInfo(
            self._version(head),
            final,
            head.get("content-disposition"),
            self._metadata(head, final),
            ranges,
        )

    def _refuse_folder_at(self, location: Location, final: Location) -> None:
        """Raise Rejected if the server redirects an object's URL to the same with a final '/': that
        is a folder, and its page is not an object."""
        if location is final:  # it was not redirected
            return
        if location.path.endswith("/") or not final.path.endswith("/"):
            return
        if self._side == "destination":
            raise folder_there(location)
        if segments_of(location.path)[-1:] == segments_of(final.path)[-1:]:
            raise folder_here(location)

    def _refuse_negotiated(self, location: Location, other: str | None) -> None:
        """Raise KeyCollision if a destination answers a request for `location` with the object at
        the path `other`, whose name is the same with an ending. Apache does so for a name that does
        not exist (httpd.apache.org, mod_negotiation, "MultiViews"), and an upload would overwrite
        that object."""
        if self._side == "source" or other is None:
            return
        theirs, ours = (segments_of(path)[-1:] for path in (other.partition("?")[0], location.path))
        if ours and theirs and theirs[0].startswith(f"{ours[0]}."):
            raise KeyCollision(
                f"the server takes {location} for {theirs[0]!a}, which an upload would overwrite",
                hint="Turn off MultiViews in Apache (Options -MultiViews).",
            )

    def _is_elsewhere_at(self, location: Location, final: Location) -> bool:
        """Say if a destination redirected to another name: a login page does not prove that the
        object exists."""
        return (
            self._side == "destination"
            and segments_of(location.path)[-1:] != segments_of(final.path)[-1:]
        )

    def _is_unlike(self, head: Head, pinned: Version | None, span: ByteRange | None) -> bool:
        """Say if the target of a redirect may not be the object: a range without a pinned version,
        or a web page whose ETag is not the pinned one."""
        if pinned is None:
            return span is not None
        kind = (head.get("content-type") or "").partition(";")[0].strip().lower()
        return kind in PAGES and (
            pinned.etag is None or strong_tag(head.get("etag")) != pinned.etag
        )

    def _leads_elsewhere(self, location: Location, final: Location) -> RedirectRefused:
        hint = (
            "Check the credentials: many servers redirect a request without them to a login page."
        )
        said = f"{location} redirects to {final}, which does not say if the object exists"
        return RedirectRefused(said, side=self._side, hint=hint)

    def _fresh_fields(self) -> Fields:
        """Return the fields of a read: at a destination no cache may answer it (RFC 9111 section
        5.2)."""
        return self.asked + FRESH if self._side == "destination" else self.asked

    def _is_head_uninformative(self, status: int) -> bool:
        """Say if this answer to HEAD says nothing about GET."""
        return status in HEAD_UNTOLD

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. With a strong entity tag the request carries If-Match (RFC 9110 section
        13.1.1)."""
        fields = self._fresh_fields()
        if pinned is not None and pinned.strong_etag:
            fields += (("If-Match", pinned.strong_etag),)
        if span is not None:
            fields += (("Range", f"bytes={span.first}-{span.last}"),)
        response, final = self._read("GET", location, fields)
        try:
            self._refuse_folder_at(location, final)
            self._refuse_negotiated(location, response.head.get("content-location"))
            if self._is_elsewhere_at(location, final) and self._is_unlike(
                response.head, pinned, span
            ):
                raise self._leads_elsewhere(location, final)
        except RelayError:
            response.body.close()
            raise
        status = response.head.status
        if span is not None and status in (200, 206, 416):
            return self._open_range(response, final, pinned, span)
        if status not in self.believed["GET"]:
            raise self._refusal(response, "GET", final)
        head = response.head
        try:
            version = self._pin(self._version(head), response.body, pinned)
            metadata = self._metadata(head, final)
        except BaseException:
            response.body.close()
            raise
        return OpenedObject(
            version, final, head.get("content-disposition"), metadata, body=response.body
        )

    def _open_range(
        self, response: Response, final: Location, pinned: Version | None, span: ByteRange
    ) -> OpenedObject:
        """Return a range of the object, after a check that it is the requested range of the pinned
        version (RFC 9110 section 14.4).

        Without a pinned version, the answer's fields about the whole object are its version."""
        head, body = response.head, response.body
        known = pinned or Version()
        try:
            if head.status == 416:
                raise SourceChanged(
                    f"{final} no longer has bytes {span.first}-{span.last}", side=self._side
                )
            reported = content_range(head)
            if reported is None or reported[:2] != (span.first, span.last):
                raise RangeIgnored(
                    f"{final} did not answer with the requested range", side=self._side
                )
            for name, ours, theirs in (
                ("size", known.size, reported[2]),
                ("entity tag", known.etag, head.get("etag")),
            ):
                if ours is not None and theirs is not None and ours != theirs:
                    raise SourceChanged(
                        f"the {name} was {ours} and is {theirs} now", side=self._side
                    )
            if body.length not in (None, span.length):
                raise RangeIgnored(
                    f"{final} announces {body.length} bytes for a range of {span.length}",
                    side=self._side,
                )
            if known.strong_etag and head.get("etag") is None:
                # RFC 9110 section 15.3.7 requires an ETag; without it the bytes may belong to
                # another version.
                raise RangeIgnored(
                    f"{final} does not name the version of its range", side=self._side
                )
            body.promise(span.length)
            if pinned is None:
                known = replace(self._version(head), size=reported[2], digests={})
            metadata = self._metadata(head, final) if pinned is None else ()
        except BaseException:
            body.close()
            raise
        return OpenedObject(known, final, head.get("content-disposition"), metadata, body=body)

    def _pin(self, version: Version, body: Body, pinned: Version | None) -> Version:
        """Merge the pinned version (from HEAD) with that of GET. Raises SourceChanged if they
        differ."""
        if pinned is None:
            return version
        # Many servers that don't know the size answer HEAD with a length of 0.
        size = pinned.size or None
        for name, ours, theirs in (
            ("entity tag", pinned.etag, version.etag),
            ("size", size, version.size),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise SourceChanged(f"the {name} was {ours} and is {theirs} now", side=self._side)
        if size is not None:
            body.promise(size)
        return Version(
            size=body.length,
            etag=version.etag or pinned.etag,
            last_modified=version.last_modified or pinned.last_modified,
            digests={**pinned.digests, **version.digests},
            id=version.id or pinned.id,
        )

    def _read(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """Send a read and follow its redirects; return the answer and its final location. The
        caller closes the answer's body."""
        for _ in range(self._wire.limits.redirects + 1):
            response = self._send(method, location, fields)
            if is_transcoded(response.head) and ENCODED not in fields:
                response.body.close()
                fields += (ENCODED,)
                response = self._send(method, location, fields)
            target = response.head.get("location")
            if response.head.status not in MOVED or target is None:
                return response, location
            response.body.close()
            location = redirected(location, target, self._side)
        raise TooManyRedirects(
            f"more than {self._wire.limits.redirects} redirects, the last one to {location}",
            side=self._side,
        )

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by the index pages of web servers, folder by folder."""
        return walk_folders(partial(self._index, location.folder()), self._patience, recursive)

    def _index(self, root: Location, name: str) -> Generator[Entry, None, None]:
        """Yield the entries of a folder's index page. Raises as `read_entries`, StoreError, and
        UnsafeKey for a folder that has no URL."""
        folder = root.below(name) if name else root
        response, final = self._read("GET", folder, (("Accept", ACCEPT),))
        if response.head.status != 200:
            raise self._refusal(response, "GET", final)
        page = Page(
            shown=str(final),
            side=self._side,
            paths=(final.path, folder.path),
            host=final.host_header,
            framed=not response.body.ends_by_close,
        )
        with closing(pieces_of(response.body, self._meter)) as pieces:
            yield from read_entries(pieces, page)

    def _patience(self) -> ListingRetries:
        """Return the retries of one page of a listing."""
        return ListingRetries(self._wire.limits.listing_seconds, self._meter)

    # -- destination

    @property
    def lists_all(self) -> bool:
        """As Destination.lists_all: an index page may omit names, and most servers have none."""
        return False

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: many servers ignore a precondition that they don't
        know."""
        return False

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: some servers show the bytes of a broken upload."""
        return False

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits: plain HTTP has no multipart uploads."""
        return None

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: plain HTTP has no method for it."""
        return False

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As Destination.put, by the location's method (PUT unless it says POST).

        With `if_absent` the request carries `If-None-Match: *` (RFC 9110 section 13.1.2); a server
        may ignore it."""
        method, notes = location.method or "PUT", self.unkept_metadata(location, metadata)
        require(metadata, location, notes)
        plain = self._carried(metadata)
        fields = self.asked + upload_fields(location, plain, if_absent)
        response = self._send(method, location, fields, body, self._expects(body))
        if response.head.status not in self.believed[method]:
            raise self._refusal(response, method, location)
        stored = self._put_result(response, method, location)
        return replace(stored, notes=notes) if notes else stored

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: standard HTTP fields are sent with the upload; HTTP has
        no user metadata and no tags."""
        return unkept_notes(metadata, lambda name: name in CARRIED, location, "the destination")

    def _carried(self, metadata: Fields) -> Fields:
        """Return the metadata that can be sent as fields of an upload."""
        return tuple((name, value) for name, value in metadata if name.lower() in CARRIED)

    def _expects(self, body: Body) -> bool:
        return body.length is None or body.length >= self._expect_bytes

    def _put_result(self, response: Response, method: str, location: Location) -> PutResult:
        head, readable = response.head, location if method == "PUT" else None
        text = drain_answer(response, self._wire)
        created = head.get("location")
        if method == "POST" and created:
            readable = _created_location(location, created)
        # The digest of zero bytes describes the answer itself, which has no content.
        digests = {
            name: value
            for name, value in parse_fields(head.get).items()
            if value != of_nothing(name)
        }
        # RFC 9530 section 3: in an answer with content, the field may describe that content instead
        # of the object.
        return PutResult(
            Version(etag=strong_tag(head.get("etag")), digests=digests),
            readable,
            digests,
            ambiguous=text,
        )

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations: `put` writes to the final location."""
        return ()

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: PUT has published it already."""
        return stored.version

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete. With a strong entity tag the request carries If-Match."""
        fields: Fields = (("If-Match", version.strong_etag),) if version.strong_etag else ()
        response = self._send("DELETE", location, fields)
        if response.head.status not in self.believed["DELETE"]:
            raise self._refusal(response, "DELETE", location)
        response.body.close()

    # -- versions and metadata from an answer's head

    def _version(self, head: Head) -> Version:
        return Version(
            size=head.length,
            etag=strong_tag(head.get("etag")),
            last_modified=printable(head.get("last-modified") or "") or None,
            digests={} if is_transcoded(head) else parse_fields(head.get),
        )

    def _metadata(self, head: Head, location: Location) -> tuple[tuple[str, str], ...]:
        """Return the object's metadata, with its time of modification."""
        found = metadata_of_head(head.by_name.get, head.fields)
        changed = http_date(head.get("last-modified"))
        seconds = changed.timestamp() if changed else -1
        return (*found, (MTIME, f"{seconds:.0f}")) if seconds >= 0 else found

    # -- the exchange

    def _send(
        self,
        method: str,
        location: Location,
        fields: Fields,
        body: Payload = None,
        expect: bool = False,
        wrapping: Wrapping | None = None,
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
            wrapping=wrapping,
        )
        throttle = self._meter.throttle
        if throttle is None:
            return self._in_flow(request)
        # Wait for the migration's own limit first: a request that waits for it must not occupy a
        # slot of the store's limit.
        leave = throttle.enter(self._side, self._meter, self._meter.check, self._meter.tick_seconds)
        try:
            return self._in_flow(request)
        finally:
            leave()

    def _in_flow(self, request: Request) -> Response:
        """Do the exchange when the concurrency limit of this side of the store permits it."""
        flow = self._wire.flow(request.origin, self._side)
        turn = flow.enter(self._meter.check, self._meter.tick_seconds)
        complained, after = False, None
        try:
            response = self._wire.exchange(request)
            complained = response.head.status in COMPLAINTS
            after = retry_after(response.head.get("retry-after")) if complained else None
        finally:
            flow.leave(turn, complained, after)
        return response

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """Return the error for an answer that is not believed, and release its connection."""
        return self._unexpected_status(
            response,
            method,
            location,
            message_of(self._text(response, method), self._secrets(location)),
        )

    def _secrets(self, location: Location) -> tuple[str, ...]:
        """Return the strings that no message may repeat."""
        return secrets_of(location.headers, location.query)

    def _text(self, response: Response, method: str) -> str:
        """Return the text of a refusal; empty if there is none, or if it breaks off."""
        if method == "HEAD" or not may_have_message(response.head):
            return ""
        try:
            return response.body.text(self._wire.limits)
        except RelayError:
            return ""  # the status is enough

    def _unexpected_status(
        self, response: Response, method: str, location: Location, why: str
    ) -> RelayError:
        """Return the error of the answer's status, with the store's own message `why`, and release
        its connection."""
        response.body.close()
        status, reason = (
            response.head.status,
            printable(hide_secrets(response.head.reason, self._secrets(location))),
        )
        said = f"{method} {location} was answered {status}" + (f" {reason}" if reason else "")
        if response.early:
            said += f" after {response.sent} bytes of the upload"
        said += f" ({why})" if why else ""
        if status in MOVED:
            return RedirectRefused(
                f"{said}; relay does not follow redirects of uploads",
                side=self._side,
                store_status=status,
            )
        if 200 <= status < 300:
            undone = Rejected(
                f"{said}, which does not confirm that it is done",
                side=self._side,
                store_status=status,
            )
            if method in ("PUT", "POST"):
                undone.leave(
                    "What was sent", location, "the server may store it, but did not confirm it"
                )
            return undone
        if status == 412 and method == "GET":
            return SourceChanged(
                f"{said}: the object is no longer the pinned version", side=self._side
            )
        kind = ERRORS.get(status, Rejected)
        after = retry_after(response.head.get("retry-after"))
        if status == 503 and after is not None:
            kind = Throttled
        return kind(said, side=self._side, store_status=status, retry_after=after)


def _head_known(location: Location) -> str:
    """Return the fact that the server of a location answers HEAD."""
    first, slash, _ = location.path[1:].partition("/")
    return f"{HEAD_KNOWN} below /{first}/" if slash else HEAD_KNOWN


def folder_there(location: Location) -> Rejected:
    """Return the error for an object whose name is that of a folder at the destination."""
    hint = (
        "An object can't have a folder's name: rename one of the two, or choose another"
        " destination."
    )
    return Rejected(f"{location} is a folder there", side="destination", hint=hint)


def folder_here(location: Location) -> Rejected:
    """Return the error for a source that is a folder instead of an object."""
    hint = "Move it as a folder: -r in the terminal, `recursive` in a request."
    return Rejected(f"{location} is a folder, not an object", side="source", hint=hint)


def _created_location(location: Location, reference: str) -> Location | None:
    """Return the location of the object that a POST created, or None if it is on another origin:
    then the object can't be read back."""
    try:
        there = redirected(location, reference, "destination")
    except RelayError:
        return None
    return there if there.origin == location.origin else None


def drain_answer(response: Response, wire: Wire) -> bool:
    """Read an upload's answer if it is short, so that the connection can be reused; return whether
    it had content."""
    body = response.body
    if body.complete and not body.count:  # nearly all answers have no content
        return False
    if body.framing is Framing.CLOSE or (body.length or 0) > wire.limits.text_bytes:
        body.close()
        return True
    try:
        return bool(body.read(wire.limits.text_bytes + 1))
    except RelayError:
        # Only the answer's head counts; a truncated text changes nothing about the object.
        return True
    finally:
        body.close()
