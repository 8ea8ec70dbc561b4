"""The states of a deletion, and its row as a value (law 5).

Decided here: the states, their transitions, and the reasons for which an object is kept. Never
here: SQL, and when an object may be deleted (`engine/removal/`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any, Final

from relay.receipt import Version

MOST: Final = 1000
"""Default limit of the deletions of one run."""
MOST_PERCENT: Final = 5
"""The same as a part of the destination's objects; the smaller one counts."""


class DeletionState(StrEnum):
    """The state of one deletion. `deleting` leads to either end, and a kept object may be asked
    about again; a deleted one stays deleted."""

    DELETING = "deleting"
    """It is recorded that the object is about to be deleted. Whether it was is not known."""
    DELETED = "deleted"
    KEPT = "kept"


class RemovalState(StrEnum):
    """The state of all deletions of a migration."""

    RUNNING = "running"
    """They have begun, or will when its copies have ended. One that no process works on was
    stopped."""
    OPEN = "open"
    """Each object was looked at, and some are left for a later run."""
    DONE = "done"


class DeletionBasis(StrEnum):
    """Why an object may be deleted."""

    RECEIPT = "receipt"
    """Its copy was proved by this migration, and the destination still has that version."""
    DIGEST = "digest"
    """Both stores report the same digest of it now."""
    ABSENT = "absent"
    """The source does not have the name."""


class KeptReason(StrEnum):
    """Why an object was kept. Each is a reason of the data, but the last two: those may be other
    ones a moment later."""

    UNPROVED = "unproved"
    """Nothing but its size was proved, or nothing at all."""
    NO_DIGEST = "no-digest"
    """It was there already, and no digest proves it the same."""
    METADATA_LOST = "metadata-lost"
    """The destination does not keep some of its metadata."""
    SOURCE_CHANGED = "source-changed"
    DESTINATION_CHANGED = "destination-changed"
    """The destination does not have the version that was proved."""
    NO_VERSION = "no-version"
    """A store does not name the version of the object."""
    ONE_PLACE = "one-place"
    """Source and destination may be one object."""
    GONE = "gone"
    """The source no longer has it; relay did not delete it."""
    NOT_LISTED = "not-listed"
    """It is not below the source: a list or an index page named its URL."""
    FOLDED = "folds-with"
    """The destination may have folded its name from another one of the source."""
    RETURNED = "returned"
    """The source has the name again."""
    SOURCE_EMPTY = "source-empty"
    """The source has nothing in its folder."""
    REFUSED = "refused"
    """The store refused the deletion, or the object is not one that may be deleted."""
    UNKNOWN = "unknown"
    """A store did not answer."""

    @property
    def may_pass(self) -> bool:
        """Whether the next run may find another answer without a change of the object."""
        return self in (KeptReason.REFUSED, KeptReason.UNKNOWN)


@dataclass(frozen=True)
class TrashCopy:
    """The copy of a deleted object in a trash: `trash` is the folder as its user named it, and
    `name` the copy's below it. `version` is the one that was proved; None: not known."""

    trash: str
    name: str
    version: Version | None = None

    def to_text(self) -> str:
        """Return the copy as the detail of a deletion."""
        version = None if self.version is None else self.version.to_json()
        return json.dumps({"trash": self.trash, "name": self.name, "version": version})

    @classmethod
    def from_text(cls, detail: str) -> TrashCopy:
        """Return the copy of `to_text`."""
        members = json.loads(detail)
        found = members["version"]
        version = None if found is None else version_of_json(found)
        return cls(members["trash"], members["name"], version)


@dataclass(frozen=True)
class Candidate:
    """An object that may be deleted: its name, the version, and why it may be; and where it is
    copied first, if there is a trash."""

    name: str
    version: Version
    basis: DeletionBasis
    copy: TrashCopy | None = None


@dataclass(frozen=True)
class DeletionEnd:
    """How the deletion of an object ended: its new state, and for a kept object why."""

    name: str
    state: DeletionState
    _: KW_ONLY
    reason: KeptReason | None = None
    detail: str | None = None
    marker: str | None = None
    window: bool = False


@dataclass(frozen=True, kw_only=True)
class DeletionRow:
    """One row of `deletions`."""

    id: int
    side: str
    name: str
    state: DeletionState
    version: Version
    basis: str | None
    reason: str | None
    detail: str | None
    marker: str | None
    note: str | None
    at: float
    undone: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as the terminal and reports print it."""
        return {
            "name": self.name,
            "side": self.side,
            "state": self.state.value,
            "version": self.version.to_json(),
            "basis": self.basis,
            "reason": self.reason,
            "detail": self.detail,
            "marker": self.marker,
            "note": self.note,
            "at": self.at,
            "undone": self.undone,
        }


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """The options of a move. `after` are the seconds from the proof of an object to its
    deletion."""

    after: float = 0.0
    purge: bool = False
    strict: bool = False
    loses_metadata: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "after": self.after,
            "purge": self.purge,
            "strict": self.strict,
            "loses_metadata": self.loses_metadata,
        }


@dataclass(frozen=True, kw_only=True)
class DeleteLimit:
    """The number of objects that one run may delete: a number, or a percentage of the destination's
    objects; the default is the smaller of MOST and MOST_PERCENT."""

    number: int | None = None
    percent: float | None = None

    def most(self, objects: int) -> int:
        """Return the number for a destination with this number of objects."""
        if self.number is not None:
            return self.number
        if self.percent is not None:
            return int(objects * self.percent / 100)
        return min(MOST, objects * MOST_PERCENT // 100)


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    """The options of a mirror."""

    limit: DeleteLimit = DeleteLimit()
    empty_source: bool = False
    """Whether an empty source may empty the destination, within the limit."""
    empty_folders: bool = False
    """Whether a folder that the source lacks, or shows as empty, may be emptied."""
    trash: str | None = None
    """The place into which deleted objects are copied first; None: they are just deleted."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "max_delete": self.limit.number,
            "max_percent": self.limit.percent,
            "empty_source": self.empty_source,
            "empty_folders": self.empty_folders,
            "trash": self.trash,
        }


@dataclass(frozen=True, kw_only=True)
class DeletionTally:
    """The number of a migration's deletions by their state, and of kept objects by their reason."""

    states: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)


def version_of_json(members: Mapping[str, Any]) -> Version:
    """Return the version of `Version.to_json`."""
    return Version(
        members["size"],
        members["etag"],
        members["last_modified"],
        digests={
            name: bytes.fromhex(text) for name, text in (members.get("digests") or {}).items()
        },
        id=members.get("version"),
    )
