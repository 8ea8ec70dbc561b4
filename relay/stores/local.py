"""Local folders as stores: for the command, and for servers whose operator allowed some folders.

Theory of operation. A file is read through a Body, like a socket (`local_files.py`). An upload is
written to a temporary file, which is renamed after it was verified (`local_upload.py`).
`local_folders.py` opens every path afresh, below the allowed folders in its Location: a path that
was allowed when a migration was accepted may be a link out of them hours later. Calls that may wait
for a disk, or for the server behind a mount, run in a native thread.

Decided here: what the file system's errors mean, and the order of work. Never here: which paths are
Locations (`local_locations.py`), and which folders are allowed (`stores/remotes.py`). These modules
are the only part of relay that writes payload to a disk, because a local folder is the destination
that the user chose (law 8)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from relay.errors import (
    LocalDenied,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    RelayError,
    ReservedKey,
    Side,
    SourceChanged,
    StoreFull,
    Unavailable,
)
from relay.location import Location
from relay.process.failpoints import reach
from relay.process.native_threads import close_descriptor, in_native_thread
from relay.receipt import Version
from relay.stores import local_upload as upload
from relay.stores.file_bodies import body_of
from relay.stores.interfaces import (
    PREFIX,
    SUFFIX,
    ByteRange,
    Deletion,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    PartLimits,
    PutResult,
    temporary_name,
)
from relay.stores.local_areas import area_of, area_of_path
from relay.stores.local_deletes import (
    RefusedFile,
    remove_version,
    require_deletable_folder,
)
from relay.stores.local_files import (
    UTF_8,
    FileStream,
    metadata_of,
    names_in,
    open_settled,
    scan_folder,
    stat_regular,
    still_listed,
    version_of,
)
from relay.stores.local_locations import folders_of, path_of
from relay.stores.metadata import MTIME, require, unkept_notes
from relay.stores.version_checks import require_pinnable
from relay.wire.body import Body
from relay.wire.buffers import BUFFERS
from relay.wire.exchange import Wire
from relay.wire.pump import fill
from relay.wire.watchdog import Watchdog

T = TypeVar("T")
_NO_NAME = (
    "The file system does not allow this name (exFAT, NTFS and SMB refuse ':', '?', '*', '|'):"
    " rename the object."
)
_NO_OPERATION = (
    "The mount lacks an operation (AWS's Mountpoint for S3 renames nothing): name the store itself,"
    " as s3://."
)
_OWN = "Everything else moves. SQLite's own `.backup` copies a ledger that is open."
ERRORS: Mapping[int, tuple[type[RelayError], str | None]] = {
    errno.ENOENT: (NotFound, "Check the path; a URL begins with its scheme, as https:// or s3://."),
    errno.ENOTDIR: (
        Rejected,
        (
            "A part of the path is a file, not a folder: leave out -r for one file, or rename one"
            " of the two."
        ),
    ),
    errno.EACCES: (PermissionDenied, "Check the permissions of the file and of its folder."),
    errno.EPERM: (PermissionDenied, "Check the permissions of the file and of its folder."),
    errno.EROFS: (PermissionDenied, "The file system is mounted read-only."),
    errno.EISDIR: (
        Rejected,
        (
            "It is a folder; name one object, move all of it (-r, `recursive`), or end a"
            " destination with '/'."
        ),
    ),
    errno.ENOSPC: (StoreFull, None),
    errno.EDQUOT: (StoreFull, None),
    errno.EFBIG: (Rejected, "The file system does not allow a file of this size."),
    errno.ENAMETOOLONG: (Rejected, "Choose a shorter name."),
    errno.EINVAL: (Rejected, _NO_NAME),
    errno.EILSEQ: (Rejected, _NO_NAME),
    errno.ELOOP: (Rejected, "The path leads through a loop of symbolic links."),
    errno.EEXIST: (PreconditionFailed, None),
    errno.ENXIO: (
        Rejected,
        "Name a file: relay does not read or write pipes, sockets and devices.",
    ),
    errno.EXDEV: (LocalDenied, None),
    errno.ETXTBSY: (ReservedKey, _OWN),
    errno.ENOSYS: (Rejected, _NO_OPERATION),
    errno.EOPNOTSUPP: (Rejected, _NO_OPERATION),
}
"""The error and hint of each errno. Any other errno (EIO, EMFILE) is Unavailable, and retryable."""


SCANNED = 1000
"""Number of a folder's names that become entries in one call."""


