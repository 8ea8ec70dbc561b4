"""Upload or copy an object under a temporary name, and remove what a failure leaves.

Theory of operation. Many WebDAV servers write an upload straight to its name and show an incomplete
object. So nothing is ever uploaded to the final name: a temporary name in the same folder receives
the bytes, and MOVE publishes them after they were verified. Servers rename the object; one that
copies its bytes (Tomcat) may leave a piece, which a later attempt recognizes
(`engine/transfer/ownership.py`). Missing folders are made.

Decided here: the steps before and after such an upload. Never here: the steps themselves
(`folders.py`, `staged_names.py`, `moves.py`)."""

from __future__ import annotations

import uuid
from typing import Final

import gevent

from relay.errors import Leftover, PreconditionFailed, Rejected, RelayError, StoreError
from relay.location import Location
from relay.parsing import count
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_uploads import (
    carried_metadata,
    put_object,
    unkept_metadata,
)
from relay.stores.interfaces import PutResult
from relay.stores.metadata import MTIME, require
from relay.stores.webdav.folders import DavFolders
from relay.stores.webdav.moves import DONE, Moves, is_late
from relay.stores.webdav.objects import DavObjects
from relay.stores.webdav.properties import Properties
from relay.stores.webdav.staged_names import StagedNames
from relay.stores.webdav.trials import KEEP, NO_COPY, Trials
from relay.stores.webdav.whole_names import delete_temporary
from relay.wire.body import Body
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

DAY_SECONDS: Final = 24 * 60 * 60
"""The latest time that Nextcloud refuses, with a server error (nextcloud/server#46675). Files of
Nix, and of reproducible archives, are dated in the first seconds of 1970."""


