"""The plain values that the ledger takes and returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay.receipt import Version
from relay.throttle import Bounds

TERMINAL: Final = "terminal"
SERVER: Final = "server"
"""The kinds of runners. Each has remotes, folders and an egress policy of its own, and works on its
own migrations."""


@dataclass(frozen=True)
class Spec:
    """What a migration is to do. `secret` holds what is needed to speak to the stores, and never
    prints."""

    source: str
    destination: str
    options: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)
    priority: int = 0
    bounds: Bounds = Bounds()
    places: tuple[str, str] | None = field(default=None, repr=False)
    """What identifies source and destination (`relay.identity.place_of`); None: what is printed of
    them does."""
    owners: tuple[str, str] = field(default=("", ""), repr=False)
    """Whose accounts they are (`relay.identity.owner_of`)."""
    named: tuple[list[list[str]], list[list[str]]] = field(default=([], []), repr=False)
    """What their headers say of which object is meant (`relay.identity.named_by`)."""

    @property
    def recursive(self) -> bool:
        """Whether it is a tree."""
        return bool(self.options.get("recursive"))

    @property
    def printed_digest(self) -> str:
        """The digest by which an older relay knew a request again: it takes two of different
        queries for one."""
        text = json.dumps([self.source, self.destination, self.options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Count:
    """So many objects, and so many bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Efforts:
    """How many objects were proved on which level, and what it took beyond moving each once."""

    levels: Mapping[str, int] = field(default_factory=dict)
    resent: int = 0
    """Bytes that were sent more than once."""
    retries: int = 0
    """Attempts beyond each first one."""


@dataclass(frozen=True)
class Migration:
    """A migration as it stands.

    `tally` counts its transfers by state; `listing` is none, due, running, done or failed.
    """

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
    """Nothing was at the destination when its listing began."""
    bounds: Bounds = Bounds()
    renewed: int = 0
    """How often its secrets were replaced."""
    entries: int | None = None
    """Of how many objects its listings told; None: an older relay did not count."""
    runner: str | None = None
    """The kind of runner that it belongs to; None: an older relay accepted it for every kind."""
    tally: Mapping[str, Count] = field(default_factory=dict)
    in_parts: int = 0
    """Bytes that the destination has already, in parts of objects that are not whole yet."""
    efforts: Efforts = Efforts()
    sharers: int = 0
    """How many move parts of objects that are not their own."""
    retried: tuple[Mapping[str, Any], ...] = ()
    """What of it is tried again at the moment, by the name of its object: what, why, and when next
    (`retried.py`)."""

    @property
    def recursive(self) -> bool:
        """Whether it is a tree."""
        return bool(self.options.get("recursive"))

    @property
    def under_way(self) -> int:
        """How many transfers are made, and shared in, at the moment: none when what was paused or
        cancelled rests."""
        return self.count_in("running").objects + self.sharers

    def count_in(self, *states: str) -> Count:
        """Return the sum over some states; over all without any."""
        found = [self.tally[state] for state in states or self.tally if state in self.tally]
        return Count(sum(c.objects for c in found), sum(c.bytes for c in found))


@dataclass(frozen=True)
class MigrationView:
    """What a runner must know of a migration while it works on it: its state and bounds, and that
    it is number `place` (from 0) of the `from_text` runners that share them."""

    state: str
    bounds: Bounds
    place: int
    of: int


@dataclass(frozen=True)
class Listed:
    """One object that a listing told of."""

    name: str
    size: int | None = None
    etag: str | None = None
    modified: float | None = None
    url: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """In hex."""
    error: Mapping[str, Any] | None = None
    """Why it can't be moved, where that is known already."""
    identity: str | None = field(default=None, repr=False)
    """What tells it from another of the same name, where that does not: its URL, or its name as it
    really is. May be a secret; a keyed hash of it is kept."""


@dataclass(frozen=True)
class Listing:
    """The right to list a migration's source, and from where on."""

    migration_id: str
    fence: int
    cursor: str | None
    renewed: int = 0
    """As the migration's."""
    listings: int = 0
    """How often it was begun again by its user."""
    counted: bool = True
    """What it tells is counted, and has identities; not where an older relay began it."""
    lapses: int = 0
    """How many runners were lost with it since it told of anything new."""


ARRIVED: Final = "arrived"
"""Kept in the place of a Before of an object that was proved, or left alone, or of which no byte
has gone: its destination begins anew."""
MARKED: Final = 1
"""Kept as the `twins` of a marked transfer that has not gone to its destination (`twins.py`). Of
one that has it is the fence of the claim that went there, and one more: of two that killed attempts
have entered neither is under way, and the first to enter again is."""
UNNOTED: Final = '"noted": false'
"""Stands in the text of a Before that tells what remains, and nothing of what was there."""


