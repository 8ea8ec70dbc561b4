"""Prove one object at its destination.

Theory of operation. After the destination said yes, the strongest proof that was asked for is
looked for, in this order: the destination's own digest in its answer to the upload; its digest in
an answer to HEAD; the bytes read back. A digest that differs is a failure. A proof that can't be
had lowers the level, and says so in a note: "could not verify" is never success.

Never here: what happens after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from relay.digest import Digests, as_hex, compare
from relay.engine.inspection import inspect_object
from relay.engine.plan import Verify
from relay.errors import (
    DestinationLost,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RedirectRefused,
    Rejected,
    SourceChanged,
    StoreError,
    Unauthenticated,
)
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Level, Version
from relay.stores.interfaces import Destination, ObjectInfo, PutResult, UnknownObject
from relay.wire.pump import drain

CANT_READ = (NotFound, PermissionDenied, RedirectRefused, Unauthenticated, Rejected)
"""Refusals that say that this destination is not to be read, rather than that something broke."""


@dataclass(frozen=True)
class Proof:
    """What was proved, about which version, and what could not be."""

    level: Level
    version: Version
    notes: tuple[str, ...] = ()
    read: bool = False
    """The destination let us look at the object."""
    shown: tuple[tuple[str, str], ...] | None = None
    """What the destination tells of the object's metadata, where it was looked at."""
    denied: StoreError | None = None
    """Why it could not be read, where that is a denial."""


@dataclass(frozen=True)
class Sent:
    """What went into the destination: its length in bytes, our digests of it, and those that its
    source declared."""

    bytes: int
    digests: Digests
    declared: Digests

    @property
    def known(self) -> Digests:
        """Every digest that the object must have."""
        return {**self.declared, **self.digests}


def prove_object(
    destination: Destination,
    stored: PutResult,
    sent: Sent,
    verify: Verify,
    poll: Callable[[], bool],
    before: PriorState,
) -> Proof:
    """Find the proof. `poll()` waits a moment and returns True while a destination may still
    settle: show nothing yet, or what was there `before`.

    Raises IntegrityMismatch when the destination has other bytes, DestinationLost when it has none,
    or still what was there before, and the destination's errors when the looking breaks."""
    if verify is Verify.AUTO and (proof := _proof_from_response(stored, sent)) is not None:
        return proof
    if stored.readable is None:
        return Proof(
            Level.SIZE, stored.version, ("the destination names no place to read the object from",)
        )
    while True:
        found = _wait_until_visible(destination, stored.readable, poll)
        try:
            return _prove_shown(destination, stored, found, sent, verify)
        except DestinationLost:
            if not poll():
                raise
        except (IntegrityMismatch, PreconditionFailed) as error:
            if not _may_be_old(before, stored.version, found):
                raise
            if poll():
                continue
            if found is not None and is_same(before.version, found.version):
                raise DestinationLost(
                    f"{stored.readable} still shows what was there before"
                ) from error
            raise


def _prove_shown(
    destination: Destination,
    stored: PutResult,
    found: ObjectInfo | None,
    sent: Sent,
    verify: Verify,
) -> Proof:
    """Find the proof about what the destination shows now. Raises as `prove_object`,
    PreconditionFailed for another's."""
    assert stored.readable is not None, "it was looked at"
    version = _merge_versions(stored, found)
    replaced = found is not None and _is_other_version(stored.version, found.version)
    ours = found is not None and _is_named(stored.version, found.version)
    try:
        proof = _prove_found(destination, stored, version, sent, verify, ours)
        shown = found.metadata if found is not None and found.described else None
        return replace(proof, read=found is not None or proof.level is Level.READ_BACK, shown=shown)
    except IntegrityMismatch as error:
        if replaced:
            raise _overwritten_error(stored.readable) from error
        raise


def is_same(one: Version | None, other: Version) -> bool:
    """Say if two versions of one place are the same one, by what the store calls them."""
    if one is None:
        return False
    if one.etag is not None or other.etag is not None:
        return one.etag == other.etag
    return one.last_modified is not None and (one.size, one.last_modified) == (
        other.size,
        other.last_modified,
    )


def _may_be_old(before: PriorState, ours: Version, found: ObjectInfo | None) -> bool:
    """Say if what a destination shows may be what was there before: caches and replicas show that
    for a while."""
    if before.known and before.version is None:
        return False
    return (
        found is None or ours.strong_etag is None or ours.strong_etag != found.version.strong_etag
    )


def _is_other_version(ours: Version, theirs: Version) -> bool:
    """Say if what is there is not what was stored, by what the store itself calls them."""
    return (
        None not in (ours.strong_etag, theirs.strong_etag)
        and ours.strong_etag != theirs.strong_etag
    )


def _is_named(ours: Version, theirs: Version) -> bool:
    """Say if what is there is what was stored, by what the store itself calls both."""
    return ours.id is not None or (
        ours.strong_etag is not None and ours.strong_etag == theirs.strong_etag
    )


