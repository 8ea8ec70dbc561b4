"""The contract of a store (law 9: one contract, one suite, every store).

**Contract.** After `put` returned, the destination has the whole object. After `put` failed, it has
what it had before, as far as the store's protocol can promise that. No call retries, except for a
page of `list` (`listing_retries.py`). No call returns an answer that it does not believe: a status
outside the verb's explicit set raises a StoreError with `side` set."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, unquote_to_bytes

from relay.digest import Digests
from relay.errors import KeyTooLong, RelayError, ReservedKey, Side
from relay.file_names import NAME_BYTES
from relay.location import Location
from relay.receipt import Version
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

PREFIX, SUFFIX = ".relay-", ".part"
"""Prefix and suffix of a temporary name: the name of an upload that is not published yet. They are
reserved; an object of the user may not have such a name."""


_OTHERS = re.compile(r"relay-(relay-)?[0-9a-f-]{16,}\.upload(\.[^/]*)?")
"""Temporary names for servers that refuse a leading dot or the ending `.part`."""


def temporary_name(token: str | None) -> str:
    """Return the temporary name of an upload; without a token a unique one is generated."""
    return f"{PREFIX}{token or uuid.uuid4().hex}{SUFFIX}"


def temporary_names(token: str, name: str) -> tuple[str, ...]:
    """Return the temporary names that an upload of the object `name` may have, in the order in
    which they are tried.

    Nextcloud and ownCloud refuse the endings `.part` and `.filepart`, other servers a leading dot
    or `~$`. Some take only names with the endings of their objects."""
    ending = name.rpartition(".")[2] if "." in name[1:] else ""
    plain = f"relay-{token}.upload"
    return (
        temporary_name(token),
        plain,
        f"{plain}.{ending}" if 0 < len(ending) <= 20 else f"{plain}.dat",
    )


def is_temporary_name(name: str) -> bool:
    """Return whether a name is a temporary name."""
    return (name.startswith(PREFIX) and name.endswith(SUFFIX)) or _OTHERS.fullmatch(
        name
    ) is not None


_RESERVED = f"names like {PREFIX}…{SUFFIX} are those of unfinished uploads"


def check_segments(path: str, deepest: int) -> None:
    """Raise KeyTooLong for a percent-encoded path with a segment that is too long for a file
    system, or with more than `deepest` folders. Raise ReservedKey for a temporary name."""
    segments = path.split("/")
    # A decoded segment is no longer than the encoded one.
    long = [segment for segment in segments if len(segment) > NAME_BYTES]
    if any(len(unquote_to_bytes(segment)) > NAME_BYTES for segment in long):
        raise KeyTooLong(f"a part of the path has more than {NAME_BYTES} bytes")
    if len(segments) - 2 > deepest:
        raise KeyTooLong(f"the path has more than {deepest} folders")
    if is_temporary_name(unquote(segments[-1], errors="surrogateescape")):
        raise ReservedKey(_RESERVED)


@dataclass(frozen=True)
class ObjectInfo:
    """An object that exists: its version, its location after redirects, and its metadata.

    `disposition` is its Content-Disposition. `metadata` has the fields that belong to the object
    and are copied with it."""

    version: Version
    location: Location
    _: KW_ONLY
    disposition: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    ranges: bool = False
    """Whether the store announces range requests for it."""
    described: bool = True
    """Whether the answer could name the metadata. If not, an empty `metadata` means "unknown"."""
    age: float | None = None
    """Seconds from its date to that of the answer, within one second; None if the answer lacks
    one."""

    @property
    def dated_now(self) -> bool:
        """Whether its date is that of the answer. A server may give each answer such a date."""
        return self.age is not None and abs(self.age) <= 1


@dataclass(frozen=True)
class UnknownObject:
    """The store does not say whether an object exists; `why` is its refusal. It never means that
    the object is absent."""

    why: RelayError


@dataclass(frozen=True)
class Entry:
    """An object or a folder in a listing.

    `name` is relative to the listed folder, with segments separated by '/'. A folder's name ends in
    '/'."""

    name: str
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None
    _: KW_ONLY
    url: str | None = None
    """Its URL, if it is not below the listed folder. It may contain secrets."""
    digests: Digests = field(default_factory=dict)
    error: RelayError | None = None
    """Why it can't be moved or listed, if that is known already. Other entries are not affected."""
    judged_as: tuple[str, ...] = ()
    """The names of what an entry with an error may stand for, if that is not just an object of its
    `name`. A name that ends in '/', or is '', is that of a folder: anything in it."""
    after: str | None = None
    """Resume token: once all entries up to this one are stored, a later listing may start after it.
    '' is the beginning. None keeps the token of an earlier entry."""

    @property
    def folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")

    def below(self, folder: str) -> Entry:
        """Return an entry of a listing of `folder` as one of the tree that has the folder."""
        if not self.judged_as:
            return replace(self, name=folder + self.name)
        judged_as = tuple(folder + name for name in self.judged_as)
        return replace(self, name=folder + self.name, judged_as=judged_as)

    @property
    def is_listed_further(self) -> bool:
        """Whether it is a folder whose content needs a listing of its own."""
        return self.folder and self.error is None


