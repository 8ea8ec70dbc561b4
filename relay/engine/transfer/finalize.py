"""Finish an upload: prove the object, publish it from its temporary name, write its receipt.

Theory of operation. An object that fails its verification is deleted, unless it may be another
writer's. If the credentials were withdrawn before the verification, the object stays: a later
attempt need only verify it.

Decided here: what happens to an object after the destination acknowledged it. Never here: how it is
verified (`verify.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from relay.engine.cleanup import may_be_done, remove_lost_uploads, remove_object
from relay.engine.comparison import is_same
from relay.engine.inspection import inspect_object
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.ownership import COPYING
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.target import Target
from relay.engine.transfer.verify import Proof, Sent, Verification
from relay.errors import (
    CredentialsWithdrawn,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    Leftover,
    NotFound,
    PreconditionFailed,
    Rejected,
    RelayError,
    Unavailable,
    UploadGone,
    is_whole,
)
from relay.ledger.prior_state_values import PriorState
from relay.location import Account, Location
from relay.process.failpoints import reach
from relay.receipt import Level, Receipt, Version
from relay.stores.interfaces import Destination, ObjectInfo, PutResult
from relay.stores.metadata import require, unshown_notes

KEEPING = frozenset({"s3"})
"""Stores whose protocol guarantees that metadata is kept, even if HEAD does not show it."""

_EARLIER = PriorState(known=True)
"""The prior state for an object from before this attempt: do not wait for it to appear."""

MOST_ACCOUNTS = 64
"""Maximum number of remembered accounts; the oldest are dropped first."""


class _StoredBeside(Rejected):
    """The server stored an object under another name in the folder of its place, as copyparty does
    where one exists."""

    def __init__(self, place: Location, other: Location) -> None:
        super().__init__(
            f"the server did not replace {place}, but stored the object as {other}",
            side="destination",
            hint="Let the server replace objects, or use WebDAV. Nothing else was changed there.",
        )
        self.leave(Leftover.SENT, other, "relay does not delete another name")


class UnseenObject(Unavailable):
    """An object is at a place that had shown none. The next attempt compares it, and needs that one
    attempt only."""


class ReadableAccounts:
    """The accounts that have read something at a destination, for the life of the process. A later
    denial means that their credentials were withdrawn.

    Accounts are compared by identity: fresh credentials make a new account, even if it is equal. A
    plain HTTP server has no account and is never remembered, since each of its URLs may be signed
    for another method."""

    def __init__(self, most: int = MOST_ACCOUNTS) -> None:
        self._most = most
        self._accounts: dict[int, Account] = {}

    def note(self, place: Location) -> None:
        """Remember that this destination permits reading."""
        if place.account is None:
            return
        # The reference keeps the account alive, so that its id is not reused.
        self._accounts[id(place.account)] = place.account
        while len(self._accounts) > self._most:
            del self._accounts[next(iter(self._accounts))]

    def has(self, place: Location) -> bool:
        """Return whether this destination has permitted reading before."""
        return id(place.account) in self._accounts


class Finalizer:
    """Verifies and publishes the uploads of one transfer, in all its attempts."""

    def __init__(
        self,
        context: TransferContext,
        progress: Progress,
        target: Target,
        readable_accounts: ReadableAccounts,
    ) -> None:
        self._context, self._progress, self._target = context, progress, target
        self._readable_accounts = readable_accounts
        self._altered_bytes: str | None = None
        self._unproved_before: Location | None = None
        """`Progress.unproved` from before the last acknowledged upload."""

    def verify_and_publish(
        self,
        stored: PutResult,
        found: ObjectInfo,
        sent: Sent,
        notes: tuple[str, ...] = (),
        *,
        whole: bool = True,
        keep: bool = False,
        moved: int | None = None,
    ) -> Outcome:
        """Verify the stored object, publish it, and return the outcome with its receipt.

        `whole` is False if nothing proves that the source was read to its end. `keep` says that the
        object is from before this attempt and may be another writer's: then it is not deleted.
        `moved` is the number of bytes that were sent, if not all.

        Raises as `Verification.prove`, CredentialsWithdrawn, MetadataUnkept, LeaseLost,
        LedgerFailed, and UploadGone if what was found in place of our upload is not known to be
        ours. On failure the object is deleted, or the error says that it may remain."""
        before = _EARLIER if keep else self._target.before
        assert before is not None, "the place is inspected before anything is sent"
        self._begin_verification(stored, keep)
        try:
            proof = self._prove(stored, sent, before)
            lost = self._unshown_metadata_notes(stored, found, proof)
            version = self._publish(stored, proof, before)
        except RelayError as error:
            if keep:
                raise
            if stored.found:
                raise _not_ours_error(self._target.place, error) from error
            failure = self._clean_up_failure(error, stored, sent.bytes if moved is None else moved)
            raise failure from error.__cause__
        self._note_published(stored)
        receipt = Receipt(
            level=proof.level,
            bytes=sent.bytes,
            digests=sent.digests,
            source=found.version.with_size(sent.bytes),
            destination=version,
            attempts=self._progress.attempt,
            bytes_resent=self._progress.resent,
            notes=proof.notes + stored.notes + lost + notes,
            whole=whole,
        )
        return self._context.outcome(receipt.state, self._target.place, receipt)

    def _begin_verification(self, stored: PutResult, keep: bool) -> None:
        """Record the object that the destination acknowledged. With `keep` it is from before this
        attempt."""
        self._progress.phase = "verifying"
        reach("before-verify")
        self._progress.acknowledged = not keep and stored.place is None
        if not keep:
            self._note_taken(stored)

    def _prove(self, stored: PutResult, sent: Sent, before: PriorState) -> Proof:
        """Return the proof about the stored object. Raises as `Verification.prove`,
        CredentialsWithdrawn, IntegrityMismatch if nothing but its size proves an object that was
        found in place of our upload, and _StoredBeside if the proof may be about an older one."""
        verification = Verification(
            destination=self._target.destination,
            stored=stored,
            sent=sent,
            verify=self._context.plan.verify,
            before=before,
            poll=self._settle_poll(),
        )
        try:
            proof = verification.prove()
        except (DestinationLost, IntegrityMismatch) as error:
            if stored.other is None:
                raise
            raise _StoredBeside(self._target.place, stored.other) from error
        if stored.other is not None and is_same(before.version, proof.version):
            raise _StoredBeside(self._target.place, stored.other)
        if stored.found and proof.level is Level.SIZE:
            raise IntegrityMismatch(
                f"nothing proves that the object at {self._target.place} is ours",
                side="destination",
            )
        self._require_still_readable(proof)
        return proof

    def _note_published(self, stored: PutResult) -> None:
        """Note that the object is proved, and visible at its place."""
        self._progress.unproved = None
        if stored.place is not None:
            # An earlier attempt's temporary upload has been renamed.
            self._progress.remains.pop(str(stored.readable), None)
        # Earlier attempts left the only whole object at a temporary name: now there is another.
        if any(map(is_whole, self._progress.remains.values())):
            target, known, remains = self._target, self._context.known, self._progress.remains
            tokens = [*known.lost, *([known.token] if known.token else ())]
            remove_lost_uploads(target.destination, target.place, tokens, remains, arrived=True)

    def discard_stored(self, error: RelayError, stored: PutResult) -> RelayError:
        """Delete a stored object that failed with `error` before its verification. Return the error
        to raise."""
        self._note_taken(stored)
        return self._clean_up_failure(error, stored, 0)

    def _note_taken(self, stored: PutResult) -> None:
        """Note that an unproved object of ours is visible, and the version that the destination
        gave it. One that was found in place of our upload may have another writer's version."""
        progress = self._progress
        if stored.place is None:
            self._unproved_before = progress.unproved
            progress.unproved = stored.readable or self._target.place
            if progress.before is not None and not stored.found:
                progress.before = progress.before.with_sent(stored.version)

    def _unshown_metadata_notes(
        self, stored: PutResult, found: ObjectInfo, proof: Proof
    ) -> tuple[str, ...]:
        """Return notes about metadata that the destination accepted and does not show. Raises
        MetadataUnkept with metadata=strict."""
        place = self._target.place
        if proof.shown is None or place.store in KEEPING:
            return ()
        lost = unshown_notes(found.metadata, proof.shown, place, stored.notes)
        require(found.metadata, place, lost)
        return lost

    def _settle_poll(self) -> Callable[[], bool]:
        """Return a function that sleeps, longer at each call, and returns False once
        `settle_seconds` have passed. It raises as `Watchdog.check`."""
        context = self._context
        until = monotonic() + context.limits.settle_seconds
        waits = iter([0.05, 0.1, 0.2, 0.5])

        def poll() -> bool:
            context.meter.check()
            left = until - monotonic()
            if left > 0:
                context.sleep(min(next(waits, 1.0), left))
            return left > 0

        return poll

    def _require_still_readable(self, proof: Proof) -> None:
        """Raise CredentialsWithdrawn if the destination denies reading now and allowed it earlier.

        Without a journal nothing could be resumed. If the destination never allowed reading, the
        object is unverified, which is not a failure."""
        place = self._target.place
        if proof.read:
            self._readable_accounts.note(place)
        elif (
            proof.denied
            and self._context.journal is not None
            and (self._progress.answered or self._readable_accounts.has(place))
        ):
            raise CredentialsWithdrawn(
                f"the object was stored, but can't be verified: {proof.denied.message}",
                side="destination",
                hint=(
                    "Resume with fresh credentials that also permit reading; the stored object is"
                    " not sent again."
                ),
                store_status=proof.denied.store_status,
            )

    def _clean_up_failure(self, error: RelayError, stored: PutResult, moved: int) -> RelayError:
        """Delete an object whose verification or publication failed, unless it is right or may be
        another writer's. Return the error to raise."""
        destination, place = self._target.destination, self._target.place
        if isinstance(error, _StoredBeside):
            self._progress.note_absent(place)  # what is there is not ours
            return error
        failure = self._classify_failure(error)
        is_post = place.method == "POST"
        if isinstance(failure, CredentialsWithdrawn) and stored.place is None and not is_post:
            return failure  # the object stays: a later attempt need only verify it
        self._progress.resent += moved
        noted = self._progress.to_note
        if stored.place is None and noted is not None and self._context.journal is not None:
            self._context.journal.note(noted)  # an object of this version is ours
        is_kept = str(stored.readable) in failure.remains  # nothing else is left at the destination
        wrong = not is_kept and (
            isinstance(failure, IntegrityMismatch | DestinationMutates) or stored.place is not None
        )
        if wrong and stored.place is None and (stored.digests or stored.version.digests):
            self._wait_until_shown(stored)
        if wrong and remove_object(
            destination, stored, failure, self._progress.before, self._context.began
        ):
            self._note_removed(stored)
        elif is_post:  # the next attempt does not replace it
            failure.leave(Leftover.SENT, stored.readable or place, "nothing has proved it")
        return failure

    def _note_removed(self, stored: PutResult) -> None:
        """Note that our object is deleted. A damaged object of an earlier attempt may still be at
        the place: behind a temporary name, or as the version before the deleted one."""
        if stored.place is not None:
            return
        if stored.version.id is None:
            self._progress.note_absent(self._target.place)
        else:
            self._progress.unproved = self._unproved_before

    def _wait_until_shown(self, stored: PutResult) -> None:
        """Wait until a damaged object is visible, for at most `settle_seconds`. Else a DELETE could
        find nothing, and the object appear afterwards: its damage was in the answer to the upload,
        so nothing has waited for it yet."""
        if stored.readable is None:
            return
        poll = self._settle_poll()
        try:
            while True:
                try:
                    self._target.destination.head(stored.readable)
                    return
                except NotFound:
                    if not poll():
                        return
        except RelayError:
            return  # the deletion that follows reports it

    def _classify_failure(self, error: RelayError) -> RelayError:
        """Return the failure, or DestinationMutates: if two uploads were altered in the same way,
        the destination changes what it stores."""
        seen: str | None = None
        if isinstance(error, IntegrityMismatch) and error.side == "destination":
            seen = error.seen
        is_repeated = seen is not None and seen == self._altered_bytes
        self._altered_bytes = seen
        if is_repeated:
            return DestinationMutates(f"{self._target.place}, twice: {error.message}")
        return error

    def _publish(self, stored: PutResult, proof: Proof, before: PriorState) -> Version:
        """Rename the verified object from its temporary name to its place. Return the published
        version.

        Raises as Destination.publish, LeaseLost, LedgerFailed, DestinationMutates for another size,
        DestinationLost if the place shows nothing, or still what was there `before`, and
        UnseenObject if it has an object that `changed` has not compared."""
        context, destination = self._context, self._target.destination
        if stored.place is None:
            return proof.version
        # The verification took time, and a rename can't be undone.
        if context.journal is not None:
            context.journal.check_lease()
        reach("before-publish")
        context.meter.commit()
        try:
            version = self._publish_seen(stored, before)
            reach("after-publish")
            if version == Version():  # the answer does not describe the object, or prove it exists
                version = _version_at(destination, stored.place)
            size, poll = proof.version.size, self._settle_poll()
            while (old := _is_old(before, proof.version, version)) and poll():
                version = _version_at(destination, stored.place)
        except NotFound as error:
            self._note_unproved()
            lost = DestinationLost(
                f"{stored.place} does not exist after it was published: {error.message}"
            )
            lost.keep(error.remains)
            raise lost from None
        except PreconditionFailed as error:
            raise self._unseen_error(stored.place, before, error) from None
        except RelayError as error:  # also Cancelled, in the middle of the request
            self._note_failed_publication(stored, before, error)
            raise
        if old and before.known:
            self._note_unproved()
            raise DestinationLost(
                f"{stored.place} still shows the old object after the new one was published"
            )
        self._refuse_other_size(stored.place, size, version)
        return version.with_size(size if version.size is None else version.size)

    def _refuse_other_size(self, place: Location, size: int | None, version: Version) -> None:
        """Raise DestinationMutates if a published object has another size than the proved one."""
        if None in (size, version.size) or size == version.size:
            return
        self._note_altered(version)
        altered = DestinationMutates(
            f"{place} has {version.size} bytes after {size} bytes were published there;"
            " it was not deleted"
        )
        altered.leave(Leftover.DAMAGED, place, "it may be another writer's")
        raise altered

    def _publish_seen(self, stored: PutResult, before: PriorState) -> Version:
        """As Destination.publish. Raises PreconditionFailed if an object is there that was not seen
        `before`: a listing may leave names out, and another writer may have stored it since. Only
        `overwrite` replaces it, as nothing need be compared."""
        target = self._target
        absent = target.if_absent and not self._progress.replaces
        fresh = before.known and before.version is None
        try:
            return target.destination.publish(stored, if_absent=absent, fresh=fresh)
        except PreconditionFailed:
            if not fresh or target.if_exists is not IfExists.OVERWRITE:
                raise
        return target.destination.publish(stored)

    def _unseen_error(
        self, place: Location, before: PriorState, error: PreconditionFailed
    ) -> RelayError:
        """Return the error for an object that appeared, or that a listing left out: `error`, or
        UnseenObject with `changed`, so that the next attempt compares it."""
        if self._target.if_exists is not IfExists.CHANGED or before.version is not None:
            return error
        self._progress.note_unsent()
        unseen = UnseenObject(
            f"{place} has an object that was not there, or was not listed, before",
            side="destination",
            hint="Run it again: relay compares that object before it sends another.",
        )
        unseen.keep(error.remains)
        return unseen

    def _note_failed_publication(
        self, stored: PutResult, before: PriorState, error: RelayError
    ) -> None:
        """Note what a publication that failed with `error` may have left at the place. Raises as
        `_note_altered`."""
        place = stored.place
        assert place is not None, "an upload to publish has both locations"
        if not _may_be_published(error):
            return
        copies = place.store in COPYING
        # The server may still move the upload, or copy its bytes: what it shows now will change.
        is_open = str(stored.readable) in error.remains
        there, shows_ours = Version(), before.version is None  # unless the place answers
        is_known = True
        try:
            there = _version_at(self._target.destination, place)
            shows_ours = not is_same(before.version, there)
        except NotFound:
            shows_ours = False
        except RelayError:
            is_known = False
        if not copies and not self._is_renamed(stored, there):
            return
        if shows_ours or is_open or not is_known:
            # Another writer may have stored it: `changed` asks its bytes whose it is.
            is_doubted = copies and self._target.if_exists is IfExists.CHANGED
            self._note_altered(Version() if is_open or is_doubted else there)
        if shows_ours:
            self._progress.unproved = place

    def _is_renamed(self, stored: PutResult, there: Version) -> bool:
        """Return whether a rename that is whole or nothing was done: the object at the place is the
        upload, which has lost its temporary name, or has both."""
        assert stored.readable is not None, "an upload to publish has both locations"
        try:
            return is_same(_version_at(self._target.destination, stored.readable), there)
        except NotFound:
            return True
        except RelayError:
            return False

    def _note_unproved(self) -> None:
        """Note that the object may be visible though its publication failed: whole, or a piece of
        any size where the server copies the bytes in place of a rename (Tomcat). Its bytes tell it
        from another writer's (`ownership.py`). Raises as `_note_altered`."""
        if self._target.place.store in COPYING:
            self._note_altered(Version())

    def _note_altered(self, there: Version) -> None:
        """Record the object that the place shows instead of the published one, so that later
        attempts do not treat it as a prior object. Its ETag is left out, because with it the object
        could be replaced. Raises LeaseLost, LedgerFailed."""
        progress, journal = self._progress, self._context.journal
        if progress.before is None:
            return
        progress.before = progress.before.with_sent(Version(there.size, None, there.last_modified))
        if journal is not None:
            journal.note(replace(progress.before, remains=dict(progress.remains)))