@dataclass(frozen=True)
class PriorState:
    """What was at the destination before the first byte of an object went there.

    `version` is None for nothing, `known` False where the destination did not tell. `sent` is what
    the destination called the object that it took from us, where it said that: what is called so is
    ours. `remains` tells, by place, what of ours may be left, as its last end said; where nothing
    else is `noted` no byte went there that anybody knows of, or the object has `arrived` since.
    `since` is when its migration was accepted (seconds since 1970), where it is not `known`:
    nothing of ours is older. Of the claims up to the fence `rid` nothing is left there, where there
    were many; those up to the fence `unsent` have sent nothing."""

    known: bool
    version: Version | None = None
    sent: Version | None = None
    assumed: bool = False
    """Nobody wrote it down: nothing was found at the destination of its tree, and the object was
    claimed before."""
    remains: Mapping[str, str] = field(default_factory=dict)
    noted: bool = True
    arrived: bool = False
    since: float | None = None
    rid: int = 0
    unsent: int = 0

    @classmethod
    def from_text(cls, text: str | None) -> PriorState | None:
        """Return what `to_text` kept, or None where nothing was."""
        if text is None:
            return None
        if text == ARRIVED:
            return cls(known=False, noted=False, arrived=True)
        found = json.loads(text)
        version, sent = (found[name] and Version(**found[name]) for name in ("version", "sent"))
        remains, noted = found.get("remains") or {}, found.get("noted", True)
        more = {
            "arrived": found.get("arrived", False),
            "since": found.get("since"),
            "rid": found.get("rid", 0),
        }
        more["unsent"] = found.get("unsent", 0)
        return cls(found["known"], version, sent, remains=remains, noted=noted, **more)

    def sent_as(self, version: Version) -> PriorState:
        """The same, with what the destination calls what it took. (`replace` costs three times as
        much.)"""
        was = (self.remains, self.noted)
        return PriorState(
            self.known, self.version, version, self.assumed, *was, since=self.since, rid=self.rid
        )

    def to_text(self) -> str:
        """Return it as a column keeps it; the digests of versions are left out."""
        if self.arrived and not self.remains:
            return ARRIVED
        kept: dict[str, Any] = {
            "known": self.known,
            "version": _named(self.version),
            "sent": _named(self.sent),
        }
        kept |= {} if self.since is None else {"since": self.since}
        left = {"remains": dict(self.remains), "noted": self.noted, "arrived": self.arrived}
        rid = {"rid": self.rid} if self.rid else {}
        rid |= {"unsent": self.unsent} if self.unsent else {}
        return json.dumps(
            {**kept, **left, **rid} if self.remains or not self.noted else {**kept, **rid}
        )


def _named(version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "size": version.size,
        "etag": version.etag,
        "last_modified": version.last_modified,
        "id": version.id,
    }


@dataclass(frozen=True)
class Claim:
    """The right to work on one transfer, as long as `fence` is the newest. `lapses` tells how many
    runners that had it are gone; then the destination must be asked before anything is done
    again."""

    id: int
    migration_id: str
    fence: int
    name: str
    url: str | None
    size: int | None
    etag: str | None
    modified: float | None
    attempts: int
    lapses: int
    resent: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """What its list says, in hex."""
    renewed: int = 0
    """As the migration's."""
    before: PriorState | None = None
    """What was at the destination before the first byte of it went there, or None: none has, as far
    as that is kept."""
    empty: bool = False
    """Nothing was at the destination of its tree, a short while ago."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """What of ours may be left at its destination, by place, as its last end said."""
    twins: int = 0
    """Not 0: some stores take its name and another one's of its tree for one; 1: no byte of it has
    gone yet."""
    rid: int = 0
    """Of its claims up to this fence nothing is left at its destination."""
    untouched: bool = False
    """No claim before this one has sent anything."""


@dataclass(frozen=True)
class Settlement:
    """How a claim ended: `verb` of the transitions (verified, unverified, skipped, failed,
    hand_back).

    `wait` is how many seconds nobody is to claim it again, after a hand_back. `unsent` says that a
    Before may stand in the ledger, and no byte of the object has gone after all; `remains`, by
    place, what of ours may be left, until it arrives and is proved."""

    claim: Claim
    verb: str
    bytes: int | None = None
    resent: int = 0
    seconds: float | None = None
    level: str | None = None
    receipt: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    wait: float = 0.0
    unsent: bool = False
    remains: Mapping[str, str] = field(default_factory=dict)
    rid: bool = False
    """Nothing is left of the claims before this one: nobody need look for it."""
    untouched: bool = False
    """No byte of the object has gone, with this claim or one before it."""
    sent: Version | None = None
    """What the destination calls an object that is there, and that nothing has proved."""


@dataclass(frozen=True)
class PollResult:
    """What one turn of a runner came to: what it has claimed, which of the claims that it settled
    were not its own any more, and how the migrations stand that it works on."""

    claims: tuple[Claim, ...]
    lost: tuple[Claim, ...]
    standings: Mapping[str, MigrationView]


@dataclass(frozen=True)
class UploadRecord:
    """An upload in parts that stands in the ledger, with the parts that the destination has
    acknowledged.

    `upload_id` is empty where it was about to be begun, and nobody wrote down that it was; `at`
    says when that was written (seconds since 1970)."""

    upload_id: str
    checked: bool
    place: str
    etag: str
    size: int
    part_bytes: int
    digest: str | None = None
    parts: tuple[StoredPart, ...] = ()
    at: float = 0.0
    total: int = 0
    """How many parts there are to be."""
    digested: bool = True
    """Whether a digest of each part is wanted."""
    pinned: Version | None = None
    """The version of the source that they are parts of, for others to read some; None: nobody else
    is to."""


@dataclass(frozen=True)
class PartLease:
    """The right to move some parts of an object that is another runner's: first the part `first`,
    and then what is left. `claim` is that of the other."""

    claim: Claim
    upload: UploadRecord
    first: int


@dataclass(frozen=True)
class StoredPart:
    """A part that the destination has; `digest` is the CRC64NVME of what was sent, in hex, or
    empty."""

    number: int
    size: int
    etag: str
    digest: str
    checked: bool


@dataclass(frozen=True)
class Orphan:
    """A transfer that nobody makes any more, as its last claim; and the upload in parts that it has
    begun, if any.

    `before` is what was at its destination before the first byte went there, also where nobody
    wrote that down; None where none went there at all."""

    claim: Claim
    upload: UploadRecord | None
    before: PriorState | None = None