def reject_temporary_name(entry: Entry, side: Side) -> Entry | None:
    """Return the entry that replaces an object with a temporary name in a listing.

    A destination omits it (None): it may be an upload of relay. A source omits nothing, since a
    user may have chosen the name: there it is an entry with the error ReservedKey."""
    if side == "destination":
        return None
    hint = "Delete it if it is an unfinished upload; otherwise rename it."
    return Entry(entry.name, entry.size, error=ReservedKey(_RESERVED, side=side, hint=hint))


@dataclass(frozen=True)
class ByteRange:
    """Bytes `first` to `last` of an object, both included, counted from 0."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class OpenedObject(ObjectInfo):
    """An object that is being read. The caller must read `body` to its end or close it."""

    body: Body | None = None


@dataclass(frozen=True)
class PutResult:
    """A successful upload: the destination's answer, and the location to read the object.

    `readable` is None if the protocol names no location (a POST without a Location). `digests` are
    those that the destination reported for the bytes. `ambiguous` means that they may describe the
    content of the answer instead (RFC 9530 section 3): then a match proves the object, and a
    mismatch proves nothing."""

    version: Version
    readable: Location | None
    digests: Digests
    _: KW_ONLY
    ambiguous: bool = False
    place: Location | None = None
    """The final location, if `readable` is a staged location that `publish` moves from."""
    parts_checked: bool = False
    """The object was uploaded in parts, and the store compared a digest of each part with ours."""
    notes: tuple[str, ...] = ()
    """Notes for the receipt, such as metadata that the store did not take."""
    found: bool = False
    """The answer was lost and the object was found afterwards. It may be another writer's unless
    its digest matches."""
    undigested: bool = False
    """HEAD lately showed no digest of the store's objects. So it proves no bytes, and an object
    that is read back needs none."""
    other: Location | None = None
    """The place of the new object by the answer, if that is another name in the same folder."""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A version that a store has deleted.

    `marker` is the id of the delete marker that the store made above it, where the store keeps
    earlier versions. `window`: the store did not compare the version itself, so that an object
    which another writer put there in the moment between HEAD and DELETE is deleted too."""

    marker: str | None = None
    window: bool = False


