"""A listing in the ledger as plain values: one of its objects, and the right to write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any


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
    planned: str | None = None
    """The versions of both sides that the migration's plan has seen, as `PlannedPair.to_text`."""
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
    excluded: int = 0
    """Number of entries up to `cursor` that the filters left out."""
    standing: bool = False
    """Whether it is the listing of a pass of a standing migration."""
    base: int | None = None
    """The listing of the pass before it, by its number of `listings`; None for the first pass."""


@dataclass(frozen=True, kw_only=True)
class AgeOrigins:
    """The moments from which the ages in a migration's filters count, in seconds since 1970. A
    listing that a person asks for chooses all that an earlier one chose, unless it has changed."""

    earliest: float
    """That of the earliest time of an object: when the migration was accepted."""
    latest: float
    """That of the latest time: when the newest listing was asked for."""
