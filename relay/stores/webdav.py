"""WebDAV (RFC 4918): upload under a temporary name in the same folder, verify there, then MOVE.

Theory of operation. Many WebDAV servers write an upload straight to its name and show an incomplete
object. So nothing is ever uploaded to the final name: a `.relay-….part` in the same folder receives
the bytes, and MOVE (section 9.9), which a server does atomically, publishes them after they were
verified. Missing folders are made.

Decided here: the temporary name, MOVE, MKCOL. Never here: what else HTTP says (`stores/http.py`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from string import hexdigits
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element

import gevent

from relay.digest import ALGORITHMS, Digests
from relay.errors import (
    ConnectionLost,
    DestinationLost,
    InvalidURL,
    NotFound,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    RelayError,
    Side,
    StoreError,
    StoreTimeout,
    Unavailable,
)
from relay.location import Location, parse_location
from relay.receipt import Version
from relay.stores.folders import walk_folders
from relay.stores.http import HttpStore
from relay.stores.http_client import ERRORS, MOVED
from relay.stores.http_fields import printable
from relay.stores.http_objects import HttpHeads
from relay.stores.http_reads import GONE, folder_here, folder_there, refuse_negotiated
from relay.stores.index_links import segments_of
from relay.stores.interfaces import (
    Entry,
    ObjectInfo,
    PutResult,
    UnknownObject,
    check_segments,
    is_temporary_name,
    reject_temporary_name,
    temporary_names,
)
from relay.stores.kinds import Given
from relay.stores.metadata import MTIME
from relay.stores.multistatus import (
    MULTISTATUS,
    PROPERTIES,
    ROW,
    is_folder,
    is_object,
    own_row,
    path_of,
    read_row,
    rows_of,
    status_of,
    tells_kind,
    version_of,
)
from relay.stores.pieces import pieces_of
from relay.stores.xml_documents import Document, plain_name
from relay.wire.body import Body
from relay.wire.exchange import Response, Wire
from relay.wire.http1 import Fields, Head
from relay.wire.watchdog import Watchdog

SCHEMES: Mapping[str, str] = {"webdav": "http", "webdav+http": "http", "webdav+https": "https"}
DEEPEST = 100
"""Maximum number of folders that are made for one object."""
XML: Fields = (("Content-Type", "application/xml"),)
_OC_NAMES: Mapping[str, str] = {"SHA256": "sha-256", "SHA1": "sha", "MD5": "md5"}
_CUT = re.compile(r"%3f|%3b(?=[^/]*$)", re.I)
"""The first encoded '?' of a path, or the first encoded ';' of its last segment. A server that
decodes a URL before it parses it ends the path there, since a query or a parameter follows."""
NO_METHOD = frozenset({405, 501})
"""Statuses of a server that does not support the method."""
MADE = frozenset({201})
"""Statuses of a MKCOL that mean success (section 9.3.1)."""
DONE = frozenset({201, 204})
"""Statuses of a MOVE and of a COPY that mean success (sections 9.8.5 and 9.9.4)."""
NO_COPY = "no COPY"
BY_PATH = "a Destination is a path"
BEHIND = (
    "The Destination field was sent as a whole URL and as a path alone. If a proxy in front of the"
    " server terminates TLS, let it rewrite the field's scheme and host to those of the server, or"
    " configure the server's public address."
)
_NAME_REFUSED = frozenset({400, 403, 404, 405, 406, 409, 415, 422, 451})
"""Statuses of an upload whose name the server may have reserved."""


@dataclass(frozen=True)
class WebDavAccount:
    """One WebDAV server; its credentials are the location's headers."""

    shown_origin: str
    store: str = "webdav"
    owner: str = ""

    def shown(self, path: str) -> str:
        """Return `webdav+https://host/path`."""
        return f"{self.shown_origin}{path}"

    def check(self, path: str) -> None:
        """As Account.check: nearly every WebDAV server keeps its objects in a file system."""
        check_segments(path, DEEPEST)


def webdav_location(url: str, headers: Given = (), *, destination: bool = False) -> Location:
    """Return the WebDAV location of an http(s) URL. Raises as `parse_location`, and UnsafeKey."""
    location = parse_location(url, headers=headers, destination=destination)
    location = replace(location, account=WebDavAccount(f"webdav+{location.origin}"))
    return location.as_destination() if destination else location