def _may_be_published(error: RelayError) -> bool:
    """Return whether a publication may have been carried out, at least in part. A refusal of our
    own has no status."""
    is_refusal = isinstance(error, Rejected) and error.store_status is None
    return may_be_done(error) and not is_refusal


def _is_old(before: PriorState, proved: Version, there: Version) -> bool:
    """Return whether a place may still show the object from `before` the publication, by its size
    or its entity tag: a cache may do so for a while (nginx's `open_file_cache`). A tag of size and
    time may be that of the `proved` object too."""
    was = before.version
    if None not in (proved.size, there.size) and proved.size != there.size:
        return not before.known or is_same(was, there)
    if not before.known or was is None or there.etag in (None, proved.etag):
        return False
    return (was.etag, was.last_modified) == (there.etag, there.last_modified)


def _version_at(destination: Destination, place: Location) -> Version:
    found = inspect_object(destination, place)
    return found.version if isinstance(found, ObjectInfo) else Version()


def _not_ours_error(place: Location, error: RelayError) -> RelayError:
    """Return the error for a found object that is not proved to be ours: UploadGone, so that the
    object is sent again."""
    if isinstance(error, IntegrityMismatch | DestinationLost | NotFound):
        return UploadGone(
            f"the upload to {place} is gone, and the object there is not known to be ours:"
            f" {error.message}"
        )
    return error
