"""The contract of a store (law 9: one contract, one suite, every store).

**Contract.** A destination either has the whole object after `put` returned, or, as far as the
store's protocol lets anybody promise that, what it had before. No call retries, but for a page of
`list` (`relisting.py`). No call returns an answer that it does not believe: every status that is
not in the verb's explicit set raises a StoreError with `side` set."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import unquote_to_bytes

from relay.digest import Digests
from relay.errors import KeyTooLong, RelayError, ReservedKey, Side
from relay.file_names import NAME_BYTES
from relay.location import Location
from relay.receipt import Version
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

PREFIX, SUFFIX = ".relay-", ".part"
"""What begins and ends the name of an upload that is not published yet; nobody else's object may be
named so."""


_OTHERS = re.compile(r"relay-(relay-)?[0-9a-f-]{16,}\.upload(\.[^/]*)?")
"""What such an upload is called where the server refuses names that begin with a dot, or end in
`.part`."""


def temporary_name(token: str | None) -> str:
    """Return the name of an upload that is not published yet; None makes one up that nobody else
    has."""
    return f"{PREFIX}{token or uuid.uuid4().hex}{SUFFIX}"


def temporary_names(token: str, name: str) -> tuple[str, ...]:
    """Return what the upload of the object of this `name` may be called until it is published, the
    usual one first.

    Nextcloud and ownCloud refuse what ends in `.part` and `.filepart`, others what begins with a
    dot or `~$`; and some take only what ends as their objects do."""
    ending = name.rpartition(".")[2] if "." in name[1:] else ""
    plain = f"relay-{token}.upload"
    return (
        temporary_name(token),
        plain,
        f"{plain}.{ending}" if 0 < len(ending) <= 20 else f"{plain}.dat",
    )


def is_temporary_name(name: str) -> bool:
    """Say if a name is one of those."""
    return (name.startswith(PREFIX) and name.endswith(SUFFIX)) or _OTHERS.fullmatch(
        name
    ) is not None


_RESERVED = f"names like {PREFIX}…{SUFFIX} are those of unfinished uploads"


def check_segments(path: str, deepest: int) -> None:
    """Raise KeyTooLong for a percent-encoded path that a file system has no room for, or that has
    more than `deepest` folders; ReservedKey for the name of an upload that is not published yet."""
    segments = [unquote_to_bytes(segment) for segment in path.split("/")]
    if any(len(segment) > NAME_BYTES for segment in segments):
        raise KeyTooLong(f"a part of the path has more than {NAME_BYTES} bytes")
    if len(segments) - 2 > deepest:
        raise KeyTooLong(f"the path has more than {deepest} folders")
    if is_temporary_name(segments[-1].decode("utf-8", "surrogateescape")):
        raise ReservedKey(_RESERVED)


@dataclass(frozen=True)
class ObjectInfo:
    """An object that is there: its version, where it was found after redirects, and what describes
    it.

    `disposition` is its Content-Disposition; `metadata` the fields that belong to the object and go
    with it."""

    version: Version
    location: Location
    disposition: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    ranges: bool = False
    """Whether the store says that parts of it can be read."""
    described: bool = True
    """Whether the store told what describes it: where it did not, an empty `metadata` says
    nothing."""


@dataclass(frozen=True)
class UnknownObject:
    """The store can't tell what is there, nor if anything is: `why` is its refusal. It never means
    an absence."""

    why: RelayError


@dataclass(frozen=True)
class Entry:
    """What a listing tells of one object, or of one folder.

    `name` is relative to the folder that was listed, its parts separated by '/'; a folder's ends in
    one."""

    name: str
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None
    url: str | None = None
    """Where it is, if not below what was listed. It may hold secrets."""
    digests: Digests = field(default_factory=dict)
    error: RelayError | None = None
    """Why it can't be moved, or listed, where that shows already: its own failure, and nobody
    else's."""
    after: str | None = None
    """Behind what a later listing may go on, once all entries up to this one are kept: '' is the
    beginning, None says nothing of it, and what an earlier entry said holds on."""

    @property
    def folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")

    @property
    def is_listed_further(self) -> bool:
        """Whether it is a folder that only a listing of its own tells more of."""
        return self.folder and self.error is None


