"""A scratch folder of a store under test: every object written into it is recorded and removed.

All scratch objects are below one random name. Each is recorded before it is written.

Decided here: how objects are written, and their removal. Never here: which probes run
(`doctor.py`)."""

from __future__ import annotations

import socket
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TypeVar, cast

import gevent
import gevent.socket

from relay.digest import ALWAYS, Digester
from relay.engine.transfer.cut_names import CutNames
from relay.errors import (
    ConnectFailed,
    IntegrityMismatch,
    NotFound,
    Rejected,
    RelayError,
    Unsupported,
)
from relay.location import Location
from relay.receipt import Level, Version
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    PartsDestination,
    PutResult,
    StoreProvider,
    UnknownObject,
    Upload,
)
from relay.wire.body import Body
from relay.wire.capabilities import CapabilityCache
from relay.wire.http1 import Framing, Head
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog

PREFIX = ".relay-doctor-"
DATA = bytes(range(256)) * 4
"""The bytes of most scratch objects."""
TRIES = 5
"""Maximum number of attempts of one operation. A store may refuse four optional features, one per
attempt."""
CHECKED: Mapping[str, str] = {"s3": "x-amz-checksum-crc64nvme"}
"""The header field with an upload's checksum, by store; only these stores compare one."""
WRONG = bytes(8)
"""A checksum that `DATA` does not have."""
T = TypeVar("T")


