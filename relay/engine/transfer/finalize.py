"""Finish an upload: prove the object, publish it from its temporary name, write its receipt.

An object that turns out wrong is deleted again, unless it may be another's. One that is right, and
can't be proved since the credentials were withdrawn, stays: it need only be proved.

Decided here: what becomes of an object that the destination took. Never here: what proves it
(`verify.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from relay.engine.cleanup import remove_object
from relay.engine.inspection import inspect_object
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.readable_accounts import ReadableAccounts
from relay.engine.transfer.verify import Proof, Sent, is_same, prove_object
from relay.errors import (
    CredentialsWithdrawn,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    NotFound,
    RelayError,
    UploadGone,
)
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Level, Receipt, Version
from relay.stores.interfaces import Destination, ObjectInfo, PutResult
from relay.stores.metadata import require, unshown_notes

KEEPING = frozenset({"s3"})
"""Stores that keep by their protocol what goes along with an object, whatever they show of it."""

UNKNOWN = PriorState(known=False)


class Finalizer:
    """What one transfer's uploads are put through, in all its attempts."""

    def __init__(
        self, context: TransferContext, progress: Progress, readable_accounts: ReadableAccounts
    ) -> None:
        self._context, self._progress = context, progress
        self._readable_accounts = readable_accounts
        self._altered_bytes: str | None = None

    def verify_and_publish(
        self,
        destination: Destination,
        place: Location,
        stored: PutResult,
        found: ObjectInfo,
        sent: Sent,
        notes: tuple[str, ...] = (),
        *,
        whole: bool = True,
        keep: bool = False,
        moved: int | None = None,
        before: PriorState = UNKNOWN,
    ) -> Outcome:
        """Prove what is at the destination now, and was there `before`. Raises as `prove`; an
        object that is wrong is removed, unless `keep` says that it may be another's. `moved` is how
        many bytes that took, if not all of them.

        Raises UploadGone for what was found where ours was to be, and is not ours as far as anybody
        can tell."""
        context, progress = self._context, self._progress
        progress.phase = "verifying"
        reach("before-verify")
        if not keep and not stored.found:
            self._note_taken(place, stored)
        try:
            proof = prove_object(
                destination, stored, sent, context.plan.verify, self._settle_poll(), before
            )
            if stored.found and proof.level is Level.SIZE:
                raise IntegrityMismatch(f"nothing proves that {place} is ours", side="destination")
            self._require_still_readable(place, proof)
            lost = self._unshown_metadata_notes(place, stored, found, proof)
            version = self._publish(destination, stored, proof, before)
        except RelayError as error:
            if keep:
                raise
            if stored.found:
                raise _not_ours_error(place, error) from error
            failure = self._clean_up_failure(
                error, destination, place, stored, sent.bytes if moved is None else moved
            )
            raise failure from error.__cause__
        progress.unproved = None
        if stored.place is not None:
            progress.remains.pop(
                str(stored.readable), None
            )  # what an earlier attempt left there has moved
        receipt = Receipt(
            level=proof.level,
            bytes=sent.bytes,
            digests=sent.digests,
            source=found.version.sized(sent.bytes),
            destination=version,
            attempts=progress.attempt,
            bytes_resent=progress.resent,
            notes=proof.notes + stored.notes + lost + notes,
            whole=whole,
        )
        return context.outcome(receipt.state, place, receipt)

    def discard_stored(
        self, error: RelayError, destination: Destination, place: Location, stored: PutResult
    ) -> RelayError:
        """Remove what the destination took where that may not stay, since an `error` came before
        its proof; return the error to raise."""
        self._note_taken(place, stored)
        return self._clean_up_failure(error, destination, place, stored, 0)

    def _note_taken(self, place: Location, stored: PutResult) -> None:
        """Note that the destination shows an object of ours, and what it calls that, until it is
        proved."""
        progress = self._progress
        if stored.place is None:
            progress.unproved = stored.readable or place
            if progress.before is not None:
                progress.before = progress.before.sent_as(stored.version)

    def _unshown_metadata_notes(
        self, place: Location, stored: PutResult, found: ObjectInfo, proof: Proof
    ) -> tuple[str, ...]:
        """Return a note of what the destination took of the metadata, and does not show. Raises
        MetadataUnkept where all of it is wanted."""
        if proof.shown is None or place.store in KEEPING:
            return ()
        lost = unshown_notes(found.metadata, proof.shown, place, stored.notes)
        require(found.metadata, place, lost)
        return lost

    def _settle_poll(self) -> Callable[[], bool]:
        """Return what waits a moment longer each time, until the destination had its time to
        settle."""
        context = self._context
        until, waits = monotonic() + context.limits.settle_seconds, iter([0.05, 0.1, 0.2, 0.5])

        def poll() -> bool:
            context.meter.check()
            left = until - monotonic()
            if left > 0:
                context.sleep(min(next(waits, 1.0), left))
            return left > 0

        return poll

    def _require_still_readable(self, place: Location, proof: Proof) -> None:
        """Raise CredentialsWithdrawn where the destination denies the proof, and answered such
        questions before.

        Without a journal nobody could go on; one that never let us look stays what it is,
        unverified."""
        if proof.read:
            self._readable_accounts.note(place)
        elif (
            proof.denied
            and self._context.journal is not None
            and (self._progress.answered or self._readable_accounts.has(place))
        ):
            raise CredentialsWithdrawn(
                f"the object was taken, and can't be proved: {proof.denied.message}",
                side="destination",
                hint=(
                    "Resume with fresh credentials that may read it too; what has arrived is not"
                    " sent again."
                ),
                store_status=proof.denied.store_status,
            )

    def _clean_up_failure(
        self,
        error: RelayError,
        destination: Destination,
        place: Location,
        stored: PutResult,
        moved: int,
    ) -> RelayError:
        """Remove what may not stay, since its proof, or its publication, failed; return what to
        tell of that."""
        failure = self._classify_failure(error, place)
        if isinstance(failure, CredentialsWithdrawn) and stored.place is None:
            return failure  # it is there, and need only be proved
        self._progress.resent += moved
        noted = self._progress.to_note
        if stored.place is None and noted is not None and self._context.journal is not None:
            self._context.journal.note(noted)  # what is called so is ours
        wrong = (
            isinstance(failure, IntegrityMismatch | DestinationMutates) or stored.place is not None
        )
        if wrong and stored.place is None and (stored.digests or stored.version.digests):
            self._wait_until_shown(destination, stored)
        if wrong and remove_object(
            destination, stored, failure, self._progress.before, self._context.began
        ):
            self._progress.note_absent(place)
        return failure

    def _wait_until_shown(self, destination: Destination, stored: PutResult) -> None:
        """Wait until an object shows, as long as its destination may take: one that its own answer
        told to be damaged was not looked at, and is there a while after a DELETE that found
        nothing."""
        if stored.readable is None:
            return
        poll = self._settle_poll()
        try:
            while True:
                try:
                    destination.head(stored.readable)
                    return
                except NotFound:
                    if not poll():
                        return
        except RelayError:
            return  # what follows tells of it

    def _classify_failure(self, error: RelayError, place: Location) -> RelayError:
        """Return the failure of a proof, or what it means: the same other bytes twice are no
        accident."""
        seen = (
            error.seen
            if isinstance(error, IntegrityMismatch) and error.side == "destination"
            else None
        )
        again, self._altered_bytes = seen is not None and seen == self._altered_bytes, seen
        return DestinationMutates(f"{place}, twice: {error.message}") if again else error

    def _publish(
        self, destination: Destination, stored: PutResult, proof: Proof, before: PriorState
    ) -> Version:
        """Let it be seen at its place, now that it is proved. Raises as Destination.publish, and
        DestinationLost, also where the place still shows what was there `before`."""
        context = self._context
        if stored.place is None:
            return proof.version
        if context.journal is not None:
            context.journal.check_lease()
        reach("before-publish")
        context.meter.commit()
        try:
            absent, fresh = (
                context.if_absent and not self._progress.replaces,
                before.known and before.version is None,
            )
            version = destination.publish(stored, if_absent=absent, fresh=fresh)
            reach("after-publish")
            if version == Version():  # its answers said nothing, not even that something is there
                version = _version_at(destination, stored.place)
            size, poll = proof.version.size, self._settle_poll()
            while (old := _may_be_old(before, size, version)) and poll():
                version = _version_at(destination, stored.place)
        except NotFound as error:
            lost = DestinationLost(
                f"{stored.place} is not there after it was moved there: {error.message}"
            )
            lost.keep(error.remains)
            raise lost from None
        if old and before.known:
            raise DestinationLost(
                f"{stored.place} still shows what was there before something was moved there"
            )
        if None not in (size, version.size) and size != version.size:
            raise DestinationMutates(
                f"{stored.place} has {version.size} bytes after {size} were moved there; they were"
                " left alone"
            )
        return replace(version, size=size if version.size is None else version.size)


def _may_be_old(before: PriorState, size: int | None, there: Version) -> bool:
    """Say if what a place shows may be what was there `before` an object of this `size` in bytes
    was moved there: a cache may show that for a while (nginx's `open_file_cache`)."""
    other = None not in (size, there.size) and size != there.size
    return other and (not before.known or is_same(before.version, there))


def _version_at(destination: Destination, place: Location) -> Version:
    found = inspect_object(destination, place)
    return found.version if isinstance(found, ObjectInfo) else Version()


def _not_ours_error(place: Location, error: RelayError) -> RelayError:
    """Return what it means that what was found is not proved to be what was sent: it may be
    another's."""
    if isinstance(error, IntegrityMismatch | DestinationLost | NotFound):
        return UploadGone(
            f"the upload to {place} is gone, and what is there is not known to be ours:"
            f" {error.message}"
        )
    return error