def http_url(text: str) -> str | None:
    """Return the http(s) URL behind a `webdav://` or `webdav+https://` one, or None for another
    scheme."""
    scheme, colon, rest = text.partition("://")
    plain = SCHEMES.get(scheme.lower()) if colon else None
    return f"{plain}://{rest}" if plain else None


def oc_checksum(text: str) -> Digests:
    """Read an OC-Checksum ("SHA1:…", several separated by blanks). The client that uploaded the
    object computed it: it detects a damaged source, but proves nothing about a destination."""
    found = {}
    for one in text.split():
        name, _, value = one.partition(":")
        ours = _OC_NAMES.get(name.upper())
        if ours and len(value) == 2 * ALGORITHMS[ours].width and all(c in hexdigits for c in value):
            found[ours] = bytes.fromhex(value)
    return found


class DavHeads(HttpHeads):
    """What a WebDAV server says about an object."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def version(self, head: Head) -> Version:
        """As ObjectHeads.version. A source's version includes the checksum that the object was
        uploaded with, which ownCloud and Nextcloud keep."""
        version = super().version(head)
        kept = oc_checksum(head.get("oc-checksum") or "")
        if not kept or self._side != "source":
            return version
        return replace(version, digests={**kept, **version.digests})


class WebDavStore(HttpStore):
    """One WebDAV server, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        super().__init__(wire, side, meter, DavHeads(side))

    @property
    def lists_all(self) -> bool:
        """As Destination.lists_all (section 9.1: all internal members)."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: by a HEAD before, and by `Overwrite: F` (section
        9.9.3)."""
        return True

    first_name = 0
    """Index of the temporary name that is tried first."""
    _given: int | None = None
    """Index of the temporary name of the last upload. The memory is shared: another transfer may
    have learned a different one meanwhile."""

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: a broken upload has a temporary name."""
        return True

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As Destination.put. The object has a temporary name until `publish`. Makes missing
        folders."""
        if location.method == "POST":
            raise Rejected("WebDAV uploads need PUT, not POST", side=self._side)
        part = self._prepared(location, if_absent, token)
        try:
            stored = super().put(part, body, metadata)
        except RelayError as error:
            named = self._name_refused(location, error)
            reported = self._folder_gone(location, named)
            self._remove(part, reported)
            raise reported from None
        except BaseException as error:
            self._remove(part, error)
            raise
        return replace(stored, place=location)

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Raises Rejected for a folder.

        Many servers answer HEAD of a folder with 200, others refuse it. So an answer that may be
        about a folder is checked by PROPFIND: at a destination one without an ETag or without a
        length, since folders seldom have both; at a source one with neither ETag nor Last-Modified,
        which may be the folder's page. At a destination, PROPFIND also decides if HEAD does not say
        whether the object exists."""
        found = super().head(location)
        if self._side == "source":
            if (
                isinstance(found, ObjectInfo)
                and found.version.etag is None
                and found.version.last_modified is None
            ):
                self._refuse_folder(location)
            return found
        if isinstance(found, ObjectInfo) and found.version.etag is not None and found.version.size:
            return found
        status, row = self._refuse_folder(location)
        if isinstance(found, ObjectInfo):
            return found
        if row is not None:
            # The ETag of PROPFIND may differ from that of GET, and would then fail as If-Match.
            return ObjectInfo(
                replace(version_of(row), etag=None), location, ranges=True, described=False
            )
        if status in GONE and isinstance(found.why, NotFound | ConnectionLost | StoreTimeout):
            raise NotFound(
                f"PROPFIND found no object at {location}", side=self._side, store_status=status
            )
        return found

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: on one server, with the same credentials, unless a copy was
        refused before."""
        same = (source.origin, source.account, source.headers) == (
            location.origin,
            location.account,
            location.headers,
        )
        return same and not self._wire.memory.has(location.origin, NO_COPY)

    def copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As CopyDestination.copy, by COPY (section 9.8) to a temporary name, which `publish`
        moves."""
        part = self._prepared(location, if_absent, token)
        try:
            response = self._aimed("COPY", source, part, (("Overwrite", "F"),))
            if response.head.status not in DONE:
                raise self._copy_refused(response, location)
        except BaseException as error:
            self._remove(part, error)
            raise
        response.body.close()
        return PutResult(Version(), part, {}, place=location)

    def _copy_refused(self, response: Response, location: Location) -> RelayError:
        """Return the error of a refused COPY. It is retryable, with another temporary name, if the
        name may be the cause. A refusal that may be permanent is remembered for the server."""
        status, error = response.head.status, self._client.refusal(response, "COPY", location)
        reported = self._folder_gone(location, error)
        if status not in NO_METHOD and self._name_refused(location, error).retryable:
            return error
        if reported is not error and not self._folder_exists(_above(location)):
            return reported
        if status in {*NO_METHOD, 403, 500, 502}:
            self._wire.memory.learn(location.origin, NO_COPY)
            return Rejected(error.message, side=self._side, store_status=status)
        return error

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations: the temporary names in the order in which they are
        tried."""
        folder, _, name = location.path.rpartition("/")
        names = temporary_names(token, unquote(name, errors="surrogateescape"))
        quoted = (quote(one, safe="-_.~", errors="surrogateescape") for one in names)
        return tuple(location.with_target(f"{folder}/{one}") for one in quoted)

    def _part(self, location: Location, token: str | None) -> Location:
        """Return the staged location of an upload, with a temporary name that the server takes."""
        self._given = self._which(location)
        return self.staged_locations(location, token or uuid.uuid4().hex)[self._given]

    def _which(self, location: Location) -> int:
        """Return the index of the temporary name for an upload: one that the server accepted
        before, or the next one after a refusal."""
        memory, origin = self._wire.memory, location.origin
        facts = (
            (which, fact)
            for which in (2, 1, 0)
            for fact in (_named(which), _tried(which, location))
        )
        return next((which for which, fact in facts if memory.has(origin, fact)), self.first_name)

    def _name_refused(self, location: Location, error: RelayError) -> RelayError:
        """Return the refusal of an upload. It is made retryable, with the next temporary name, if
        the name may be the cause."""
        if error.retryable:
            return error  # it is not about the name; the same one is tried again
        memory, which = (
            self._wire.memory,
            self._which(location) if self._given is None else self._given,
        )
        tried = memory.forget(location.origin, _tried(which, location))
        refused = isinstance(error, StoreError) and error.store_status in _NAME_REFUSED
        if refused and which < 2 and (tried or not memory.has(location.origin, _named(which))):
            memory.learn(location.origin, _tried(which + 1, location))
            error.retryable = True
            error.message = f"{error.message}, with a temporary name; the next one is tried"
        return error

    def _name_taken(self, location: Location) -> None:
        which = self._which(location)
        self._wire.memory.forget(location.origin, _tried(which, location))
        self._wire.memory.learn(location.origin, _named(which))

    def _prepared(self, location: Location, if_absent: bool, token: str | None) -> Location:
        """Check `if_absent`, make missing folders, and return the staged location. Raises as
        `put`."""
        if if_absent and self._exists(location):
            raise PreconditionFailed(f"{location} exists", side=self._side)
        self._make_folders(location)
        return self._part(location, token)

    def _carried(self, metadata: Fields) -> Fields:
        """As HttpStore's, and the time of modification, which ownCloud and Nextcloud keep; other
        servers ignore the field."""
        return (*super()._carried(metadata), *self._dated(metadata))

    def _dated(self, metadata: Fields) -> Fields:
        changed = dict(metadata).get(MTIME)
        return (("X-OC-Mtime", changed.partition(".")[0]),) if changed else ()

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish. If the answer to MOVE is lost, both names are inspected. If an
        object may have existed, a successful MOVE is checked too."""
        part, place = stored.readable, stored.place
        assert part is not None and place is not None, "an upload to publish has both locations"
        # Only now the temporary name counts as accepted: the object was verified under it. A 2xx
        # to the upload alone proves nothing.
        self._name_taken(place)
        try:
            response = self._moved(part, place, if_absent)
        except (ConnectionLost, StoreTimeout):
            if self._exists(part) or not self._exists(place):
                raise
            return self._there(place)
        status = response.head.status
        if status not in DONE:
            refusal = self._client.refusal(response, "MOVE", place)
            if status in NO_METHOD:
                refusal.hint = (
                    f"The server does not support MOVE; use {place.origin.scheme}:// to upload to"
                    " the final name."
                )
            elif status in (400, 502):
                refusal.hint = BEHIND
            raise refusal
        response.body.close()
        if not fresh:
            self._see_moved(part, place)
        try:
            return self._there(place)
        except NotFound as error:
            self._name_misread(place, error)
            raise

    def _moved(self, part: Location, place: Location, if_absent: bool) -> Response:
        """Send the MOVE, first with `Overwrite: F`. A MOVE that may overwrite deletes a folder of
        that name with its content (section 9.9.3), so it is only sent after PROPFIND found no
        folder. Raises Rejected for a folder."""
        response = self._aimed("MOVE", part, place, (("Overwrite", "F"),))
        if if_absent or response.head.status != 412:
            return response
        response.body.close()
        status, row = self._refuse_folder(place)
        if status == 404 or (status in NO_METHOD and not self._exists(place)):
            raise Rejected(
                f"the server says that {place} exists, but nothing is there: it decodes the name to"
                " a different one",
                side=self._side,
                hint=(
                    "The object with that other name was not changed. Rename the object, without"
                    " ';', '?' and '%'."
                ),
            )
        if status not in NO_METHOD and (row is None or not tells_kind(row)):
            raise Rejected(
                f"{place} exists, and PROPFIND ({status}) does not say if it is a folder, whose"
                " content an overwrite would delete",
                side=self._side,
                store_status=status,
                hint=(
                    "Nothing there was changed. Permit PROPFIND, or delete by hand what is to be"
                    " replaced."
                ),
            )
        return self._aimed("MOVE", part, place, (("Overwrite", "T"),))

    def _name_misread(self, place: Location, error: RelayError) -> None:
        """Name in `error` the location to which the server may have moved the object: WsgiDAV
        parses a Destination as a URL once more after it was decoded, and so cuts the name at a '?',
        and at a ';' of its last segment."""
        other = place.with_target(_CUT.split(place.path, maxsplit=1)[0])
        with suppress(RelayError):
            if other.path != place.path and not other.path.endswith("/") and self._exists(other):
                error.leave(
                    "The object",
                    other,
                    "the server decodes the name to this one; rename the object",
                )

    def _see_moved(self, part: Location, place: Location) -> None:
        """Check that a MOVE that may have overwritten an object was done. The replaced object may
        look like the moved one, so the temporary name decides: after a MOVE it no longer exists.
        HEAD may be answered from a cache (nginx's `open_file_cache`), DELETE is not, and the
        temporary object is ours. Raises DestinationLost if it still existed."""
        try:
            if not self._exists(part):
                return
            response = self._client.send("DELETE", part, ())
        except StoreError:
            return  # unknown: verification decides
        response.body.close()
        if 200 <= response.head.status < 300:
            raise DestinationLost(
                f"MOVE to {place} was acknowledged, but not done: {part} still existed"
            )

    def _aimed(self, method: str, source: Location, there: Location, fields: Fields) -> Response:
        """Send a MOVE or a COPY from `source` to `there`.

        Behind a proxy that terminates TLS, a server takes the scheme or host of the Destination
        field for another server's, and answers 502 (RFC 4918 section 9.9.4) or 400. If that request
        did nothing, it is sent once more with the path alone (section 8.3 allows that). A success
        of that form is remembered for the server."""
        memory = self._wire.memory
        if not memory.has(there.origin, BY_PATH):
            response = self._client.send(method, source, (("Destination", there.url), *fields))
            if response.head.status not in (400, 502) or (
                method == "MOVE" and not self._exists(source)
            ):
                return response
            response.body.close()
        again = self._client.send(method, source, (("Destination", there.target), *fields))
        if again.head.status in DONE:
            memory.learn(there.origin, BY_PATH)
        return again

    def _refuse_folder(self, place: Location) -> tuple[int, Element | None]:
        """Raise Rejected if `place` is a folder, KeyCollision if another object is served for it,
        and any retryable error of PROPFIND.

        Returns the status of PROPFIND: 207 with the row of an object, or another one with None;
        after a permanent refusal nothing is known of `place`."""
        response = self._client.send("PROPFIND", place, (("Depth", "0"), *XML), PROPERTIES)
        status, found = response.head.status, None
        if status != 207:
            error: RelayError | None = self._client.refusal(response, "PROPFIND", place)
            folder = status in MOVED and (response.head.get("location") or "").endswith("/")
        else:
            found = self._own_row(response, place)
            error, reported = self._row_error(found, place), status_of(found)
            folder, status = error is None and is_folder(found), 207 if error is None else reported
        if folder:
            raise folder_there(place) if self._side == "destination" else folder_here(place)
        if error is not None and error.retryable:
            raise error
        return status, found if error is None else None

    def _there(self, place: Location) -> Version:
        found = self.head(place)
        return found.version if isinstance(found, ObjectInfo) else Version()

    def _exists(self, location: Location) -> bool:
        """Say if an object or folder exists, by PROPFIND if HEAD does not say. Raises StoreError if
        neither does."""
        try:
            found = self.head(location)
        except NotFound:
            return False
        if isinstance(found, UnknownObject):
            response = self._client.send("PROPFIND", location, (("Depth", "0"), *XML), PROPERTIES)
            status = self._found_status(response, location)
            if status in (207, 404):
                return status == 207
            if not isinstance(found.why, NotFound):
                raise found.why
            return False
        return True

    def _remove(self, part: Location, error: BaseException) -> None:
        """Delete the temporary object of a failed upload, with a deadline of its own, since the
        transfer's may be over.

        A server that did not answer the upload may not have noticed its end, and may write its
        bytes after the first DELETE; so DELETE is sent again (`limits.sweep_waits`), as after a
        retryable failure. If it fails for good, `error` names what remains."""
        limits = self._wire.limits
        failure: RelayError | None = None
        answered = getattr(error, "store_status", None) is not None
        for number, wait in enumerate(limits.sweep_waits):
            if answered and number and failure is None:
                return
            gevent.sleep(wait)
            try:
                failure = None
                type(self)(self._wire, self._side, Watchdog(limits)).delete(part, Version())
            except RelayError as other:
                failure = other
                if not other.retryable:
                    break
        if failure is not None and isinstance(error, RelayError):
            error.leave("A partial object", part, failure.message)

    # -- listing

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by PROPFIND of depth 1, folder by folder: many servers refuse `Depth:
        infinity`."""
        root = (
            location if location.path.endswith("/") else location.with_target(f"{location.path}/")
        )
        return walk_folders(partial(self._members, root), self._client.listing_retries, recursive)

    def _members(self, root: Location, name: str = "") -> Generator[Entry, None, None]:
        """Yield the entries of a folder. Raises the error in the folder's own row; Rejected if it
        is an object; UnsafeKey for a folder that has no URL; ProtocolViolation (retryable) for an
        answer without any row, since it lacks even the folder's own."""
        folder = root.below(name) if name else root
        response = self._client.send("PROPFIND", folder, (("Depth", "1"), *XML), PROPERTIES)
        if response.head.status != 207:
            raise self._client.refusal(response, "PROPFIND", folder)
        segments, found, holds, own = segments_of(folder.path), False, False, None
        with closing(self._rows(response, folder)) as rows:
            for row in rows:
                found = True
                entry, error = read_row(row, segments, self._side), self._row_error(row, folder)
                if entry is None and error is not None:
                    raise error
                own = row if entry is None else own
                holds = holds or entry is not None
                if entry is not None and is_temporary_name(entry.name):
                    entry = reject_temporary_name(entry, self._side)
                if entry is not None:
                    yield (
                        entry
                        if error is None or entry.error is not None
                        else Entry(entry.name, error=error)
                    )
        if not found:
            message = f"the listing of {folder} is empty and lacks even the folder itself"
            raise ProtocolViolation(message, side=self._side, retryable=True)
        if self._side == "source" and own is not None and not holds and is_object(own):
            hint = "Move it without -r in the terminal, or without `recursive` in a request."
            raise Rejected(f"{folder} is an object, not a folder", side=self._side, hint=hint)

    def _rows(self, response: Response, place: Location) -> Generator[Element, None, None]:
        """Yield the rows of a 207 answer. Raises ConnectionLost if it is cut off or not XML,
        ProtocolViolation for another document. Both are retryable."""
        with closing(pieces_of(response.body, self._meter)) as pieces:
            document = Document(pieces, f"the listing of {place}", self._side)
            if document.root != MULTISTATUS:
                name = printable(plain_name(document.root))
                message = f"{place} answered with a document <{name}> instead of a listing"
                raise ProtocolViolation(message, side=self._side, retryable=True)
            for row in document:
                if row.tag == ROW:
                    yield from rows_of(row)

    def _row_error(self, row: Element, folder: Location) -> StoreError | None:
        """Return the error in a row of a folder's listing, or None."""
        status = status_of(row)
        if 200 <= status < 300:
            return None
        kind = ERRORS.get(status, Rejected)
        said = f"PROPFIND {folder} was answered {status}, for {path_of(row)[:200]!a} in it"
        return kind(said, side=self._side, store_status=status)

    def _found_status(self, response: Response, place: Location) -> int:
        """Return the status of a PROPFIND of depth 0: that in the row of a 207, otherwise that of
        the answer."""
        if response.head.status != 207:
            response.body.close()
            return response.head.status
        status = status_of(self._own_row(response, place))
        return 207 if status == 200 else status

    def _own_row(self, response: Response, place: Location) -> Element:
        """Return the row of a 207 answer that is about `place`: a server may ignore the depth and
        name other objects first. Raises ProtocolViolation (retryable) if there is no such row, and
        as `_rows` and `refuse_negotiated`."""
        with closing(self._rows(response, place)) as rows:
            found = own_row(rows, place.path)
        if found is None:
            raise ProtocolViolation(
                f"the answer to PROPFIND of {place} does not name it",
                side=self._side,
                retryable=True,
            )
        refuse_negotiated(place, path_of(found), self._side)
        return found

    # -- folders

    def _make_folders(self, location: Location) -> None:
        """Make the missing folders above `location` (section 9.3). Raises StoreError.

        A folder that was found is not checked again; if it is removed meanwhile, `_folder_gone`
        handles the failure of the upload."""
        path, missing = location.path.rpartition("/")[0], []
        while path and not self._folder_exists(location.with_target(f"{path}/")):
            missing.append(path)
            if len(missing) > DEEPEST:
                raise InvalidURL(f"more than {DEEPEST} folders are missing above the object")
            path = path.rpartition("/")[0]
        for folder in reversed(missing):
            self._make(location.with_target(f"{folder}/"))

    def _folder_exists(self, folder: Location) -> bool:
        """Say if a folder exists, by PROPFIND of depth 0. If the server does not support it, or its
        answer can't be read, MKCOL is sent instead: then the folder exists, unless the one above is
        missing too (409)."""
        if self._wire.memory.has(folder.origin, _folder(folder)):
            return True
        response = self._client.send("PROPFIND", folder, (("Depth", "0"), *XML), PROPERTIES)
        try:
            status = self._found_status(response, folder)
        except (ConnectionLost, ProtocolViolation):
            status = 501
        if status in (404, 409):
            return False
        if status in NO_METHOD:
            return self._make(folder, missing_above=True)
        self._wire.memory.learn(folder.origin, _folder(folder))
        return True

    def _make(self, folder: Location, missing_above: bool = False) -> bool:
        """Make one folder; return True. Another client may have made it just now (Apache answers
        403 then). Raises StoreError. With `missing_above`, returns False if the folder above is
        missing."""
        response = self._client.send("MKCOL", folder, ())
        status = response.head.status
        if missing_above and status in (404, 409):
            response.body.close()
            return False
        if status not in MADE and status != 405:
            refusal = self._client.refusal(response, "MKCOL", folder)
            if not self._is_listed(folder):
                raise refusal
        response.body.close()
        self._wire.memory.learn(folder.origin, _folder(folder))
        return True

    def _is_listed(self, folder: Location) -> bool:
        """Say if PROPFIND confirms that something exists."""
        try:
            response = self._client.send("PROPFIND", folder, (("Depth", "0"), *XML), PROPERTIES)
            return self._found_status(response, folder) == 207
        except StoreError:
            return False

    def _folder_gone(self, location: Location, error: RelayError) -> RelayError:
        """Return `error`, or a retryable error if it may be caused by a folder that was found
        before and has been removed since."""
        if not isinstance(error, StoreError) or error.store_status not in (404, 409, 500):
            return error
        folder = _above(location)
        if not self._wire.memory.forget(folder.origin, _folder(folder)):
            return error
        return Unavailable(
            f"{error.message}; its folder may have been removed",
            side=self._side,
            store_status=error.store_status,
        )


def _named(which: int) -> str:
    """Return the fact that a server accepts this kind of temporary name."""
    return f"temporary names {which}"


def _tried(which: int, location: Location) -> str:
    """Return the fact that the kinds of temporary names before this one were refused for an
    object."""
    return f"temporary name {which} {location.path}"


def _above(location: Location) -> Location:
    """Return the folder that holds an object."""
    return location.with_target(f"{location.path.rpartition('/')[0]}/")


def _folder(folder: Location) -> str:
    """Return the fact that a folder exists, as seen with these credentials."""
    return f"folder {folder.path} {hash(folder.headers)}"
