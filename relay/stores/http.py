"""Plain HTTP(S) servers as stores: GET and HEAD to read, PUT or POST to write.

Decided here: what a server of plain HTTP is trusted with, and its listing by index pages. Never
here: reads and uploads (`http_reads.py`, `http_uploads.py`), the error of a refusal
(`http_client.py`), retries, levels of proof."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import Final

from relay.errors import NotFound, Side, StoreError, Unsupported
from relay.location import Location
from relay.receipt import Version
from relay.redirects import is_neighbour
from relay.stores.folder_walk import walk_folders
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import next_link, strong_tag
from relay.stores.http_objects import FRESH, HttpHeads
from relay.stores.http_reads import HttpReads, stale_error
from relay.stores.http_uploads import (
    carried_metadata,
    delete_object,
    put_object,
    unkept_metadata,
)
from relay.stores.index_pages import ACCEPT, read_entries
from relay.stores.index_refusals import IndexPage
from relay.stores.interfaces import (
    ByteRange,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    PartLimits,
    PutResult,
    UnknownObject,
)
from relay.stores.metadata import require
from relay.stores.pieces import pieces_of
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.http1 import Fields, Head
from relay.wire.watchdog import Watchdog

PAGE_FILES: Final = ("index.html", "index.htm")
"""Files that a server shows in place of the index of their folder."""


class HttpStore:
    """One HTTP server, for one transfer. `side` is the side that errors name; `meter` is the
    watchdog that every wait asks."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self._client = HttpClient(wire, side, meter)
        self._reads = HttpReads(self._client, HttpHeads())

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
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list, by the index pages of web servers, folder by folder."""
        index = partial(self._index, location.folder())
        return walk_folders(index, self._client.listing_retries, recursive, enters)

    def _index(self, root: Location, name: str) -> Generator[Entry, None, None]:
        """Yield the entries of a folder's index page. Raises as `read_entries`, StoreError,
        UnsafeKey for a folder that has no URL, and Rejected without a status for an old page of a
        cache."""
        folder = root.below(name) if name else root
        response, final = self._reads.follow("GET", folder, (("Accept", ACCEPT), *FRESH))
        if response.head.status != 200:
            raise self._client.refusal(response, "GET", final)
        # The folder of the command may have moved; a listed one was there under its own name.
        if name and is_neighbour(folder, final):
            response.body.close()
            message = f"{folder} is not there; the server answers with {final}"
            raise NotFound(message, side=self._client.side)
        if next_link(response.head) is not None:
            response.body.close()
            message = f"the index page of {final} continues on another page"
            raise Unsupported(message, side=self._client.side)
        page = IndexPage(
            shown=str(final),
            side=self._client.side,
            paths=(final.path, folder.path),
            host=final.host_header,
            framed=not response.body.ends_by_close,
        )
        with closing(response.body):
            if self._is_stored(response.head, final):
                page.refuse_stored_page()
            with closing(pieces_of(response.body, self._client.meter)) as pieces:
                entries = read_entries(pieces, page)
                first = list(islice(entries, 1))  # another page is refused first
                if (stale := stale_error(final, response.head, self._client.side)) is not None:
                    raise stale
                yield from first
                yield from entries

    def _is_stored(self, head: Head, folder: Location) -> bool:
        """Say if a folder's page is a file in the folder, such as the copy of an index that `wget
        -r` saves: it may list what was there once. Only a page with a date, or with an ETag, may be
        such a file."""
        changed, tag = head.get("last-modified"), strong_tag(head.get("etag"))
        if (changed is None and tag is None) or not folder.path.endswith("/"):
            return False
        if "json" in (head.get("content-type") or "").lower():
            return False  # a server sends PAGE_FILES as HTML
        for name in PAGE_FILES:
            place = folder.below(name)
            with suppress(StoreError):
                found = self._reads.head(place)
                # A server may also redirect that name to the folder.
                if not isinstance(found, ObjectInfo) or found.location != place:
                    continue
                there = found.version
                same = there.etag == tag if changed is None else there.last_modified == changed
                # A generated page may have the folder's date: that of the file that was written
                # last (Apache's `IndexOptions TrackModified`).
                same &= None in (tag, there.strong_etag) or there.strong_etag == tag
                if same and (there.size is None or head.length in (None, there.size)):
                    return True
        return False

    # -- destination

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all: an index page may omit names, and most servers have none."""
        return False

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: many servers ignore a precondition that they don't
        know."""
        return False

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: some servers show the bytes of a broken upload."""
        return False

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits: plain HTTP has no multipart uploads."""
        return None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: standard HTTP fields are sent with the upload; HTTP has
        no user metadata and no tags."""
        return unkept_metadata(location, metadata)

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
        notes = unkept_metadata(location, metadata)
        require(metadata, location, notes)
        carried = carried_metadata(metadata)
        return put_object(self._client, location, body, carried, if_absent, notes=notes)

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
        delete_object(self._client, location, version)
