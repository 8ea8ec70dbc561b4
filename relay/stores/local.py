"""Folders of this machine: for who runs relay in the terminal, and for servers whose operator allowed some.

Theory of operation. Reading is a Body like any other, over a file instead of a socket; that the file is still the one
that was opened is looked at before its last piece is handed out. Writing goes to a `.relay-….part` in the same folder,
to the disk (fsync), is read back, and is then renamed or, where nothing may be there, linked to its name: a crash at
any moment leaves the old object or the new one (rename(2), link(2)).

Decided here: what the file system's errors mean, what may be opened. Never here: which folders are allowed
(`stores/remotes.py`). This is the one place of relay that writes payload to a disk: it is where the user wants it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from relay.errors import (
    ConnectionLost,
    InvalidURL,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    Side,
    SourceChanged,
    StoreError,
    StoreFull,
    Unavailable,
)
from relay.failpoints import reach
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import (
    PREFIX,
    SUFFIX,
    Entry,
    Found,
    Opened,
    PartLimits,
    Span,
    Stored,
    check_segments,
    unpublished_name,
)
from relay.stores.metadata import MTIME, require, unkept
from relay.wire.body import Body
from relay.wire.buffers import BUFFERS
from relay.wire.exchange import Wire
from relay.wire.http1 import Framing, Head
from relay.wire.meter import Meter
from relay.wire.native import in_native_thread
from relay.wire.pump import fill
from relay.wire.stream import Stream

ERRORS: Mapping[int, tuple[type[StoreError], str | None]] = {
    errno.ENOENT: (NotFound, "Check the path; a URL begins with its scheme, as https:// or s3://."),
    errno.ENOTDIR: (Rejected, "A part of the path is a file, not a folder: rename one of the two."),
    errno.EACCES: (PermissionDenied, "Check the permissions of the file and of its folder."),
    errno.EPERM: (PermissionDenied, "Check the permissions of the file and of its folder."),
    errno.EROFS: (PermissionDenied, "The file system is mounted read-only."),
    errno.EISDIR: (Rejected, "It is a folder; name one object, or end a destination with '/'."),
    errno.ENOSPC: (StoreFull, None),
    errno.EDQUOT: (StoreFull, None),
    errno.EFBIG: (Rejected, "The file system takes no file of this size."),
    errno.ENAMETOOLONG: (Rejected, "Choose a shorter name."),
    errno.ELOOP: (Rejected, "The path leads through a loop of symbolic links."),
    errno.EEXIST: (PreconditionFailed, None),
}
"""What the system's errors mean; every other one (EIO, EMFILE) may pass."""


_UTF_8 = ("utf-8", "surrogateescape")
"""How a name's bytes are read, whatever the terminal's locale is: the object's name must not hang on that."""
PATH_BYTES = 4096
"""The longest path that Linux takes, and so more folders than any has."""


@dataclass(frozen=True)
class LocalAccount:
    """The file system of this machine."""

    store: str = "local"

    def shown(self, path: str) -> str:
        """Return the path as a shell takes it."""
        return unquote_to_bytes(path).decode(*_UTF_8)

    def check(self, path: str) -> None:
        """As Account.check."""
        check_segments(path, PATH_BYTES)


def local_location(path: Path, *, destination: bool) -> Location:
    """Return the Location of an absolute path, links to its folder resolved; a folder that is there ends in '/'.

    Raises InvalidURL for one that leads through a loop of links.
    """
    try:
        resolved = path.parent.resolve() / path.name if destination and path.name else path.resolve()
    except RuntimeError:
        raise InvalidURL("the path leads through a loop of symbolic links", hint="Correct the link.") from None
    target = quote(os.fsencode(resolved), safe="/")
    if destination and resolved.is_dir() and not target.endswith("/"):
        target += "/"
    return Location("file", "", 0, target, account=LocalAccount())


def path_of(location: Location) -> Path:
    """Return the path that a Location names."""
    return Path(os.fsdecode(unquote_to_bytes(location.path)))


def nested(one: Location, other: Location) -> bool:
    """Say if one of two folders lies in the other, or is the other, by whatever names: links and bind mounts lead to
    one device and one inode. Of what is not there yet the folders above it are looked at."""
    ours, theirs = _above(path_of(one)), _above(path_of(other))
    return any(first is not None and first in others for first, others in ((ours[0], theirs), (theirs[0], ours)))


