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
"""The statuses that mean success, by verb (law 4). 202 to an upload means that nothing is known
yet."""

MOVED = frozenset({301, 302, 303, 307, 308})
COMPLAINTS = frozenset({429, 503})
"""What a store answers that is asked too much at a time; S3's SlowDown is a 503."""
HEAD_UNTOLD = frozenset({400, 401, 403, 405, 406, 500, 501})
"""Answers to HEAD that don't say anything about GET: many presigned URLs and small servers only
know GET."""
PAGES = frozenset({"text/html", "application/xhtml+xml"})
"""Types of pages: a folder's, or one that asks who one is."""
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
"""What a status means; every other one is Rejected, and final."""

PAGE_BYTES = 16 << 20
"""The most that is read of one page of a listing, where the protocol has pages: a thousand names of
a kilobyte, and as much again of markup."""
ENCODED = ("Accept-Encoding", "gzip")
"""Asks Google's storage for an object as it is stored, which it unpacks for who doesn't."""


class HttpStore:
    """One HTTP server, for one transfer: `side` is whose failures these are, `meter` what the waits
    ask."""

    asked: Fields = (("Want-Repr-Digest", WANT),)
    """What every request for an object, or with one, asks the server to tell."""
    believed: Mapping[str, frozenset[int]] = BELIEVED
    head_is_advice = True
    """Whether a HEAD that fails, or says that nothing is there, may only mean that the server knows
    no HEAD."""

    def __init__(
        self, wire: Wire, side: Side, meter: Watchdog, *, expect_bytes: int | None = None
    ) -> None:
        """`expect_bytes`: uploads of at least this length ask first (`Expect: 100-continue`)."""
        self._wire, self._side, self._meter = wire, side, meter
        self._expect_bytes = wire.limits.expect_bytes if expect_bytes is None else expect_bytes

    # -- both roles

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Redirects are followed, at most five.

        As long as a server has not answered one HEAD with 200 it may know none: then only GET tells
        what is there. One host may have a server for each folder at its root."""
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
        """Raise Rejected for an object whose URL leads to the same with a '/': its page is no
        object."""
        if location is final:  # it leads nowhere else
            return
        if location.path.endswith("/") or not final.path.endswith("/"):
            return
        if self._side == "destination":
            raise folder_there(location)
        if segments_of(location.path)[-1:] == segments_of(final.path)[-1:]:
            raise folder_here(location)

    def _is_elsewhere_at(self, location: Location, final: Location) -> bool:
        """Say if what a destination's redirect led to has another name: a login page is no proof of
        an object."""
        return (
            self._side == "destination"
            and segments_of(location.path)[-1:] != segments_of(final.path)[-1:]
        )

    def _is_unlike(self, head: Head, pinned: Version | None, span: ByteRange | None) -> bool:
        """Say if what a redirect led to need not be the object: where nobody knows its version, and
        it is looked for, or where it is a page that is not called so."""
        if pinned is None:
            return span is not None
        kind = (head.get("content-type") or "").partition(";")[0].strip().lower()
        return kind in PAGES and (
            pinned.etag is None or strong_tag(head.get("etag")) != pinned.etag
        )

    def _leads_elsewhere(self, location: Location, final: Location) -> RedirectRefused:
        hint = "Are the credentials still good? Many a server leads who has none to a page."
        said = f"{location} leads to {final}, which does not tell if the object is there"
        return RedirectRefused(said, side=self._side, hint=hint)

    def _fresh_fields(self) -> Fields:
        """Return the fields of a request that looks: at a destination no cache may answer it (RFC
        9111 section 5.2)."""
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
        """Return a part of the object, if it is the right part of the right version (RFC 9110
        section 14.4).

        Where none was pinned, what the answer tells of the whole is its version.
        """
        head, body = response.head, response.body
        known = pinned or Version()
        try:
            if head.status == 416:
                raise SourceChanged(
                    f"{final} has no bytes {span.first}-{span.last} any more", side=self._side
                )
            reported = content_range(head)
            if reported is None or reported[:2] != (span.first, span.last):
                raise RangeIgnored(
                    f"{final} does not give the range that it was asked for", side=self._side
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
                    f"{final} announces {body.length} bytes of {span.length}", side=self._side
                )
            if known.strong_etag and head.get("etag") is None:
                # RFC 9110 section 15.3.7 wants one; without it the bytes may be another version's.
                raise RangeIgnored(
                    f"{final} does not say of which version its range is", side=self._side
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
        """Join what HEAD told with what GET tells. Raises SourceChanged where they differ."""
        if pinned is None:
            return version
        size = (
            pinned.size or None
        )  # a HEAD of 0 bytes is what many a server says that does not know
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
        """Read with redirects followed by hand; the answer's body is still to be closed."""
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
            f"{location} is more than {self._wire.limits.redirects} redirects away", side=self._side
        )

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by the pages on which web servers list a folder, one folder after the
        other."""
        return walk_folders(partial(self._index, location.folder()), self._patience, recursive)

    def _index(self, root: Location, name: str) -> Generator[Entry, None, None]:
        """Yield what the page of a folder lists. Raises as `read_entries`, StoreError, and
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
        """Return what bears the troubles of one page of a listing."""
        return ListingRetries(self._wire.limits.listing_seconds, self._meter)

    # -- destination

    @property
    def lists_all(self) -> bool:
        """As Destination.lists_all: a page may leave names out, and most servers have none."""
        return False

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: many servers pass over a precondition that they
        don't know."""
        return False

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: some servers show what came of a broken upload."""
        return False

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits: plain HTTP has no parts."""
        return None

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: plain HTTP has no word for it."""
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

        With `if_absent` carries `If-None-Match: *` (RFC 9110 section 13.1.2); a server may not heed
        it."""
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
        """As Destination.unkept_metadata: an upload's fields describe it; the user's own and tags
        are no part of HTTP."""
        return unkept_notes(metadata, lambda name: name in CARRIED, location, "the destination")

    def _carried(self, metadata: Fields) -> Fields:
        """Return what of the metadata an upload's fields can say."""
        return tuple((name, value) for name, value in metadata if name.lower() in CARRIED)

    def _expects(self, body: Body) -> bool:
        return body.length is None or body.length >= self._expect_bytes

    def _put_result(self, response: Response, method: str, location: Location) -> PutResult:
        head, readable = response.head, location if method == "PUT" else None
        text = drain_answer(response, self._wire)
        created = head.get("location")
        if method == "POST" and created:
            readable = _created_location(location, created)
        # A digest of nothing is that of the answer itself, which has no content.
        digests = {
            name: value
            for name, value in parse_fields(head.get).items()
            if value != of_nothing(name)
        }
        # RFC 9530 section 3: on an answer with content, the field may speak of that content instead
        # of the object.
        return PutResult(
            Version(etag=strong_tag(head.get("etag")), digests=digests),
            readable,
            digests,
            ambiguous=text,
        )

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations: it is written to its own name."""
        return ()

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: PUT has done it."""
        return stored.version

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete. With a strong entity tag the request carries If-Match."""
        fields: Fields = (("If-Match", version.strong_etag),) if version.strong_etag else ()
        response = self._send("DELETE", location, fields)
        if response.head.status not in self.believed["DELETE"]:
            raise self._refusal(response, "DELETE", location)
        response.body.close()

    # -- what an answer's head tells

    def _version(self, head: Head) -> Version:
        return Version(
            size=head.length,
            etag=strong_tag(head.get("etag")),
            last_modified=printable(head.get("last-modified") or "") or None,
            digests={} if is_transcoded(head) else parse_fields(head.get),
        )

    def _metadata(self, head: Head, location: Location) -> tuple[tuple[str, str], ...]:
        """Return what goes with the object, and when it was changed."""
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
        # The migration's own turn comes first: a request that waits for it holds no turn of the
        # store's meanwhile.
        leave = throttle.enter(self._side, self._meter, self._meter.check, self._meter.tick_seconds)
        try:
            return self._in_flow(request)
        finally:
            leave()

    def _in_flow(self, request: Request) -> Response:
        """Do the exchange when it is its turn among all requests to this side of the store."""
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
        """Return the error for an answer that is not believed, and let go of its connection."""
        return self._unexpected_status(
            response,
            method,
            location,
            message_of(self._text(response, method), self._secrets(location)),
        )

    def _secrets(self, location: Location) -> tuple[str, ...]:
        """Return what no message may repeat, whoever said it."""
        return secrets_of(location.headers, location.query)

    def _text(self, response: Response, method: str) -> str:
        """Return what a refusal says besides its head; empty where it says nothing, or breaks
        off."""
        if method == "HEAD" or not may_have_message(response.head):
            return ""
        try:
            return response.body.text(self._wire.limits)
        except RelayError:
            return ""  # its status tells enough

    def _unexpected_status(
        self, response: Response, method: str, location: Location, why: str
    ) -> RelayError:
        """Return the error by the answer's status, with the store's own words, and let go of its
        connection."""
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
                f"{said}; an upload is not redirected", side=self._side, store_status=status
            )
        if 200 <= status < 300:
            undone = Rejected(
                f"{said}, which does not say that it is done", side=self._side, store_status=status
            )
            if method in ("PUT", "POST"):
                undone.leave(
                    "What was sent", location, "the server may store it, and has not said so"
                )
            return undone
        if status == 412 and method == "GET":
            return SourceChanged(
                f"{said}: it is another version than the one that was pinned", side=self._side
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
    """Return the error of an object that has the name of a folder at its destination."""
    hint = (
        "An object can't have a folder's name: rename one of the two, or choose another"
        " destination."
    )
    return Rejected(f"{location} is a folder there", side="destination", hint=hint)


def folder_here(location: Location) -> Rejected:
    """Return the error of a source's folder that was taken for an object."""
    hint = "Move it as a folder: -r in the terminal, `recursive` in a request."
    return Rejected(f"{location} is a folder, and no object", side="source", hint=hint)


def _created_location(location: Location, reference: str) -> Location | None:
    """Return where a POST says it made the object, if that is on the same origin; else nobody reads
    it."""
    try:
        there = redirected(location, reference, "destination")
    except RelayError:
        return None
    return there if there.origin == location.origin else None


def drain_answer(response: Response, wire: Wire) -> bool:
    """Read an upload's answer if it is short, so that the connection can carry on; say if it had
    content."""
    body = response.body
    if body.complete and not body.count:  # there is nothing to read, as of nearly all
        return False
    if body.framing is Framing.CLOSE or (body.length or 0) > wire.limits.text_bytes:
        body.close()
        return True
    try:
        return bool(body.read(wire.limits.text_bytes + 1))
    except RelayError:
        # The answer's head counts; a text that is cut changes nothing about the object.
        return True
    finally:
        body.close()
