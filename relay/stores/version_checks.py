"""Compare the version that is to be deleted with the one that is there.

Theory of operation. A deletion can't be taken back, so the two must agree in everything that both
show: the id, the strong ETag, the size and the date. A version without a strong ETag is never
deleted: size and date name no version.

Decided here: when a version may be deleted. Never here: how it is deleted (`stores/*/`)."""

from __future__ import annotations

from relay.errors import PreconditionFailed, Rejected, Side
from relay.location import Location
from relay.receipt import Version


def require_pinnable(location: Location, version: Version, side: Side) -> str:
    """Return the strong ETag of a version. Raises Rejected for a version without one."""
    tag = version.strong_etag
    if tag is None:
        raise Rejected(
            f"the store names no version of {location}: it has no strong ETag", side=side
        )
    return tag


def require_version(location: Location, known: Version, there: Version, side: Side) -> None:
    """Raise PreconditionFailed if the object that is there is not the known version."""
    changed = difference(known, there)
    if changed is not None:
        raise PreconditionFailed(f"{location} is a different version now: {changed}", side=side)


def difference(known: Version, there: Version) -> str | None:
    """Return in words what shows that the object that is there is not the known version, or does
    not show that it is; None if it is that version."""
    if known.strong_etag is None or there.strong_etag is None:
        return "a strong ETag is missing"
    pairs = {
        "its ETag": (known.strong_etag, there.strong_etag),
        "its version id": (known.id, there.id),
        "its size": (known.size, there.size),
        "its date": (known.last_modified, there.last_modified),
    }
    for name, (ours, theirs) in pairs.items():
        # An id on one side only: the bucket began, or ceased, to keep versions.
        is_optional = name in ("its size", "its date")
        if ours != theirs and not (is_optional and None in (ours, theirs)):
            return f"{name} was {ours} and is {theirs}"
    return None