def _above(path: Path) -> list[tuple[int, int] | None]:
    """Return what tells a folder, and each above it, from all others; None for what can't be looked at."""
    with suppress(OSError, RuntimeError):  # a loop of links
        path = path.resolve()
    return [_identity(folder) for folder in (path, *path.parents)]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, RuntimeError):
        return None
    return found.st_dev, found.st_ino


class FileStream(Stream):
    """A regular file in the place of a socket. Its bytes are always there; reading them may take a disk's moment."""

    splices = False

    def __init__(self, descriptor: int, side: Side, version: Version) -> None:
        """Take over an open descriptor, which is at the place to read from."""
        self.side, self.leftover, self.closed = side, b"", False
        self._descriptor, self._version = descriptor, version

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's."""
        try:
            return os.readv(self._descriptor, [view])
        except OSError as error:
            raise self.lost(error) from None

    def wait_for_more(self, seconds: float) -> bool:
        """Return at once: a file is always ready."""
        return True

    def check(self) -> None:
        """Raise SourceChanged if the file is not as it was when it was opened."""
        if _version(os.fstat(self._descriptor)) != self._version:
            raise SourceChanged("the file was changed while it was read", side=self.side)

    def close(self) -> None:
        """As Stream's."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    def lost(self, error: BaseException) -> ConnectionLost:
        """As Stream's."""
        return ConnectionLost(f"the file can't be read ({getattr(error, 'strerror', error)})", side=self.side)


class LocalStore:
    """Folders of this machine, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Meter) -> None:
        self._side, self._meter, self._limits = side, meter, wire.limits

    # -- both roles

    def head(self, location: Location) -> Found | None:
        """As Source.head."""
        with self._told(location):
            found = path_of(location).stat()
            return Found(self._regular(location, found), location, metadata=_metadata(found), ranges=True)

    def get(self, location: Location, pinned: Version | None = None, span: Span | None = None) -> Opened:
        """As Source.get. Only regular files: a pipe or a device may have no end."""
        with self._told(location):
            descriptor = os.open(path_of(location), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                version = self._regular(location, found)
                if pinned is not None and pinned.etag not in (None, version.etag):
                    raise SourceChanged(f"{location} is another version now", side=self._side)
                os.lseek(descriptor, span.first if span else 0, os.SEEK_SET)
            except BaseException:
                os.close(descriptor)
                raise
        stream = FileStream(descriptor, self._side, version)
        length = span.length if span else version.size or 0
        head = Head(200, "OK", "1.1", (("Content-Length", str(length)),))
        body = Body(stream, Framing.LENGTH, head, self._meter, _released)
        return Opened(version, location, metadata=_metadata(found), body=body)

    def _regular(self, location: Location, found: os.stat_result) -> Version:
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise Rejected(f"{location} is no regular file", side=self._side, hint="Only files can be moved.")
        return _version(found)

    def list(self, location: Location, recursive: bool = False, after: str | None = None) -> Iterator[Entry]:
        """As Source.list, in the order of the names. Links to folders are not followed, devices and pipes left out."""
        root, waiting = path_of(location), [""]
        while waiting:
            folder = waiting.pop()
            with self._told(location):
                found = in_native_thread(partial(_scanned, root / os.fsdecode(folder.encode(*_UTF_8))))
            for entry in found:
                entry = replace(entry, name=folder + entry.name)
                if entry.folder and recursive:
                    waiting.append(entry.name)
                else:
                    yield entry

    # -- destination

    def atomic(self, digested: bool) -> bool:
        """As Destination.atomic: a broken upload has another name."""
        return True

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits: a file is written in one go."""
        return None

    def unkept(self, location: Location, metadata: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
        """As Destination.unkept: a file has a name, a time, and its bytes."""
        return (*_coded(metadata), *unkept(metadata, lambda name: name == "content-encoding", location, "a file"))

    def copies(self, source: Location, location: Location) -> bool:
        """As Destination.copies: the bytes are on this machine anyway."""
        return False

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> Stored:
        """As Destination.put; what is returned lies under a temporary name until `publish`. Makes missing folders."""
        notes = self.unkept(location, metadata)
        require(metadata, location, notes)
        path = path_of(location)
        part = path.with_name(unpublished_name(token))
        with self._told(location):
            _refuse_folder(path)
            if if_absent and path.exists():
                raise FileExistsError(errno.EEXIST, "it exists")
            _make_folder(path.parent)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                self._write(location, descriptor, body)
                with self._told(location):
                    _date(descriptor, dict(metadata).get(MTIME))
            finally:
                os.close(descriptor)
            with self._told(location):
                version = _version(part.stat())
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return Stored(version, local_location(part, destination=True), {}, place=location, notes=notes)

    def _write(self, location: Location, descriptor: int, body: Body) -> None:
        """Write the whole body, down to the disk. Raises the body's errors, and ours for the file system's."""
        while True:
            with BUFFERS.lend(self._limits.buffer_bytes) as view:
                count = fill(body, view)
                done = 0
                while done < count:
                    with self._told(location):
                        done += in_native_thread(partial(os.write, descriptor, view[done:count]))
            if not count:
                break
            if body.remaining:
                reach("mid-part")
        with self._told(location):
            in_native_thread(lambda: os.fsync(descriptor))

    def unpublished(self, location: Location, token: str) -> Location | None:
        """As Destination.unpublished."""
        return local_location(path_of(location).with_name(unpublished_name(token)), destination=True)

    def publish(self, stored: Stored, *, if_absent: bool = False) -> Version:
        """As Destination.publish: a rename, or a link where nothing may be there, and the folder to the disk."""
        assert stored.readable is not None and stored.place is not None, "an upload that is to be published has both"
        part, path = path_of(stored.readable), path_of(stored.place)
        with self._told(stored.place):
            _refuse_folder(path)
            if if_absent:
                os.link(part, path)
                reach("mid-publish")
                part.unlink()
            else:
                part.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                in_native_thread(lambda: os.fsync(folder))
            finally:
                os.close(folder)
            return _version(path.stat())

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete."""
        path = path_of(location)
        with self._told(location), suppress(FileNotFoundError):
            if location.path.endswith("/"):
                return path.rmdir()  # a folder of ours, which must be empty
            if version.etag not in (None, _version(path.stat()).etag):
                raise PreconditionFailed(f"{location} is another version now", side=self._side)
            path.unlink()

    # -- errors

    @contextmanager
    def _told(self, location: Location) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except OSError as error:
            kind, hint = ERRORS.get(error.errno or 0, (Unavailable, None))
            raise kind(f"{location}: {error.strerror or error}", side=self._side, hint=hint) from None


def _refuse_folder(path: Path) -> None:
    """Raise IsADirectoryError if a folder is there: that is not what `if_absent` means by something."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder there")


