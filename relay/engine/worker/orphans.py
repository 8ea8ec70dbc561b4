"""Remove, in one process, what attempts left at destinations and no later attempt will replace.

Theory of operation. The ledger tells of transfers that are cancelled, or failed a while ago, and
have an upload that was begun, or runners that were lost with them. Their uploads are thrown away,
and the names that only they can have had are looked for and deleted; then the ledger forgets them.
What can't be removed now is tried again later. Where an upload is seen at the object's own place, a
piece of it is known by its bytes, which are the source's first ones; what nobody can tell is left
there, and told.

Decided here: how one is removed, and when it is tried again. Never here: what is an orphan
(`relay/ledger/orphans.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final

from gevent.event import Event

from relay.engine.cleanup import (
    abort_upload,
    lost_upload_tokens,
    remove_lost_uploads,
    remove_piece,
    uploads_of,
)
from relay.engine.inspection import inspect_object, is_piece
from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.plan import Plan, Verify
from relay.engine.transfer.precheck import CLOCKS_SECONDS
from relay.engine.transfer.verify import is_same
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import (
    ConfigError,
    DestinationLost,
    LedgerFailed,
    NotFound,
    RelayError,
    SourceChanged,
    StoreError,
)
from relay.errors.bugs import bug
from relay.file_names import safe_name
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Orphan, PriorState
from relay.location import Location
from relay.parsing import http_date, is_before
from relay.receipt import Version
from relay.stores.interfaces import Destination, ObjectInfo, Source, UnknownObject
from relay.wire.watchdog import Watchdog

log = logging.getLogger("relay.orphans")

SWEEP_SECONDS: Final = 5.0
"""How often the ledger is looked at for orphans."""
AGAIN_SECONDS: Final = 600.0
"""How soon one that could not be removed is tried again."""

Left = tuple[Orphan, RelayError]
"""One that could not be removed, and why."""


@dataclass(eq=False)
class OrphanSweeper:
    """One process's share of it. `only` what is left of one migration."""

    ledger: Ledger
    runner: TransferEngine
    jobs: MigrationCache
    over: Event
    """Set when it is to end, within about a second."""
    only: str | None = None
    clock: Callable[[], float] = monotonic
    _later: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """Remove orphans until it is over."""
        while not self.over.is_set():
            try:
                for orphan, error in self.sweep()[1]:
                    members = {
                        "code": error.code,
                        "detail": error.message,
                        "transfer": orphan.claim.id,
                    }
                    log.warning("orphan.cleanup_failed", extra={"members": members})
            except LedgerFailed:
                pass  # whoever claims says so
            except Exception as error:  # noqa: BLE001 - a bug: nothing else may stop because of it
                bug(error)
            self.over.wait(SWEEP_SECONDS)

    def sweep(self) -> tuple[int, list[Left]]:
        """Remove some of what there is now; return how many were, and what could not be. Raises
        LedgerFailed."""
        count, left = 0, []
        now = self.clock()
        self._later = {id: until for id, until in self._later.items() if until > now}
        for orphan in self.ledger.orphans(self.only, tuple(self._later)):
            if self.over.is_set():
                break
            try:
                remaining = self._remove(orphan)
                left += [(orphan, remaining)] if remaining is not None else []
                count += remaining is None
            except LedgerFailed:
                raise
            except RelayError as error:
                self._later[orphan.claim.id] = self.clock() + AGAIN_SECONDS
                left.append((orphan, error))
        return count, left

    def _remove(self, orphan: Orphan) -> RelayError | None:
        """Remove one, and let the ledger forget it; return what says that something may remain all
        the same. Raises RelayError where another look may help."""
        claim, begun = orphan.claim, orphan.upload
        plan = self.jobs.job(claim.migration_id, claim.renewed).plan(claim)
        with self._meter() as meter:
            destination = self.runner.stores.destination(plan.destination, meter)
            if begun is not None:
                place = location_of_upload(plan, begun)
                if place is None:
                    raise ConfigError(
                        f"an upload to {begun.place} was begun, and its remote leads elsewhere"
                        " by now"
                    )
                for upload in uploads_of(destination, place, begun, self.runner.limits):
                    abort_upload(destination, upload)
            left = remove_lost_uploads(
                destination,
                self._name_after_source(plan, meter),
                lost_upload_tokens(claim, claim.fence + 1),
            )
            if left is not None:
                raise left
            remaining = self._remove_shown(destination, plan, orphan, meter)
        self.ledger.note_removed(orphan, remaining.remains if remaining is not None else {})
        return remaining

    def _name_after_source(self, plan: Plan, meter: Watchdog) -> Location:
        """Return where an object goes: under the source's name, where the destination is a folder.
        Where the source does not tell its name any more it has another: nearly all names of uploads
        depend on the folder alone."""
        place = plan.destination
        if not place.path.endswith("/"):
            return place
        name: str | None = None
        with suppress(StoreError):
            found = self.runner.stores.source(plan.source, meter).head(plan.source)
            name = (
                safe_name(found.disposition, found.location)
                if isinstance(found, ObjectInfo)
                else None
            )
        return place.named(name or safe_name(None, plan.source) or "object")

    def _remove_shown(
        self, destination: Destination, plan: Plan, orphan: Orphan, meter: Watchdog
    ) -> RelayError | None:
        """Remove a piece that a lost attempt may have left at the object's own place, if that is
        seen there. Returns and raises as `_remove`."""
        place, claim, was = plan.destination, orphan.claim, orphan.before
        hidden = destination.publishes_atomically(plan.verify is not Verify.SIZE) or bool(
            destination.staged_locations(place, "")
        )
        if was is None or not claim.lapses or hidden or place.method == "POST":
            return None
        if place.path.endswith("/"):
            return _may_remain(
                DestinationLost("it went under the source's name, which nobody wrote down"), place
            )
        try:
            found = inspect_object(destination, place)
            if isinstance(found, UnknownObject):
                raise found.why
            there = found.version
            if is_same(was.version, there) or is_before(
                there.last_modified, was.since, CLOCKS_SECONDS
            ):
                return None
            source = self.runner.stores.source(plan.source, meter)
            listed = Version(claim.size, claim.etag)
            size = claim.size if claim.size is not None else _size(source, plan.source)
            if size is None or there.size is None or there.size >= size:
                raise DestinationLost("nothing has proved it")
            begins = partial(is_piece, destination, place, source, plan.source, listed)
            # The comparison takes a while, and another worker may make the object again meanwhile.
            remove_piece(destination, place, there, partial(self._is_ours, orphan, begins))
        except NotFound as error:
            if error.side == "destination":
                return None
            return _may_remain(error, place)
        except RelayError as error:
            if error.retryable and not isinstance(error, DestinationLost | SourceChanged):
                raise
            return _may_remain(error, place)
        return None

    def _is_ours(self, orphan: Orphan, begins: Callable[[Version], bool], there: Version) -> bool:
        """Say if a piece at the object's own place is the orphan's, and no other worker has it."""
        was = orphan.before
        return (
            was is not None
            and begins(there)
            and _is_ours(there, was)
            and self.ledger.is_over(orphan)
        )

    @contextmanager
    def _meter(self) -> Iterator[Watchdog]:
        """Give what lets a request end when this is over."""
        meter = Watchdog(self.runner.limits)

        def cancel(_: Event) -> None:
            meter.cancel()

        self.over.rawlink(cancel)
        try:
            yield meter
        finally:
            self.over.unlink(cancel)


def _is_ours(there: Version, was: PriorState) -> bool:
    """Say if the first bytes of an object are a piece of ours. Raises DestinationLost where nothing
    tells: where an object was there before they may be another version of that; and where nobody
    wrote down what was, unless they were written since."""
    written = http_date(there.last_modified)
    since = was.since is not None and written is not None and written.timestamp() >= was.since
    if was.version is None and (was.known or since):
        return True
    raise DestinationLost(
        "it begins as the object does, and may be an older version of it: nothing tells whose it is"
    )


def _size(source: Source, place: Location) -> int | None:
    """Return the length in bytes of what is at the source, or None where it does not tell."""
    found = source.head(place)
    return found.version.size if isinstance(found, ObjectInfo) else None


def _may_remain(error: RelayError, place: Location) -> RelayError:
    """Return the error of something that may be ours, and that nobody can tell to be."""
    error.leave("What was sent", place, error.message)
    return error
