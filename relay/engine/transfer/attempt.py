"""One attempt, step by step: pin the source, check the destination, copy or upload, finish.

Theory of operation. The order is fixed: pin the source's version; inspect the destination where
that is needed; let the store copy the object where it can, else upload it in parts or in one
request; verify it. Where the destination is a folder and only a GET tells the object's name, the
source is opened first.

Decided here: the order of steps, and how an object is sent. Never here: retries.
"""

from __future__ import annotations

from contextlib import suppress

from relay.engine.cleanup import remove_lost_uploads
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.cut_names import STORES, CutNames
from relay.engine.transfer.finalize import Finalizer, ReadableAccounts
from relay.engine.transfer.folded_names import refuse_folded_names, refuse_short_name
from relay.engine.transfer.local_links import refuse_link_to_other_object, refuse_link_to_source
from relay.engine.transfer.names_under_way import PATIENCE_SECONDS, NameUnderWay, Sending
from relay.engine.transfer.precheck import DestinationCheck
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.server_copy import DESCRIBING, ServerCopier
from relay.engine.transfer.source_reader import SourceReader
from relay.engine.transfer.target import Target
from relay.engine.transfer.uploader import Uploader
from relay.errors import (
    KeyCollision,
    Leftover,
    NotFound,
    PreconditionFailed,
    RelayError,
    SameObject,
    is_whole,
)
from relay.identity import same_object
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, OpenedObject
from relay.wire.body import Body


