"""The plain values that the ledger takes and returns."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from relay.ledger.states import TransferState
from relay.ledger.viewer import DEFAULT_TENANT, Viewer
from relay.receipt import Version
from relay.throttle import Bounds

_CURSOR: Final = re.compile(r"(?:([0-9]{1,18})-)?([0-9]{1,18})")

TERMINAL: Final = "terminal"
SERVER: Final = "server"
"""The kinds of workers. Each kind has its own remotes, folders and egress policy, and works only on
the migrations that were accepted for it."""


@dataclass(frozen=True)
class Spec:
    """The request of a migration. `secret` holds the locations with their credentials; it is left
    out of the repr."""

    source: str
    destination: str
    _: KW_ONLY
    options: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)
    priority: int = 0
    bounds: Bounds = Bounds()
    paused: bool = False
    """Whether nothing starts until a person resumes it."""
    places: tuple[str, str] | None = field(default=None, repr=False)
    """Identities of source and destination (`relay.identity.place_identity`); None: `source` and
    `destination` are the identities."""
    place: tuple[str, str] | None = field(default=None, repr=False)
    """The server of the destination, and its path there (`relay.identity.place_in_server`); None if
    unknown. The path of a tree ends in '/'."""
    owners: tuple[str, str] = field(default=("", ""), repr=False)
    """The accounts of source and destination (`relay.identity.owner_of`)."""
    of_machine: bool = False
    """Whether a command names files or servers that are other ones on each machine."""
    volumes: tuple[list[str], ...] = field(default=(), repr=False)
    """Identities of those files and servers in a container: another container of the same machine
    may have others of the same names."""
    named: tuple[list[list[str]], list[list[str]]] = field(default=([], []), repr=False)
    """The headers of source and destination that select the object
    (`relay.identity.selecting_headers`)."""

    @property
    def recursive(self) -> bool:
        """Whether the request is for a tree."""
        return bool(self.options.get("recursive"))

    @property
    def printed_digest(self) -> str:
        """The digest by which an older relay recognized a request. Two requests that differ only in
        their queries have the same digest."""
        text = json.dumps([self.source, self.destination, self.options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Count:
    """A number of objects, and the sum of their bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Efforts:
    """The number of objects proved on each level, and the work beyond moving each object once."""

    levels: Mapping[str, int] = field(default_factory=dict)
    resent: int = 0
    """Bytes that were sent more than once."""
    retries: int = 0
    """Attempts beyond the first of each object."""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """A migration with its counters.

    `tally` counts its transfers by state; `listing` is none, due, running, done or failed."""

    id: str
    number: int
    state: str
    source: str
    destination: str
    options: Mapping[str, Any]
    listing: str
    cursor: str | None
    error: Mapping[str, Any] | None
    priority: int
    created: float
    ended: float | None
    destination_empty: bool = False
    """The destination was empty when the listing began."""
    bounds: Bounds = Bounds()
    renewed: int = 0
    """How often its secrets were replaced."""
    entries: int | None = None
    """Number of objects that its listings named; None: an older relay did not count."""
    runner: str | None = None
    """The kind of worker that it belongs to; None: an older relay accepted it for every kind."""
    tenant: str = DEFAULT_TENANT
    sequence: int = 0
    """Its place in the order in which the ledger accepted the migrations of all tenants."""
    needs_attention: bool = False
    """Whether a person should look at it: relay paused it, or it ended with failures that no person
    has acknowledged."""
    tally: Mapping[str, Count] = field(default_factory=dict)
    in_parts: int = 0
    """Bytes in the stored parts of unfinished multipart uploads."""
    efforts: Efforts = Efforts()
    helpers: int = 0
    """Number of workers that move parts of another worker's objects."""
    retried: tuple[Mapping[str, Any], ...] = ()
    """The pending retries, each with the object's name, the error and the time of the next attempt
    (`retried.py`)."""
    slots: int | None = None
    """Number of slots of the workers that run its transfers; None if none runs, or is an older
    relay."""

    @property
    def recursive(self) -> bool:
        """Whether it is a tree."""
        return bool(self.options.get("recursive"))

    @property
    def name(self) -> str:
        """The number by which people and commands find it: `7`, or `acme:7` of another tenant than
        the default one."""
        return str(self.number) if self.tenant == DEFAULT_TENANT else f"{self.tenant}:{self.number}"

    def cursor_for(self, viewer: Viewer) -> int:
        """Return its place in the lists that a viewer sees. Another tenant's migrations do not
        count there, unless the viewer sees them."""
        return self.sequence if viewer.sees_all else self.number

    @property
    def under_way(self) -> int:
        """Number of running transfers and of helpers with their parts. After a pause or cancel it
        falls to 0 when every worker has stopped."""
        return self.count_in(TransferState.RUNNING).objects + self.helpers

    def count_in(self, *states: str) -> Count:
        """Return the sum over some states, or over all states if none is named."""
        found = [self.tally[state] for state in states or self.tally if state in self.tally]
        return Count(sum(c.objects for c in found), sum(c.bytes for c in found))


