"""The number of requests that a migration will send to its two stores, estimated before it starts.

An object below the size of multipart uploads is read by one GET and sent by one PUT; WebDAV gives
it its name by a MOVE. An object in parts needs a HEAD, a GET and a PUT for each part, and two
requests to begin and to complete the upload. Each object is looked up at the destination, unless
that is empty. Files of this machine need none. Retries are not foreseen.

Never here: the findings (`dry_run.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.errors import Side
from relay.receipt import Level

PAGE_ENTRIES: Final = 1000
"""Number of entries of a page of most listings."""
LOCAL: Final = "local"
MOVING: Final = frozenset({"webdav", "nextcloud", "sftp"})
"""Stores to which an object is sent under a temporary name."""


@dataclass(frozen=True, kw_only=True)
class ExpectedWork:
    """What a migration will do. `source` and `destination` are the kinds of the stores."""

    source: str
    destination: str
    listed: int
    """Number of objects in the source."""
    copied: int
    """Number of objects that are sent, `parted` of them in `parts` in all."""
    parted: int
    parts: int
    looks: bool
    """Whether each object is looked up at the destination."""
    level: Level
    copies: bool
    """Whether the store copies by itself."""


def expected_requests(work: ExpectedWork) -> int:
    """Return the number of requests to both stores."""
    return sum(sum(counts.values()) for counts in requests_by_kind(work).values())


def requests_by_kind(work: ExpectedWork) -> dict[Side, dict[str, int]]:
    """Return the number of requests to each store, by their kind: `list`, `get`, `head`, and `put`
    (also COPY, MOVE, and those of an upload in parts)."""
    return {"source": _reads(work), "destination": _writes(work)}


def _reads(work: ExpectedWork) -> dict[str, int]:
    if work.source == LOCAL:
        return {}
    pages = {"list": max(1, -(-work.listed // PAGE_ENTRIES))}
    if work.copies:
        return pages
    return {**pages, "get": work.copied - work.parted + work.parts, "head": work.parted}


def _writes(work: ExpectedWork) -> dict[str, int]:
    if work.destination == LOCAL:
        return {}
    single = work.copied - work.parted
    sent = single * (2 if work.destination in MOVING else 1) + 2 * work.parted + work.parts
    return {
        "head": work.listed if work.looks else 0,
        "put": work.copied if work.copies else sent,
        "get": work.copied if work.level is Level.READ_BACK else 0,
    }
