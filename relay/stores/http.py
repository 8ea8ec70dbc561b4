"""Plain HTTP(S) servers as stores: GET and HEAD to read, PUT or POST to write.

Decided here: which statuses of an upload and a DELETE are believed; the preconditions and digest
fields that plain HTTP has (RFC 9110 section 13, RFC 9530). Never here: redirects of reads
(`http_reads.py`), the error of a refusal (`http_client.py`), retries, levels of proof."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from relay.digest import of_nothing, parse_fields
from relay.errors import RelayError, Side
from relay.location import Location, redirected
from relay.receipt import Version
from relay.stores.folders import walk_folders
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import strong_tag, upload_fields
from relay.stores.http_objects import HttpHeads, ObjectHeads
from relay.stores.http_reads import WITH_DIGEST, HttpReads
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
from relay.stores.metadata import CARRIED, require, unkept_notes
from relay.stores.pieces import pieces_of
from relay.wire.body import Body
from relay.wire.exchange import Response, Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

STORED = frozenset({200, 201, 204})
"""Statuses of an upload that mean success (law 4). A 202 only means that it was accepted, not that
it is stored."""
DELETED = frozenset({200, 202, 204, 404, 410})
"""Statuses of a DELETE that mean success."""


class HttpStore:
    """One HTTP server, for one transfer. `side` is the side that errors name; `meter` is the
    watchdog that every wait asks."""

    def __init__(
        self, wire: Wire, side: Side, meter: Watchdog, heads: ObjectHeads | None = None
    ) -> None:
        """`heads`: what the server's answers say about an object, if it is more than HTTP."""
        self._wire, self._side, self._meter = wire, side, meter
        self._client = HttpClient(wire, side, meter)
        self._reads = HttpReads(self._client, heads or HttpHeads())

    # -- both roles

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Follows up to `limits.redirects` redirects."""
        return self._reads.head(location)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. With a strong entity tag the request carries If-Match (RFC 9110 section
        13.1.1)."""
        return self._reads.get(location, pinned, span)

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by the index pages of web servers, folder by folder."""
        index = partial(self._index, location.folder())
        return walk_folders(index, self._client.listing_retries, recursive)

    def _index(self, root: Location, name: str) -> Generator[Entry, None, None]:
        """Yield the entries of a folder's index page. Raises as `read_entries`, StoreError, and
        UnsafeKey for a folder that has no URL."""
        folder = root.below(name) if name else root
        response, final = self._reads.follow("GET", folder, (("Accept", ACCEPT),))
        if response.head.status != 200:
            raise self._client.refusal(response, "GET", final)
        page = Page(
            shown=str(final),
            side=self._side,
            paths=(final.path, folder.path),
            host=final.host_header,
            framed=not response.body.ends_by_close,
        )
        with closing(pieces_of(response.body, self._meter)) as pieces:
            yield from read_entries(pieces, page)

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
        fields = WITH_DIGEST + upload_fields(location, plain, if_absent)
        expects = self._client.expects_continue(body)
        response = self._client.send(method, location, fields, body, expects)
        if response.head.status not in STORED:
            raise self._client.refusal(response, method, location)
        stored = self._put_result(response, method, location)
        return replace(stored, notes=notes) if notes else stored

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: standard HTTP fields are sent with the upload; HTTP has
        no user metadata and no tags."""
        return unkept_notes(metadata, lambda name: name in CARRIED, location, "the destination")

    def _carried(self, metadata: Fields) -> Fields:
        """Return the metadata that can be sent as fields of an upload."""
        return tuple((name, value) for name, value in metadata if name.lower() in CARRIED)

    def _put_result(self, response: Response, method: str, location: Location) -> PutResult:
        head, readable = response.head, location if method == "PUT" else None
        text = self._client.drain(response)
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
        response = self._client.send("DELETE", location, fields)
        if response.head.status not in DELETED:
            raise self._client.refusal(response, "DELETE", location)
        response.body.close()


def _created_location(location: Location, reference: str) -> Location | None:
    """Return the location of the object that a POST created, or None if it is on another origin:
    then the object can't be read back."""
    try:
        there = redirected(location, reference, "destination")
    except RelayError:
        return None
    return there if there.origin == location.origin else None
