"""One attempt, step by step: pin the source, check the destination, copy or upload, finish.

Theory of operation. The order is fixed: pin the source's version; inspect the destination where
that is needed; let the store copy the object where it can, else upload it in parts or in one
request; verify it. Where the destination is a folder and only a GET tells the object's name, the
source is opened first.

Decided here: the order of steps, and how an object is sent. Never here: what is retried.
"""

from __future__ import annotations

from relay.engine.cleanup import remove_lost_uploads
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.folded_names import refuse_folded_names
from relay.engine.transfer.local_links import refuse_link_to_other_object, refuse_link_to_source
from relay.engine.transfer.precheck import DestinationCheck
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.readable_accounts import ReadableAccounts
from relay.engine.transfer.server_copy import ServerCopier
from relay.engine.transfer.source_reader import SourceReader
from relay.engine.transfer.uploader import Uploader
from relay.errors import InvalidURL, PreconditionFailed, SameObject
from relay.file_names import safe_name
from relay.identity import same_object
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.process.failpoints import reach
from relay.stores.interfaces import Destination, ObjectInfo, OpenedObject
from relay.wire.body import Body


class Attempt:
    """The steps of one attempt to move one object. `run` once for each attempt of a transfer."""

    def __init__(
        self, context: TransferContext, progress: Progress, readable_accounts: ReadableAccounts
    ) -> None:
        self._context, self._progress = context, progress
        source_reader = SourceReader(context, progress)
        finalizer = Finalizer(context, progress, readable_accounts)
        self._source_reader, self._finalizer = source_reader, finalizer
        self._check = DestinationCheck(context, progress, source_reader, finalizer)
        self._uploader = Uploader(context, progress, source_reader, finalizer)

    def run(self) -> Outcome:
        """Make one attempt, from the pinned version to the receipt. Raises a RelayError.

        However it ends, the body may still be open: the caller closes it."""
        # Clean up first: leftovers are removed even if the source no longer answers.
        destination = self._begin()
        # Pin the version to read. None: only the GET will describe the object.
        found = self._source_reader.pin_version(destination)
        place = self._resolve_name(found) if found else self._context.plan.destination
        reach("after-pin")
        # Check the destination; the object may be there already. A folder must wait for the GET,
        # which has the object's name.
        before: PriorState | None = None
        if not _is_folder(place):
            before, skipped = self._check_destination(destination, place, found)
            if skipped is not None:
                self._discard_multipart(destination)
                return skipped
        # Prefer a way without one long request: a server-side copy, or a multipart upload.
        if found is not None and before is not None:
            moved = self._copy_or_upload_multipart(destination, place, before, found)
            if moved is not None:
                return moved
        # Else upload in one request. No earlier multipart upload is resumed, so abort it.
        self._discard_multipart(destination)
        opened, body = self._source_reader.open_body(found)
        # Check again with what the GET describes.
        if before is None:
            place = self._resolve_name(opened)
            before, skipped = self._check_destination(destination, place, opened)
        else:
            skipped = self._check.skip_outcome_of_opened(destination, place, before, opened)
        if skipped is not None:
            return skipped
        # Upload, verify, publish, and write the receipt.
        return self._upload_single(destination, place, before, opened, body)

    def _begin(self) -> Destination:
        """Forget the pinned version, remove leftovers where the place is known, and return the
        destination."""
        self._source_reader.reset()
        plan = self._context.plan
        destination = self._context.stores.destination(plan.destination, self._context.meter)
        if not _is_folder(plan.destination):
            self._remove_lost_uploads(destination, plan.destination)
        return destination

    def _check_destination(
        self, destination: Destination, place: Location, found: ObjectInfo | None
    ) -> tuple[PriorState, Outcome | None]:
        """Return what is at the place, and the outcome if nothing need be sent (else None). Raises
        as `_inspect_destination` and `DestinationCheck.skip_outcome`."""
        before = self._inspect_destination(destination, place, found)
        return before, self._check.skip_outcome(destination, place, before, found)

    def _upload_single(
        self,
        destination: Destination,
        place: Location,
        before: PriorState,
        opened: OpenedObject,
        body: Body,
    ) -> Outcome:
        """Upload in one request. Raises SameObject, KeyCollision, LeaseLost, LedgerFailed, and as
        `Uploader.upload_single`."""
        # The GET may have been redirected, so only now is it certain that this is another object.
        self._refuse_itself(opened, place)
        refuse_link_to_other_object(self._context.plan, place, self._context.journal)
        self._check.prepare_upload(destination, place, before)
        try:
            return self._uploader.upload_single(destination, place, before, opened, body)
        except PreconditionFailed as error:
            return self._check.on_precondition_failed(error, destination, place, opened)

    def _copy_or_upload_multipart(
        self, destination: Destination, place: Location, before: PriorState, found: ObjectInfo
    ) -> Outcome | None:
        """Let the store copy the object, or upload it in parts. Return None where neither is
        possible: it is then uploaded in one request.

        Raises as `ServerCopier.copy` and `Uploader.upload_multipart`."""
        context = self._context
        try:
            if context.plan.server_copy and destination.can_copy(context.plan.source, place):
                self._check.prepare_upload(destination, place, before)
                copier = ServerCopier(context, self._progress, self._source_reader, self._finalizer)
                copied = copier.copy(destination, place, before, found)
                if copied is not None:
                    return copied
            if not context.is_multipart(found, destination):
                return None
            self._check.prepare_upload(destination, place, before)
            return self._uploader.upload_multipart(destination, place, before, found)
        except PreconditionFailed as error:
            return self._check.on_precondition_failed(error, destination, place, found)

    def _inspect_destination(
        self, destination: Destination, place: Location, found: ObjectInfo | None
    ) -> PriorState:
        """Return what is at the place, after our leftovers there are removed. Raises SameObject
        where the place is the source, KeyCollision where it is another object's, and as
        `DestinationCheck.inspect`."""
        self._refuse_itself(found, place)
        refuse_link_to_source(self._context.plan, place)
        refuse_folded_names(destination, place, self._context.known.twins)
        if _is_folder(self._context.plan.destination):  # else `run` has removed them
            self._remove_lost_uploads(destination, place)
        return self._check.inspect(destination, place)

    def _remove_lost_uploads(self, destination: Destination, place: Location) -> None:
        """Remove the temporary uploads of crashed attempts, in the first attempt only. What can't
        be removed is noted in `Progress.remains`."""
        if self._progress.attempt > 1:
            return
        tokens, remains = self._context.known.lost, self._progress.remains
        failure = remove_lost_uploads(destination, place, tokens)
        for token in tokens:
            for name in destination.staged_locations(place, token):
                remains.pop(str(name), None)
        if failure is not None:
            remains.update(failure.remains)
        self._progress.is_rid = failure is None and self._context.publishes_atomically(destination)

    def _discard_multipart(self, destination: Destination) -> None:
        """Abort the multipart upload of an earlier attempt, which this one does not resume. Raises
        as `UploadLifecycle.abort_lost_uploads`."""
        context, known = self._context, self._context.known
        has_predecessor = self._progress.attempt > 1 or known.begun or bool(known.lost)
        if context.journal is None or destination.part_limits is None or not has_predecessor:
            return
        written = context.journal.recorded_upload()
        if written is None:
            return
        place = location_of_upload(context.plan, written)
        if place is not None:
            context.upload_lifecycle.abort_lost_uploads(place, written)

    def _resolve_name(self, found: ObjectInfo) -> Location:
        """Return the object's place. To a destination that ends in '/', append the source's name
        (Content-Disposition, else the last segment). Raises InvalidURL where it has no safe
        name."""
        plan = self._context.plan
        place = plan.destination
        if not _is_folder(place):
            return place
        name = safe_name(found.disposition, found.location) or safe_name(None, plan.source)
        if name is None:
            raise InvalidURL(
                "the destination is a folder, and the source has no safe name",
                pointer="/destination",
                hint="Give the whole URL of the destination, with the object's name.",
            )
        return place.named(name)

    def _refuse_itself(self, found: ObjectInfo | None, place: Location) -> None:
        """Raise SameObject where the place is the source itself, or what a redirect of it leads
        to."""
        source = self._context.plan.source
        redirected = source if found is None else found.location
        if same_object(source, place) or (
            redirected is not source and same_object(redirected, place)
        ):
            raise SameObject(f"{place} is both source and destination")


def _is_folder(place: Location) -> bool:
    """Say if a place ends in '/': then it needs an object's name."""
    return place.path.endswith("/")