class LocalStore:
    """Local folders, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self._side, self._meter, self._limits = side, meter, wire.limits

    # -- both roles

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head."""
        with self._as_relay_errors(location):
            found, version = _run(
                location, partial(stat_regular, folders_of(location), path_of(location))
            )
        return ObjectInfo(
            version, location, metadata=metadata_of(found), ranges=version.size is not None
        )

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. Only regular files: a pipe or a device may have no end."""
        path = path_of(location)
        # A destination's file was written by relay just now: no other process changes it.
        settled = self._side == "source"
        with self._as_relay_errors(location):
            opened = _run(
                location, partial(open_settled, folders_of(location), path, settled=settled)
            )
        descriptor, found, version = opened
        # A mount may change the time of a temporary file when it is closed (`rclone mount`). Its
        # bytes are compared, and only relay writes there.
        known = None if pinned is None or (not settled and _is_unpublished(path)) else pinned.etag
        if known not in (None, version.etag):
            close_descriptor(descriptor)
            raise SourceChanged(f"{location} is a different version now", side=self._side)
        first, length = (span.first, span.length) if span else (0, version.size)
        area = area_of(location)
        stream = FileStream(descriptor, self._side, version, first, whole=span is None, area=area)
        body = body_of(stream, length, self._meter)
        return OpenedObject(
            version,
            location,
            metadata=metadata_of(found),
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
        """As Source.list, ordered by name. Links to files are followed. Links to folders, pipes and
        devices can't be moved: they are entries with an error."""
        root, waiting = path_of(location), [""]
        while waiting:
            folder = waiting.pop()
            try:
                # Names of entries are UTF-8; a path is in the system's own encoding.
                for entry in self._folder_entries(
                    location, root / os.fsdecode(folder.encode(*UTF_8))
                ):
                    entry = entry.below(folder)
                    if entry.folder and recursive:
                        if enters is None or enters(entry.name):
                            waiting.append(entry.name)
                    else:
                        yield entry
            except (OSError, RelayError) as error:
                if isinstance(error, RelayError) and error.side == "relay":
                    raise  # it is not the folder's
                where = f"{location}{folder}"
                failed = self._to_relay_error(error, where) if isinstance(error, OSError) else error
                if not folder:
                    raise failed from None
                yield Entry(folder, error=failed)

    def _folder_entries(self, location: Location, folder: Path) -> Iterator[Entry]:
        """Yield the entries of one folder, ordered by name, and last those that could not be found
        at first. A name that was removed meanwhile is left out. Raises OSError, and RelayError."""
        folders = folders_of(location)
        area = area_of_path(folder, folders)
        descriptor, names = in_native_thread(partial(names_in, folders, folder), area)
        failed, side = self._to_relay_error, self._side
        scan = partial(scan_folder, folders, folder, descriptor, failed=failed, side=side)
        missing: list[str] = []
        try:
            while some := list(islice(names, SCANNED)):
                yield from in_native_thread(partial(scan, some, missing=missing), area)
            if missing:
                some = in_native_thread(partial(still_listed, descriptor, missing), area)
                yield from in_native_thread(partial(scan, some), area)
        finally:
            close_descriptor(descriptor)

    # -- destination

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: `publish` creates the name, or fails if it
        exists."""
        return True

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: a broken upload has a temporary name."""
        return True

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits: a file has no multipart uploads."""
        return None

    def unkept_metadata(
        self, location: Location, metadata: tuple[tuple[str, str], ...]
    ) -> tuple[str, ...]:
        """As Destination.unkept_metadata: a file keeps its name, its time of modification, and its
        bytes."""
        return (
            *_content_coding_note(metadata),
            *unkept_notes(metadata, lambda name: name == "content-encoding", location, "a file"),
        )

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: local bytes are copied like any others."""
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
        """As Destination.put. The file has a temporary name until `publish`. Makes missing folders.

        If the file can't be created, the body is not read at all."""
        lost = self.unkept_metadata(location, metadata)
        require(metadata, location, lost)
        name, changed = temporary_name(token), dict(metadata).get(MTIME)
        with self._as_relay_errors(location):
            begin = partial(upload.begin, folders_of(location), path_of(location), name)
            part = _run(location, partial(begin, if_absent=if_absent))
        try:
            found, notes = self._write(location, part, body, changed)
        except BaseException:
            _run(location, partial(upload.abandon, part))
            raise
        part.close()
        return PutResult(
            version_of(found), self._at(location, part.path), {}, place=location, notes=lost + notes
        )

    def _write(
        self, location: Location, part: upload.TemporaryFile, body: Body, changed: str | None
    ) -> tuple[os.stat_result, tuple[str, ...]]:
        """Write the whole body; return as `upload.finish`. Raises the body's errors, and relay's
        errors for those of the file system."""
        area = area_of(location)
        while True:
            with BUFFERS.lend(self._limits.buffer_bytes) as view:
                piece = view[: fill(body, view)]
                with self._as_relay_errors(location):
                    if body.complete:
                        return in_native_thread(partial(upload.finish, part, piece, changed), area)
                    in_native_thread(partial(upload.write, part, piece), area)
            if body.remaining:
                reach("mid-part")

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations."""
        path = path_of(location)
        if token:  # without one the caller only asks if there are staged locations
            with self._as_relay_errors(location):
                path = _run(location, partial(folders_of(location).target, path))
        name = temporary_name(token)
        return (
            self._at(location, path.with_name(name)),
            self._at(location, path.with_name(upload.note_of(name))),
        )

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: by a rename, or with `if_absent` by a hard link, then an fsync of
        the folder. The rename replaces an object that appears within that moment."""
        assert stored.readable is not None and stored.place is not None, (
            "an upload to publish has both locations"
        )
        which = (folders_of(stored.place), path_of(stored.readable), path_of(stored.place))
        with self._as_relay_errors(stored.place):
            if not if_absent:
                rename = partial(upload.replace, fresh=fresh)
                replace_file = partial(upload.retry_unnamed, rename, *which)
                return version_of(_run(stored.place, replace_file))
            linked = _run(stored.place, partial(upload.retry_unnamed, upload.link, *which))
            reach("mid-publish")
            return version_of(_run(stored.place, partial(upload.settle, *which, linked=linked)))

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete."""
        folders, path = folders_of(location), path_of(location)
        with self._as_relay_errors(location), suppress(FileNotFoundError):
            if location.path.endswith("/"):
                # A folder that relay made; it must be empty.
                return _run(location, partial(upload.remove_folder, folders, path))
            # A temporary name is always relay's own, whatever its version.
            known = None if _is_unpublished(path) else version.etag
            is_ours = lambda found: known in (None, version_of(found).etag)  # noqa: E731
            if not _run(location, partial(upload.remove, folders, path, is_ours)):
                raise PreconditionFailed(f"{location} is a different version now", side=self._side)

    # -- as a source that is moved

    def deletes_conditionally(self, location: Location) -> bool:
        """As DeletingSource.deletes_conditionally: no system call compares a file."""
        return False

    def require_deletes(self, folder: Location) -> None:
        """As DeletingSource.require_deletes."""
        check = partial(require_deletable_folder, folders_of(folder), path_of(folder))
        with self._as_relay_errors(folder):
            _run(folder, check)

    def delete_version(
        self, location: Location, version: Version, *, purge: bool = False
    ) -> Deletion:
        """As DeletingSource.delete_version; a file has no versions to purge."""
        require_pinnable(location, version, self._side)
        remove = partial(remove_version, folders_of(location), path_of(location), version)
        try:
            with self._as_relay_errors(location):
                there = _run(location, remove)
        except RefusedFile as refusal:
            raise Rejected(f"{location}: {refusal}", side=self._side) from None
        if there is not None:
            raise PreconditionFailed(f"{location} is a different version now", side=self._side)
        return Deletion(window=True)

    @staticmethod
    def _at(location: Location, path: Path) -> Location:
        """Return the Location of a path, with the same allowed folders."""
        return Location("file", "", 0, quote(os.fsencode(path), safe="/"), account=location.account)

    # -- errors

    @contextmanager
    def _as_relay_errors(self, location: Location) -> Iterator[None]:
        """Turn the operating system's errors into relay's."""
        try:
            yield
        except OSError as error:
            raise self._to_relay_error(error, str(location)) from None

    def _to_relay_error(self, error: OSError, what: str) -> RelayError:
        kind, hint = ERRORS.get(error.errno or 0, (Unavailable, None))
        return kind(f"{what}: {error.strerror or error}", side=self._side, hint=hint)


def _run(location: Location, do: Callable[[], T]) -> T:
    """Run a call about a location in a native thread of its area."""
    return in_native_thread(do, area_of(location))


def _is_unpublished(path: Path) -> bool:
    return path.name.startswith(PREFIX) and path.name.endswith(SUFFIX)


def _content_coding_note(metadata: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Return the note that the file's bytes are still in a content coding, if they are."""
    coding = next((value for name, value in metadata if name.lower() == "content-encoding"), None)
    if coding is None:
        return ()
    return (f"the file has the bytes as received, in the content coding {coding}",)