@dataclass(frozen=True)
class PartLimits:
    """Limits of a multipart upload: part sizes and object size in bytes, and the number of parts
    (`most`). The last part may be smaller than `smallest`."""

    smallest: int
    largest: int
    most: int
    object_bytes: int


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was created.

    `checked`: the store keeps a digest of the whole object. `welcome`: the store took a part just
    now, so that further parts need no `Expect: 100-continue` (RFC 9110 section 10.1.1), which costs
    throughput on a line with a long round trip. `described`: the metadata as `begin` got it."""

    location: Location
    id: str
    checked: bool
    _: KW_ONLY
    welcome: bool = False
    described: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Part:
    """A stored part. `checked`: the store compared a digest of it with ours."""

    number: int
    size: int
    etag: str
    checked: bool


Begins = Callable[[Location, tuple[tuple[str, str], ...]], AbstractContextManager[Upload]]
"""Creates a multipart upload of an object with its metadata, as a context manager. If the block
raises, the upload is aborted."""


Enters = Callable[[str], bool]
"""Returns whether a folder of a tree is listed; its name ends in '/'. May ask the store."""


class Source(Protocol):
    """A store that objects are read from."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """Return the object's version and metadata without reading it, or UnknownObject if the
        store does not say whether it exists (a server that allows only GET).

        Raises NotFound if the object does not exist, with as much certainty as the store's protocol
        offers, and StoreError. Leaves nothing open."""

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """Open the object, with `pinned` only in that version, with `span` only those bytes. The
        returned version is that of the whole object.

        Raises StoreError, SourceChanged if it is not the pinned version, and RangeIgnored if the
        store would send the whole object instead of `span`. On failure nothing is left open."""

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """Yield the entries of a folder, page by page on demand: memory does not grow with the
        number of objects.

        `after` is the resume token of an entry of an earlier listing; a store without resume starts
        at the beginning. `recursive` yields all objects below the folder, and of the folders only
        those that can't be listed. A store that lists folder by folder leaves out those for which
        `enters` returns False (its names end in '/'), with all below them; another store may name
        their objects. A failure of one entry, or of one folder below, is that entry's
        error. A missing folder may be an empty one, where the store has no folders. Raises
        StoreError, NotFound and ProtocolViolation for the folder itself, Unsupported if the store
        has no listing."""


@runtime_checkable
class DeletingSource(Source, Protocol):
    """A source that deletes an object only if it is a given version."""

    def deletes_conditionally(self, location: Location) -> bool:
        """Return whether the store is known to compare the version itself when it deletes; else a
        HEAD compares it just before."""

    def require_deletes(self, folder: Location) -> None:
        """Raise an error if objects in a folder can't be deleted, as far as the store shows that by
        a name that never existed: a read-only source, or missing permissions."""

    def delete_version(
        self, location: Location, version: Version, *, purge: bool = False
    ) -> Deletion:
        """Delete the object if its current version is `version`. Where the store keeps earlier
        versions, a marker hides them, and with `purge` the version is deleted for good.

        Raises NotFound (there is no object), PreconditionFailed (it is another version), Rejected
        (the version has no strong ETag, or the name may be that of something else), and StoreError.
        Then nothing was deleted, unless the error may hide a lost answer."""


@dataclass(frozen=True)
class OpenUploads:
    """The multipart uploads of a tree that others have begun and not completed. An upload that is
    completed later shows a new object, which no listing before has named."""

    count: int
    oldest: float | None
    """When the oldest one was begun, in seconds since 1970 by the store's clock."""
    is_whole: bool = True
    """False if the store has more of them than were counted."""


class UploadsSource(Source, Protocol):
    """A source that tells which multipart uploads are open."""

    def open_uploads(self, location: Location) -> OpenUploads:
        """Return the open uploads of a tree. Raises StoreError, and ProtocolViolation for a listing
        without end."""


@runtime_checkable
class VersionedStore(Protocol):
    """A store that keeps the versions of deleted objects."""

    def remove_marker(self, location: Location, marker: str) -> Version:
        """Remove a delete marker by its id, if it is still the newest version of its object; return
        the version that the object has then.

        Raises NotFound (the object has no version below the marker), PreconditionFailed (the newest
        version is another one, or the store does not show it) and StoreError. Then nothing was
        removed, unless the error may hide a lost answer."""


class Destination(Protocol):
    """A store that objects are written to."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source's."""

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source's."""

    def lists_all(self, location: Location) -> bool:
        """Return whether listings are complete and consistent, as far as that is known: an object
        that none names did not exist at that moment."""

    def honours_preconditions(self, location: Location) -> bool:
        """Return whether this store is known to honour `if_absent`: an existing object is then
        never overwritten."""

    def publishes_atomically(self, digested: bool) -> bool:
        """Return whether an upload that broke off never leaves a visible object, so that no cleanup
        has to look for one.

        `digested`: digests of the bytes are computed on the way."""

    def part_limits(self, location: Location) -> PartLimits | None:
        """Return the limits of multipart uploads to `location` (then it is a PartsDestination), or
        None."""

    def unkept_metadata(
        self, location: Location, metadata: tuple[tuple[str, str], ...]
    ) -> tuple[str, ...]:
        """Return a note for each piece of metadata that this destination can't keep, as far as that
        is known before the upload."""

    def can_copy(self, source: Location, location: Location) -> bool:
        """Return whether the store may be able to copy from `source` itself (then it is a
        CopyDestination)."""

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source's; for reading back."""

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """Store the whole of `body`; with `if_absent` only if the object does not exist.

        `token` becomes part of the temporary name, where the store uses one until `publish`; None
        generates one.

        Raises PreconditionFailed (with `if_absent`: an object exists), MetadataUnkept (all metadata
        is required, and the store can't keep it), StoreError, and the body's errors. On failure the
        upload broke off before its end, so a store that follows its protocol stores nothing."""

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """Return the locations at which `put` with this token may store the object until `publish`.
        Empty if `put` writes to the final location. Without a token the caller only asks whether
        there are any, and the locations mean nothing."""

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """Make an object that `put` stored visible at its `place`, atomically; return the version
        there.

        `fresh`: no object was found before, so the object found there afterwards is the published
        one. Does nothing if `put` wrote to the final location. Raises PreconditionFailed (an object
        exists; with `if_absent`, and with `fresh` as far as the store notices it) and StoreError;
        then `place` is unchanged."""

    def delete(self, location: Location, version: Version) -> None:
        """Delete the object if it is still `version`, as far as the store can check that. Raises
        StoreError."""


