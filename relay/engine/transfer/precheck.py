"""Look at the destination before an upload, and decide whether an upload is needed.

Theory of operation. The destination is looked at where `if_exists` asks for it, where an upload
that breaks could be seen, and where an earlier attempt may have sent the object without anybody
having learned of it. What is there is skipped, refused, replaced, or proved as what that attempt
sent.

Decided here: when nothing need be sent. Never here: what is compared (`unchanged.py`), and the
proof."""

from __future__ import annotations

from typing import cast

from relay.engine.comparison import proof_of_equality
from relay.engine.inspection import inspect_object, inspect_prior_state, is_piece, undescribed
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.multipart.part_workers import COMBINED
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.local_links import refuse_link_to_skipped_object
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader, proof_of_end
from relay.engine.transfer.verify import CANT_READ, Sent, is_same
from relay.errors import (
    AlreadyExists,
    DestinationLost,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StoreError,
    Unavailable,
)
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.parsing import is_before
from relay.receipt import State, Version
from relay.stores.interfaces import Destination, ObjectInfo, PartsDestination, PutResult, Upload

LISTED = frozenset({"s3"})
"""Stores that tell whoever may list that nothing is there, whether he may read or not
(docs.aws.amazon.com, "HeadObject")."""
CLOCKS_SECONDS = 24 * 3600.0
"""By less than that the clocks of stores and ours differ."""
_SENT_BEFORE = (
    "it was there: an earlier attempt sent it, and its end was not known, or nothing had proved it"
)