class StagedUploads:
    """Uploads and copies to one server, each under a temporary name until it is published."""

    def __init__(
        self,
        client: HttpClient,
        objects: DavObjects,
        folders: DavFolders,
        names: StagedNames,
        moves: Moves,
        *,
        properties: Properties,
    ) -> None:
        self._client, self._objects, self._properties = client, objects, properties
        self._folders, self._names, self._moves = folders, names, moves
        self._trials = Trials(client, objects, folders, names, moves)

    def put(
        self,
        location: Location,
        body: Body,
        metadata: Fields,
        if_absent: bool,
        token: str | None,
    ) -> PutResult:
        """As Destination.put. The object has a temporary name until `publish`. Makes missing
        folders."""
        if location.method == "POST":
            raise Rejected("WebDAV uploads need PUT, not POST", side=self._client.side)
        part = self._prepare(location, if_absent, token or uuid.uuid4().hex)
        try:
            notes = unkept_metadata(part, metadata)
            require(metadata, part, notes)
            fields = (*carried_metadata(metadata), *time_fields(metadata))
            notes = (*notes, *self._trials.remains.values())
            return put_object(
                self._client, part, body, fields, if_absent=False, place=location, notes=notes
            )
        except RelayError as error:
            named = self._names.explain_refusal(location, error)
            explained = self._folders.explain_removed(location, named)
            self._remove(part, explained)
            explained.keep(self._trials.remains)
            raise explained from None
        except BaseException as error:
            self._remove(part, error)
            raise

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: on one server, with the same credentials, unless a copy was
        refused before."""
        same = (source.origin, source.account, source.headers) == (
            location.origin,
            location.account,
            location.headers,
        )
        return same and not self._client.wire.memory.has(location.origin, NO_COPY)

    def copy(
        self, source: Location, location: Location, if_absent: bool, token: str | None
    ) -> PutResult:
        """As CopyDestination.copy, by COPY (section 9.8) to a temporary name, which `publish`
        moves."""
        token = token or uuid.uuid4().hex
        part = self._prepare(location, if_absent, token)
        try:
            self._trials.require_copies(part, location, token)
            response = self._moves.send("COPY", source, part, KEEP)
            if response.head.status not in DONE:
                raise self._trials.copy_refusal(response, location)
            response.body.close()
            self._require_copy(part, location)
        except RelayError as error:
            self._remove(part, error)
            error.keep(self._trials.remains)
            raise self._slow_copy(location, part, error) or error from None
        except BaseException as error:
            self._remove(part, error)
            raise
        notes = tuple(self._trials.remains.values())
        return PutResult(Version(), part, {}, place=location, notes=notes)

    def publish(self, stored: PutResult, if_absent: bool, fresh: bool) -> Version:
        """As Destination.publish."""
        part, place = stored.readable, stored.place
        assert part is not None and place is not None, "an upload to publish has both locations"
        # Only now the temporary name counts as accepted: the object was verified under it. A 2xx
        # to the upload alone proves nothing.
        self._names.accept(place)
        try:
            return self._moves.publish(part, place, if_absent, fresh)
        except RelayError as error:
            error.keep(self._trials.remains)
            if str(part) in error.remains:  # the next upload must not replace it
                error.retryable &= self._names.avoid_last(place)
            raise

    def _prepare(self, location: Location, if_absent: bool, token: str) -> Location:
        """Check `if_absent`, make missing folders, and return the staged location. Raises as
        `put`."""
        if if_absent and self._objects.exists(location):
            raise PreconditionFailed(f"{location} exists", side=self._client.side)
        self._folders.make_above(location)
        if if_absent:
            self._trials.learn_overwrites(location, token)
        return self._names.choose(location, token)

    def _require_copy(self, part: Location, location: Location) -> None:
        """Raise Rejected if nothing is at `part` after a COPY that was acknowledged. The server may
        copy later, or not at all, so relay moves the bytes of this object and of later ones."""
        try:
            if self._properties.status(part) not in (404, 410):
                return
        except StoreError:
            return  # unknown: verification decides
        self._client.wire.memory.learn(part.origin, NO_COPY)
        self._names.avoid_last(location)
        error = Rejected(f"COPY to {part} was acknowledged, but not done", side=self._client.side)
        error.leave(Leftover.COPY, part, "the server may still make it")
        raise error

    def _slow_copy(
        self, location: Location, part: Location, error: RelayError
    ) -> RelayError | None:
        """Return the error of a COPY that took longer than a server, or the proxy in front of it,
        may take for an answer: a server copies the bytes before it answers. Another COPY would take
        as long, so relay moves the bytes of this object and of later ones. Else return None."""
        if not is_late(error):
            return None
        self._client.wire.memory.learn(part.origin, NO_COPY)
        self._names.avoid_last(location)
        slow = Rejected(error.message, side=self._client.side)
        slow.keep(error.remains)
        slow.leave(Leftover.COPY, part, "the server did not answer, and may still finish it")
        return slow

    def _remove(self, part: Location, error: BaseException) -> None:
        """Delete the temporary object of a failed upload, with a deadline of its own, since the
        transfer's may be over.

        A server that did not answer the upload may not have noticed its end, and may write its
        bytes after the first DELETE; so DELETE is sent again (`limits.sweep_waits`), as after a
        retryable failure. If it fails for good, `error` names what remains."""
        wire, side = self._client.wire, self._client.side
        failure: RelayError | None = None
        answered = getattr(error, "store_status", None) is not None
        for number, wait in enumerate(wire.limits.sweep_waits):
            # The server has ended the upload, and its DELETE succeeded: nothing is written any
            # more.
            if answered and number and failure is None:
                return
            gevent.sleep(wait)
            try:
                failure = None
                delete_temporary(HttpClient(wire, side, Watchdog(wire.limits)), part)
            except RelayError as other:
                failure = other
                if not other.retryable:
                    break
        if failure is not None and isinstance(error, RelayError):
            error.leave(Leftover.PARTIAL, part, failure.message)


def time_fields(metadata: Fields) -> Fields:
    """Return the time of modification as a field that ownCloud and Nextcloud keep; other servers
    ignore it. Left out if Nextcloud would refuse it."""
    seconds = (dict(metadata).get(MTIME) or "").partition(".")[0]
    return (("X-OC-Mtime", seconds),) if (count(seconds) or 0) > DAY_SECONDS else ()