@dataclass(eq=False)
class ScratchFolder:
    """A folder of a store, and the objects written into it. `meter` creates a Watchdog for each
    probe."""

    stores: StoreProvider
    folder: Location
    meter: Callable[[], Watchdog]
    _: KW_ONLY
    written: list[Location] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    """Multipart uploads that were neither completed nor aborted."""
    remains: dict[str, str] = field(default_factory=dict)
    """Leftovers that failed uploads may have at the store, by location."""
    left: tuple[str, ...] = ()
    """Descriptions of the leftovers that `remove` could not remove."""
    digests: frozenset[str] = frozenset()
    parts_checked: bool = False
    reads_back: bool = False

    def __post_init__(self) -> None:
        """Choose a random name for the scratch folder."""
        self.scratch = self.folder.folder().below(
            f"{PREFIX}{uuid.uuid4().hex[:12]}/", destination=True
        )

    def location_of(self, name: str) -> Location:
        """Return the location of a scratch object, and record that the object may exist. Before the
        first one, raises KeyCollision if the server cuts the name of the folder, and retryable
        StoreErrors."""
        location = self.scratch.below(name, destination=True)
        if not self.written:
            CutNames(self.store(), location, CapabilityCache(), "destination").refuse()
        if location not in self.written:
            self.written.append(location)
        return location

    def store(self) -> Destination:
        """Return the store as a destination, with a new Watchdog."""
        return self.stores.destination(self.folder, self.meter())

    def put(
        self,
        name: str,
        data: bytes = DATA,
        *,
        if_absent: bool = False,
        framing: Framing = Framing.LENGTH,
    ) -> PutResult:
        """Store an object and publish it, as a migration would. Raises what the store raises."""
        return self.retry(lambda: self._put(name, data, if_absent, framing))

    def begin(self, many: PartsDestination, location: Location) -> Upload:
        """Create a multipart upload, and record it. Raises what the store raises."""
        upload = many.begin(location)
        self.uploads.append(upload)
        return upload

    def retry(self, do: Callable[[], T]) -> T:
        """Call `do`, and retry after retryable errors. A feature that the store has refused is left
        out of the next attempt."""
        for _ in range(TRIES - 1):
            try:
                return do()
            except RelayError as error:
                if not error.retryable:
                    raise
        return do()

    def _put(self, name: str, data: bytes, if_absent: bool, framing: Framing) -> PutResult:
        store = self.store()
        with body_from_bytes(data, self.meter(), framing) as body:
            body.digest_with(ALWAYS)
            stored = self._send(name, lambda place: store.put(place, body, if_absent=if_absent))
            digests = body.digests
        if stored.place is not None:
            self.written.append(cast(Location, stored.readable))
            store.publish(stored, if_absent=if_absent)
            self.written.pop()
        for reported in (stored.digests, stored.version.digests):
            self.digests |= frozenset(n for n, value in reported.items() if digests.get(n) == value)
        return stored

    def put_broken(self, name: str) -> None:
        """Upload an object whose source breaks off in the middle. Raises what the store raises."""
        with body_from_bytes(DATA * 64, self.meter(), until=len(DATA) * 32) as body:
            body.digest_with(ALWAYS)
            self._send(name, lambda place: self.store().put(place, body))

    def _send(self, name: str, put: Callable[[Location], PutResult]) -> PutResult:
        """Upload a scratch object with `put`, and record the leftovers of a failure."""
        before = len(self.written)
        place = self.location_of(name)
        try:
            return put(place)
        except ConnectFailed:
            del self.written[before:]  # nothing was sent
            raise
        except RelayError as error:
            self.remains |= error.remains
            raise

    def refuses_wrong_checksum(self) -> bool:
        """Return whether the store refuses an object with a wrong checksum and accepts it with the
        right one. Raises the store's error if it refuses the right one."""
        digester = Digester(("crc64nvme",))
        digester.update(DATA)
        self._put_with_checksum(digester.digests()["crc64nvme"])
        try:
            self._put_with_checksum(WRONG)
        except (IntegrityMismatch, Rejected):
            return True
        return False

    def _put_with_checksum(self, checksum: bytes) -> None:
        field = (CHECKED[self.folder.store], b64encode(checksum).decode())
        with body_from_bytes(DATA, self.meter()) as body:
            self._send(
                "wrong",
                lambda place: self.store().put(
                    replace(place, headers=(*place.headers, field)), body
                ),
            )

    def head(self, name: str) -> ObjectInfo:
        """Return the store's answer to HEAD for a scratch object. Raises its errors, and
        Unsupported if it does not answer HEAD."""
        found = self.store().head(self.location_of(name))
        if isinstance(found, UnknownObject):
            raise Unsupported("the store does not answer HEAD")
        return found

    def read(self, name: str) -> bytes:
        """Return the bytes of a scratch object, at most one more than `DATA` has. Raises the
        store's errors."""
        body = cast(Body, self.store().get(self.location_of(name)).body)
        try:
            return body.read(len(DATA) + 1)
        finally:
            body.close()

    def predict_level(self) -> Level:
        """Return the level of proof that a migration to this folder will have, by the findings."""
        if self.digests:
            return Level.WHOLE_DIGEST
        return Level.READ_BACK if self.reads_back else Level.SIZE

    def remove(self) -> tuple[str, ...]:
        """Remove every scratch object and folder, and abort the uploads; return descriptions of the
        leftovers."""
        if not self.written:
            return self.left
        uploads = [upload for upload in self.uploads if not self._is_aborted(upload)]
        left = []
        for location in self.written:
            try:
                self.store().delete(location, Version())
            except NotFound:
                continue
            except RelayError:
                left.append(location)
        # The folders of the probes first: a local folder can be deleted only once it is empty.
        for folder in ("names/", "forms/", ""):
            with suppress(RelayError):  # some stores have no folders, only names with slashes
                place = self.scratch.below(folder, destination=True) if folder else self.scratch
                self.store().delete(place, Version())
        there = [str(location) for location in left if self._may_exist(location)]
        begun = [f"an unfinished upload at {upload.location}" for upload in uploads]
        self.left = (*there, *begun, *self.remains.values())
        return self.left

    def _is_aborted(self, upload: Upload) -> bool:
        """Abort a multipart upload; return whether it is certainly gone."""
        try:
            cast(PartsDestination, self.store()).abort(upload)
        except NotFound:
            return True
        except RelayError:
            return False
        return True

    def _may_exist(self, location: Location) -> bool:
        """Return False only if the store answers that the object does not exist."""
        try:
            self.store().head(location)
        except NotFound:
            return False
        except RelayError:
            pass
        return True


class body_from_bytes:  # noqa: N801 - reads as the function that it is used as
    """A Body of bytes in memory, through a socket pair; it breaks off after `until` bytes."""

    def __init__(
        self,
        data: bytes,
        meter: Watchdog,
        framing: Framing = Framing.LENGTH,
        until: int | None = None,
    ) -> None:
        self._data, self._meter, self._framing = data, meter, framing
        self._until = len(data) if until is None else until

    def __enter__(self) -> Body:
        ours, theirs = socket.socketpair()
        self._feeder = gevent.socket.socket(fileno=theirs.detach())
        self._job = gevent.spawn(self._feed)
        self._stream = Stream(ours, "source")
        fields = (
            (("Content-Length", str(len(self._data))),) if self._framing is Framing.LENGTH else ()
        )
        self.body = Body(
            self._stream,
            self._framing,
            Head(200, "OK", "1.1", fields),
            self._meter,
            lambda stream, reusable: stream.close(),
        )
        return self.body

    def __exit__(self, *_: object) -> None:
        self.body.close()
        self._stream.close()
        self._job.kill()
        self._feeder.close()

    def _feed(self) -> None:
        with suppress(OSError):
            self._feeder.sendall(self._data[: self._until])
            self._feeder.shutdown(socket.SHUT_WR)
