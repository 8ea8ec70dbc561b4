"""Operations on the files of one server, each one request and its reply.

Theory of operation. A method sends one request and waits for its reply, or returns a Reply for
later where requests go together. Version 3 says FAILURE for most reasons, so the methods whose
reason matters ask again: is the name there, is the disk full?

Decided here: the requests. Never here: the order of an upload or a listing."""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from relay.errors import (
    NotFound,
    Rejected,
    RelayError,
    Side,
    StoreError,
    StoreFull,
    Unavailable,
)
from relay.location import Location
from relay.parsing import http_text
from relay.receipt import Version
from relay.stores.metadata import MTIME
from relay.stores.sftp.account import HOME
from relay.stores.sftp.packets import (
    LINK,
    RENAME,
    SPACE,
    SYNC,
    FileAttributes,
    FreeSpace,
    PacketFields,
    PacketKind,
    StatusCode,
    attributes,
    names_of,
    number,
    space_of,
    text,
)
from relay.stores.sftp.sftp_session import Reply, SftpSession
from relay.stores.sftp.status_errors import status_error
from relay.wire.watchdog import Watchdog

HOPS: Final = 16
"""Maximum number of links that lead from one to the next."""
FOLDER: Final = (
    "It is a folder; name one object, move all of it (-r, `recursive`), or end a destination with"
    " '/'."
)


