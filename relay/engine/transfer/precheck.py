"""Inspect the destination before an upload, and decide whether an upload is needed.

Theory of operation. The destination is inspected if `if_exists` requires it, if a broken upload
would be visible, and if an earlier attempt may have sent the object and crashed before it recorded
that. An existing object is skipped, refused, replaced, or verified as the one that the earlier
attempt sent.

Decided here: when nothing need be sent. Never here: whose object it is (`ownership.py`), the
comparison (`comparison.py`) and the verification (`verify.py`)."""

from __future__ import annotations

from dataclasses import replace

from relay.digest import compare
from relay.engine.comparison import (
    DATED,
    ReceiptVersions,
    is_by_other,
    is_never_ours,
    is_older,
    is_same,
    verdict_of_pair,
)
from relay.engine.inspection import (
    existing_error,
    inspect_object,
    inspect_prior_state,
    undescribed_error,
)
from relay.engine.multipart.part_workers import COMBINED
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.finalize import KEEPING, Finalizer
from relay.engine.transfer.local_links import refuse_link_to_skipped_object
from relay.engine.transfer.ownership import Ownership
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader, proof_of_end
from relay.engine.transfer.target import Target
from relay.engine.transfer.verify import Sent
from relay.errors import (
    DestinationChanged,
    DestinationLost,
    IntegrityMismatch,
    KeyCollision,
    Leftover,
    NotFound,
    PermissionDenied,
    PlanStale,
    PreconditionFailed,
    StoreError,
    Unavailable,
)
from relay.ledger.prior_state_values import PriorState
from relay.receipt import State, Version
from relay.stores.interfaces import ObjectInfo, OpenedObject, PutResult
from relay.stores.metadata import has_other_mtime, shows_metadata
from relay.wire.http1 import Fields

LISTED = frozenset({"s3"})
"""Stores that answer 404 for a missing object to anyone who may list, whether or not they may read
(docs.aws.amazon.com, "HeadObject"). So a 404 does not prove that reading is permitted."""
_SENT_BEFORE = (
    "already uploaded by an earlier attempt, which did not record its end or was not verified"
)


