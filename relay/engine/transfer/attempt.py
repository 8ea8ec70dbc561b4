"""One attempt, step by step: pin the source, look at the destination, copy or upload, finish.

Theory of operation. The order is fixed: pin the source's version, look at the destination where
that is wanted, let the store copy the object where it can, else send it in parts or in one request,
and prove it. Where the destination takes the source's name, and the source tells that only when it
is read, it is opened first.

Decided here: the order, and which way an object goes. Never here: what is tried again.
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
from relay.stores.interfaces import Destination, ObjectInfo


class Attempt:
    """The way of one object through its transfer: `run` once an attempt."""

    def __init__(
        self, terms: TransferContext, progress: Progress, allowed: ReadableAccounts
    ) -> None:
        self._terms, self._progress = terms, progress
        self._reading = reading = SourceReader(terms, progress)
        self._acceptance = acceptance = Finalizer(terms, progress, allowed)
        self._existing = DestinationCheck(terms, progress, reading, acceptance)
        self._pipe = Uploader(terms, progress, reading, acceptance)

    def run(self) -> Outcome:
        """Go all the way. Raises a RelayError; the body may be open then, and is the caller's to
        close."""
        plan, reading = self._terms.plan, self._reading
        reading.reset()
        destination = self._terms.stores.destination(plan.destination, self._terms.meter)
        if not plan.destination.path.endswith("/"):
            self._remove_lost_uploads(
                destination, plan.destination
            )  # also where the source gives nothing any more
        found = reading.pin_version(destination)
        place = self._resolve_name(found) if found else plan.destination
        reach("after-pin")
        before: PriorState | None = None
        if not place.path.endswith("/"):
            before = self._inspect_destination(destination, place, found)
            if early := self._existing.skip_outcome(destination, place, before, found):
                self._discard_multipart(destination)
                return early
        if (
            found
            and before
            and (moved := self._copy_or_upload_multipart(destination, place, before, found))
        ):
            return moved
        self._discard_multipart(destination)
        opened, body = reading.open_body(found)
        if before is None:
            place = self._resolve_name(opened)
            before = self._inspect_destination(destination, place, opened)
            if early := self._existing.skip_outcome(destination, place, before, opened):
                return early
        elif early := self._existing.skip_outcome_of_opened(destination, place, before, opened):
            return early
        self._refuse_itself(opened, place)
        refuse_link_to_other_object(plan, place, self._terms.journal)
        self._existing.prepare_upload(destination, place, before)
        try:
            return self._pipe.upload_single(destination, place, before, opened, body)
        except PreconditionFailed as error:
            return self._existing.on_precondition_failed(error, destination, place, opened)

    def _copy_or_upload_multipart(
        self, destination: Destination, place: Location, before: PriorState, found: ObjectInfo
    ) -> Outcome | None:
        """Move it without one body for the whole: let the store copy it, or send it in parts. None
        where neither goes.

        It is sent in one request then.
        """
        terms = self._terms
        try:
            if terms.plan.server_copy and destination.can_copy(terms.plan.source, place):
                self._existing.prepare_upload(destination, place, before)
                copy = ServerCopier(terms, self._progress, self._reading, self._acceptance)
                if copied := copy.copy(destination, place, before, found):
                    return copied
            if not terms.is_multipart(found, destination):
                return None
            self._existing.prepare_upload(destination, place, before)
            return self._pipe.upload_multipart(destination, place, before, found)
        except PreconditionFailed as error:
            return self._existing.on_precondition_failed(error, destination, place, found)

    def _inspect_destination(
        self, destination: Destination, place: Location, found: ObjectInfo | None
    ) -> PriorState:
        """Return what is at the place, when it was made sure that it is not the source, and is rid
        of our leavings."""
        self._refuse_itself(found, place)
        refuse_link_to_source(self._terms.plan, place)
        refuse_folded_names(destination, place, self._terms.known.twins)
        if self._terms.plan.destination.path.endswith("/"):
            self._remove_lost_uploads(destination, place)
        return self._existing.inspect(destination, place)

    def _remove_lost_uploads(self, destination: Destination, place: Location) -> None:
        """Remove what lost attempts left under names of their own, once; what can't be remains."""
        if self._progress.attempt > 1:
            return
        lost, remains = self._terms.known.lost, self._progress.remains
        left = remove_lost_uploads(destination, place, lost)
        for name in (name for one in lost for name in destination.staged_locations(place, one)):
            remains.pop(str(name), None)
        remains.update(left.remains if left is not None else {})
        self._progress.is_rid = left is None and self._terms.publishes_atomically(destination)

    def _discard_multipart(self, destination: Destination) -> None:
        """Throw away the upload in parts that an attempt before this one began, and that this one
        does not go on with."""
        terms, known = self._terms, self._terms.known
        again = self._progress.attempt > 1 or known.begun or bool(known.lost)
        if terms.journal is None or destination.part_limits is None or not again:
            return
        written = terms.journal.recorded_upload()
        place = location_of_upload(terms.plan, written) if written is not None else None
        if written is not None and place is not None:
            terms.upload_lifecycle.abort_lost_uploads(place, written)

    def _resolve_name(self, found: ObjectInfo) -> Location:
        """Give a destination that ends in '/' the source's name (Content-Disposition, else the last
        segment)."""
        plan = self._terms.plan
        place = plan.destination
        if not place.path.endswith("/"):
            return place
        name = safe_name(found.disposition, found.location) or safe_name(None, plan.source)
        if name is None:
            raise InvalidURL(
                "the destination is a folder, and the source has no name that is safe",
                pointer="/destination",
                hint="Give the whole URL of the destination, with the object's name.",
            )
        return place.named(name)

    def _refuse_itself(self, found: ObjectInfo | None, place: Location) -> None:
        """Raise SameObject where a name that was taken over, or a redirect, leads back to the
        source."""
        source = self._terms.plan.source
        there = source if found is None else found.location
        if same_object(source, place) or (there is not source and same_object(there, place)):
            raise SameObject(f"{place} is both source and destination")