class DestinationCheck:
    """What one transfer finds at its destination."""

    def __init__(
        self,
        context: TransferContext,
        progress: Progress,
        source_reader: SourceReader,
        finalizer: Finalizer,
    ) -> None:
        self._context, self._progress, self._source_reader, self._finalizer = (
            context,
            progress,
            source_reader,
            finalizer,
        )

    def inspect(self, destination: Destination, place: Location) -> PriorState:
        """Look at the destination before the upload, where one that breaks could be seen, or
        `if_exists` asks.

        A POST makes a new object, so there is nothing to look at. Raises as `look_before`, and
        Rejected where nothing may be overwritten, and the destination does not tell if something is
        there."""
        context, progress = self._context, self._progress
        asked = context.plan.if_exists is not IfExists.OVERWRITE or self._may_be_sent
        if self._seems_absent(destination, place):
            return PriorState(known=True)
        if (place.method == "POST" or context.publishes_atomically(destination)) and not asked:
            return PriorState(known=False)
        try:
            before = inspect_prior_state(destination, place, asked)
        except PermissionDenied as error:
            if error.retryable or not self._may_upload_unseen:
                raise
            before = PriorState(known=False)
        if (
            not before.known
            and context.if_absent
            and place.method != "POST"
            and not destination.honours_preconditions(place)
        ):
            raise undescribed(place)
        was = progress.before.version if progress.before is not None else None
        if before.known and (before.version is None or is_same(was, before.version)):
            progress.note_absent(place)
        progress.answered |= before.known and (
            before.version is not None or place.store not in LISTED
        )
        return before

    def _seems_absent(self, destination: Destination, place: Location) -> bool:
        """Say if nothing was there when its tree's destination was listed, and nobody need look
        again.

        That is no proof: where nothing may be overwritten the destination has to heed that by
        itself."""
        context = self._context
        if not (context.known.absent and self._progress.attempt == 1 and not self._may_be_sent):
            return False
        return destination.lists_all and (
            destination.honours_preconditions(place) or not context.if_absent
        )

    @property
    def _may_upload_unseen(self) -> bool:
        """Whether to upload without a look: overwriting is allowed, and no attempt before this one
        could look either. (Where an earlier one could, a denial means that the credentials have
        been withdrawn.)"""
        context, was = self._context, self._progress.before
        looked = context.known.begun and (was is None or was.known)
        return not (context.if_absent or looked or self._progress.answered)

    def skip_outcome(
        self,
        destination: Destination,
        place: Location,
        before: PriorState,
        found: ObjectInfo | None,
    ) -> Outcome | None:
        """Return how it ends if what is at the destination already is enough, or None.

        Where something of ours may be there, what was there before it decides, and never what we
        have written: that is proved, sent again, or a failure. Raises AlreadyExists,
        IntegrityMismatch."""
        there, if_exists = before.version, self._context.plan.if_exists
        if there is None:  # or it did not tell: then the precondition of the upload has to
            return None
        if self._has_sent(destination, place, there):
            if outcome := self._skip_if_already_sent(destination, place, there, found):
                return outcome
            if self._may_be_ours(destination, place, there):
                self._refuse_other_bytes(destination, place, there, found)
                self._progress.unproved = (
                    place  # a piece of ours, until this attempt has replaced it
                )
                return None
        if self._may_be_piece(destination, place, there, found):
            self._progress.unproved = place
        if if_exists is IfExists.CHANGED:
            return self._skip_if_unchanged(place, there, found)
        if if_exists is IfExists.FAIL:
            raise AlreadyExists(f"{place} exists")
        return self._skip(place) if if_exists is IfExists.SKIP else None

    def skip_outcome_of_opened(
        self, destination: Destination, place: Location, before: PriorState, opened: ObjectInfo
    ) -> Outcome | None:
        """Return a skip where the destination has the object as the source tells it, which told it
        only when it was opened, since HEAD is refused where GET is not; or None, also where
        something of ours may be there."""
        there = before.version
        if self._context.plan.if_exists is not IfExists.CHANGED or there is None:
            return None
        if self._has_sent(destination, place, there) and self._may_be_ours(
            destination, place, there
        ):
            return None
        return self._skip_if_unchanged(place, there, opened)

    def prepare_upload(self, destination: Destination, place: Location, before: PriorState) -> None:
        """Bytes are about to go there: keep what was there before the first of them, for every
        attempt to come, of whichever process. Raises LeaseLost, LedgerFailed: then none goes.

        That nothing was there at all its migration knows; that is not enough where nothing may be
        overwritten, since what comes there before the first byte is another's."""
        context, progress = self._context, self._progress
        progress.note_sending()
        if progress.before is not None:
            return
        counts = context.plan.if_exists is not IfExists.OVERWRITE and place.method != "POST"
        noted = counts and self._shows_unproved(destination, place)
        known = self._seems_absent(destination, place) and not context.if_absent
        progress.before = before
        if context.journal is None or not noted or known:
            return
        progress.noted = True
        try:
            context.journal.note(progress.to_note or before)
        except BaseException:
            progress.note_unsent()
            raise

    def on_precondition_failed(
        self,
        error: PreconditionFailed,
        destination: Destination,
        place: Location,
        found: ObjectInfo,
    ) -> Outcome:
        """Make of a 412 to the upload what `if_exists` asks for: a skip, AlreadyExists, or `error`
        itself.

        Where an earlier attempt of ours may be what is there, or nothing is, Unavailable: the next
        one looks."""
        if error.side != "destination" or not self._context.if_absent:
            raise error
        self._progress.remains |= error.remains  # whatever is made of it
        if self._progress.sendings > 1:
            raise Unavailable(
                f"something came to {place} while it was sent again: {error.message}",
                side="destination",
                hint="An earlier attempt may have arrived late: run it again, and it is looked at.",
            ) from None
        if self._is_absent(destination, place):
            self._progress.note_unsent()
            raise Unavailable(
                f"{place} was refused as if something were there, and nothing is: {error.message}",
                side="destination",
                hint=(
                    "The destination answers 412 for another reason; what it says of itself may"
                    " tell which."
                ),
            ) from None
        if self._context.plan.if_exists is IfExists.FAIL:
            raise AlreadyExists(f"{place} exists") from None
        return self._skip(place)

    def _skip(self, place: Location, notes: tuple[str, ...] = ()) -> Outcome:
        """Return a skip of what is there. Raises KeyCollision where that is another object of the
        same tree."""
        refuse_link_to_skipped_object(self._context.plan, place, self._context.journal)
        return self._context.outcome(State.SKIPPED, place, notes=notes)

    def _is_absent(self, destination: Destination, place: Location) -> bool:
        """Say if nothing is there for certain."""
        try:
            inspect_object(destination, place)
        except NotFound:
            return True
        except StoreError:
            pass  # it does not tell
        return False

    # -- what may be ours

    def _shows_unproved(self, destination: Destination, place: Location) -> bool:
        """Say if an object is seen at its place before it is proved: only there may be a piece, or
        a damaged one."""
        return not destination.staged_locations(place, "")

    def _is_older(self, there: Version) -> bool:
        """Say if what is there was written before our migration was accepted, for certain: whatever
        the ledger has forgotten, it is nothing of ours."""
        was = self._progress.before
        if was is None or self._may_be_left(there):
            return False
        return is_before(there.last_modified, was.since, CLOCKS_SECONDS)

    def _has_sent(self, destination: Destination, place: Location, there: Version) -> bool:
        """Say if an attempt before this one may have put what is there. What is noted tells, where
        it is noted."""
        shows = self._shows_unproved(destination, place)
        if not self._may_be_sent or (shows and self._is_older(there)):
            return False
        noted = self._context.plan.if_exists is not IfExists.OVERWRITE and shows
        return not noted or self._context.journal is None or self._progress.before is not None

    def _may_be_ours(self, destination: Destination, place: Location, there: Version) -> bool:
        """Say if what is there, and is not the whole object, may be a piece of ours, or damaged."""
        was = self._progress.before
        if was is None:
            return False
        if self._may_be_left(there):
            return True
        over = was.sent is not None and _is_over(was.sent, there)
        if over or not self._shows_unproved(destination, place) or is_same(was.version, there):
            return False
        return not self._is_still_open(destination, place)

    def _may_be_left(self, there: Version) -> bool:
        """Say if what is there may be what an attempt of ours put there, and nothing has proved
        since: nothing that the store tells of both says otherwise. (A tag alone does not: some
        servers give each answer another one.)"""
        was = self._progress.before
        if was is None or was.sent is None or is_same(was.version, there):
            return False
        sizes, dates = (was.sent.size, there.size), (was.sent.last_modified, there.last_modified)
        if None not in sizes and sizes[0] != sizes[1]:
            return False
        return dates[0] == dates[1] if None not in dates else not _is_other_version(was.sent, there)

    def _may_be_piece(
        self, destination: Destination, place: Location, there: Version, found: ObjectInfo | None
    ) -> bool:
        """Say if what is there, where everything may be overwritten, may be what a lost process
        left: it is shorter than the object. What was there before is not noted then."""
        context, size = self._context, found.version.size if found is not None else None
        if not context.known.lapsed or context.plan.if_exists is not IfExists.OVERWRITE:
            return False
        return self._shows_unproved(destination, place) and (
            None in (size, there.size) or there.size != size
        )

    def _is_still_open(self, destination: Destination, place: Location) -> bool:
        """Say if the store still has the upload in parts that was begun: then it was never
        completed, so that nothing of it is visible, and what is there is another writer's."""
        journal = self._context.journal
        written = journal.recorded_upload() if journal is not None else None
        if destination.part_limits is None or written is None or not written.upload_id:
            return False
        if location_of_upload(self._context.plan, written) != place:
            return False
        try:
            cast(PartsDestination, destination).stored_parts(
                Upload(place, written.upload_id, written.checked)
            )
        except StoreError:
            return False
        return True

    def _refuse_other_bytes(
        self, destination: Destination, place: Location, there: Version, found: ObjectInfo | None
    ) -> None:
        """Raise IntegrityMismatch where what is there may not be overwritten, and is not known to
        be ours.

        What begins as the object does is a piece of ours only where nothing was there before: else
        it may as well be an older version of somebody's."""
        if not self._context.if_absent:
            return
        was = self._progress.before
        ours = was is not None and was.sent is not None and _has_same_tag(was.sent, there)
        fresh = was is not None and was.known and was.version is None
        if not ours and not (fresh and self._is_beginning(destination, place, there, found)):
            had = "and had none before" if fresh else "and nothing tells whose they are"
            error = IntegrityMismatch(
                f"{place} has other bytes than were sent, {had}",
                side="destination",
                retryable=False,
                hint="Nothing of it is overwritten, as you asked.",
            )
            error.leave(
                "What came of an upload of ours",
                place,
                "or it is somebody else's, which nothing tells",
            )
            raise error
        self._progress.replaces = True

    def _is_beginning(
        self, destination: Destination, place: Location, there: Version, found: ObjectInfo | None
    ) -> bool:
        """Say if what is there is what a broken upload of ours leaves: the first bytes of the
        object."""
        if there.size == 0:
            return True
        context, pinned = self._context, found.version if found is not None else None
        source = context.stores.source(context.plan.source, context.meter)
        try:
            return is_piece(destination, place, source, context.plan.source, pinned, there)
        except CANT_READ:
            return False

    def _skip_if_unchanged(
        self, place: Location, there: Version, found: ObjectInfo | None
    ) -> Outcome | None:
        """Return a skip, if the destination has the object as it is at the source, and why."""
        if (
            found is not None
            and None not in (found.version.size, there.size)
            and found.version.size != there.size
        ):
            return None
        found = self._source_reader.require_description(found)  # a listing tells no digest
        why = proof_of_equality(found.version, there) if found else None
        return self._skip(place, (why,)) if why else None

    @property
    def _may_be_sent(self) -> bool:
        """Whether an earlier attempt may have sent the object without anybody having learned of
        it."""
        context, progress = self._context, self._progress
        lasting = context.journal is not None or context.if_absent
        again = context.known.begun or (lasting and progress.attempt > 1 and progress.sendings > 0)
        return (
            again and context.plan.destination.method != "POST"
        )  # which makes a new object each time

    def _skip_if_already_sent(
        self, destination: Destination, place: Location, there: Version, found: ObjectInfo | None
    ) -> Outcome | None:
        """Return how it ends if the destination has the whole object: an earlier attempt sent it,
        and was lost then.

        Nothing is sent. None where the destination has something else, or may still have what was
        there before: where nothing but its size is proved, two objects of one size are told apart
        by what the store calls them alone."""
        if self._context.is_multipart(found, destination):
            sent = self._journalled_digests(found)
        else:
            sent, found = self._source_reader.read_again(there)
        if sent is None or found is None or there.size not in (None, sent.bytes):
            return None
        notes, whole = proof_of_end(found)
        stored = PutResult(there, place, there.digests)
        notes = (_SENT_BEFORE, *notes)
        shown = PriorState(
            known=True
        )  # it is there since before this attempt: nothing is to be waited for
        try:
            outcome = self._finalizer.verify_and_publish(
                destination, place, stored, found, sent, notes, whole=whole, keep=True, before=shown
            )
        except (IntegrityMismatch, DestinationLost):
            return None
        return outcome if outcome.state is State.VERIFIED or self._is_new(there) else None

    def _is_new(self, there: Version) -> bool:
        """Say if what is there is not what was there before, for certain."""
        was = self._progress.before
        if self._context.plan.if_exists is not IfExists.OVERWRITE and self._may_be_left(there):
            return True
        if was is None or not was.known or was.assumed:
            return False
        return was.version is None or _is_other_version(was.version, there)

    def _journalled_digests(self, found: ObjectInfo | None) -> Sent | None:
        """Return what the journal says was sent in parts; nothing where the upload was never to be
        completed."""
        journal = self._context.journal
        written = journal.recorded_upload() if journal is not None else None
        if (
            written is None
            or not written.digest
            or found is None
            or found.version.etag != written.etag
        ):
            return None
        return Sent(written.size, {COMBINED: bytes.fromhex(written.digest)}, found.version.digests)


def _is_other_version(one: Version, other: Version) -> bool:
    """Say if two versions of one place are two, by what the store tells of both."""
    pairs = (
        (one.etag, other.etag),
        (one.size, other.size),
        (one.last_modified, other.last_modified),
    )
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _is_over(ours: Version, there: Version) -> bool:
    """Say if another object is there by now, for certain: its tag is another one, and so is its
    date. (One of them says nothing: some servers give each answer another one.)"""
    pairs = ((ours.strong_etag, there.strong_etag), (ours.last_modified, there.last_modified))
    return all(None not in pair and pair[0] != pair[1] for pair in pairs)


def _has_same_tag(ours: Version, there: Version) -> bool:
    """Say if the store calls what is there as it called what it took from us."""
    if ours.id is not None and there.id is not None:
        return ours.id == there.id
    return ours.strong_etag is not None and ours.strong_etag == there.strong_etag
