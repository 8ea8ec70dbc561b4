"""The state of a destination before an object was sent there: a plain value, and the text of its
column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay.receipt import Version

ARRIVED: Final = "arrived"
"""Stored in place of a PriorState if the object was proved or skipped, or if no byte of it was
sent: the next attempt records the destination's state again."""
SENT: Final = '"sent": {"'
REMAINING: Final = '"remains": {"'
CONFIRMED: Final = '"confirmed": true'
"""Parts of the text of a PriorState: a version of ours that the destination accepted, leftovers,
and that a later inspection could not remove them."""
UNKNOWN: Final = '"known": false'
"""Part of the text of a PriorState that is unknown, or of one that the sweeper left as a note that
nothing has proved the object (`orphans.py`)."""
UNNOTED: Final = '"noted": false'
"""Part of the text of a PriorState that names leftovers, but no prior object."""
HAD_ARRIVED: Final = '"arrived": true'
"""Part of the text of a PriorState of an object that has arrived since, and has leftovers."""
DOUBTED: Final = '"doubted": true'
"""Part of the text of a PriorState that no claim has recorded."""


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
    doubted: bool = False
    """No claim has recorded it: the ledger may have lost one, or the object had arrived and is to
    move again."""

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
            doubted=found.get("doubted", False),
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
        rid |= {"doubted": True} if self.doubted else {}
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
