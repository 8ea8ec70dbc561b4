"""Look at a destination by HEAD, and by the first byte where HEAD is only advice.

Decided here: what an answer says of what is there. Never here: what follows from it
(`existing.py`)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from relay.errors import NotFound, RangeIgnored, Rejected, SourceChanged, StoreError
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import ByteRange, Destination, ObjectInfo, Source, UnknownObject
from relay.wire.body import Body

PIECE_BYTES = 1 << 18
"""So many bytes are compared at a time."""


def inspect_object(destination: Destination, place: Location) -> ObjectInfo | UnknownObject:
    """Return what is there; where HEAD can't tell, a GET of one byte does, if it can.

    Raises NotFound where nothing is there, and StoreError.
    """
    found = destination.head(place)
    if not isinstance(found, ObjectInfo):
        return _first_byte(destination, place)
    if found.described or found.version.size is not None:
        return found
    reported = _first_byte(
        destination, place
    )  # another method told that something is there, and not its length
    return reported if isinstance(reported, ObjectInfo) else found


def _first_byte(destination: Destination, place: Location) -> ObjectInfo | UnknownObject:
    """Return what a GET of one byte tells. Raises NotFound, and what may pass."""
    try:
        opened = destination.get(place, None, ByteRange(0, 0))
    except (RangeIgnored, SourceChanged):  # it was answered with all of it; or it has no first byte
        return _head_by_get(destination, place)
    except NotFound:
        raise
    except StoreError as error:
        if error.retryable:
            raise
        return UnknownObject(error)
    assert opened.body is not None  # an Opened has one
    with closing(opened.body) as body:
        body.read()
    return ObjectInfo(
        replace(opened.version, digests={}), opened.location, metadata=opened.metadata
    )


def _head_by_get(destination: Destination, place: Location) -> ObjectInfo:
    """Return what the head of an answer to GET tells of something that is there, and has no first
    byte to give.

    Where it tells nothing this time, something is there all the same. Raises NotFound, and what may
    pass."""
    try:
        opened = destination.get(place)
    except NotFound:
        raise
    except StoreError as error:
        if error.retryable:
            raise
        return ObjectInfo(Version(), place, described=False)
    assert opened.body is not None  # an Opened has one
    opened.body.close()
    return ObjectInfo(
        replace(opened.version, digests={}), opened.location, metadata=opened.metadata
    )


def inspect_prior_state(destination: Destination, place: Location, needed: bool) -> PriorState:
    """Look at the destination before the upload. Raises StoreError as `inspect_object` does, but
    for what just is not there.

    Unless the look is `needed` one request is enough, and a final refusal only means that it is not
    known what is there."""
    try:
        found = inspect_object(destination, place) if needed else destination.head(place)
    except NotFound:
        return PriorState(known=True)
    except StoreError as error:
        if needed or error.retryable:
            raise
        return PriorState(known=False)
    if isinstance(found, UnknownObject):
        return PriorState(known=not needed and isinstance(found.why, NotFound))
    return PriorState(known=True, version=found.version)


def is_piece(
    destination: Destination,
    place: Location,
    source: Source,
    origin: Location,
    pinned: Version | None,
    there: Version,
) -> bool:
    """Say if the bytes that are there are the first ones of the source's version that is `pinned`,
    and no others: then they are of an upload of it. Raises StoreError, SourceChanged, and what
    breaks a body."""
    if (
        pinned is not None
        and None not in (pinned.size, there.size)
        and (there.size or 0) > (pinned.size or 0)
    ):
        return False
    ours: Body | None = None
    theirs = destination.get(place, there).body
    assert theirs is not None  # an Opened has one
    try:
        ours = _open_beginning(source, origin, pinned, there.size)
        while piece := theirs.read(PIECE_BYTES):
            if ours.read(len(piece)) != piece:
                return False
        return True
    finally:
        theirs.close()
        if ours is not None:
            ours.close()


def _open_beginning(
    source: Source, origin: Location, pinned: Version | None, length: int | None
) -> Body:
    """Open the source's first `length` bytes, or all of it. Raises as Source.get."""
    span = ByteRange(0, length - 1) if length else None
    try:
        body = source.get(origin, pinned, span).body
    except RangeIgnored:
        body = source.get(origin, pinned).body
    assert body is not None  # an Opened has one
    return body


def undescribed(place: Location) -> Rejected:
    """Return the error of one who is not to overwrite anything, and is not told if anything is
    there."""
    return Rejected(
        f"the destination does not tell whether something is at {place}, and nothing may be"
        " overwritten there",
        side="destination",
        hint=(
            "Permit to read it (HEAD or GET), or choose 'if_exists': 'overwrite'. Nothing was sent."
        ),
    )