def _prove_found(
    destination: Destination,
    stored: PutResult,
    version: Version,
    sent: Sent,
    verify: Verify,
    ours: bool,
) -> Proof:
    """Find the proof about what was found there; `ours` says that the store calls it as it called
    what it put together of parts: only of that their digests say something. Raises as
    `prove_object`."""
    assert stored.readable is not None, "it was looked at"
    if version.size is not None and version.size != sent.bytes:
        raise IntegrityMismatch(
            f"the destination has {version.size} of {sent.bytes} bytes",
            side="destination",
            seen=f"{version.size} bytes",
        )
    if verify is Verify.SIZE:
        return Proof(Level.SIZE, version, _length_note(version))
    if (
        verify is Verify.AUTO
        and (proof := _proof_by_digest(version, version.digests, sent)) is not None
    ):
        return proof
    if verify is Verify.AUTO and stored.parts_checked and ours and version.size is not None:
        return Proof(Level.PART_DIGESTS, version)
    return _read_back(destination, stored.readable, version, sent)


def _length_note(version: Version) -> tuple[str, ...]:
    """Return the note of an object of which not even the length agrees, as far as anybody knows."""
    return () if version.size is not None else ("the destination does not tell the object's size",)


def _proof_from_response(stored: PutResult, sent: Sent) -> Proof | None:
    """Take the destination's word in its answer to the upload. Raises IntegrityMismatch where it
    can only mean that."""
    try:
        proof = _proof_by_digest(stored.version, stored.digests, sent)
    except IntegrityMismatch:
        if stored.ambiguous and stored.readable is not None:
            return None  # an answer to HEAD will tell
        raise
    return proof and Proof(proof.level, proof.version.sized(sent.bytes), proof.notes)


def _proof_by_digest(version: Version, theirs: Digests, sent: Sent) -> Proof | None:
    """Compare the destination's own digests; None if there is none to compare. Raises
    IntegrityMismatch: of the source where what arrived is what was sent, and only a digest that the
    source declares is another one."""
    agreeing, differing = compare(sent.known, theirs)
    if not differing:
        return None if agreeing is None else Proof(Level.WHOLE_DIGEST, version)
    names = ", ".join(differing)
    ours, damaged = compare(sent.digests, theirs)
    if ours is not None and not damaged:
        message = (
            f"the {names} that was declared is not that of the bytes, which arrived as they were"
            " sent"
        )
        raise IntegrityMismatch(message, side="source", seen=str(as_hex(theirs)))
    raise IntegrityMismatch(
        f"the destination's {names} is another one", side="destination", seen=str(as_hex(theirs))
    )


def _wait_until_visible(
    destination: Destination, location: Location, poll: Callable[[], bool]
) -> ObjectInfo | None:
    """Ask for the object until it shows; None where the destination does not tell. Raises
    DestinationLost when it never shows."""
    while True:
        try:
            found = destination.head(location)
            if isinstance(found, UnknownObject) and isinstance(found.why, NotFound):
                found = inspect_object(destination, location)
            return found if isinstance(found, ObjectInfo) else None
        except NotFound:
            if not poll():
                raise DestinationLost(f"{location} was acknowledged and is not there") from None
        except CANT_READ:
            return None


def _merge_versions(stored: PutResult, found: ObjectInfo | None) -> Version:
    if found is None:
        return replace(stored.version, digests={})
    return replace(found.version, etag=found.version.etag or stored.version.etag)


def _read_back(destination: Destination, location: Location, version: Version, sent: Sent) -> Proof:
    try:
        opened = destination.get(location, version)
    except NotFound as error:
        raise DestinationLost(
            f"{location} was acknowledged and is not there: {error.message}"
        ) from None
    except CANT_READ as error:
        denied = error if isinstance(error, PermissionDenied | Unauthenticated) else None
        notes = (f"could not be read back: {error.message}", *_length_note(version))
        return Proof(Level.SIZE, version, notes, denied=denied)
    except (SourceChanged, PreconditionFailed) as error:
        raise _overwritten_error(location) from error
    body = opened.body
    assert body is not None  # an Opened has one
    ours = sent.digests or sent.declared
    try:
        body.digest_with(tuple(ours))
        reach("during-verify")
        drain(body)
    finally:
        body.close()
    _, differing = compare(ours, body.digests)
    if body.count != sent.bytes or differing or not ours:
        raise IntegrityMismatch(
            f"{body.count} bytes were read back of {sent.bytes}, and they are not those that were"
            " sent",
            side="destination",
            seen=f"{body.count} bytes {as_hex(body.digests)}",
        )
    return Proof(
        Level.READ_BACK, replace(version, size=body.count, etag=opened.version.etag or version.etag)
    )


def _overwritten_error(location: Location) -> StoreError:
    return PreconditionFailed(
        f"{location} became another version between our upload and its verification",
        side="destination",
        hint=(
            "Somebody else writes to the same destination; settle who does, and send the request"
            " again."
        ),
    )
