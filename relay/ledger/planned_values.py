"""What a plan has seen of the two objects of one name: nothing else may be moved or replaced.

Decided here: when an object is another one than the plan has seen. Never here: what follows from
that (`engine/transfer/precheck.py`)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from relay.parsing import http_date
from relay.receipt import Version

TAGGED: Final = frozenset({"s3", "local"})
"""Stores whose listings have the ETags of their answers to HEAD."""
CLOSE_SECONDS: Final = 1.0
"""Difference of two texts of one time: some have a fraction of a second, others none."""


@dataclass(frozen=True, kw_only=True)
class SeenVersion:
    """One side's object as a plan has seen it; a member is None where the store did not say."""

    size: int | None = None
    etag: str | None = None
    modified: float | None = None
    """In seconds since 1970."""

    def is_version(self, version: Version, store: str) -> bool:
        """Return whether a version is the seen one, as far as `store`, its kind, shows that. One
        that agrees in nothing but its size is not."""
        if self.size != version.size:
            return False
        is_tagged = None not in (self.etag, version.etag)
        if is_tagged and store in TAGGED and self.etag != version.etag:
            return False
        date = http_date(version.last_modified)
        if self.modified is None or date is None:
            return is_tagged and self.etag == version.etag
        # An equal ETag does not outweigh another date: some servers have one for all objects.
        return abs(date.timestamp() - self.modified) <= CLOSE_SECONDS


@dataclass(frozen=True, kw_only=True)
class PlannedPair:
    """The source's and the destination's object of one name, as a plan has seen them."""

    source: SeenVersion
    destination: SeenVersion | None
    """None: there was none."""

    def to_text(self) -> str:
        """Return it as JSON."""
        there = self.destination
        members = {
            "source": asdict(self.source),
            "destination": None if there is None else asdict(there),
        }
        return json.dumps(members, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | None) -> PlannedPair | None:
        """Return the pair whose `to_text` this is; None for None."""
        if text is None:
            return None
        members: dict[str, Any] = json.loads(text)
        there = members["destination"]
        return cls(
            source=SeenVersion(**members["source"]),
            destination=None if there is None else SeenVersion(**there),
        )