def reject_temporary_name(entry: Entry, side: Side) -> Entry | None:
    """Return what a listing tells of an object that has the name of an upload which is not
    published yet.

    At a destination that is nothing: it may be ours. Of a source nothing is left out, since a user
    may have given the name: there it is an entry with an error."""
    if side == "destination":
        return None
    hint = "Delete it if it is an upload that was not finished; else rename it."
    return Entry(entry.name, entry.size, error=ReservedKey(_RESERVED, side=side, hint=hint))


@dataclass(frozen=True)
class ByteRange:
    """Bytes `first` to `last` of an object, both included, counted from 0."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes that are."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class OpenedObject(ObjectInfo):
    """An object being read. Whoever holds it must read `body` to its end or close it."""

    body: Body | None = None


@dataclass(frozen=True)
class PutResult:
    """A destination's yes: what it said about the object, and where the object can be read.

    `readable` is None where the protocol names no place (a POST without a Location). `digests` are
    the destination's own words about the bytes it took; `ambiguous` says that they may be about its
    answer's text instead, so that only their agreeing means anything."""

    version: Version
    readable: Location | None
    digests: Digests
    ambiguous: bool = False
    place: Location | None = None
    """Where it belongs, if it lies at `readable` only until it is published there."""
    parts_checked: bool = False
    """It came in parts, and the store compared a digest of each with ours."""
    notes: tuple[str, ...] = ()
    """What of the object's metadata the store did not take."""
    found: bool = False
    """It was found there, after an answer was lost: it may be another's, until its digest says that
    it is ours."""


@dataclass(frozen=True)
class PartLimits:
    """How a store takes an object in parts, in bytes; `smallest` does not hold for the last
    part."""

    smallest: int
    largest: int
    most: int
    object_bytes: int


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun. `checked` says that the store keeps a digest of the whole
    object, `welcome` that it took a part of it just now: then no other need ask first if it may
    come (RFC 9110 section 10.1.1), which on a long line costs a part of the speed. `described` is
    what goes with the object, as it was given to `begin`."""

    location: Location
    id: str
    checked: bool
    welcome: bool = False
    described: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Part:
    """A part that the store has. `checked` says that it compared a digest of it with ours."""

    number: int
    size: int
    etag: str
    checked: bool


Begins = Callable[[Location, tuple[tuple[str, str], ...]], AbstractContextManager[Upload]]
"""Begins an upload in parts of an object with its metadata, and gives it for as long as the block
lasts; where that raises, the upload is thrown away."""


class Source(Protocol):
    """Something that objects are read from."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """Return what is there without reading it, or Unknown where the store can't tell (it allows
        only GET).

        Raises NotFound where nothing is there, which is as much proof as the store's protocol has,
        and StoreError. Leaves nothing open."""

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """Open the object; with `pinned`, that version or SourceChanged; with `span`, only those
        bytes of it, and of what version they are.

        Raises StoreError, SourceChanged, and RangeIgnored where the store would give the whole
        object instead. On failure nothing is left open."""

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """Yield what a folder holds, page by page as it is asked for: nothing grows with the number
        of objects.

        `after` is what an entry of an earlier listing said that a later one may go on behind;
        others begin anew. `recursive` gives all objects below it instead, without folders but those
        that can't be listed. What is wrong with one entry, or with one folder below, is that
        entry's error; a folder that is not there may be one that is empty. Raises StoreError,
        NotFound, ProtocolViolation for the folder itself; Unsupported where a store has no listing.
        """


class Destination(Protocol):
    """Something that objects are written to."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source's."""

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source's."""

    @property
    def lists_all(self) -> bool:
        """Whether a listing tells of everything that is there, as soon as it is there: what it does
        not tell of is not there then, at that moment."""

    def honours_preconditions(self, location: Location) -> bool:
        """Say if `if_absent` is known to hold here: what is there is not overwritten then, whatever
        else is known."""

    def publishes_atomically(self, digested: bool) -> bool:
        """Say if nothing of an upload that broke off can ever be seen, so that nobody needs to look
        for it.

        `digested` tells whether digests of the bytes are computed on the way.
        """

    @property
    def part_limits(self) -> PartLimits | None:
        """How it takes objects in parts (then it is a PartsDestination), or None."""

    def unkept_metadata(
        self, location: Location, metadata: tuple[tuple[str, str], ...]
    ) -> tuple[str, ...]:
        """Return what of an object's metadata it can't keep there, in words, as far as that can be
        known before."""

    def can_copy(self, source: Location, location: Location) -> bool:
        """Say if it may be asked to copy from there by itself: then it is a CopyDestination."""

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
        """Store the whole of `body`; with `if_absent` only where nothing is.

        `token` names the upload where it lies under another name until it is published; None makes
        one up.

        Raises PreconditionFailed (with `if_absent`: something is there), MetadataUnkept (where the
        metadata is to be kept whole, and can't be), StoreError, and the body's errors. On failure
        the upload was broken off before its end, so that a store that keeps to its protocol has
        nothing."""

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """Return where `put` with this token may store until it is published; empty: there is no
        such place."""

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """Let everybody see, at its `place`, an object that `put` returned, all at once; return
        what is there then.

        `fresh` says that nothing was there before: what shows there after it is what was published.
        Does nothing where `put` has done it. Raises PreconditionFailed (with `if_absent`: something
        is there), StoreError: then nothing has changed at its place."""

    def delete(self, location: Location, version: Version) -> None:
        """Delete the object if it is still `version` (where the store can tell). Raises
        StoreError."""


