"""Inspect a destination by HEAD, and by a GET of one byte if HEAD is not reliable.

Decided here: what an answer proves about the existing object. Never here: what follows from it
(`transfer/precheck.py`)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from relay.engine.plan import Plan
from relay.errors import (
    AlreadyExists,
    KeyCollision,
    NotFound,
    RangeIgnored,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
)
from relay.file_names import is_named_by_answer
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import ByteRange, Destination, ObjectInfo, Source, UnknownObject
from relay.wire.body import Body

PIECE_BYTES = 1 << 18
"""Number of bytes that are compared at a time."""


def inspect_object(
    destination: Source | Destination, place: Location
) -> ObjectInfo | UnknownObject:
    """Return the existing object, by HEAD, or by a GET of one byte if HEAD does not describe it.

    Raises NotFound if there is none, and StoreError.
    """
    found = destination.head(place)
    if not isinstance(found, ObjectInfo):
        return _first_byte(destination, place)
    if found.described or found.version.size is not None:
        return found
    # Another method than HEAD showed that an object exists, but not its length.
    read = _first_byte(destination, place)
    return read if isinstance(read, ObjectInfo) else found


def _first_byte(destination: Source | Destination, place: Location) -> ObjectInfo | UnknownObject:
    """Return the description by a GET of one byte. Raises NotFound, and retryable StoreErrors."""
    try:
        opened = destination.get(place, None, ByteRange(0, 0))
    except (RangeIgnored, SourceChanged):  # the store ignores ranges, or the object is empty
        return _head_by_get(destination, place)
    except StoreError as error:
        if error.retryable or isinstance(error, NotFound | KeyCollision):
            raise
        return UnknownObject(error)
    assert opened.body is not None  # an Opened has one
    with closing(opened.body) as body:
        body.read()
    return ObjectInfo(
        replace(opened.version, digests={}), opened.location, metadata=opened.metadata
    )


def _head_by_get(destination: Source | Destination, place: Location) -> ObjectInfo:
    """Return the description by the head of a GET, for an existing object without a first byte.

    If the store refuses this time, the object exists nevertheless. Raises NotFound, and retryable
    StoreErrors."""
    try:
        opened = destination.get(place)
    except StoreError as error:
        if error.retryable or isinstance(error, NotFound | KeyCollision):
            raise
        return ObjectInfo(Version(), place, described=False)
    assert opened.body is not None  # an Opened has one
    opened.body.close()
    return ObjectInfo(
        replace(opened.version, digests={}), opened.location, metadata=opened.metadata
    )


def size_by_head(found: ObjectInfo, place: Location) -> int | None:
    """Return the size that an answer to HEAD proves. Many web servers answer HEAD for a body that
    they make with a length of 0."""
    size = found.version.size
    return None if size == 0 and place.store == "http" else size


def inspect_prior_state(destination: Destination, place: Location, needed: bool) -> PriorState:
    """Return the state of the destination before the upload. Raises StoreError, except NotFound.

    Unless the state is `needed`, one HEAD is enough, and a permanent refusal means that the state
    is unknown; but KeyCollision is raised. A 404 to HEAD, of a server that may not support HEAD, is
    then only `assumed`."""
    try:
        found = inspect_object(destination, place) if needed else destination.head(place)
    except NotFound:
        return PriorState(known=True)
    except StoreError as error:
        if needed or error.retryable or isinstance(error, KeyCollision):
            raise
        return PriorState(known=False)
    if isinstance(found, UnknownObject):
        absent = not needed and isinstance(found.why, NotFound)
        return PriorState(known=absent, assumed=absent)
    return PriorState(known=True, version=found.version)


def is_piece(
    destination: Destination,
    place: Location,
    there: Version,
    *,
    source: Source,
    origin: Location,
    pinned: Version | None,
) -> bool:
    """Return whether the existing object has only the first bytes of the source's `pinned` version:
    then it comes from an upload of it. Raises StoreError, SourceChanged, and as Body.read."""
    if (
        pinned is not None
        and None not in (pinned.size, there.size)
        and (there.size or 0) > (pinned.size or 0)
    ):
        return False
    # Source first, like each upload: each side may wait for a free connection.
    ours = _open_beginning(source, origin, pinned, there.size)
    theirs: Body | None = None
    try:
        theirs = destination.get(place, there).body
        assert theirs is not None  # an Opened has one
        while piece := theirs.read(PIECE_BYTES):
            if ours.read(len(piece)) != piece:
                return False
        return True
    finally:
        ours.close()
        if theirs is not None:
            theirs.close()


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


def is_empty_folder(destination: Destination, folder: Location) -> bool:
    """Return whether a folder has nothing, so that its objects need no HEAD each. Only a listing
    that shows every object can say so; an error of the store says nothing."""
    try:
        if not destination.lists_all(folder):
            return False
        is_empty = next(iter(destination.list(folder, False)), None) is None
        return is_empty and destination.lists_all(folder)  # the answer may show that it does not
    except NotFound:
        return True
    except RelayError:
        return False


def existing_error(plan: Plan, place: Location) -> AlreadyExists:
    """Return the error for an object at the plan's `place` that must not be overwritten."""
    chosen = is_named_by_answer(plan.destination, plan.source, place)
    why = ", and the source's answer chose that name" if chosen else ""
    return AlreadyExists(f"{place} exists{why}")


def undescribed_error(place: Location) -> Rejected:
    """Return the error for a destination that does not show whether an object exists, if nothing
    may be overwritten."""
    return Rejected(
        f"the destination does not show whether {place} exists, and nothing may be overwritten"
        " there",
        side="destination",
        hint=(
            "Permit to read it (HEAD or GET), or choose 'if_exists': 'overwrite'. Nothing was sent."
        ),
    )
