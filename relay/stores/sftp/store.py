"""SFTP servers as stores.

Theory of operation. The bytes go through OpenSSH's `ssh` (`ssh_child.py`), with the user's own
settings, keys and known hosts; the protocol is relay's own (`sftp_session.py`). A file is read like
a socket (`remote_reads.py`). An upload has a temporary name until it was verified
(`remote_uploads.py`). The protocol has no digest, so every object is read back.

Decided here: which of the store's parts does what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from relay.digest import Digests
from relay.errors import NotFound, PreconditionFailed, RelayError, Side, SourceChanged
from relay.location import Location
from relay.receipt import Version
from relay.stores.file_bodies import body_of
from relay.stores.interfaces import (
    Begins,
    ByteRange,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    Part,
    PartLimits,
    PutResult,
    Upload,
    is_temporary_name,
)
from relay.stores.metadata import require, unkept_notes
from relay.stores.sftp.account import SftpAccount, path_of_file
from relay.stores.sftp.folder_listing import FolderListing
from relay.stores.sftp.packets import LINK, READ
from relay.stores.sftp.remote_files import (
    RemoteFiles,
    metadata_of_attributes,
    require_file,
    version_of_attributes,
)
from relay.stores.sftp.remote_links import refuse_links_below, refuse_one_place
from relay.stores.sftp.remote_parts import PARTS, RemoteParts
from relay.stores.sftp.remote_reads import RemoteFileStream
from relay.stores.sftp.remote_uploads import UNLINKED, RemoteUploads
from relay.stores.sftp.sftp_connections import connections_of
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog


class SftpStore:
    """One SFTP server, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self._wire, self._side, self._meter = wire, side, meter
        self._connections = connections_of(wire)

    # -- both roles

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head."""
        what = str(location)
        with self._connections.session(_account(location), self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            found = require_file(files.stat(path_of_file(location), what), what, self._side)
        version = version_of_attributes(found)
        return ObjectInfo(
            version,
            location,
            metadata=metadata_of_attributes(found),
            ranges=version.size is not None,
        )

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. Only regular files: a pipe or a device may have no end."""
        what, path = str(location), path_of_file(location)
        session = self._connections.take(_account(location), self._side, self._meter)
        files = RemoteFiles(session, self._side, self._meter)
        handle = None
        try:
            handle = files.open_file(path, READ, what)
            found = require_file(
                files.attributes(files.send_stat_of(handle), what), what, self._side
            )
            version = version_of_attributes(found)
            # A destination's temporary file was written by relay just now; its bytes are compared.
            unpublished = self._side == "destination" and is_temporary_name(location.name)
            known = None if pinned is None or unpublished else pinned.etag
            if known not in (None, version.etag):
                raise SourceChanged(f"{what} is a different version now", side=self._side)
        except BaseException:
            if handle is not None:
                with suppress(RelayError):
                    session.abandon(files.close_later(handle))
            self._connections.give(session)
            raise
        first, end = (span.first, span.last + 1) if span else (0, version.size)
        stream = RemoteFileStream(
            files,
            handle,
            version,
            what,
            first=first,
            end=end,
            give_back=lambda: self._connections.give(session),
        )
        body = body_of(stream, None if end is None else end - first, self._meter)
        return OpenedObject(
            version,
            location,
            metadata=metadata_of_attributes(found),
            body=body,
            ranges=version.size is not None,
        )

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list, in the server's order."""
        listing = FolderListing(self._connections, _account(location), self._side, self._meter)
        return listing.entries(location, recursive, enters)

    # -- destination

    def refuse_links(
        self, location: Location, source: Location, tree: tuple[Location, Location] | None
    ) -> None:
        """As LinkingDestination.refuse_links: any link below the tree. One object alone may be
        written through a link."""
        with self._connections.session(_account(location), self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            if tree is not None:
                refuse_links_below(files, location, tree[1])
            refuse_one_place(files, *(tree or (source, location)))

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: a hard link is made, or fails if the name
        exists."""
        account = _account(location)
        try:
            with self._connections.session(account, self._side, self._meter) as session:
                can_link = session.can(LINK)
        except RelayError:
            return False
        return can_link and not self._wire.memory.has(location.origin, UNLINKED)

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: a broken upload has a temporary name."""
        return True

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits."""
        return PARTS if self._parts(location).takes_parts(location) else None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: a file keeps its name, its time of modification, and its
        bytes."""
        return unkept_notes(metadata, lambda name: False, location, "a file")

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: relay moves the bytes."""
        return False

    def put(
        self,
        location: Location,
        body: Body,
        metadata: Fields = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
        begins: Begins | None = None,
    ) -> PutResult:
        """As PartsDestination.put. The file has a temporary name until `publish`. Makes missing
        folders. One request takes a body of any length."""
        lost = self.unkept_metadata(location, metadata)
        require(metadata, location, lost)
        stored = self._uploads(location).put(location, body, metadata, if_absent, token)
        return replace(stored, notes=lost + stored.notes)

    # -- uploads in parts

    def begin(self, location: Location, metadata: Fields = ()) -> Upload:
        """As PartsDestination.begin."""
        require(metadata, location, self.unkept_metadata(location, metadata))
        return self._parts(location).begin(location, metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        return self._parts(upload.location).put_part(upload, number, body)

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts."""
        return self._parts(upload.location).stored_parts(upload)

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """As PartsDestination.complete. The file has its temporary name until `publish`."""
        lost = self.unkept_metadata(upload.location, upload.described)
        stored = self._parts(upload.location).complete(upload, parts, if_absent=if_absent)
        return replace(stored, notes=lost + stored.notes)

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads: empty, since `begin` sends nothing."""
        return ()

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort."""
        self._parts(upload.location).abort(upload)

    def _parts(self, location: Location) -> RemoteParts:
        return RemoteParts(self._uploads(location), self._wire.memory)

    # -- publication

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations."""
        return self._uploads(location).staged_locations(location, token)

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: by a rename, or with `if_absent` by a hard link."""
        assert stored.place is not None, "an upload to publish has its place"
        return self._uploads(stored.place).publish(stored, if_absent, fresh)

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete."""
        what, path = str(location), path_of_file(location)
        with self._connections.session(_account(location), self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            with suppress(NotFound):
                if location.path.endswith("/"):
                    # A folder that relay made; it must be empty.
                    return files.remove_folder(path, what)
                if is_temporary_name(location.name):
                    # It is always relay's own, whatever its version; a link there is not followed.
                    return files.remove(path, what)
                path, found = files.resolve(path, what)
                if found is None:
                    return
                if version.etag not in (None, version_of_attributes(found).etag):
                    raise PreconditionFailed(f"{what} is a different version now", side=self._side)
                require_file(found, what, self._side)
                files.remove(path, what)

    def _uploads(self, location: Location) -> RemoteUploads:
        return RemoteUploads(
            self._connections, _account(location), self._wire, self._side, self._meter
        )


def _account(location: Location) -> SftpAccount:
    account = location.account
    assert isinstance(account, SftpAccount), "a location of this store has its account"
    return account
