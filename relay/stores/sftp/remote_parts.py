"""A large file on an SFTP server in parts, so that an upload resumes after a crash.

Theory of operation. All parts have one length, so the number of a part is its place in the file.
They are written into one temporary file, `.relay-<upload>.part`, in any order and by several
sessions; the file may have holes meanwhile. Which parts are whole only the ledger knows: it records
a part once each of its WRITEs was acknowledged. The server shows the length of the file, and so
which parts it can't have. The complete file is synced, and read back before it gets its name: also
parts that a server lost are noticed.

Decided here: parts. Never here: the temporary name's end (`remote_uploads.py`)."""

from __future__ import annotations

import uuid
from typing import Final

from relay.errors import (
    Locked,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeIgnored,
    Rejected,
    RelayError,
    StoreFull,
    Unavailable,
    UploadGone,
)
from relay.location import Location
from relay.stores.interfaces import Part, PartLimits, PutResult, Upload
from relay.stores.sftp.account import path_of_file
from relay.stores.sftp.remote_files import RemoteFiles, version_of_attributes
from relay.stores.sftp.remote_uploads import RemoteUploads
from relay.wire.body import Body
from relay.wire.capabilities import CapabilityCache
from relay.wire.http1 import Fields

PART_BYTES: Final = 16 << 20
IN_ORDER: Final = "writes-files-in-order"
SEEKS: Final = "writes-files-anywhere"
"""What is learned of a server that refused a part, and of one that took some."""
PARTS: Final = PartLimits(PART_BYTES, PART_BYTES, 1 << 20, PART_BYTES << 20)
"""One length of all parts; RELAY_PART_BYTES does not change it."""


class RemoteParts:
    """Multipart uploads to one account, for one transfer."""

    def __init__(self, uploads: RemoteUploads, memory: CapabilityCache) -> None:
        self._uploads, self._memory = uploads, memory

    def begin(self, location: Location, metadata: Fields) -> Upload:
        """As PartsDestination.begin. Nothing is sent, so nothing can be left before the ledger has
        the upload's name."""
        return Upload(location, uuid.uuid4().hex, checked=False, described=metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part. The first part makes the file, and missing folders. Raises
        RangeIgnored if the server seems to write files only from their beginning."""
        at = (number - 1) * PART_BYTES
        try:
            with self._uploads.open_part(upload.location, upload.id) as opened:
                opened.write(body, at)
                opened.close()
        except (Unavailable, Rejected, PermissionDenied) as error:
            self._note_refusal(upload.location, at, error)
            raise
        if at:
            self._memory.learn(upload.location.origin, SEEKS)
        return Part(number, body.count, _tag_of(number), checked=False)

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts: those that the file is long enough for."""
        with self._uploads.files() as files:
            size = self._size(files, upload)
        numbers = range(1, -(-size // PART_BYTES) + 1)
        return tuple(
            Part(
                number,
                min(PART_BYTES, size - (number - 1) * PART_BYTES),
                _tag_of(number),
                checked=False,
            )
            for number in numbers
        )

    def complete(self, upload: Upload, parts: tuple[Part, ...], *, if_absent: bool) -> PutResult:
        """As PartsDestination.complete. The file has its temporary name until `publish`."""
        place, uploads = upload.location, self._uploads
        with uploads.files() as files:
            _, old = files.resolve(path_of_file(place), str(place))
            if if_absent and old is not None:
                raise PreconditionFailed(f"{place} exists", side=files.side)
            size, wanted = self._size(files, upload), sum(part.size for part in parts)
        if size != wanted:
            raise UploadGone(
                f"the parts of {place} have {size} bytes on the server, {wanted} were written",
                side="destination",
            )
        with uploads.open_part(place, upload.id) as opened:
            found, notes = opened.finish(wanted, upload.described)
        part = uploads.staged_locations(place, upload.id)[0]
        return PutResult(version_of_attributes(found), part, {}, place=place, notes=notes)

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort: removes the temporary file."""
        with self._uploads.files() as files:
            part = self._uploads.part_path(files, upload.location, upload.id)
            try:
                files.remove(part, str(upload.location))
            except NotFound:
                return

    def takes_parts(self, location: Location) -> bool:
        """Return whether the server may write a file at any place."""
        return not self._memory.has(location.origin, IN_ORDER)

    def _note_refusal(self, location: Location, at: int, error: RelayError) -> None:
        """Raise RangeIgnored if a part was refused that does not begin the file, and the server has
        taken none so far: gateways to a cloud, and `rclone serve sftp`, write files in order."""
        origin = location.origin
        is_of_server = error.side == self._uploads.side and not isinstance(
            error, Locked | StoreFull
        )
        if not at or not is_of_server or self._memory.has(origin, SEEKS):
            return
        self._memory.learn(origin, IN_ORDER)
        raise RangeIgnored(
            f"the server takes no part of {location} out of order: {error.message}",
            side=error.side,
        ) from None

    def _size(self, files: RemoteFiles, upload: Upload) -> int:
        """Return the length of the temporary file. Raises UploadGone, which is a NotFound."""
        part = self._uploads.part_path(files, upload.location, upload.id)
        found = files.find(part, str(upload.location))
        if found is None or not found.is_file or found.size is None:
            raise UploadGone(
                f"the temporary file of {upload.location} no longer exists", side=files.side
            )
        return found.size


def _tag_of(number: int) -> str:
    return f'"{number}"'