class DestinationCheck:
    """Inspects the destination of one transfer, in all its attempts."""

    def __init__(
        self,
        context: TransferContext,
        progress: Progress,
        target: Target,
        source_reader: SourceReader,
        finalizer: Finalizer,
    ) -> None:
        self._context, self._progress, self._target = context, progress, target
        self._source_reader, self._finalizer = source_reader, finalizer
        self._ownership = Ownership(context, progress, target)

    def inspect(self) -> PriorState:
        """Return the state of the destination before the upload. It is inspected if a broken upload
        would be visible, or if `if_exists` requires it.

        A POST creates a new object each time, so it needs no inspection. Raises as
        `inspect_prior_state`, and Rejected if nothing may be overwritten and the destination does
        not show whether an object exists."""
        progress, target = self._progress, self._target
        destination, place = target.destination, target.place
        asked = target.if_exists is not IfExists.OVERWRITE or self._ownership.may_be_sent
        asked |= self._context.known.planned is not None
        if self._seems_absent():
            return PriorState(known=True)
        if (place.method == "POST" or target.publishes_atomically) and not asked:
            return PriorState(known=False)
        try:
            before = inspect_prior_state(destination, place, asked)
        except PermissionDenied as error:
            if error.retryable or not self._may_upload_unseen:
                raise
            before = PriorState(known=False)
        if not before.known and target.if_absent and not destination.honours_preconditions(place):
            raise undescribed_error(place)
        was = progress.before.version if progress.before is not None else None
        # If the place is as it was before our first byte, nothing of ours is there.
        if before.version is None:
            is_unchanged = before.known and not before.assumed
        else:
            is_unchanged = is_same(was, before.version)
        if is_unchanged:
            progress.note_absent(place)
        progress.answered |= before.known and (
            before.version is not None or place.store not in LISTED
        )
        return before

    def _seems_absent(self) -> bool:
        """Return whether the listing of the tree's destination had no such object, so that no HEAD
        is needed.

        The listing is not a proof. If nothing may be overwritten, the destination must also honour
        the precondition of the upload."""
        if not self._context.known.absent or self._progress.attempt != 1:
            return False
        if self._ownership.may_be_sent:
            return False
        destination, place = self._target.destination, self._target.place
        return destination.lists_all(place) and (
            destination.honours_preconditions(place) or not self._target.if_absent
        )

    @property
    def _may_upload_unseen(self) -> bool:
        """True if we may upload without a HEAD: overwriting is allowed, and the destination never
        answered a HEAD. (If it did, a 403 means that the credentials were withdrawn.)"""
        context, was = self._context, self._progress.before
        known = was.known if was is not None else not self._target.publishes_atomically
        was_inspected = context.known.begun and known
        return not (self._target.if_absent or was_inspected or self._progress.answered)

    def skip_outcome(self, found: ObjectInfo | None) -> Outcome | None:
        """Return the outcome if the existing object makes an upload unnecessary, else None.

        `if_exists` concerns the object from before our first upload, never one that we wrote: ours
        is verified, sent again, or a failure. Raises AlreadyExists, IntegrityMismatch, and as
        `Finalizer.verify_and_publish`."""
        there, place = self._existing, self._target.place
        if there is None:  # absent; or unknown, and then the upload's precondition decides
            self._refuse_stale(None, found)
            return None
        if self._ownership.may_have_stored(there, found):
            outcome = self._skip_if_already_sent(there, found)
            if outcome is not None:
                return outcome
            if self._ownership.may_be_ours(there, found):
                self._refuse_other_bytes(there, found)
                # It may be a partial object of ours, until this attempt has replaced it.
                self._progress.unproved = place
                return None
        is_piece = self._ownership.may_be_piece(there, found)
        if is_piece:
            self._progress.unproved = place
        self._refuse_lost_piece(there, found)
        if not is_piece:
            self._refuse_stale(there, found)
        return self._outcome_of_existing(there, found)

    def _outcome_of_existing(self, there: Version, found: ObjectInfo | None) -> Outcome | None:
        """Return as `skip_outcome`, for an object that another writer has stored."""
        match self._target.if_exists:
            case IfExists.CHANGED:
                return self._skip_if_unchanged(there, found)
            case IfExists.FAIL:
                raise existing_error(self._context.plan, self._target.place)
            case IfExists.SKIP:
                return self._skip()
            case IfExists.OVERWRITE:
                return None

    def _refuse_stale(self, there: Version | None, found: ObjectInfo | None) -> None:
        """Raise PlanStale if the destination has another object than the migration's plan has seen,
        or does not show one. The caller has excluded objects that are known to be ours."""
        planned, before = self._context.known.planned, self._target.before
        if planned is None:
            return
        place, seen = self._target.place, planned.destination
        if before is None or not before.known:
            why = f"the destination does not show whether {place} is as the plan has seen it"
        elif there is None:
            if seen is None:
                return
            why = f"{place} is no longer there, and the plan would replace it"
        elif seen is None:
            why = f"{place} exists, and the plan has seen no object there"
        elif not seen.is_version(there, place.store):
            why = f"{place} is another version than the plan has seen"
        else:
            return
        if not self._may_be_torn(there, found):
            raise PlanStale(why, side="destination")

    def _may_be_torn(self, there: Version | None, found: ObjectInfo | None) -> bool:
        """Return whether an upload of ours may have broken off here, where that is visible: by this
        transfer, or by one that was killed and left the first bytes, or had them removed."""
        if not self._target.shows_unproved:
            return False
        if self._progress.sendings > 0:
            return True
        if not self._context.known.begun:
            return False
        return there is None or self._ownership.is_beginning(there, found)

    def skip_outcome_of_opened(self, opened: ObjectInfo) -> Outcome | None:
        """Return a skip if the destination has the object that the GET describes, else None. A
        source may refuse HEAD and allow GET, so only now is its version known.

        None also where the existing object may be an unfinished one of ours."""
        there = self._existing
        if self._target.if_exists is not IfExists.CHANGED or there is None:
            return None
        owner = self._ownership
        if owner.may_have_stored(there, opened) and owner.may_be_ours(there, opened):
            return None
        return self._skip_if_unchanged(there, opened)

    @property
    def _existing(self) -> Version | None:
        """The object that the inspection found at the place, or None. Our copy of an earlier
        version of the source does not count: it is replaced."""
        before = self._target.before
        there = before.version if before is not None else None
        is_outdated = there is not None and is_same(self._context.known.written, there)
        return None if is_outdated else there

    def prepare_upload(self) -> None:
        """Record the prior state of the destination before the first byte is sent, for later
        attempts of any process; in a folder also the place, which the source names. Raises
        LeaseLost, LedgerFailed; then nothing may be sent.

        The ledger already knows that a place was absent in the listing. If nothing may be
        overwritten that is not enough: another writer's object may appear before our first
        byte."""
        context, progress, target = self._context, self._progress, self._target
        before = target.before
        assert before is not None, "the place is inspected before anything is sent"
        progress.note_sending()
        if progress.before is not None:
            return
        # An upload that overwrites trusts no existing object, and a staged one shows none before it
        # is proved: then no later attempt needs the prior state.
        is_named = context.plan.destination.path.endswith("/")
        matters = target.if_exists is not IfExists.OVERWRITE or is_named
        must_note = matters and target.shows_unproved and target.place.method != "POST"
        is_recorded = self._seems_absent() and not target.if_absent
        if is_named:
            before = replace(before, place=str(target.place))
        progress.before = before
        if context.journal is None or not must_note or is_recorded:
            return
        progress.noted = True
        try:
            context.journal.note(progress.to_note or before)
        except BaseException:
            progress.note_unsent()
            raise

    def on_precondition_failed(self, error: PreconditionFailed) -> Outcome:
        """Handle a 412 to the upload as `if_exists` says: return a skip, or raise AlreadyExists or
        `error` itself, if it came after the destination had acknowledged our object.

        Raises Unavailable if the object may come from an earlier attempt of ours, or if the
        destination does not show it: the next attempt inspects the destination. Raises KeyCollision
        if it shows another one."""
        is_refusal = error.side == "destination" and not self._progress.acknowledged
        if not is_refusal or not self._target.if_absent:
            raise error
        place = self._target.place
        self._progress.remains |= error.remains  # keep its leftovers, however it is handled
        if self._progress.sendings > 1 or self._progress.unproved is not None:
            raise Unavailable(
                f"an object appeared at {place} while it was sent again: {error.message}",
                side="destination",
                hint="It may be ours, of a request whose answer was lost; run it again to check.",
            ) from None
        self._require_shown(error)
        if self._context.known.planned is not None:
            raise PlanStale(
                f"{place} exists, and the plan has seen no object there", side="destination"
            ) from None
        if self._target.if_exists is IfExists.FAIL:
            raise existing_error(self._context.plan, self._target.place) from None
        return self._skip()

    def _skip(self, notes: tuple[str, ...] = ()) -> Outcome:
        """Return a skip. Raises KeyCollision if the existing object is another object of the same
        tree, reached through a link."""
        place = self._target.place
        refuse_link_to_skipped_object(self._context.plan, place, self._context.journal)
        return self._context.outcome(State.SKIPPED, place, notes=notes)

    def _require_shown(self, error: PreconditionFailed) -> None:
        """Raise Unavailable after a 412 if the place certainly has no object, or if the destination
        can't show one now: the 412 may have another reason. Raises KeyCollision if another object
        answers for the place. A destination that refuses to show objects is believed."""
        place, hint = self._target.place, None
        try:
            inspect_object(self._target.destination, place)
            return
        except NotFound:
            why = f"but it does not: {error.message}"
            hint = (
                "The destination answers 412 for another reason; its message or its documentation"
                " may explain it."
            )
        except KeyCollision:
            self._progress.note_unsent()
            raise
        except StoreError as unknown:
            if not unknown.retryable:
                return
            why = f"and the destination does not show it: {unknown.message}"
        self._progress.note_unsent()  # the next attempt inspects the place
        raise Unavailable(
            f"{place} was refused as if it existed, {why}", side="destination", hint=hint
        ) from None

    def _refuse_other_bytes(self, there: Version, found: ObjectInfo | None) -> None:
        """Raise IntegrityMismatch if the existing object is not known to be ours, and nothing may
        be overwritten."""
        if not self._target.if_absent:
            return
        if not self._ownership.is_known_ours(there, found):
            place, was_absent = self._target.place, self._ownership.was_absent
            why = "and was empty before" if was_absent else "and it is unknown who wrote them"
            error = IntegrityMismatch(
                f"{place} has other bytes than were sent, {why}",
                side="destination",
                retryable=False,
                hint="It was not overwritten, as 'if_exists' says.",
            )
            error.leave(Leftover.DAMAGED_UPLOAD, place, "or it is another writer's object")
            raise error
        self._progress.replaces = True

    def _refuse_lost_piece(self, there: Version, found: ObjectInfo | None) -> None:
        """Raise IntegrityMismatch if the existing object may be a piece of ours, of a process that
        crashed, and nothing may be overwritten."""
        if not self._target.if_absent or not self._ownership.may_be_lost_piece(there, found):
            return
        place = self._target.place
        error = IntegrityMismatch(
            f"{place} has only the first {there.size} bytes of the source",
            side="destination",
            retryable=False,
            hint="It was not overwritten, as 'if_exists' says. Delete it, or use 'changed'.",
        )
        error.leave(Leftover.PARTIAL, place, "or it is another writer's object")
        raise error

    def _skip_if_unchanged(self, there: Version, found: ObjectInfo | None) -> Outcome | None:
        """Return a skip with its reason if the destination has the same object as the source.

        Some web servers answer a HEAD with a length of 0 for an object of unknown length. Only a
        GET shows that it is empty (`skip_outcome_of_opened`)."""
        written = self._context.known.written
        if written is not None:
            return self._skip_if_same_bytes(written, there, found)
        if (
            found is not None
            and None not in (found.version.size, there.size)
            and found.version.size != there.size
        ):
            return None
        found = self._source_reader.require_description(found)  # a listing has no digests
        is_described = isinstance(found, OpenedObject) or self._context.plan.source.store != "http"
        if found is not None and found.version.size == 0 and not is_described:
            return None
        if found is None:
            return None
        ours, plan = found, self._context.plan
        verdict = verdict_of_pair(
            ours.version,
            there,
            plan.compare,
            stores=(plan.source.store, self._target.place.store),
            metadata=lambda: (ours.metadata, self._shown_metadata()),
            receipt=self._earlier_versions,
        )
        return self._skip((verdict.why,)) if verdict.is_same else None

    def _skip_if_same_bytes(
        self, written: Version, there: Version, found: ObjectInfo | None
    ) -> Outcome | None:
        """Return a skip if a digest proves that the destination has the source's present version.
        Dates prove nothing: the destination may have been written after the source was changed,
        with the version before. Raises DestinationChanged if another writer has certainly replaced
        what this migration `written` there."""
        found = self._source_reader.require_description(found)
        if found is not None and found.version.size == there.size:
            agreeing, differing = compare(found.version.digests, there.digests)
            if agreeing is not None and not differing:
                return self._skip((f"unchanged: the same size and {agreeing}",))
        # After a crash it may be ours, of a claim that has recorded nothing; but not if it was
        # there before this migration, and was refuted later (`ledger/entries.py`).
        after_crash = self._context.known.after_crash and not is_never_ours(written)
        may_be_ours = after_crash or self._progress.sendings > 0
        if is_by_other(written, there) and not may_be_ours:
            place = self._target.place
            raise DestinationChanged(f"{place} is not the object that relay wrote there")
        return None

    def _earlier_versions(self) -> ReceiptVersions | None:
        """Return what an earlier migration between the same places has read and written of the
        object. Raises LedgerFailed."""
        journal, plan = self._context.journal, self._context.plan
        if journal is None or plan.tree is None:
            return None
        return ReceiptVersions.from_json(journal.earlier_receipt())

    def _shown_metadata(self) -> Fields:
        """Return the metadata of the destination's object, where it has what an upload gave it. It
        costs one HEAD."""
        place = self._target.place
        if place.store not in DATED:
            return ()
        try:
            shown = self._target.destination.head(place)
        except StoreError:
            return ()
        return shown.metadata if isinstance(shown, ObjectInfo) else ()

    def _skip_if_already_sent(self, there: Version, found: ObjectInfo | None) -> Outcome | None:
        """Return the outcome if the destination has the whole object, from an earlier attempt that
        crashed. Nothing is sent.

        None if the destination has another object, or may still have the prior one: if only the
        size is proved, or the metadata is another, the store's own version must differ from the
        prior version. Also None if only the size is proved, and the source has changed since."""
        is_parted = self._context.is_multipart(found, self._target.part_limits)
        size = found.version.size if found is not None else None
        if size and not self._context.needs_digest and not self._ownership.is_upload_open():
            # Nothing but the length will be proved, so the source need not be read.
            is_parted = False
            sent: Sent | None = Sent(size, {}, {})
        elif is_parted:
            # The journal has the digest of a large object, so the source is not read again.
            sent = self._journalled_digests(found)  # of this version of the source
        else:
            sent, found = self._source_reader.read_again(there)
        if sent is None or found is None or there.size not in (None, sent.bytes):
            return None
        notes, whole = proof_of_end(found)
        place, notes = self._target.place, (_SENT_BEFORE, *notes)
        unkept = self._target.destination.unkept_metadata(place, found.metadata)
        stored = PutResult(there, place, there.digests, notes=unkept)
        try:
            outcome = self._finalizer.verify_and_publish(
                stored, found, sent, notes, whole=whole, keep=True
            )
        except (IntegrityMismatch, DestinationLost):
            return None
        if outcome.state is State.UNVERIFIED and not is_parted and is_older(there, found.version):
            return None
        if self._ownership.is_new(there):
            return outcome
        # It may be the prior object. Only equal bytes and equal metadata make an upload needless.
        is_same_object = outcome.state is State.VERIFIED and self._shows_metadata_of(found)
        return outcome if is_same_object else None

    def _shows_metadata_of(self, found: ObjectInfo) -> bool:
        """Return whether the existing object has the source's metadata. If the bytes alone are the
        same, it may be the prior object. Not decided where a store need not keep metadata."""
        place = self._target.place
        if place.store not in DATED:
            return True
        try:
            there = self._target.destination.head(place)
        except StoreError:
            return False
        shown = there.metadata if isinstance(there, ObjectInfo) else ()
        if has_other_mtime(found.metadata, shown):
            return False
        return place.store not in KEEPING or shows_metadata(found.metadata, shown, place)

    def _journalled_digests(self, found: ObjectInfo | None) -> Sent | None:
        """Return the size and digest that the journal has of a multipart upload, or None if its
        completion was never requested."""
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
