"""An event of a migration, and its place in the order of all events, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_CURSOR: Final = re.compile(r"(?:([0-9]{1,18})-)?([0-9]{1,18})")


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
