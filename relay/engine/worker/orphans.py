"""Remove leftovers of attempts at destinations that no later attempt will replace.

Theory of operation. The ledger names orphans: transfers that are cancelled, or failed a while ago,
and have a recorded upload or lost workers. Their uploads are aborted, the staged names that only
they can have used are deleted, and then the ledger deletes its record of them. A removal that fails
is retried later. If a store shows unfinished uploads under the object's own name, a piece is
recognized by its bytes: they are the source's first bytes. An object that may not be ours is left
there, and reported. A store that shows only complete uploads may have one that nothing has proved:
the ledger keeps a note of it for later migrations.

Decided here: how an orphan is removed, and when the removal is retried. Never here: the definition
of an orphan (`relay/ledger/orphans.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from time import monotonic, time
from typing import Final

from gevent.event import Event

from relay.engine.cleanup import (
    abort_upload,
    lost_upload_tokens,
    remove_lost_uploads,
    remove_piece,
    uploads_of,
)
from relay.engine.comparison import is_same
from relay.engine.inspection import inspect_object, is_piece
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.plan import Plan, Verify
from relay.engine.transfer.ownership import CLOCKS_SECONDS
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import (
    ConfigError,
    DestinationLost,
    InvalidURL,
    LedgerFailed,
    Leftover,
    NotFound,
    RelayError,
    SourceChanged,
    StoreError,
    is_whole,
)
from relay.errors.bugs import bug
from relay.file_names import name_after_source
from relay.ledger.ledger import Ledger
from relay.ledger.prior_state_values import PriorState
from relay.ledger.upload_values import Orphan
from relay.location import Location
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.parsing import is_before
from relay.receipt import Version
from relay.stores.interfaces import Destination, ObjectInfo, Source, UnknownObject
from relay.wire.watchdog import Watchdog

SWEEP_SECONDS: Final = 5.0
"""How often the ledger is polled for orphans."""
AGAIN_SECONDS: Final = 600.0
"""Delay before the removal of an orphan is retried."""
LATE_SECONDS: Final = 2.0
"""How long after the end of a claim a server may write the last bytes of it."""
EARLY_SECONDS: Final = 300.0
"""How long before the end of a claim the last bytes of a piece may have been written: its worker
was lost, or waited for a retry."""

Left = tuple[Orphan, RelayError]
"""An orphan that could not be removed, and the error."""


@dataclass(eq=False)
class OrphanSweeper:
    """Removes orphans in one process, of all migrations of its kind or of `only` one."""

    ledger: Ledger
    engine: TransferEngine
    _: KW_ONLY
    jobs: MigrationCache
    over: Event
    """Set when the sweeper must end, within about a second."""
    only: str | None = None
    clock: Callable[[], float] = monotonic
    _later: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """Remove orphans until `over` is set."""
        while not self.over.is_set():
            try:
                for orphan, error in self.sweep()[1]:
                    emit(
                        LogEvent.ORPHAN_CLEANUP_FAILED,
                        migration=orphan.claim.migration_id,
                        transfer=orphan.claim.id,
                        code=error.code,
                        detail=error.message,
                    )
            except LedgerFailed:
                pass  # the worker's poll reports it
            except Exception as error:  # noqa: BLE001 - a bug here must not stop the worker
                bug(error)
            self.over.wait(SWEEP_SECONDS)

    def sweep(self) -> tuple[int, list[Left]]:
        """Remove the current orphans, up to the ledger's page; return the number removed, and those
        that could not be removed. Raises LedgerFailed."""
        count, left = 0, []
        now = self.clock()
        self._later = {id: until for id, until in self._later.items() if until > now}
        for orphan in self.ledger.destinations.orphans(self.only, tuple(self._later)):
            if self.over.is_set():
                break
            try:
                remaining = self._remove(orphan)
                left += [(orphan, remaining)] if remaining is not None else []
                if remaining is None:
                    count += 1
                    claim = orphan.claim
                    emit(LogEvent.ORPHAN_REMOVED, migration=claim.migration_id, transfer=claim.id)
            except LedgerFailed:
                raise
            except RelayError as error:
                self._later[orphan.claim.id] = self.clock() + AGAIN_SECONDS
                left.append((orphan, error))
        return count, left

    def _remove(self, orphan: Orphan) -> RelayError | None:
        """Remove an orphan, and record that in the ledger. Return an error if something may remain
        for good. Raises RelayError if a retry may help."""
        claim, begun = orphan.claim, orphan.upload
        if not self.ledger.destinations.is_over(orphan):
            return None  # retried since it was found: its upload is resumed
        plan = self.jobs.job(claim.migration_id, claim.renewed).plan(claim)
        with self._meter() as meter:
            destination = self.engine.stores.destination(plan.destination, meter)
            remains = dict(claim.remains)
            # Step 1: the recorded multipart upload, or those that the attempt may have created.
            if begun is not None:
                place = location_of_upload(plan, begun)
                if place is None:
                    raise ConfigError(
                        f"an upload to {begun.place} was created, but its remote leads elsewhere"
                        " now"
                    )
                for upload in uploads_of(destination, place, begun, self.engine.limits):
                    abort_upload(destination, upload, remains)
            # Step 2: the temporary uploads of every claim. The last one is over too: `fence + 1`.
            failure = remove_lost_uploads(
                destination,
                self._probable_place(plan, meter),
                lost_upload_tokens(claim, claim.fence + 1),
                remains,
            )
            if failure is not None:
                raise failure
            # Step 3: a piece under the object's own name.
            remaining = self._remove_shown(destination, plan, orphan, meter)
        # Step 4: record the leftovers. A whole object at a temporary name is the only one, so it
        # stays for the user.
        kept = {name: text for name, text in remains.items() if is_whole(text)}
        if kept:
            remaining = remaining or DestinationLost(f"the whole object is at {', '.join(kept)}")
            remaining.keep(kept)
        whole = _shows_whole_alone(destination, plan)
        left = remaining.remains if remaining is not None else {}
        # Without a note, a later skip would take an object for another writer's that is not shown
        # yet, or is dated as its source is.
        unnoted = orphan.before is not None and (not orphan.before.known or orphan.before.assumed)
        self.ledger.destinations.note_removed(orphan, left, is_unproved=whole or unnoted)
        return remaining

    def _probable_place(self, plan: Plan, meter: Watchdog) -> Location:
        """Return the destination of an object; a folder gets the source's name. If the source no
        longer reports its name, a placeholder serves: nearly all staged names depend on the folder
        only."""
        place = plan.destination
        if not place.path.endswith("/"):
            return place
        disposition: str | None = None
        answered: Location | None = None
        with suppress(StoreError):
            found = self.engine.stores.source(plan.source, meter).head(plan.source)
            if isinstance(found, ObjectInfo):
                disposition, answered = found.disposition, found.location
        try:
            return name_after_source(place, plan.source, disposition, answered)
        except InvalidURL:
            return place.object_named("object")

    def _remove_shown(
        self, destination: Destination, plan: Plan, orphan: Orphan, meter: Watchdog
    ) -> RelayError | None:
        """Remove a piece that a lost attempt may have left under the object's own name, if the
        store shows unfinished uploads there. Returns and raises as `_remove`."""
        place, claim, was = plan.destination, orphan.claim, orphan.before
        hidden = _shows_whole_alone(destination, plan) or destination.staged_locations(place, "")
        # A piece can exist only where bytes were sent, a worker was lost, and the store shows the
        # bytes that it has received so far. A POST has no place that could be inspected.
        if was is None or not claim.crash_count or hidden or place.method == "POST":
            return None
        if place.path.endswith("/"):
            return _may_remain(
                DestinationLost("it was sent under the source's name"), was.place or place
            )
        try:
            found = inspect_object(destination, place)
            if isinstance(found, UnknownObject):
                raise found.why
            there, age = found.version, found.age
            # The server's own dates are compared with each other: its clock may differ from ours.
            written = time() - age if age is not None else None
            # It is the prior object, or was written before the migration was accepted.
            if is_same(was.version, there) or is_before(
                there.last_modified, was.since, CLOCKS_SECONDS
            ):
                return None
            source = self.engine.stores.source(plan.source, meter)
            listed = Version(claim.size, claim.etag)
            size = claim.size if claim.size is not None else _size(source, plan.source)
            if size is None or there.size is None or there.size >= size:
                raise DestinationLost("nothing has proved it")
            begins = partial(
                is_piece, destination, place, source=source, origin=plan.source, pinned=listed
            )
            # The comparison takes time, and another worker may send the object again meanwhile.
            may_remove = partial(self._may_remove, orphan, was, written, begins)
            remove_piece(destination, place, there, may_remove)
        except NotFound as error:
            if error.side == "destination":
                return None
            return _may_remain(error, place)
        except RelayError as error:
            # The next sweep would find these two again: the object is not known to be ours, or the
            # source has another version.
            if error.retryable and not isinstance(error, DestinationLost | SourceChanged):
                raise
            return _may_remain(error, place)
        return None

    def _may_remove(
        self,
        orphan: Orphan,
        was: PriorState,
        written: float | None,
        begins: Callable[[Version], bool],
        there: Version,
    ) -> bool:
        """Return whether the object `there`, which was `written` at that time, is a piece, and no
        other worker has claimed it. Raises DestinationLost if it may be another writer's, or ours
        of a version that the source no longer has."""
        if not begins(there):
            # A listing may have named another version since the claim that sent it.
            raise DestinationLost("its bytes are not the source's, which may have changed")
        _require_ours(was, written, orphan.ended)
        return self.ledger.destinations.is_over(orphan)

    @contextmanager
    def _meter(self) -> Iterator[Watchdog]:
        """Give a Watchdog that is cancelled when `over` is set."""
        meter = Watchdog(self.engine.limits)

        def cancel(_: Event) -> None:
            meter.cancel()

        self.over.rawlink(cancel)
        try:
            yield meter
        finally:
            self.over.unlink(cancel)


def _shows_whole_alone(destination: Destination, plan: Plan) -> bool:
    """Return whether the store shows an upload once it is complete, before it is proved."""
    staged = destination.staged_locations(plan.destination, "")
    return not staged and destination.publishes_atomically(plan.verify is not Verify.SIZE)


def _require_ours(was: PriorState, written: float | None, ended: float | None) -> None:
    """Raise DestinationLost if a piece may not be ours: a prior object may have the same first
    bytes, and so may an unrecorded one, unless the piece was written after the acceptance of the
    migration and about the end of its last claim. A whole object that has arrived since has them as
    well, if the source has grown."""
    has_arrived = was.arrived or was.sent is not None
    if was.version is None and not has_arrived and written is not None and ended is not None:
        # Dates of HTTP have whole seconds, hence `- 1`.
        is_since = was.known or (was.since is not None and written - 1 >= was.since)
        if is_since and ended - EARLY_SECONDS <= written <= ended + LATE_SECONDS:
            return
    raise DestinationLost(
        "it has the object's first bytes, but may be a whole object of an older version"
    )


def _size(source: Source, place: Location) -> int | None:
    """Return the length in bytes of the source's object, or None if the source does not report
    it."""
    found = source.head(place)
    return found.version.size if isinstance(found, ObjectInfo) else None


def _may_remain(error: RelayError, place: Location | str) -> RelayError:
    """Return the error, with a note that a leftover of ours may remain at `place`."""
    error.leave(Leftover.SENT, place, error.message)
    return error
