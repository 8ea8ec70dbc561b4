"""A migration as plain values: its request, its counters, and what its workers follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from relay.ledger.standing_values import PassTimes, StandingState
from relay.ledger.states import TransferState
from relay.ledger.viewer import DEFAULT_TENANT, Viewer
from relay.throttle import Bounds


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
    standing: PassTimes | None = None
    """When the passes of a standing migration begin; None: it is not a standing one."""

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
    excluded: int | None = None
    """Number of entries of its newest listing that the filters left out; None without filters."""
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
    standing: StandingState | None = None
    """Its phase and its times, if it is a standing migration."""

    @property
    def recursive(self) -> bool:
        """Whether it is a tree."""
        return bool(self.options.get("recursive"))

    @property
    def is_at_rest(self) -> bool:
        """Whether it stands, and no pass is under way: a worker has nothing to do."""
        return self.standing is not None and self.standing.is_at_rest

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