def _make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises NotADirectoryError where one of them is a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "a part of the path is a file there") from None


def _coded(metadata: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Return what the reader of a file has to know of its bytes."""
    coding = next((value for name, value in metadata if name.lower() == "content-encoding"), None)
    return () if coding is None else (f"the file holds the bytes as they came, in the content coding {coding}",)


def _scanned(folder: Path) -> list[Entry]:
    """Return what one folder holds. Raises OSError; what vanishes meanwhile is left out."""
    found = []
    with os.scandir(folder) as rows:
        for row in rows:
            name = os.fsencode(row.name).decode(*_UTF_8)
            if name.startswith(PREFIX) and name.endswith(SUFFIX):
                continue
            with suppress(FileNotFoundError):
                if row.is_dir(follow_symlinks=False):
                    found.append(Entry(f"{name}/"))
                elif row.is_file():
                    told = row.stat()
                    modified = datetime.fromtimestamp(told.st_mtime, UTC)
                    found.append(Entry(name, told.st_size, _version(told).etag, modified))
    return sorted(found, key=lambda entry: entry.name)


def _version(found: os.stat_result) -> Version:
    """Return what tells one version of a file from another; the entity tag is ours."""
    etag = f'"{found.st_dev:x}-{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
    return Version(size=found.st_size, etag=etag, last_modified=formatdate(found.st_mtime, usegmt=True))


def _metadata(found: os.stat_result) -> tuple[tuple[str, str], ...]:
    return ((MTIME, f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09}"),) if found.st_mtime_ns >= 0 else ()


def _date(descriptor: int, changed: str | None) -> None:
    """Give a file the time at which its source was changed. Raises OSError."""
    if changed is not None:
        seconds, _, fraction = changed.partition(".")
        moment = int(seconds) * 10**9 + int(f"{fraction:0<9}"[:9])
        os.utime(descriptor, ns=(moment, moment))


def _released(stream: Stream, reusable: bool) -> None:
    """Close the file when its Body is done with it; before that, one that was read to its end must be unchanged."""
    try:
        if reusable and isinstance(stream, FileStream):
            stream.check()
    finally:
        stream.close()
