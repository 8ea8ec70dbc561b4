"""MOVE and COPY (RFC 4918 sections 9.8 and 9.9): publish an upload under its final name.

Theory of operation. A MOVE that may overwrite would delete a folder of that name with its content.
So the first one carries `Overwrite: F`, and PROPFIND decides whether the other is sent. WsgiDAV
parses a Destination once more after it decoded it, and so cuts a name at a '?': its MOVE may delete
an object of another name. So an object with such a name is first moved between temporary names.

Decided here: when a MOVE was done. Never here: which temporary name an upload has
(`staged_names.py`)."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from relay.errors import (
    ConnectionLost,
    DestinationLost,
    Leftover,
    PreconditionFailed,
    Rejected,
    RelayError,
    StoreError,
    StoreTimeout,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_reads import server_of
from relay.stores.multistatus import shows_type
from relay.stores.webdav.objects import DavObjects
from relay.stores.webdav.properties import NO_METHOD, Properties
from relay.stores.webdav.staged_names import cut_place, longer_names
from relay.stores.webdav.whole_names import delete_temporary, require_deletable
from relay.wire.exchange import Response
from relay.wire.http1 import Fields

DONE = frozenset({201, 204})
"""Statuses of a MOVE and of a COPY that mean success (sections 9.8.5 and 9.9.4)."""
BY_PATH = "a Destination is a path"
BEHIND = (
    "The Destination field was sent as a whole URL and as a path alone. If a proxy in front of the"
    " server terminates TLS, let it rewrite the field's scheme and host to those of the server, or"
    " configure the server's public address."
)

_CUTS = frozenset({400, 403, 404, 409, 412})
"""Statuses of a MOVE to its own source (section 9.9.4 demands 403)."""
_TAKEN = frozenset({207, 400, 403, 405, 409})
"""Statuses of a MOVE that may be due to an object of its Destination (section 9.9.4 demands 412;
nephele has that status in a 207)."""
LATE = 5
"""How many times `head_seconds` a MOVE may take that did not end in time."""


def is_late(error: RelayError) -> bool:
    """Return whether a request took longer than relay, or a proxy, waits for an answer."""
    timeout = isinstance(error, StoreTimeout) and error.retryable
    return timeout or getattr(error, "store_status", None) in (504, 524)


def honours(place: Location) -> str:
    """Return the fact that the server of a place refused to move one object onto another one with
    `Overwrite: F` (`trials.py`). A wrong one does harm, and one host may have several servers."""
    return f"MOVE honours Overwrite: F{server_of(place)}"


def ignores(place: Location) -> str:
    """Return the fact that the server did not refuse that, or that nothing shows it."""
    return f"MOVE ignores Overwrite: F{server_of(place)}"


class Moves:
    """The moves and copies within one server."""

    def __init__(self, client: HttpClient, properties: Properties, objects: DavObjects) -> None:
        self._client, self._properties, self._objects = client, properties, objects

    def send(self, method: str, source: Location, there: Location, fields: Fields) -> Response:
        """Send a MOVE or a COPY from `source` to `there`.

        Behind a proxy that terminates TLS, a server takes the scheme or host of the Destination
        field for another server's, and answers 502 (RFC 4918 section 9.9.4) or 400. If that request
        did nothing, it is sent once more with the path alone (section 8.3 allows that). A success
        of that form is remembered for the server."""
        memory = self._client.wire.memory
        if not memory.has(there.origin, BY_PATH):
            response = self._client.send(method, source, (("Destination", there.url), *fields))
            # A source that is gone was moved, whatever the answer says. (A COPY may be done twice.)
            if response.head.status not in (400, 502) or (
                method == "MOVE" and not self._objects.exists(source)
            ):
                return response
            response.body.close()
        again = self._client.send(method, source, (("Destination", there.target), *fields))
        if again.head.status in DONE:
            memory.learn(there.origin, BY_PATH)
        return again

    def publish(self, part: Location, place: Location, if_absent: bool, fresh: bool) -> Version:
        """Move an object from `part` to its final name, as Destination.publish.

        If the answer to MOVE is lost, both names are inspected. If an object may have existed, a
        successful MOVE is checked too. If the server may have deleted that object and moved
        nothing, the error names `part`, which may be the only whole object then. Raises Rejected if
        the server may cut the name."""
        self._require_whole_name(part, place)
        if if_absent and not self._client.wire.memory.has(place.origin, honours(place)):
            self._refuse_existing(place)
        try:
            self._move(part, place, if_absent, fresh)
        except StoreError as error:
            if not self._is_moved(part, place, error):
                raise
        else:
            if not fresh:
                self._check_moved(part, place)
        return self._objects.version(place)

    def _refuse_existing(self, place: Location) -> None:
        """Raise PreconditionFailed if there is an object: a MOVE may replace it in spite of
        `Overwrite: F`. One that appears within the MOVE is not seen."""
        if self._objects.exists(place):
            raise PreconditionFailed(f"{place} exists", side=self._client.side)

    def _move(self, part: Location, place: Location, if_absent: bool, fresh: bool) -> None:
        """Send the MOVE, first with `Overwrite: F`.

        A MOVE that may overwrite deletes a folder of that name with its content (section 9.9.3), so
        it is only sent after PROPFIND found no folder. It is not sent to a `fresh` place, whose
        object was not seen before: a server may leave names out of its listings. Raises Rejected
        for a folder, PreconditionFailed, and the server's refusal."""
        response = self.send("MOVE", part, place, (("Overwrite", "F"),))
        try:
            self._require_done(response, place)
            return
        except PreconditionFailed:
            if if_absent:
                raise
        except StoreError as error:
            if error.store_status not in _TAKEN or not self._is_in_the_way(part, place):
                raise
            if if_absent:
                raise PreconditionFailed(f"{place} exists", side=self._client.side) from None
        status, row = self._properties.refuse_folder(place)
        if status == 404 or (status in NO_METHOD and not self._objects.exists(place)):
            raise Rejected(
                f"the server says that {place} exists, but nothing is there: it decodes the name to"
                " a different one",
                side=self._client.side,
                hint=(
                    "The object with that other name was not changed. Rename the object, without"
                    " ';', '?' and '%'."
                ),
            )
        if status not in NO_METHOD and (row is None or not shows_type(row)):
            raise Rejected(
                f"{place} exists, and PROPFIND ({status}) does not show whether it is a folder,"
                " whose content an overwrite would delete",
                side=self._client.side,
                store_status=status,
                hint=(
                    "Nothing there was changed. Permit PROPFIND, or delete by hand what is to be"
                    " replaced."
                ),
            )
        if fresh:
            raise PreconditionFailed(f"{place} exists", side=self._client.side)
        self._replace(part, place)

    def _is_in_the_way(self, part: Location, place: Location) -> bool:
        """Return whether an object is at the place, and the upload at its temporary name: a server
        may refuse `Overwrite: F` by another status than 412 (copyparty: 400). Raises Rejected for a
        folder."""
        _, row = self._properties.refuse_folder(place)
        return row is not None and shows_type(row) and self._objects.exists(part)

    def _replace(self, part: Location, place: Location) -> None:
        """Send the MOVE that replaces an object. Servers delete that object first; if one fails
        after that, the MOVE is sent once more. If it may have failed there, the error names
        `part`."""
        failure: RelayError | None = None
        # The second one does not overwrite: it is only sent where nothing is, and what another
        # client stores there meanwhile must stay.
        for overwrite in ("T", "F"):
            try:
                response = self.send("MOVE", part, place, (("Overwrite", overwrite),))
                self._require_done(response, place)
                return
            except RelayError as error:
                failure = failure or error
            is_there = self._is_there(place)
            if is_there is not False or is_late(failure):
                break
        assert failure is not None, "a request is done or fails"
        status = getattr(failure, "store_status", None)
        if is_there is False or (is_there is None and (status is None or status >= 500)):
            why = "the server may have deleted the one that it was to replace"
            failure.leave(Leftover.WHOLE, part, why)
        raise failure

    def _is_moved(self, part: Location, place: Location, error: StoreError) -> bool:
        """As `is_done`: both names are inspected. If the server may still move the upload, it
        stays, and `error` names it."""
        if is_late(error):
            error.leave(Leftover.UNPUBLISHED, part, "the server may still move it")
        exists = self._objects.exists
        try:
            return self.is_done(error, lambda: not exists(part) and exists(place))
        except RelayError as unknown:
            unknown.keep(error.remains)
            raise

    def is_done(
        self, error: StoreError, inspect: Callable[[], bool], *, busy: bool = False
    ) -> bool:
        """Return whether a MOVE was done in spite of `error`, since its answer was lost; `inspect`
        says whether it is done now.

        A server that copies the bytes may still do so after a timeout, or is `busy` with an earlier
        MOVE. So it is inspected for a while: a second MOVE may break the first one, or do its work
        once more."""
        late = busy or is_late(error)
        if not late and not isinstance(error, ConnectionLost | StoreTimeout):
            return False
        seconds = self._client.wire.limits.head_seconds
        # If the request is not `late`, it is inspected once.
        until = monotonic() + late * LATE * seconds
        while not inspect():
            if monotonic() >= until:
                return False
            gevent.sleep(min(1.0, seconds / 4))
            self._client.meter.check()
        return True

    def _require_done(self, response: Response, place: Location) -> None:
        """Read the answer to a MOVE to its end. Raises the server's refusal."""
        status = response.head.status
        if status in DONE:
            self._client.drain(response)
            return
        refusal = self._client.refusal(response, "MOVE", place)
        if status in NO_METHOD:
            refusal.hint = (
                f"The server does not support MOVE; use {place.origin.scheme}:// to upload to"
                " the final name."
            )
        elif status in (400, 502):
            refusal.hint = BEHIND
        raise refusal

    def _is_there(self, place: Location) -> bool | None:
        """Return whether the place has an object; None if that is unknown."""
        try:
            return self._objects.exists(place)
        except RelayError:
            return None

    def _require_whole_name(self, part: Location, place: Location) -> None:
        """Raise Rejected if the server may cut a Destination like `place`.

        The object is moved from a temporary name to a longer one, and back. A server that cuts the
        longer one takes it for the first, to which the object can't be moved (section 9.9.4). If a
        proxy cuts the names of requests alone, the object already has the longer name: after a MOVE
        there no request could delete it."""
        cut, memory = cut_place(place), self._client.wire.memory
        fact = f"whole names {cut}"
        if cut is None or memory.has(place.origin, fact):
            return
        if self._is_there(longer_names(part, place)[-1]):
            raise self._cut_error(place, "it shows an object of a longer name, that was not stored")
        at = there = part
        try:
            for there in longer_names(part, place):
                at = self._shift(at, there, place)
            self._shift(at, part, place)
        except RelayError as error:
            # The answer to the failed MOVE may be lost: the object has either name.
            for left in {at, there} - {part}:
                self._remove(left, error)
            raise
        memory.learn(place.origin, fact)

    def _shift(self, part: Location, there: Location, place: Location) -> Location:
        """Move an upload to another temporary name, and return that. Raises Rejected if the server
        may have cut the name as it may cut `place`."""
        if there == part:
            return there
        response = self.send("MOVE", part, there, (("Overwrite", "F"),))
        status = response.head.status
        if status not in DONE:
            refusal = self._client.refusal(response, "MOVE", there)
            if status not in _CUTS:
                raise refusal
            raise self._cut_error(place, refusal.message, status)
        response.body.close()
        return there

    def _cut_error(self, place: Location, why: str, status: int | None = None) -> Rejected:
        return Rejected(
            f"the server may cut the name of {place}, and so replace another object: {why}",
            side=self._client.side,
            store_status=status,
            hint="Nothing there was changed. Rename the object, without ';' and '?'.",
        )

    def _remove(self, part: Location, error: RelayError) -> None:
        """Delete a temporary object. If it can't be deleted, `error` says that it may remain."""
        try:
            delete_temporary(self._client, part)
        except RelayError as failure:
            error.leave(Leftover.UNPUBLISHED, part, failure.message)

    def _check_moved(self, part: Location, place: Location) -> None:
        """Check that a MOVE that may have overwritten an object was done. The replaced object may
        look like the moved one, so the temporary name decides: after a MOVE it no longer exists.
        HEAD may be answered from a cache (nginx's `open_file_cache`), DELETE is not, and the
        temporary object is ours. Raises DestinationLost if it still existed."""
        try:
            if not self._objects.exists(part):
                return
            require_deletable(self._client, part)
            response = self._client.send("DELETE", part, ())
        except StoreError:
            return  # unknown: verification decides
        self._client.drain(response)
        if 200 <= response.head.status < 300:
            raise DestinationLost(
                f"MOVE to {place} was acknowledged, but not done: {part} still existed"
            )
