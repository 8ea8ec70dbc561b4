"""Verify one object at its destination.

Theory of operation. After the destination acknowledged the object, three proofs are tried in this
order: the digest in its answer to the upload; the digest in its answer to HEAD; the bytes read
back. A digest that differs is a failure. A proof that is not available lowers the level and adds a
note: "could not verify" is never success. Where HEAD is known to show no digest, the bytes are read
back without it; unless they are the right ones, HEAD and another read decide.

Decided here: which proof is enough. Never here: what happens after a failure (`finalize.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final

from relay.digest import Digests, as_hex, compare
from relay.engine.comparison import has_other_tag, has_same_tag, is_same
from relay.engine.inspection import inspect_object
from relay.engine.plan import Verify
from relay.errors import (
    DestinationLost,
    IntegrityMismatch,
    KeyCollision,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RedirectRefused,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
    Unauthenticated,
    Unavailable,
)
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Level, Version
from relay.stores.interfaces import Destination, ObjectInfo, PutResult, UnknownObject
from relay.wire.body import Body
from relay.wire.pump import drain

CANT_READ = (NotFound, PermissionDenied, RedirectRefused, Unauthenticated, Rejected)
"""Refusals that mean that we may not read this destination, rather than that something broke."""

TOO_EARLY: Final = 425
"""Status of an upload that the server still processes, for example scans for viruses (ownCloud
Infinite Scale, OpenCloud: owncloud/ocis#5326)."""
_PROCESSED: Final = (
    "The server still processes the upload. If that takes longer, raise RELAY_SETTLE_SECONDS."
)


@dataclass(frozen=True)
class Proof:
    """The level of proof, the version it is about, and notes about what could not be proved."""

    level: Level
    version: Version
    _: KW_ONLY
    notes: tuple[str, ...] = ()
    read: bool = False
    """True if the destination let us read the object, or its HEAD."""
    shown: tuple[tuple[str, str], ...] | None = None
    """The object's metadata at the destination; None if it was not inspected."""
    denied: StoreError | None = None
    """The 401 or 403 that prevented a read back."""


REPLACED_ANOTHER: Final = (
    "The upload has probably overwritten that object, which appeared during it, even if relay had"
    " verified it. Turn off MultiViews in Apache (Options -MultiViews), and move both again."
)
"""The hint where the object just uploaded is served under the name of another one."""


@dataclass(frozen=True)
class Sent:
    """The bytes that were sent to the destination."""

    bytes: int
    """Their number."""
    digests: Digests
    """The digests that relay computed."""
    declared: Digests
    """The digests that the source declared."""

    @property
    def every_digest(self) -> Digests:
        """Every digest that the object must have."""
        return {**self.declared, **self.digests}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verification of one object that the destination acknowledged."""

    destination: Destination
    stored: PutResult
    sent: Sent
    verify: Verify
    before: PriorState
    """The state of the destination before the upload."""
    poll: Callable[[], bool]
    """Waits a moment. Returns True while the destination may still be eventually consistent: show
    nothing yet, or what was there `before`, or process the upload."""

    def prove(self) -> Proof:
        """Return the strongest available proof.

        Raises IntegrityMismatch if the destination has other bytes, DestinationLost if it has none
        or still the prior object, and the destination's StoreErrors if the inspection breaks."""
        if self.verify is Verify.AUTO and (proof := self._proof_from_response()) is not None:
            return proof
        place = self.stored.readable
        if place is None:
            note = "the destination did not say where the object can be read"
            return Proof(Level.SIZE, self.stored.version, notes=(note,))
        if self.stored.undigested and (proof := self._read_back_at_once(place)) is not None:
            return proof
        while True:
            result = self._prove_shown(place)
            if isinstance(result, Proof):
                return result
            if not self.poll():
                raise result

    def _proof_from_response(self) -> Proof | None:
        """Return the proof by the digest in the answer to the upload, or None without one. Raises
        IntegrityMismatch, unless the digest is ambiguous and a HEAD may resolve that."""
        stored = self.stored
        try:
            proof = _proof_by_digest(stored.version, stored.digests, self.sent)
        except IntegrityMismatch:
            if stored.ambiguous and stored.readable is not None:
                return None  # the answer to HEAD decides
            raise
        if proof is None:
            return None
        return Proof(proof.level, proof.version.with_size(self.sent.bytes), notes=proof.notes)

    def _read_back_at_once(self, place: Location) -> Proof | None:
        """Return the proof by the bytes, read without a HEAD before. None where the answer to GET
        is none: then HEAD shows whether the object is late, wrong or not for us to read. Raises
        StoreError if the read breaks."""
        if self.verify is Verify.SIZE:
            return None
        try:
            opened = self.destination.get(place)
        except (*CANT_READ, KeyCollision, PreconditionFailed, SourceChanged):
            return None
        except Unavailable as error:
            if error.store_status != TOO_EARLY:
                raise
            return None
        body = opened.body
        assert body is not None  # an Opened has one
        if opened.version.size not in (None, self.sent.bytes):
            body.close()
            return None
        if not _has_sent_bytes(body, self.sent):
            return None
        tag = opened.version.etag or self.stored.version.etag
        version = replace(opened.version, size=body.count, etag=tag)
        return Proof(Level.READ_BACK, version, read=True, shown=opened.metadata)

    def _prove_shown(self, place: Location) -> Proof | RelayError:
        """Return the proof about what the destination shows now, or the failure where a later
        request may have another result. Raises the other failures, as `prove`."""
        try:
            return self._prove_found(place, _find(self.destination, place))
        except DestinationLost as error:
            return error
        except Unavailable as error:
            if error.store_status != TOO_EARLY:
                raise
            error.hint = _PROCESSED
            return error

    def _prove_found(self, place: Location, found: ObjectInfo | None) -> Proof | RelayError:
        """As `_prove_shown`; `found` is None if the destination does not permit a HEAD."""
        try:
            proof = self._prove_version(place, found)
        except (IntegrityMismatch, PreconditionFailed) as error:
            if not self._may_show_prior(found):
                raise
            if found is not None and is_same(self.before.version, found.version):
                return DestinationLost(f"{place} still shows the prior object")
            return error
        shown = found.metadata if found is not None and found.described else None
        return replace(proof, read=found is not None or proof.level is Level.READ_BACK, shown=shown)

    def _may_show_prior(self, found: ObjectInfo | None) -> bool:
        """Return whether the destination may still show the prior object, as caches and replicas do
        for a while."""
        if self.before.known and self.before.version is None:
            return False
        ours = self.stored.version.strong_etag
        return found is None or ours is None or ours != found.version.strong_etag

    def _prove_version(self, place: Location, found: ObjectInfo | None) -> Proof:
        """Return the proof about the found version. Raises as `prove`, and PreconditionFailed if
        another writer has replaced the object."""
        try:
            return self._compare(place, found)
        except IntegrityMismatch as error:
            if found is not None and has_other_tag(self.stored.version, found.version):
                raise _overwritten_error(place) from error
            raise

    def _compare(self, place: Location, found: ObjectInfo | None) -> Proof:
        """Compare the found version with what was sent: its size, its digests, its bytes."""
        version = _merge_versions(self.stored, found)
        if version.size is not None and version.size != self.sent.bytes:
            raise IntegrityMismatch(
                f"the destination has {version.size} of {self.sent.bytes} bytes",
                side="destination",
                seen=f"{version.size} bytes",
            )
        if self.verify is Verify.SIZE:
            return Proof(Level.SIZE, version, notes=_length_note(version))
        if self.verify is Verify.AUTO:
            proof = _proof_by_digest(version, version.digests, self.sent)
            if proof is not None:
                return proof
            # The digests of its parts prove only what is certainly our multipart upload.
            ours = found is not None and has_same_tag(self.stored.version, found.version)
            if self.stored.parts_checked and ours and version.size is not None:
                return Proof(Level.PART_DIGESTS, version)
        # Only a tag that reads show pins a read: JuiceFS has one only in the answer to an upload.
        pin = found.version if found is not None else version
        return _read_back(self.destination, place, version, pin, self.sent)


def _length_note(version: Version) -> tuple[str, ...]:
    """Return the note for an object whose length could not be compared, else nothing."""
    if version.size is not None:
        return ()
    return ("the destination does not report the object's size",)


def _proof_by_digest(version: Version, theirs: Digests, sent: Sent) -> Proof | None:
    """Return the proof by the destination's own digests, or None if none can be compared. Raises
    IntegrityMismatch; its side is the source if the object arrived as sent, and only a digest that
    the source declared differs."""
    agreeing, differing = compare(sent.every_digest, theirs)
    if not differing and agreeing is None:
        return None
    if not differing:
        return Proof(Level.WHOLE_DIGEST, version)
    names = ", ".join(differing)
    ours, damaged = compare(sent.digests, theirs)
    if ours is not None and not damaged:
        message = (
            f"the bytes do not match the {names} that the source declared; they arrived as they"
            " were sent"
        )
        raise IntegrityMismatch(message, side="source", seen=str(as_hex(theirs)))
    raise IntegrityMismatch(
        f"the destination's {names} differs from that of the bytes that were sent",
        side="destination",
        seen=str(as_hex(theirs)),
    )


def _find(destination: Destination, location: Location) -> ObjectInfo | None:
    """Return what HEAD shows, or None if the destination does not permit it. Raises DestinationLost
    if it shows nothing, and StoreError."""
    try:
        found = destination.head(location)
        if isinstance(found, UnknownObject) and isinstance(found.why, NotFound):
            found = inspect_object(destination, location)
        return found if isinstance(found, ObjectInfo) else None
    except NotFound:
        raise DestinationLost(f"{location} was acknowledged, but does not exist") from None
    except KeyCollision as error:
        error.hint = REPLACED_ANOTHER
        raise
    except CANT_READ:
        return None


def _merge_versions(stored: PutResult, found: ObjectInfo | None) -> Version:
    if found is None:
        # `_proof_from_response` has judged the digests in the answer to the upload.
        return replace(stored.version, digests={})
    if found.version.etag or not stored.version.etag:
        return found.version
    return replace(found.version, etag=stored.version.etag)


def _read_back(
    destination: Destination, location: Location, version: Version, pin: Version, sent: Sent
) -> Proof:
    try:
        opened = destination.get(location, pin)
    except NotFound as error:
        raise DestinationLost(
            f"{location} was acknowledged, but does not exist: {error.message}"
        ) from None
    except KeyCollision as error:
        error.hint = REPLACED_ANOTHER
        raise
    except CANT_READ as error:
        denied = error if isinstance(error, PermissionDenied | Unauthenticated) else None
        notes = (f"could not be read back: {error.message}", *_length_note(version))
        return Proof(Level.SIZE, version, notes=notes, denied=denied)
    except (SourceChanged, PreconditionFailed) as error:
        raise _overwritten_error(location) from error
    body = opened.body
    assert body is not None  # an Opened has one
    if not _has_sent_bytes(body, sent):
        raise IntegrityMismatch(
            f"{body.count} bytes of {sent.bytes} were read back, and they differ from those that"
            " were sent",
            side="destination",
            seen=f"{body.count} bytes {as_hex(body.digests)}",
        )
    return Proof(
        Level.READ_BACK, replace(version, size=body.count, etag=opened.version.etag or version.etag)
    )


def _has_sent_bytes(body: Body, sent: Sent) -> bool:
    """Read a body to its end and close it. Return whether its bytes are those that were sent."""
    ours = sent.digests or sent.declared
    try:
        body.digest_with(tuple(ours))
        body.meter.proofs = (*body.meter.proofs, body)
        reach("during-verify")
        drain(body)
    finally:
        body.close()
    _, differing = compare(ours, body.digests)
    return bool(ours) and body.count == sent.bytes and not differing


def _overwritten_error(location: Location) -> StoreError:
    return PreconditionFailed(
        f"{location} was overwritten between our upload and its verification",
        side="destination",
        hint=(
            "Another writer uses the same destination; stop it or choose another destination, and"
            " send the request again."
        ),
    )