@dataclass(frozen=True, order=True)
class EventCursor:
    """A place in the order of events: that of event `id`, which transaction `tx` wrote. Of two
    events the one with the lower transaction comes first, and of one transaction the one with the
    lower number."""

    tx: int = 0
    id: int = 0

    @classmethod
    def from_text(cls, text: str) -> EventCursor | None:
        """Parse `tx-id`, or the plain number of an older relay. Returns None for another text."""
        found = _CURSOR.fullmatch(text)
        return None if found is None else cls(int(found[1] or 0), int(found[2]))

    def __str__(self) -> str:
        """Return `tx-id`, the id of a server-sent event."""
        return f"{self.tx}-{self.id}"


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a migration, with its place in the order of all events."""

    cursor: EventCursor
    migration_id: str
    at: float
    kind: str
    members: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"id": self.cursor.id, "at": self.at, "kind": self.kind, **self.members}


@dataclass(frozen=True, kw_only=True)
class MigrationView:
    """The part of a migration that its workers follow: its state and bounds. This worker is number
    `place` (from 0) of the `of` workers that share the bounds."""

    state: str
    bounds: Bounds
    place: int
    of: int
    watched: bool = False
    """Whether its workers write what they move (`live_rows.py`)."""


@dataclass(frozen=True)
class ListedObject:
    """One object of a listing."""

    name: str
    _: KW_ONLY
    size: int | None = None
    etag: str | None = None
    modified: float | None = None
    url: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """In hex."""
    error: Mapping[str, Any] | None = None
    """Why the object can't be moved, if the listing shows that already."""
    identity: str | None = field(default=None, repr=False)
    """Distinguishes objects with equal printed names: the object's URL, or its name before it was
    made printable. May be a secret; only a keyed hash of it is stored."""


@dataclass(eq=False, kw_only=True)
class ListingClaim:
    """The right to list a migration's source, from `cursor` on."""

    migration_id: str
    fence: int
    """Its claim, and the pages written since: if the ledger loses the commit of a page, no later
    page can be written."""
    cursor: str | None
    renewed: int = 0
    """The migration's `renewed`, when this listing was claimed."""
    listings: int = 0
    """How often the user has restarted the listing."""
    counted: bool = True
    """Whether its entries are counted and have identities. False if an older relay started it."""
    crash_count: int = 0
    """Number of workers lost with the listing since its last new page."""


