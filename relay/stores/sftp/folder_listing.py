"""List the folders of an SFTP server.

Theory of operation. Each folder is one handle, from which READDIR after READDIR takes names with
their attributes, in the order of the server. (Several at once would be faster, but a server that
handles them at the same time might skip names.) The folder is complete once the server has answered
with the end. A link's attributes are those of the link, so what it leads to is asked for, for all
links of a reply at once. A link to a file is that file; a link to a folder is not followed.

Decided here: which names are entries. Never here: the order of folders (`folder_walk.py`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import Final

from relay.errors import ProtocolViolation, RelayError, Side, StoreError, Unsupported
from relay.location import Location
from relay.parsing import moment
from relay.stores.folder_walk import walk_folders
from relay.stores.interfaces import Enters, Entry, is_temporary_name, reject_temporary_name
from relay.stores.listing_retries import ListingRetries
from relay.stores.local_files import UTF_8
from relay.stores.sftp.account import HOME, SftpAccount, path_of_file
from relay.stores.sftp.packets import FileAttributes
from relay.stores.sftp.remote_files import (
    RemoteFiles,
    special_kind,
    version_of_attributes,
)
from relay.stores.sftp.sftp_connections import SftpConnections
from relay.stores.sftp.sftp_session import Reply
from relay.wire.watchdog import Watchdog

EMPTY: Final = 100
"""Maximum number of replies without a name in a row."""


class FolderListing:
    """The listings of one account, for one transfer or one listing of a tree."""

    def __init__(
        self, connections: SftpConnections, account: SftpAccount, side: Side, meter: Watchdog
    ) -> None:
        self._connections, self._account = connections, account
        self._side, self._meter = side, meter

    def entries(
        self, location: Location, recursive: bool, enters: Enters | None
    ) -> Iterator[Entry]:
        """As Source.list, in the server's order. Links to files are followed. Links to folders,
        pipes and devices can't be moved: they are entries with an error."""
        lists = partial(self._folder, location)
        seconds = self._meter.limits.listing_seconds
        return walk_folders(lists, lambda: ListingRetries(seconds, self._meter), recursive, enters)

    def _folder(self, location: Location, folder: str) -> Generator[Entry, None, None]:
        """Yield the entries of one folder of a tree. Raises StoreError."""
        path = path_of_file(location)
        if folder:
            path = path.rstrip(b"/") + b"/" + folder.rstrip("/").encode(*UTF_8)
        what = f"{location}{folder}"
        is_root = path == b"/"
        with self._connections.session(self._account, self._side, self._meter) as session:
            files = RemoteFiles(session, self._side, self._meter)
            handle = files.open_folder(path, what)
            try:
                for batch in self._batches(files, handle, what):
                    yield from self._entries_of(files, path, batch, is_root)
            finally:
                if session.is_open:
                    session.abandon(files.close_later(handle))

    def _batches(
        self, files: RemoteFiles, handle: bytes, what: str
    ) -> Iterator[list[tuple[bytes, FileAttributes]]]:
        """Yield the names of an open folder, some at a time. Raises StoreError."""
        empty = 0
        while (names := files.next_names(handle, what)) is not None:
            empty = 0 if names else empty + 1
            if empty > EMPTY:
                raise ProtocolViolation(
                    f"{what}: {EMPTY} replies in a row have no name", side=self._side
                )
            yield names

    def _entries_of(
        self,
        files: RemoteFiles,
        path: bytes,
        batch: list[tuple[bytes, FileAttributes]],
        is_root: bool,
    ) -> Iterator[Entry]:
        batch = [(name, found) for name, found in batch if name not in (b".", b"..")]
        for name, _ in batch:
            if not name or b"/" in name or b"\0" in name:
                raise ProtocolViolation(
                    f"a name in a listing is a path: {name[:100]!r}", side=self._side
                )
        prefix = path.rstrip(b"/") + b"/"
        asked = {
            name: files.send_stat(prefix + name)
            for name, found in batch
            if found.is_link or found.mode is None
        }
        for name, found in batch:
            entry = self._entry(files, name, found, asked.get(name))
            if is_root and name.startswith(b"~"):
                entry = _refuse_tilde(entry, self._side)
            if entry is not None:
                yield entry

    def _entry(
        self, files: RemoteFiles, raw: bytes, found: FileAttributes, target: Reply | None
    ) -> Entry | None:
        """Return the entry of a name, or None for a temporary name at a destination."""
        name, linked = raw.decode(*UTF_8), found.is_link
        if target is not None:
            try:
                found = files.attributes(target, name)
            except StoreError as error:
                if error.retryable and not linked:
                    raise
                if not files.session.is_open:
                    raise
                return Entry(name, error=error, judged_as=(f"{name}/", name))
        if found.is_folder and linked:
            return Entry(
                name,
                error=_left_out("relay does not follow a link to a folder", _MOVE_FOLDER),
                judged_as=(f"{name}/",),
            )
        if found.is_folder:
            return Entry(f"{name}/")
        if not found.is_file:
            text = f"{special_kind(found)} is not a file"
            return Entry(name, error=_left_out(text, "Only files can be moved."))
        version = version_of_attributes(found)
        entry = Entry(name, version.size, version.etag, moment(found.modified))
        return reject_temporary_name(entry, self._side) if is_temporary_name(name) else entry


_MOVE_FOLDER: Final = "Move that folder by itself."


def _left_out(why: str, hint: str) -> RelayError:
    return Unsupported(why, side="source", hint=hint)


def _refuse_tilde(entry: Entry | None, side: Side) -> Entry | None:
    """Return the entry for a name that begins with '~' in the root: its path would mean one below
    the folder in which the server begins."""
    if entry is None:
        return None
    assert HOME == "/~"
    why = "a name that begins with '~' in the root folder of the server can't be given to relay"
    return Entry(
        entry.name.rstrip("/"),
        error=Unsupported(why, side=side, hint="Write %7E for it, and move it by itself."),
        judged_as=(entry.name,),
    )
