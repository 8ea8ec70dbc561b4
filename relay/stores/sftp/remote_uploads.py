"""A file on an SFTP server as a destination: written under a temporary name, then renamed.

Theory of operation. The bytes go to a `.relay-….part` in the folder of the final file. Several
WRITEs are outstanding, in the order of their bytes, and of each only its length is kept. Then the
file gets its time of modification, is synced (`fsync@openssh.com`), and closed. To publish it, it
is renamed over the old file (`posix-rename@openssh.com`), or, where nothing may be replaced, linked
to its final name (`hardlink@openssh.com`), which fails if the name exists. A server without links
renames as version 3 does, which most servers refuse for a name that exists, after a look. A crash
at any moment leaves the old file or the new one. A symbolic link at the final name is followed: its
target is replaced, and the new file keeps the target's mode.

Decided here: the order of an upload. Never here: how requests travel (`sftp_session.py`)."""

from __future__ import annotations

import posixpath
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal, InvalidOperation
from typing import Final

from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    Leftover,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    RelayError,
    Side,
    StoreError,
    StoreTimeout,
    Unavailable,
)
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import PutResult, temporary_name
from relay.stores.local_upload import UNDATED, UNSAFE
from relay.stores.metadata import DATED_SECONDS, MTIME
from relay.stores.sftp.account import SftpAccount, path_of_file
from relay.stores.sftp.packets import (
    CREATE,
    EXCLUSIVE,
    LINK,
    MOST_SECONDS,
    RENAME,
    SYNC,
    WRITE,
    FileAttributes,
    PacketKind,
    StatusCode,
    number_64,
    text,
)
from relay.stores.sftp.remote_files import (
    RemoteFiles,
    location_at,
    require_file,
    version_of_attributes,
)
from relay.stores.sftp.sftp_connections import SftpConnections
from relay.stores.sftp.sftp_session import Reply
from relay.wire.body import Body
from relay.wire.buffers import BUFFERS
from relay.wire.exchange import Wire
from relay.wire.http1 import Fields
from relay.wire.pump import fill
from relay.wire.watchdog import Watchdog

WINDOW_BYTES: Final = 4 << 20
"""Maximum number of bytes of one file that are written and not acknowledged."""
SYNC_SECONDS: Final = 600.0
"""How long a server may take to bring a file to its disk."""
DROP_SECONDS: Final = 2.0
"""How long the close of a failed upload is waited for."""
UNLINKED: Final = "makes-no-links"
"""What is learned of a server whose file system has no hard links."""
_REPLACE: Final = (
    "The server has no posix-rename@openssh.com, so a file can't be replaced in one step. Use"
    " 'if_exists': 'skip', or delete the old file."
)
_PRIVATE: Final = 0o600
_REFUSED: Final = (NotFound, PermissionDenied, PreconditionFailed, Rejected, Unavailable)
"""Errors of a file that was certainly not created."""