class Store(Source, Destination, Protocol):
    """Something that plays both roles."""


class PartsDestination(Destination, Protocol):
    """A destination that takes an object in parts, in any order and several at once; nobody sees it
    before the end."""

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
        """As Destination.put. One that takes a body of unknown length in parts begins their upload
        with `begins`, so that others learn of it; None begins one of which nobody does."""

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """Begin an upload. Raises StoreError, and MetadataUnkept as `put`. What it leaves is
        invisible, but may cost until it is aborted."""

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Store the whole of `body` as part `number`, from 1 on; again replaces it. Raises as `put`
        does."""

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """Return the parts that the store has, by their numbers; nothing is known of their digests.

        Raises NotFound for an upload that is gone, StoreError.
        """

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """Make the parts one object; `digests` are those of the whole, for the store to compare.

        Raises PreconditionFailed (with `if_absent`), IntegrityMismatch, StoreError: then there is
        no object."""

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """Return the uploads to exactly this place that were begun between two moments (seconds
        since 1970, of this machine's clock): of one whose answer nobody wrote down, that is all
        that is known.

        Empty where a store can't tell, and throws away by itself what is never completed. Raises
        StoreError."""

    def abort(self, upload: Upload) -> None:
        """Throw an upload away; one that is gone already is no error. Raises StoreError."""


class CopyDestination(Destination, Protocol):
    """A destination that copies what lies in the same store; no byte of it passes through here."""

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

        Raises SourceChanged, PreconditionFailed (with `if_absent`: something is there), StoreError:
        then there is no object. One that is not retryable may only mean that this store does not
        copy."""


class CopyPartsDestination(CopyDestination, PartsDestination, Protocol):
    """One that copies in parts too, for objects that are too large for one request."""

    def copy_part(
        self, upload: Upload, number: int, source: Location, found: ObjectInfo, span: ByteRange
    ) -> Part:
        """Let the store copy `span` of what was `found` as part `number`. Raises as `copy`."""


class StoreProvider(Protocol):
    """Gives the stores of one transfer."""

    def source(self, location: Location, meter: Watchdog) -> Source:
        """Return the store that holds the source."""

    def destination(self, location: Location, meter: Watchdog) -> Destination:
        """Return the store that takes the destination."""