@runtime_checkable
class LinkingDestination(Protocol):
    """A destination whose server follows symbolic links by itself."""

    def refuse_links(
        self, location: Location, source: Location, tree: tuple[Location, Location] | None
    ) -> None:
        """Raise KeyCollision if a link below the destination's tree leads away from an object's
        place, and SameObject if links make source and destination one place. `tree`: the source's
        and the destination's folders. Raises StoreError."""


class Store(Source, Destination, Protocol):
    """A store that is both a source and a destination."""


class PartsDestination(Destination, Protocol):
    """A destination with multipart uploads: parts may arrive in any order and concurrently. The
    object is not visible before `complete`."""

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
        begins: Begins | None = None,
    ) -> PutResult:
        """As Destination.put. A body of unknown length may become a multipart upload; `begins`
        creates it and records it in the ledger. None creates one without a record."""

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """Create a multipart upload. Raises StoreError, RangeIgnored if the store takes the object
        in one request only, and MetadataUnkept as `put`. It is invisible, but may be billed until
        it is aborted."""

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Store the whole of `body` as part `number`, counted from 1. A second upload of a number
        replaces the first. Raises as `put` does."""

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """Return the stored parts, ordered by number; none is `checked`.

        Raises NotFound for an upload that no longer exists, and StoreError."""

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """Complete the upload: make one object of the parts. `digests` are those of the whole
        object, for the store to compare.

        Raises PreconditionFailed (with `if_absent`), IntegrityMismatch and StoreError; then no
        object was made."""

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """Return the uploads to exactly this location that were created between two moments
        (seconds since 1970, by this machine's clock). It finds an upload whose answer, and so whose
        id, was lost: location and time are all that is known of it.

        Empty if the store can't list them; such a store discards incomplete uploads itself. Raises
        StoreError."""

    def abort(self, upload: Upload) -> None:
        """Abort an upload. Succeeds if it no longer exists. Raises StoreError."""


class CopyDestination(Destination, Protocol):
    """A destination that copies objects within its store; their bytes do not pass through relay."""

    def copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """Let the store copy the version that was `found`; `if_absent` and `token` as with `put`.

        Raises SourceChanged, PreconditionFailed (with `if_absent`: an object exists) and
        StoreError; then no object was made. An error that is not retryable may only mean that this
        store can't copy."""


class DescribedCopyDestination(CopyDestination, Protocol):
    """A destination that also copies objects of its own with other metadata than they have."""

    def copy_described(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        metadata: tuple[tuple[str, str], ...],
        *,
        if_absent: bool = False,
    ) -> PutResult:
        """Let the store copy the version that was `found` with this metadata in place of its own;
        `if_absent` as with `put`. Raises as `copy`, and MetadataUnkept as `put`."""


class CopyPartsDestination(CopyDestination, PartsDestination, Protocol):
    """A destination that also copies in parts, for objects that are too large for one request."""

    def copy_part(
        self, upload: Upload, number: int, source: Location, found: ObjectInfo, span: ByteRange
    ) -> Part:
        """Let the store copy `span` of the version that was `found` as part `number`. Raises as
        `copy`."""


class StoreProvider(Protocol):
    """Creates the stores of one transfer."""

    def source(self, location: Location, meter: Watchdog) -> Source:
        """Return the store of the source."""

    def destination(self, location: Location, meter: Watchdog) -> Destination:
        """Return the store of the destination."""
