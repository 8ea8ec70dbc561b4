"""Find out with temporary objects what a server's COPY and MOVE do, before one of them is trusted.

Theory of operation. Some servers do not follow RFC 4918 there, and say that they did. AList and
OpenList copy into the folder of the Destination under the name of the source, and replace what has
that name. They, and dufs, ignore `Overwrite: F`. So relay first lets the server do the same with
objects of its own: once for each server and process, and only where a COPY follows, or a MOVE that
may not overwrite.

Decided here: whether a server's COPY keeps to the name, and its MOVE to `Overwrite: F`. Never here:
what relay does instead (`staged_uploads.py`, `moves.py`)."""

from __future__ import annotations

import uuid
from typing import Final

from relay.errors import Leftover, Rejected, RelayError, StoreError
from relay.location import Location
from relay.stores.http_client import HttpClient
from relay.stores.http_reads import server_of
from relay.stores.http_uploads import STORED
from relay.stores.webdav.folders import DavFolders, folder_of
from relay.stores.webdav.moves import DONE, Moves, honours, ignores, is_late
from relay.stores.webdav.objects import DavObjects
from relay.stores.webdav.properties import NO_METHOD
from relay.stores.webdav.staged_names import StagedNames, cut_place
from relay.stores.webdav.whole_names import delete_temporary
from relay.wire.exchange import Response
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

NO_COPY = "no COPY"
"""Fact: the server refused a COPY, probably for good, or does not do what it should."""
KEEP: Final = (("Overwrite", "F"),)
"""The field of a request that may not replace anything."""
REPLACE: Final = (("Overwrite", "T"),)
"""The field of a request that may replace an object."""
TRIAL: Final = b"A trial of relay. It may be deleted.\n"
"""The bytes of a temporary object of a trial."""


