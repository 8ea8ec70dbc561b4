"""The second half of `relay migrate --mirror`: delete at the destination what the source lacks.

Decided here: the lines about its deletions. Never here: which objects may be deleted
(`engine/removal/`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

from relay.cli.removal_run import RemovalEnd, run_interruptibly
from relay.engine.migration_request import Endpoint, MigrationJob, MigrationRequest
from relay.engine.removal.mirror_removal import (
    SIDE,
    MirrorRemoval,
    MirrorResult,
    Refusal,
)
from relay.engine.removal.trash import Trash
from relay.engine.transfer_engine import TransferEngine
from relay.errors import RelayError
from relay.ledger.deletion_values import MirrorSettings, RemovalState
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import ENDED, ListingState, MigrationState
from relay.location import Location
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes
from relay.throttle import Throttle

_HINTS = {
    Refusal.TOO_MANY: "hint: look at them with `relay verify`, then run it with --max-delete N",
    Refusal.SOURCE_EMPTY: "hint: if the source is empty indeed, run it with --empty-source",
}


class MirrorEnd(RemovalEnd[MirrorResult]):
    """What the deletions of one mirror came to."""

    kind, side = "mirror", SIDE

    def figures(self, found: MirrorResult) -> dict[str, Any]:
        """As RemovalEnd.figures."""
        return {
            "extra": found.extras,
            "deleted": found.deleted,
            "kept": found.kept,
            "unknown": found.unknown,
            "limit": found.limit,
            "refusal": found.refusal,
            "detail": found.detail,
        }

    def lines(self) -> Iterator[str]:
        """As RemovalEnd.lines."""
        found = self.result
        if found is None:
            return
        if found.refusal is not None:
            yield f"nothing deleted at the destination ({found.refusal}): {found.detail}"
            yield from filter(None, [_HINTS.get(found.refusal)])
            return
        yield f"{found.deleted:,} objects deleted at the destination"
        yield from self.kept_lines(found)

    def leaves_some(self, found: MirrorResult) -> bool:
        """As RemovalEnd.leaves_some."""
        return found.refusal is not None or super().leaves_some(found)


def locate_trash(order: MigrationRequest, text: str, remotes: Remotes) -> Location:
    """Return the folder of a trash. Raises SameObject if it overlaps with the source or the
    destination of a mirror, and as MigrationRequest.locate."""
    trash = Endpoint(text)
    MigrationRequest(order.source, trash, recursive=True).locate(remotes)
    return MigrationRequest(order.destination, trash, recursive=True).locate(remotes)[1]


@dataclass(eq=False)
class MirrorStep:
    """The deletions of one `relay migrate --mirror`."""

    ledger: Ledger
    engine: TransferEngine
    order: MigrationRequest
    settings: MirrorSettings
    _: KW_ONLY
    places: tuple[Location, Location]
    space: SpillSpace
    trash: Location | None = None
    quiet: bool = False

    def begin(self, migration: Migration) -> None:
        """Record that a migration is a mirror, before it moves anything."""
        self.ledger.deletions.begin(migration.id, MirrorEnd.kind, self.settings.to_json())

    def finish_earlier(self) -> None:
        """Do nothing: each run lists what is left."""

    def run(self, migration: Migration) -> MirrorEnd:
        """Delete what the source lacks, unless the migration was stopped before its end. Objects
        that failed forbid no deletion; a listing that failed does."""
        if migration.state not in ENDED or migration.state == MigrationState.CANCELLED:
            return MirrorEnd(None)
        if migration.listing != ListingState.DONE:
            refusal = Refusal.INCOMPLETE
            why = "the source could not be listed"
            return MirrorEnd(MirrorResult(refusal=refusal, detail=why))
        removal = self._removal_of(migration)
        self._end_earlier(migration.id)
        ended, code = run_interruptibly(removal.run, removal.stop, SIDE, self.quiet)
        if isinstance(ended, RelayError):
            return MirrorEnd(None, error=ended, code=code)
        return MirrorEnd(ended, code=code)

    def _end_earlier(self, id: str) -> None:
        """Settle the deletions of earlier runs of the same command that were stopped, as far as
        their objects are gone. This run lists the others again."""
        spec = self.order.spec_at(*self.places, self.engine.remotes)
        for earlier, _ in self.ledger.deletions.find_unfinished(spec):
            if earlier != id:
                self._removal_of(self.ledger.migration(earlier)).settle_stopped()
                self.ledger.deletions.end(earlier, RemovalState.DONE)

    def _removal_of(self, migration: Migration) -> MirrorRemoval:
        throttle = Throttle()
        throttle.allow(migration.bounds)
        trash = None
        if self.trash is not None and self.settings.trash is not None:
            trash = Trash(self.engine, self.trash, migration.id, self.settings.trash)
        return MirrorRemoval(
            self.ledger,
            self.engine,
            MigrationJob.from_request(migration.id, self.order, *self.places),
            self.settings,
            space=self.space,
            throttle=throttle,
            trash=trash,
        )