ARRIVED: Final = "arrived"
"""Stored in place of a PriorState if the object was proved or skipped, or if no byte of it was
sent: the next attempt records the destination's state again."""
MARKED: Final = 1
"""The column `twins` of a marked transfer that has not been sent (`folded_names.py`). Once it is
sent, the column is the fence of the sending claim plus 1. If killed attempts have entered two
transfers, neither is running, and the first to enter again runs."""
ARRIVED_EARLIER: Final = 2**31 - 1
"""The column `twins` of a restarted transfer whose object had arrived. No claim resets it: the
object may be at the destination, whatever the restarted transfer finds there."""
SENT: Final = '"sent": {"'
REMAINING: Final = '"remains": {"'
CONFIRMED: Final = '"confirmed": true'
"""Parts of the text of a PriorState: a version of ours that the destination accepted, leftovers,
and that a later inspection could not remove them."""
UNNOTED: Final = '"noted": false'
"""Part of the text of a PriorState that names leftovers, but no prior object."""


@dataclass(frozen=True, kw_only=True)
class PriorState:
    """The state of the destination before the first byte of an object was sent there."""

    known: bool
    """False if the destination did not answer for the object."""
    version: Version | None = None
    """The prior object, or None."""
    sent: Version | None = None
    """The version that the destination reported for the object that it took from us: an object with
    that version is ours."""
    assumed: bool = False
    """It was not recorded: the destination of the tree was found empty, and the object was claimed
    before. Or only a HEAD was answered 404, which the server may not support."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Leftovers of ours that may be at the destination, by their location, from the last
    settlement."""
    noted: bool = True
    """False if only `remains` is recorded: no byte is known to have been sent, or the object has
    `arrived` since."""
    arrived: bool = False
    """The object has arrived since."""
    since: float | None = None
    """When the migration was accepted (seconds since 1970), if the state is not `known`: nothing of
    ours is older."""
    rid: int = 0
    """Claims up to this fence have left nothing at the destination."""
    unsent: int = 0
    """Claims up to this fence have sent nothing."""
    place: str | None = None
    """The object's location as it is printed, if the destination is a folder: then the source names
    the object, and may give it another name in the next attempt."""
    confirmed: bool = False
    """The leftovers in `remains` could not be removed after the last attempt."""

    @classmethod
    def from_text(cls, text: str | None) -> PriorState | None:
        """Parse the text of `to_text`; None gives None."""
        if text is None:
            return None
        if text == ARRIVED:
            return cls(known=False, noted=False, arrived=True)
        found = json.loads(text)
        return cls(
            known=found["known"],
            version=Version(**found["version"]) if found["version"] else None,
            sent=Version(**found["sent"]) if found["sent"] else None,
            remains=found.get("remains") or {},
            noted=found.get("noted", True),
            arrived=found.get("arrived", False),
            since=found.get("since"),
            rid=found.get("rid", 0),
            unsent=found.get("unsent", 0),
            place=found.get("place"),
            confirmed=found.get("confirmed", False),
        )

    def with_sent(self, version: Version) -> PriorState:
        """Return a copy with the version that the destination reported for our object. (`replace`
        takes three times as long.)"""
        return PriorState(
            known=self.known,
            version=self.version,
            sent=version,
            assumed=self.assumed,
            remains=self.remains,
            noted=self.noted,
            since=self.since,
            rid=self.rid,
            place=self.place,
        )

    def to_text(self) -> str:
        """Return the text for the column; the digests of versions are left out."""
        if self.arrived and not self.remains:
            return ARRIVED
        kept: dict[str, Any] = {
            "known": self.known,
            "version": _members_of(self.version),
            "sent": _members_of(self.sent),
        }
        kept |= {} if self.since is None else {"since": self.since}
        kept |= {} if self.place is None else {"place": self.place}
        left = {"remains": dict(self.remains), "noted": self.noted, "arrived": self.arrived}
        rid = {"rid": self.rid} if self.rid else {}
        rid |= {"unsent": self.unsent} if self.unsent else {}
        rid |= {"confirmed": True} if self.confirmed else {}
        return json.dumps(
            {**kept, **left, **rid} if self.remains or not self.noted else {**kept, **rid}
        )