@dataclass(frozen=True)
class RemoteFiles:
    """The files that one session shows; failures name `side`, and `meter` bounds each wait. `what`
    in an error is the printed form of a place."""

    session: SftpSession
    side: Side
    meter: Watchdog

    # -- attributes

    def stat(self, path: bytes, what: str, *, follow: bool = True) -> FileAttributes:
        """Return the attributes of a name, of what it links to if `follow`. Raises NotFound, and
        StoreError."""
        return self.attributes(self.send_stat(path, follow=follow), what)

    def send_stat(self, path: bytes, *, follow: bool = True) -> Reply:
        """Ask for the attributes of a name, of what it links to if `follow`."""
        return self._send(PacketKind.STAT if follow else PacketKind.LSTAT, text(path))

    def send_stat_of(self, handle: bytes) -> Reply:
        """Ask for the attributes of an open file."""
        return self._send(PacketKind.FSTAT, text(handle))

    def attributes(self, reply: Reply, what: str) -> FileAttributes:
        """Return the attributes in a reply. Raises as `stat`."""
        data = self.session.expect(reply, PacketKind.ATTRS, what, self.meter, self.side)
        found: FileAttributes = self.session.fields(
            data, lambda packet: PacketFields(packet).attributes(), self.side
        )
        return found

    def find(self, path: bytes, what: str) -> FileAttributes | None:
        """Return the attributes of a name itself, or None. Raises StoreError."""
        try:
            return self.stat(path, what, follow=False)
        except NotFound:
            return None

    def set_mode(self, path: bytes, mode: int, what: str) -> None:
        """Set the permissions of a file."""
        payload = text(path) + attributes(mode=stat.S_IMODE(mode))
        self._done(self._send(PacketKind.SETSTAT, payload), what)

    def send_times(self, handle: bytes, modified: int) -> Reply:
        """Set the times of an open file."""
        return self._send(PacketKind.FSETSTAT, text(handle) + attributes(modified=modified))

    # -- files

    def open_file(self, path: bytes, flags: int, what: str, *, mode: int | None = None) -> bytes:
        """Open a file, and return its handle. One that comes too late is closed."""
        reply = self._send(PacketKind.OPEN, text(path) + number(flags) + attributes(mode=mode))
        return self._handle(reply, what)

    def open_folder(self, path: bytes, what: str) -> bytes:
        """Open a folder, and return its handle. Raises Rejected if it is not a folder."""
        try:
            return self._handle(self._send(PacketKind.OPENDIR, text(path)), what)
        except (NotFound, Unavailable) as error:
            # OpenSSH answers "no such file" to a path through a file too (ENOTDIR).
            found = self._attributes_or_none(path, what)
            if found is not None and not found.is_folder:
                raise Rejected(
                    f"{what} is a file, not a folder",
                    side=self.side,
                    hint="Name its folder; for one file leave out -r, or `recursive` in a request.",
                ) from None
            raise error from None

    def close_later(self, handle: bytes) -> Reply:
        """Close a handle; return the reply, for which no caller has to wait."""
        return self._send(PacketKind.CLOSE, text(handle))

    def settle(self, reply: Reply, what: str) -> None:
        """Wait for the status of a request. Raises its error."""
        self._done(reply, what)

    def send_sync(self, handle: bytes) -> Reply:
        """Bring an open file to the disk."""
        return self._send_extension(SYNC, text(handle))

    def next_names(self, handle: bytes, what: str) -> list[tuple[bytes, FileAttributes]] | None:
        """Return the next names of an open folder with their attributes; None at its end. Raises
        StoreError."""
        reply = self._send(PacketKind.READDIR, text(handle))
        self.session.wait(reply, self.meter, self.side)
        if reply.kind == PacketKind.NAME:
            found: list[tuple[bytes, FileAttributes]] = self.session.fields(
                reply.data, names_of, self.side
            )
            return found
        status = self.session.status(reply, self.side)
        if status.code == StatusCode.EOF:
            return None
        raise status_error(status, what, self.side)

    # -- names

    def remove(self, path: bytes, what: str) -> None:
        """Remove a file's name. Raises NotFound, and StoreError."""
        self._done(self._send(PacketKind.REMOVE, text(path)), what)

    def remove_folder(self, path: bytes, what: str) -> None:
        """Remove an empty folder."""
        self._done(self._send(PacketKind.RMDIR, text(path)), what)

    def make_folder(self, path: bytes, what: str) -> None:
        """Make a folder, and those above it. Raises Rejected if one of them is a file."""
        missing, above = [], path
        while True:
            try:
                self._make_one(above, what)
                break
            except NotFound:
                higher = posixpath.dirname(above.rstrip(b"/"))
                if higher in (above, b"", b"/"):
                    raise
                missing.append(above)
                above = higher
        for folder in reversed(missing):
            self._make_one(folder, what)

    def rename(self, old: bytes, new: bytes, what: str) -> None:
        """Rename as version 3 does: a name that exists is an error, on most servers."""
        self._done(self._send(PacketKind.RENAME, text(old) + text(new)), what)

    def rename_over(self, old: bytes, new: bytes, what: str) -> None:
        """Rename, and replace what has the new name, in one step."""
        self._done(self._send_extension(RENAME, text(old) + text(new)), what)

    def link(self, old: bytes, new: bytes, what: str) -> None:
        """Give a file a second name, which must not exist."""
        self._done(self._send_extension(LINK, text(old) + text(new)), what)

    def resolve(self, path: bytes, what: str) -> tuple[bytes, FileAttributes | None]:
        """Return the path to which a name leads by links, and the attributes there, or None if
        nothing is there. Raises Rejected for a loop of links."""
        for _ in range(HOPS):
            found = self.find(path, what)
            if found is None or not found.is_link:
                return path, found
            path = posixpath.join(posixpath.dirname(path), self._target(path, what))
        raise Rejected(
            f"{what}: the path leads through a loop of symbolic links",
            side=self.side,
            hint="Correct the link.",
        )

    def real_path(self, path: bytes, what: str) -> bytes:
        """Return the absolute path to which a path leads by links, as far as the server resolves
        them. Raises NotFound, and StoreError."""
        return self._path_of_reply(PacketKind.REALPATH, path, what)

    def free_bytes(self, path: bytes) -> int | None:
        """Return the room on the file system of a path, in bytes; None if the server does not say
        it."""
        if not self.session.can(SPACE):
            return None
        try:
            data = self.session.expect(
                self._send_extension(SPACE, text(path)),
                PacketKind.EXTENDED_REPLY,
                "statvfs",
                self.meter,
                self.side,
            )
            found: FreeSpace = self.session.fields(data, space_of, self.side)
        except StoreError:
            return None
        return found.free

    def full_error(self, error: RelayError, path: bytes, needed: int) -> RelayError:
        """Return StoreFull in place of the error of a write, if the file system has no room for
        `needed` bytes."""
        if not isinstance(error, Unavailable):
            return error
        free = self.free_bytes(path)
        if free is None or free >= max(needed, 1):
            return error
        return StoreFull(f"{error.message}; {free} bytes are free there", side=self.side)

    # -- requests

    def _make_one(self, path: bytes, what: str) -> None:
        """Make a folder, unless it exists. Raises NotFound if the one above is missing."""
        try:
            self._done(self._send(PacketKind.MKDIR, text(path) + attributes()), what)
        except NotFound:
            raise
        except StoreError as error:
            found = self._attributes_or_none(path, what)
            if found is not None and found.is_folder:
                return
            if found is not None:
                raise Rejected(
                    f"{what}: a folder of its path is a file there",
                    side=self.side,
                    hint="Rename one of the two.",
                ) from None
            raise error from None

    def _target(self, path: bytes, what: str) -> bytes:
        return self._path_of_reply(PacketKind.READLINK, path, what)

    def _path_of_reply(self, kind: PacketKind, path: bytes, what: str) -> bytes:
        """Return the one path in the reply to a request about a path."""
        reply = self._send(kind, text(path))
        data = self.session.expect(reply, PacketKind.NAME, what, self.meter, self.side)
        names: list[tuple[bytes, FileAttributes]] = self.session.fields(data, names_of, self.side)
        if len(names) != 1 or not names[0][0] or b"\0" in names[0][0]:
            raise Rejected(f"{what}: the server shows no target of a link", side=self.side)
        return names[0][0]

    def _attributes_or_none(self, path: bytes, what: str) -> FileAttributes | None:
        try:
            return self.stat(path, what)
        except StoreError:
            return None

    def _handle(self, reply: Reply, what: str) -> bytes:
        try:
            data = self.session.expect(reply, PacketKind.HANDLE, what, self.meter, self.side)
        except BaseException:
            self.session.abandon(reply, self.session.close_handle)
            raise
        handle: bytes = self.session.fields(
            data, lambda packet: PacketFields(packet).text(), self.side
        )
        return handle

    def _done(self, reply: Reply, what: str) -> None:
        self.session.expect(reply, PacketKind.STATUS, what, self.meter, self.side)

    def _send_extension(self, name: str, payload: bytes) -> Reply:
        return self._send(PacketKind.EXTENDED, text(name.encode()) + payload)

    def _send(self, kind: PacketKind, payload: bytes) -> Reply:
        return self.session.send(kind, payload, self.meter, self.side)