class Attempt:
    """The steps of one attempt to move one object. `run` once for each attempt of a transfer."""

    _found: ObjectInfo | None
    """The pinned version of the source; None if only the GET will describe it."""
    _sending: Sending | None = None
    """The name of the place, from its inspection on."""
    _is_cut_name_free: bool
    """True if nothing had a cut name of the place before this attempt sent a byte."""

    def __init__(
        self, context: TransferContext, progress: Progress, readable_accounts: ReadableAccounts
    ) -> None:
        self._context, self._progress = context, progress
        self._target = target = Target(context)
        self._source_reader = reader = SourceReader(context, progress)
        self._finalizer = finalizer = Finalizer(context, progress, target, readable_accounts)
        self._check = DestinationCheck(context, progress, target, reader, finalizer)
        self._uploader = Uploader(context, progress, target, reader, finalizer)

    def run(self) -> Outcome:
        """Make one attempt, from the pinned version to the receipt. Raises a RelayError.

        However it ends, the body may still be open: the caller closes it."""
        self._begin()
        try:
            return self._run_steps()
        finally:
            if self._sending is not None:
                self._context.names.leave(self._sending)
                self._sending = None

    def _run_steps(self) -> Outcome:
        self._pin_source()
        # Prefer a way without one long request. The first step with an outcome ends the attempt.
        for step in (
            self._skip_pinned,
            self._copy_donor,
            self._copy_at_store,
            self._upload_multipart,
        ):
            outcome = step()
            if outcome is not None:
                return outcome
        opened, body = self._source_reader.open_body(self._found)
        # An upload in one request resumes no parts. But the source must have shown an object: HEAD
        # may have described a login page.
        self._discard_multipart()
        skipped = self._skip_opened(opened)
        if skipped is not None:
            return skipped
        return self._upload_single(opened, body)

    # -- the steps

    def _begin(self) -> None:
        """Open both sides, and remove leftovers where the place is known, even if the source no
        longer answers."""
        self._source_reader.reset()
        self._target.reset()
        self._is_cut_name_free = False
        if not self._target.is_folder:
            self._remove_lost_uploads()

    def _pin_source(self) -> None:
        """Pin the version to read. Raises as `SourceReader.pin_version` and `Target.name_after`."""
        try:
            self._found = found = self._source_reader.pin_version(self._target.destination)
        except NotFound:
            self._forget_removed()
            raise
        if found is not None:
            self._target.name_after(found)
        reach("after-pin")

    def _skip_pinned(self) -> Outcome | None:
        """Return the outcome if the destination has the pinned version, else None. A folder must
        wait for the GET, which has the object's name. Raises as `_inspect_target`."""
        if self._target.is_folder:
            return None
        skipped = self._inspect_target(self._found)
        if skipped is not None:
            self._discard_multipart()
        return skipped

    def _forget_removed(self) -> None:
        """Forget an object of ours that is no longer at the place, as its source is gone: else its
        failure would name it for ever."""
        place = self._target.place
        if not self._target.is_folder and str(place) in self._progress.remains:
            with suppress(RelayError):
                self._check.inspect()

    def _copy_donor(self) -> Outcome | None:
        """Let the destination copy an object of equal content; return None if there is none, or if
        it can't. Raises as `ServerCopier.copy_donor`."""
        donor, target = self._context.known.donor, self._target
        if donor is None or target.before is None or target.place.store not in DESCRIBING:
            return None
        if not target.destination.can_copy(donor.place, target.place):
            return None
        copier = ServerCopier(
            self._context, self._progress, target, self._source_reader, self._finalizer
        )
        self._check.prepare_upload()
        try:
            outcome = copier.copy_donor(self._found, donor)
        except PreconditionFailed as error:
            outcome = self._check.on_precondition_failed(error)
        if outcome is not None:
            self._discard_multipart()
        return outcome and self._require_whole_name(outcome)

    def _copy_at_store(self) -> Outcome | None:
        """Let the store copy the object; return None if it can't. Raises as
        `ServerCopier.copy`."""
        context, target, found = self._context, self._target, self._found
        if found is None or target.before is None or not context.plan.server_copy:
            return None
        if not target.destination.can_copy(context.plan.source, target.place):
            return None
        copier = ServerCopier(context, self._progress, target, self._source_reader, self._finalizer)
        self._check.prepare_upload()
        try:
            outcome = copier.copy(found)
        except PreconditionFailed as error:
            outcome = self._check.on_precondition_failed(error)
        # A copy in one request resumes no upload of an earlier attempt.
        if outcome is not None and self._progress.parts is None:
            self._discard_multipart()
        return outcome and self._require_whole_name(outcome)

    def _upload_multipart(self) -> Outcome | None:
        """Upload the object in parts; return None if it must go in one request. Raises as
        `Uploader.upload_multipart`."""
        found = self._found
        if found is None or self._target.before is None:
            return None
        size, limits = found.version.size, self._context.limits
        if size is None or size < limits.parted_bytes:
            return None  # whatever the destination's limits are
        if not self._context.is_multipart(found, self._target.part_limits):
            return None
        self._check.prepare_upload()
        try:
            return self._uploader.upload_multipart(found)
        except PreconditionFailed as error:
            return self._check.on_precondition_failed(error)

    def _skip_opened(self, opened: OpenedObject) -> Outcome | None:
        """Return the outcome if the destination has the object that the GET describes, else None.
        Raises as `_inspect_target`."""
        if self._target.before is not None:
            return self._check.skip_outcome_of_opened(opened)
        self._target.name_after(opened)
        return self._inspect_target(opened)

    def _upload_single(self, opened: OpenedObject, body: Body) -> Outcome:
        """Upload in one request. Raises SameObject, KeyCollision, LeaseLost, LedgerFailed, and as
        `Uploader.upload_single`."""
        # The GET may have been redirected, so only now is it certain that this is another object.
        self._refuse_itself(opened)
        refuse_link_to_other_object(self._context.plan, self._target.place, self._context.journal)
        self._check.prepare_upload()
        try:
            outcome = self._uploader.upload_single(opened, body)
        except PreconditionFailed as error:
            outcome = self._check.on_precondition_failed(error)
        return self._require_whole_name(outcome)

    # -- the destination

    def _inspect_target(self, found: ObjectInfo | None) -> Outcome | None:
        """Inspect the place, after our leftovers there are removed. Return the outcome if nothing
        need be sent, else None. Raises SameObject where the place is the source, KeyCollision where
        it is another object's, and as `DestinationCheck.inspect` and `skip_outcome`."""
        target = self._target
        self._refuse_itself(found)
        refuse_link_to_source(self._context.plan, target.place, target.destination)
        refuse_folded_names(target.destination, target.place, self._context.known.twins)
        refuse_short_name(target.destination, target.place)
        if self._context.plan.destination.path.endswith("/"):  # else `_begin` has removed them
            self._forget_other_place()
            self._remove_lost_uploads()
        self._enter_name()
        target.before = self._check.inspect()
        self._refuse_cut_name(shown=target.before.version is not None)
        return self._check.skip_outcome(found)

    def _enter_name(self) -> None:
        """Wait until no other transfer of this process may send the same object by a name that the
        server cuts. Raises Cancelled; NameUnderWay if that lasts, and the object is claimed."""
        context, target = self._context, self._target
        if target.place.store not in STORES or target.place.method == "POST":
            return
        names = CutNames(target.destination, target.place, context.memory, "destination")
        began = context.meter.seconds()

        def tick() -> None:
            context.meter.check()
            is_claimed = context.journal is not None
            if is_claimed and context.meter.seconds() - began >= PATIENCE_SECONDS:
                raise NameUnderWay(f"another transfer may send {target.place}, by a cut name")

        self._sending = context.names.enter(
            target.place, names.unproved_rests, tick, context.meter.tick_seconds
        )

    def _refuse_cut_name(self, shown: bool) -> None:
        """Raise KeyCollision if the destination cuts the name of the place. `shown` says that an
        object is there. Raises as `CutNames`."""
        target = self._target
        if target.place.method == "POST":  # it creates an object of another name
            return
        names = CutNames(target.destination, target.place, self._context.memory, "destination")
        names.refuse()
        self._is_cut_name_free = names.is_free
        if self._sending is not None and not names.is_free:
            self._context.names.release_rests(self._sending)
        if shown:
            names.learn_if_there()

    def _require_whole_name(self, outcome: Outcome) -> Outcome:
        """Return the outcome of an upload or a copy. Raises KeyCollision if the object got a cut
        name, which was free before: then it is deleted."""
        try:
            self._refuse_cut_name(shown=True)
        except KeyCollision as error:
            if outcome.receipt is not None:
                self._remove_cut(outcome.receipt.destination, error)
            raise
        return outcome

    def _remove_cut(self, version: Version, error: KeyCollision) -> None:
        """Delete the object that got a cut name, unless another one may have had it before. If it
        stays, `error` names it."""
        destination, place = self._target.destination, self._target.place
        why = "another object may have been there before"
        if self._is_cut_name_free:
            try:
                destination.delete(place, version)
                self._progress.note_absent(place)
                return
            except RelayError as failure:
                why = failure.message
        error.leave(Leftover.SENT, place, why)

    def _forget_other_place(self) -> None:
        """Forget the knowledge of an earlier attempt, and abort its multipart upload, if the source
        had another name then."""
        progress, target = self._progress, self._target
        is_resumed = self._context.known.begun and progress.attempt == 1
        shows = progress.unproved is not None or (is_resumed and target.shows_unproved)
        progress.forget_other_place(target.place, shows=shows)
        self._discard_multipart(but=str(target.place))

    def _refuse_itself(self, found: ObjectInfo | None) -> None:
        """Raise SameObject if the place is the source itself, or the target of a redirect of it."""
        plan, place = self._context.plan, self._target.place
        answered = plan.source if found is None else found.location
        # The plan has compared its own two locations.
        if (place is not plan.destination and same_object(plan.source, place)) or (
            answered is not plan.source and same_object(answered, place)
        ):
            raise SameObject(f"{place} is both source and destination")

    # -- earlier attempts

    def _remove_lost_uploads(self) -> None:
        """Remove the temporary uploads of crashed attempts, in the first attempt only. Leftovers
        that can't be removed are recorded in `Progress.remains`."""
        if self._progress.attempt > 1:
            return
        destination, place = self._target.destination, self._target.place
        remains = self._progress.remains
        failure = remove_lost_uploads(destination, place, self._context.known.lost, remains)
        is_rid = failure is None and not any(map(is_whole, remains.values()))
        self._progress.is_rid = is_rid and self._target.publishes_atomically

    def _discard_multipart(self, but: str = "") -> None:
        """Abort the multipart upload of an earlier attempt, which this one does not resume; not one
        to the place `but`. Raises as `UploadLifecycle.abort_lost_uploads`."""
        context, known = self._context, self._context.known
        # A new object has no record, so the ledger is not read for each of them.
        has_predecessor = self._progress.attempt > 1 or known.begun or bool(known.lost)
        if context.journal is None or not has_predecessor:
            return
        if self._target.part_limits is None:
            return
        written = context.journal.recorded_upload()
        if written is None:
            return
        place = location_of_upload(context.plan, written)
        if place is not None and written.place != but:
            context.upload_lifecycle.abort_lost_uploads(place, written)