def _members_of(version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "size": version.size,
        "etag": version.etag,
        "last_modified": version.last_modified,
        "id": version.id,
    }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on one transfer, as long as `fence` is the newest. `crash_count` is the
    number of workers that were lost with it; above 0 the destination must be inspected before a new
    attempt."""

    id: int
    migration_id: str
    fence: int
    name: str
    url: str | None
    size: int | None
    etag: str | None
    modified: float | None
    attempts: int
    crash_count: int
    resent: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """The digests from its list, in hex."""
    renewed: int = 0
    """The migration's `renewed`, when the transfer was claimed."""
    before: PriorState | None = None
    """The destination's state before the first byte was sent, or None: no byte was sent, as far as
    the ledger knows."""
    empty: bool = False
    """The destination of its tree was empty within the last EMPTY_SECONDS."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Leftovers of ours that may be at the destination, by their location, from the last
    settlement."""
    twins: int = 0
    """Above 0: some stores fold its name and another one of its tree into one. MARKED: no byte of
    it was sent yet."""
    rid: int = 0
    """Claims up to this fence have left nothing at the destination."""
    untouched: bool = False
    """No earlier claim has sent anything."""
    number: int | None = None
    """The number of its migration among those of `tenant`, for the log."""
    tenant: str | None = None


@dataclass(frozen=True)
class Settlement:
    """The end of a claim, with its verb of `states.TRANSFER` (verified, unverified, skipped,
    failed, hand_back)."""

    claim: Claim
    verb: str
    _: KW_ONLY
    bytes: int | None = None
    resent: int = 0
    seconds: float | None = None
    level: str | None = None
    receipt: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    wait: float = 0.0
    """Seconds before the transfer may be claimed again, after a hand_back."""
    unsent: bool = False
    """The ledger may hold a PriorState, but no byte of the object was sent."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Leftovers of ours that may be at the destination, by their location, until the object arrives
    and is proved."""
    rid: bool = False
    """Earlier claims have left nothing at the destination, so no later one needs to check."""
    untouched: bool = False
    """No byte of the object was sent, by this claim or an earlier one."""
    sent: Version | None = None
    """The destination's version of an object that arrived and was not proved."""
    place: str | None = None
    """The location of a single object that was skipped: its source may have named it."""


@dataclass(frozen=True)
class PollResult:
    """The result of one poll of a worker: its new claims, the settled claims that it had lost
    before, and the state of the migrations that it works on."""

    claims: tuple[Claim, ...]
    lost: tuple[Claim, ...]
    standings: Mapping[str, MigrationView]


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """A multipart upload in the ledger, with the parts that the destination has acknowledged."""

    upload_id: str
    """Empty if the upload was about to be created, and its id was never recorded."""
    checked: bool
    place: str
    etag: str
    size: int
    part_bytes: int
    digest: str | None = None
    parts: tuple[StoredPart, ...] = ()
    at: float = 0.0
    """When it was recorded (seconds since 1970)."""
    total: int = 0
    """Number of parts of the object."""
    digested: bool = True
    """Whether a digest of each part is wanted."""
    pinned: Version | None = None
    """The version of the source, which helpers must read; None: no helper may join."""


@dataclass(frozen=True)
class PartLease:
    """The right to move some parts of another worker's object: first part `first`, and then the
    remaining ones. `claim` is the other worker's."""

    claim: Claim
    upload: UploadRecord
    first: int


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part that the destination has; `digest` is the CRC64NVME of the sent bytes in hex, or
    empty."""

    number: int
    size: int
    etag: str
    digest: str
    checked: bool


@dataclass(frozen=True)
class Orphan:
    """A transfer that no worker will resume, as its last claim, and its multipart upload, if any.

    `before` is the destination's state before the first byte was sent, recorded or assumed; None if
    no byte was sent. `ended` is when its last claim ended (seconds since 1970), None if unknown."""

    claim: Claim
    upload: UploadRecord | None
    before: PriorState | None = None
    ended: float | None = None