def version_of_attributes(found: FileAttributes) -> Version:
    """Return the version of a file. Its ETag is made of the time of modification and the size, and
    is weak: the protocol shows times in seconds, and no number of the file, so two changes within a
    second may leave it as it is."""
    if found.modified is None or found.size is None:
        return Version(found.size)
    tag = f'W/"{found.modified:x}-{found.size:x}"'
    return Version(found.size, tag, http_text(found.modified))


def metadata_of_attributes(found: FileAttributes) -> tuple[tuple[str, str], ...]:
    """Return a file's metadata: its time of modification."""
    return () if found.modified is None else ((MTIME, str(found.modified)),)


def require_file(found: FileAttributes, what: str, side: Side) -> FileAttributes:
    """Return `found` if it is a regular file. Raises Rejected."""
    if found.is_folder:
        raise Rejected(f"{what}: it is a folder", side=side, hint=FOLDER)
    if not found.is_file:
        raise Rejected(
            f"{what}: it is {special_kind(found)}, not a regular file",
            side=side,
            hint="Name a file: relay does not read or write pipes, sockets and devices.",
        )
    return found


def special_kind(found: FileAttributes) -> str:
    """Return what a name is that is neither a file nor a folder."""
    mode = found.mode or 0
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a disk"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISLNK, "a link that leads nowhere"),
    )
    return next((kind for test, kind in kinds if test(mode)), "something special")


def location_at(location: Location, path: bytes) -> Location:
    """Return the Location of another path on the server of a location: absolute, or below the
    folder in which the server begins."""
    encoded = quote(path, safe="/")
    if not path.startswith(b"/"):
        return location.with_target(
            f"{HOME}{quote(location.account.owner if location.account else '', safe='')}/{encoded}"
        )
    if encoded.startswith(HOME):
        encoded = f"/%7E{encoded[2:]}"
    return location.with_target(encoded)