class RemoteUploads:
    """Uploads to one account, for one transfer."""

    def __init__(
        self,
        connections: SftpConnections,
        account: SftpAccount,
        wire: Wire,
        side: Side,
        meter: Watchdog,
    ) -> None:
        self._connections, self._account, self._wire = connections, account, wire
        self._side, self._meter = side, meter

    @property
    def side(self) -> Side:
        """The side that failures name."""
        return self._side

    def put(
        self, location: Location, body: Body, metadata: Fields, if_absent: bool, token: str | None
    ) -> PutResult:
        """As Destination.put, without a check of the metadata. Makes missing folders. If the file
        can't be created, the body is not read at all."""
        what = str(location)
        with self._connections.session(self._account, self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            path, old = files.resolve(path_of_file(location), what)
            if old is not None:
                require_file(old, what, self._side)
                if if_absent:
                    raise PreconditionFailed(f"{what} exists", side=self._side)
            part = _beside(path, token)
            try:
                handle = self._create(files, part, what, private=old is not None)
            except _REFUSED:
                raise
            except BaseException as error:  # its answer may be lost
                self._remove(location_at(location, part), error)
                raise
            upload = OpenedPart(files, handle, path, what)
            try:
                upload.write(body)
                found, notes = upload.finish(body.count, metadata)
            except BaseException as error:
                upload.drop()
                self._remove(location_at(location, part), error)
                raise
        return PutResult(
            version_of_attributes(found),
            location_at(location, part),
            {},
            place=location,
            notes=notes,
        )

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations."""
        if not token:  # the caller only asks if there are staged locations
            return (location_at(location, _beside(path_of_file(location), token)),)
        with self.files() as files:
            return (location_at(location, self.part_path(files, location, token)),)

    def publish(self, stored: PutResult, if_absent: bool, fresh: bool) -> Version:
        """As Destination.publish."""
        assert stored.readable is not None and stored.place is not None, (
            "an upload to publish has both locations"
        )
        part, what = path_of_file(stored.readable), str(stored.place)
        with self._connections.session(self._account, self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            path, old = files.resolve(path_of_file(stored.place), what)
            if posixpath.dirname(path) != posixpath.dirname(part):
                raise Unavailable(
                    f"{what}: since the upload began, its link leads to a different folder",
                    side=self._side,
                )
            if old is not None:
                require_file(old, what, self._side)
                if if_absent or fresh:
                    raise PreconditionFailed(f"{what} exists", side=self._side)
                # Before the rename: at no moment may more users read the new file than the old.
                # A server that keeps no modes (gateways to a cloud) refuses this; the new file then
                # is one that no other user may read.
                if old.mode is not None:
                    with suppress(Rejected, PermissionDenied, Unavailable):
                        files.set_mode(part, stat.S_IMODE(old.mode), what)
            try:
                if if_absent:
                    self._publish_absent(files, part, path, stored.place)
                else:
                    self._replace(files, part, path, what, exists=old is not None)
            except (ConnectionLost, StoreTimeout) as error:
                return self._after_lost_answer(stored, path, part, error)
            return version_of_attributes(files.stat(path, what))

    # -- for an upload in parts

    @contextmanager
    def files(self) -> Iterator[RemoteFiles]:
        """Lend a session for the time of a block."""
        with self._connections.session(self._account, self._side, self._meter) as session:
            yield RemoteFiles(session, self._side, self._meter)

    def part_path(self, files: RemoteFiles, location: Location, token: str) -> bytes:
        """Return the path of a temporary file, past links at the final name."""
        path, _ = files.resolve(path_of_file(location), str(location))
        return _beside(path, token)

    @contextmanager
    def open_part(self, location: Location, token: str) -> Iterator[OpenedPart]:
        """Open the temporary file of an upload for the time of a block; makes it, and missing
        folders, if it does not exist."""
        what = str(location)
        with self.files() as files:
            path, old = files.resolve(path_of_file(location), what)
            if old is not None:
                require_file(old, what, self._side)
            part, mode = _beside(path, token), None if old is None else _PRIVATE
            try:
                handle = files.open_file(part, WRITE, what)
            except NotFound:
                handle = self._make(files, part, what, mode)
            opened = OpenedPart(files, handle, path, what)
            try:
                yield opened
            finally:
                opened.drop()

    def _make(self, files: RemoteFiles, part: bytes, what: str, mode: int | None) -> bytes:
        """Make a temporary file that another part may make too, and return its handle."""
        try:
            return files.open_file(part, WRITE | CREATE, what, mode=mode)
        except NotFound:
            folder = posixpath.dirname(part)
            if not folder:
                raise
            files.make_folder(folder, what)
            return files.open_file(part, WRITE | CREATE, what, mode=mode)

    # -- the steps of `put`

    def _create(self, files: RemoteFiles, part: bytes, what: str, *, private: bool) -> bytes:
        """Create the temporary file, and return its handle; makes missing folders. An earlier
        attempt may have left a file of that name, which it could not delete: it is ours. Until a
        `private` one gets the mode of the file that it replaces, no other user may read it."""
        flags, mode = WRITE | CREATE | EXCLUSIVE, _PRIVATE if private else None
        folder = posixpath.dirname(part)
        for is_last in (False, False, True):
            try:
                return files.open_file(part, flags, what, mode=mode)
            except NotFound:
                if is_last or not folder:
                    raise
                files.make_folder(folder, what)
            except (Unavailable, PreconditionFailed) as error:
                if is_last or files.find(part, what) is None:
                    raise files.full_error(error, folder or b".", 1) from None
                files.remove(part, what)
        raise AssertionError("the last round returns or raises")

    def _remove(self, part: Location, error: BaseException) -> None:
        """Delete the temporary file of a failed upload, with a deadline of its own, by another
        session if that one has ended. If it fails, `error` names what remains."""
        try:
            meter = Watchdog(self._wire.limits)
            with self._connections.session(self._account, self._side, meter) as session:
                files = RemoteFiles(session, self._side, meter)
                files.remove(path_of_file(part), str(part))
        except NotFound:
            return
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.leave(Leftover.PARTIAL, part, failure.message)

    # -- the steps of `publish`

    def _replace(
        self, files: RemoteFiles, part: bytes, path: bytes, what: str, *, exists: bool
    ) -> None:
        """Rename over what is there. Raises Rejected where the server can't replace a file."""
        if files.session.can(RENAME):
            return files.rename_over(part, path, what)
        if exists:
            raise Rejected(
                f"{what} exists, and the server can't replace it", side=self._side, hint=_REPLACE
            )
        files.rename(part, path, what)

    def _publish_absent(
        self, files: RemoteFiles, part: bytes, path: bytes, place: Location
    ) -> None:
        """Give the file its name, unless that exists. Raises PreconditionFailed."""
        memory, origin, what = self._wire.memory, place.origin, str(place)
        if files.session.can(LINK) and not memory.has(origin, UNLINKED):
            try:
                files.link(part, path, what)
            except _REFUSED:  # a lost answer says nothing: the name may be our own link
                if files.find(path, what) is not None:
                    raise PreconditionFailed(f"{what} exists", side=self._side) from None
                memory.learn(origin, UNLINKED)
            else:
                reach("mid-publish")
                return files.remove(part, what)
        try:
            files.rename(part, path, what)
        except (Unavailable, PreconditionFailed) as error:
            if files.find(path, what) is not None:
                raise PreconditionFailed(f"{what} exists", side=self._side) from None
            raise error from None

    def _after_lost_answer(
        self, stored: PutResult, path: bytes, part: bytes, error: StoreError
    ) -> Version:
        """Return the version of the published file, if the server renamed it and only its answer
        was lost; else raise `error`."""
        what = str(stored.place)
        try:
            with self._connections.session(self._account, self._side, self._meter) as session:
                files = RemoteFiles(session, self._side, self._meter)
                gone = files.find(part, what) is None
                found = files.find(path, what) if gone else None
        except StoreError:
            raise error from None
        if found is None or version_of_attributes(found).etag != stored.version.etag:
            raise error from None
        return version_of_attributes(found)


def _beside(path: bytes, token: str | None) -> bytes:
    """Return the path of the temporary file of an upload to a path."""
    return posixpath.join(posixpath.dirname(path), temporary_name(token).encode())


class OpenedPart:
    """A temporary file that is open, and the bytes on their way into it."""

    def __init__(self, files: RemoteFiles, handle: bytes, path: bytes, what: str) -> None:
        self._files, self._handle, self._path, self._what = files, handle, path, what
        self._is_open = True
        self._waiting: deque[tuple[int, Reply]] = deque()
        self._under_way = 0

    def write(self, body: Body, at: int = 0) -> None:
        """Write the whole body from byte `at` on, and wait until the server has taken all of it.
        Raises the body's errors, and StoreError."""
        session, limits = self._files.session, self._files.meter.limits
        size = min(session.sizes.write, limits.buffer_bytes)
        ahead = session.account.options.writes_ahead
        while True:
            with BUFFERS.lend(size) as view:
                piece = view[: fill(body, view)]
                if piece:
                    reply = session.send(
                        PacketKind.WRITE,
                        text(self._handle) + number_64(at) + len(piece).to_bytes(4, "big"),
                        self._files.meter,
                        self._files.side,
                        data=piece,
                    )
                    at += len(piece)
                    self._under_way += len(piece)
                    self._waiting.append((len(piece), reply))
            self._settle(WINDOW_BYTES if ahead and not body.complete else 0)
            if body.complete:
                return
            if body.remaining:
                reach("mid-part")

    def close(self) -> None:
        """Close the file. Raises StoreError: a quota may show only now."""
        self._is_open = False
        self._settle_one(self._files.close_later(self._handle))

    def drop(self) -> None:
        """Close the file, if it is open, and wait a moment for that: a server may write a file that
        was removed when its handle is closed (`rclone serve sftp`)."""
        if self._is_open:
            self._is_open = False
            files = self._files
            with suppress(RelayError):
                reply = files.close_later(self._handle)
                files.session.wait(reply, files.meter, files.side, DROP_SECONDS)

    def finish(self, size: int, metadata: Fields) -> tuple[FileAttributes, tuple[str, ...]]:
        """Set the time of modification, sync, and close the file. Return its attributes, and notes
        on what could not be done. Raises IntegrityMismatch if it has another size."""
        files, changed = self._files, dict(metadata).get(MTIME)
        notes: tuple[str, ...] = ()
        modified = _seconds(changed)
        times = None if modified is None else files.send_times(self._handle, modified)
        sync = files.send_sync(self._handle) if files.session.can(SYNC) else None
        stats = files.send_stat_of(self._handle)
        if times is not None:
            with suppress(StoreError):  # the attributes below show it
                files.settle(times, self._what)
        if sync is None or not self._has_synced(sync):
            notes += (UNSAFE,)
        found = files.attributes(stats, self._what)
        self.close()
        if found.size is not None and found.size != size:
            raise IntegrityMismatch(
                f"{self._what} has {found.size} bytes on the server, {size} were written",
                side=files.side,
            )
        dated = found.modified is not None and modified is not None
        if changed is not None and not (
            dated and abs((found.modified or 0) - (modified or 0)) <= DATED_SECONDS
        ):
            notes += (UNDATED,)
        return found, notes

    def _has_synced(self, sync: Reply) -> bool:
        """Return whether the file is on the disk; False if the server can't do that."""
        self._files.session.wait(sync, self._files.meter, self._files.side, SYNC_SECONDS)
        status = self._files.session.status(sync, self._files.side)
        if status.code == StatusCode.OP_UNSUPPORTED:
            return False
        self._settle_one(sync)
        return True

    def _settle(self, most: int) -> None:
        """Wait until at most `most` bytes are not acknowledged. Raises StoreError."""
        while self._under_way > most or (self._waiting and self._waiting[0][1].is_here):
            length, reply = self._waiting.popleft()
            self._settle_one(reply)
            self._under_way -= length

    def _settle_one(self, reply: Reply) -> None:
        try:
            self._files.settle(reply, self._what)
        except Unavailable as error:
            folder = posixpath.dirname(self._path) or b"."
            raise self._files.full_error(error, folder, self._files.session.sizes.write) from None


def _seconds(changed: str | None) -> int | None:
    """Return a time of modification in whole seconds; None if the protocol can't express it."""
    try:
        seconds = int(Decimal(changed or "").to_integral_value("ROUND_FLOOR"))
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds <= MOST_SECONDS else None