class Trials:
    """The trials of one transfer; the facts are shared by all."""

    def __init__(
        self,
        client: HttpClient,
        objects: DavObjects,
        folders: DavFolders,
        names: StagedNames,
        moves: Moves,
    ) -> None:
        self._client, self._objects = client, objects
        self._folders, self._names, self._moves = folders, names, moves
        self.remains: dict[str, str] = {}
        """Temporary objects that the server refused to delete: the place, and a sentence."""

    def learn_overwrites(self, location: Location, token: str) -> None:
        """Learn whether a MOVE with `Overwrite: F` replaces an object. Where that can't be found
        out, the server counts as one that replaces it. Raises retryable errors."""
        memory, origin, meter = self._client.wire.memory, location.origin, self._client.meter
        facts = honours(location), ignores(location)
        if any(memory.has(origin, fact) for fact in facts):
            return
        if cut_place(folder_of(location)) is not None:
            return  # a server that cuts the Destination would move the object elsewhere
        with memory.learning(origin, facts[0], meter.check, meter.tick_seconds):
            if not any(memory.has(origin, fact) for fact in facts):
                self._try_move(location, token)

    def _try_move(self, location: Location, token: str) -> None:
        """Move one temporary object onto another one, which has the name of the upload that
        follows. So nothing remains for long, even if the server refuses DELETE. Raises as
        `learn_overwrites`."""
        part = self._names.choose(location, token)
        other = self._names.spare(location, token)
        memory, kept, left = self._client.wire.memory, False, [part, other]
        try:
            self._put(part, location)
            self._put(other)
            status = self._move_onto(part, other, KEEP)
            kept = status == 412
            memory.learn(location.origin, honours(location) if kept else ignores(location))
            if kept:
                status = self._move_onto(part, other, REPLACE)
            # A server may show a new object late: absence alone does not prove that it moved.
            if status not in DONE or self._objects.exists(other):
                delete_temporary(self._client, other)
            left.remove(other)
            delete_temporary(self._client, part)
        except StoreError as error:
            self._remove(tuple(left), error)
            if error.retryable:
                raise
            if not kept:
                memory.learn(location.origin, ignores(location))
            # The upload that follows replaces `part`.
            self.remains = {
                name: text for name, text in error.remains.items() if name == str(other)
            }
        except BaseException as error:
            self._remove(tuple(left), error)
            raise

    def _move_onto(self, part: Location, other: Location, fields: Fields) -> int:
        """Move `other` to the name of `part`; return the status of the answer."""
        response = self._moves.send("MOVE", other, part, fields)
        response.body.close()
        return response.head.status

    def require_copies(self, part: Location, location: Location, token: str) -> None:
        """Raise Rejected if the server's COPY does not keep to the name of its Destination, or if
        that can't be found out. The caller deletes `part` after an error. Raises retryable
        errors."""
        memory, origin, meter = self._client.wire.memory, part.origin, self._client.meter
        fact = _keeps_names(part)
        if cut_place(part) is not None:
            raise Rejected("the server may cut the name of a copy", side=self._client.side)
        if memory.has(origin, fact):
            return
        with memory.learning(origin, fact, meter.check, meter.tick_seconds):
            if memory.has(origin, fact):
                return
            if memory.has(origin, NO_COPY):
                raise Rejected("another COPY was refused", side=self._client.side)
            try:
                self._try_copy(part, location, token)
            except RelayError as error:
                if error.retryable and not is_late(error):
                    raise
                memory.learn(origin, NO_COPY)
                rejected = Rejected(error.message, side=self._client.side)
                rejected.keep(error.remains)
                raise rejected from None
            memory.learn(origin, fact)

    def _try_copy(self, part: Location, location: Location, token: str) -> None:
        """Copy a temporary object to another name in a temporary folder. So a server that takes
        the name of the source replaces nothing, and what it made is deleted with the folder."""
        folder = _as_folder(self._names.spare(location, token))
        name = self._names.choose(location, uuid.uuid4().hex).path.rpartition("/")[2]
        there = folder.with_target(f"{folder.path}{name}")
        try:
            self._put(part, location)
            self._folders.make_above(there)
            response = self._moves.send("COPY", part, there, KEEP)
            if response.head.status not in DONE:
                raise self.copy_refusal(response, location)
            response.body.close()
            if not self._objects.exists(there):
                raise Rejected(
                    f"COPY to {there} was acknowledged, but nothing is there: the server may have"
                    " copied the object to another name",
                    side=self._client.side,
                )
            delete_temporary(self._client, part)
        except BaseException as error:
            self._remove((folder,), error)
            if isinstance(error, RelayError) and is_late(error):
                error.leave(Leftover.COPY, there, "the server did not answer, and may finish it")
            raise
        finally:
            self._folders.forget_above(there)
        delete_temporary(self._client, folder)

    def copy_refusal(self, response: Response, location: Location) -> RelayError:
        """Return the error of a refused COPY. It is retryable, with another temporary name, if the
        name may be the cause. A refusal that may be permanent is remembered for the server."""
        status = response.head.status
        error = self._client.refusal(response, "COPY", location)
        explained = self._folders.explain_removed(location, error)
        # Other causes come first: the temporary name, then a removed folder. Only a refusal without
        # them may hold for every COPY.
        if status not in NO_METHOD and self._names.explain_refusal(location, error).retryable:
            return error
        if explained is not error and not self._folders.exists(folder_of(location)):
            return explained
        if status in {*NO_METHOD, 403, 500, 502}:
            self._client.wire.memory.learn(location.origin, NO_COPY)
            return Rejected(error.message, side=self._client.side, store_status=status)
        return error

    def _put(self, place: Location, location: Location | None = None) -> None:
        """Store a small object under a temporary name. With `location` a refusal is explained as
        one of an upload to it."""
        response = self._client.send("PUT", place, (), TRIAL)
        if response.head.status in STORED:
            self._client.drain(response)
            return
        error = self._client.refusal(response, "PUT", place)
        if location is not None:
            error = self._names.explain_refusal(location, error)
            error = self._folders.explain_removed(location, error)
        raise error

    def _remove(self, places: tuple[Location, ...], error: BaseException) -> None:
        """Delete the temporary objects of a failed trial, with a deadline of their own. If one
        can't be deleted, `error` says that it may remain."""
        wire, side = self._client.wire, self._client.side
        for place in places:
            try:
                delete_temporary(HttpClient(wire, side, Watchdog(wire.limits)), place)
            except RelayError as failure:
                if isinstance(error, RelayError):
                    error.leave(Leftover.PARTIAL, place, failure.message)


def _keeps_names(place: Location) -> str:
    """Return the fact that a COPY made an object under the name of its Destination. As in `moves`,
    one host may have several servers."""
    return f"COPY keeps to the name{server_of(place)}"


def _as_folder(place: Location) -> Location:
    """Return the folder of this name."""
    return place.with_target(f"{place.path}/")
