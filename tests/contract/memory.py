"""Objects in the memory of this process: the smallest store that keeps the whole contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from relay.errors import NotFound, PreconditionFailed, Side, SourceChanged
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import (
    ByteRange,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    PartLimits,
    PutResult,
)
from relay.stores.kinds import LocateOptions, StoreType
from relay.stores.metadata import require, unkept_notes
from relay.wire.body import Body
from relay.wire.http1 import Fields, Framing, Head
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog

Shelf = dict[str, bytes]


@dataclass(frozen=True)
class MemoryAccount:
    """The account of the one shelf. A real account holds the endpoint and the credentials."""

    store: str = "memory"
    owner: str = ""

    def printed_form(self, path: str) -> str:
        """Return `memory://name`: the printed form, without secrets."""
        return f"memory:/{unquote(path)}"

    def check(self, path: str) -> None:
        """Accept every name; a real account raises KeyTooLong, ReservedKey or UnsafeKey."""


def memory_location(text: str, asked: LocateOptions) -> Location:
    """Return the Location of `memory://name`."""
    name = text.partition("://")[2]
    location = Location("memory", "", 0, "/", account=MemoryAccount())
    return location.below(name, destination=asked.destination) if name else location


class Held(Stream):
    """Bytes in memory, in place of a socket. A store over HTTP does not need this class."""

    splices = False

    def __init__(self, data: bytes, side: Side) -> None:
        self.side, self.leftover, self.closed = side, data, False

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's."""
        return self._take_leftover(view)

    def wait_for_more(self, seconds: float) -> bool:
        """As Stream's: no further bytes follow."""
        return True

    def close(self) -> None:
        """As Stream's."""
        self.closed = True


class MemoryStore:
    """One shelf, for one transfer; its failures name `side`."""

    def __init__(self, shelf: Shelf, side: Side, meter: Watchdog) -> None:
        self._shelf, self._side, self._meter = shelf, side, meter

    # -- both roles

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head."""
        data = self._shelf.get(location.path)
        if data is None:
            raise NotFound(f"{location} is not there", side=self._side)
        return ObjectInfo(_version(data), location, ranges=True)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get."""
        found = self.head(location)
        if pinned is not None and pinned.etag not in (None, found.version.etag):
            raise SourceChanged(f"{location} is another version now", side=self._side)
        data = self._shelf[location.path]
        data = data if span is None else data[span.first : span.last + 1]
        head = Head(200, "OK", "1.1", (("Content-Length", str(len(data))),))
        body = Body(
            Held(data, self._side),
            Framing.LENGTH,
            head,
            self._meter,
            lambda stream, reusable: stream.close(),
        )
        return OpenedObject(found.version, location, body=body)

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list, in the order of the names."""
        seen = set()
        for path in sorted(self._shelf):
            if path.startswith(location.path):
                rest = unquote(path[len(location.path) :])
                name, slash, _ = (rest, "", "") if recursive else rest.partition("/")
                if name + slash not in seen:
                    seen.add(name + slash)
                    version = Version() if slash else _version(self._shelf[path])
                    yield Entry(name + slash, version.size, version.etag)

    # -- destination

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions."""
        return True

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: a broken upload is never on the shelf."""
        return True

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits."""
        return None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: a shelf keeps only bytes."""
        return unkept_notes(metadata, lambda name: False, location, "a shelf")

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy."""
        return False

    def put(
        self,
        location: Location,
        body: Body,
        metadata: Fields = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As Destination.put."""
        notes = self.unkept_metadata(location, metadata)
        require(metadata, location, notes)
        data = body.read()  # raises if it is not whole; then nothing has changed
        if if_absent and location.path in self._shelf:
            raise PreconditionFailed(f"{location} exists", side=self._side)
        self._shelf[location.path] = data
        return PutResult(_version(data), location, {}, notes=notes)

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations."""
        return ()

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: `put` has done it."""
        return stored.version

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete."""
        data = self._shelf.get(location.path)
        if data is not None and version.etag not in (None, _version(data).etag):
            raise PreconditionFailed(f"{location} is another version now", side=self._side)
        self._shelf.pop(location.path, None)


def _version(data: bytes) -> Version:
    return Version(size=len(data), etag=f'"{hashlib.sha256(data).hexdigest()[:16]}"')


def memory(shelf: Shelf) -> StoreType:
    """Return the kind of store that `shelf` is."""
    opens = lambda wire, side, meter: MemoryStore(shelf, side, meter)  # noqa: E731
    return StoreType("memory", opens, schemes={"memory": memory_location})
