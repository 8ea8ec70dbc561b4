"""The second half of `relay move`: delete at the source what the first half has proved.

Decided here: when a move is refused before its first byte, and the lines about its deletions.
Never here: which objects may be deleted (`engine/removal/`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from relay.cli.removal_run import RemovalEnd, run_interruptibly
from relay.engine.migration_request import MigrationJob, MigrationRequest
from relay.engine.removal.source_removal import (
    SOURCE,
    MoveResult,
    SourceRemoval,
    require_deleting_source,
)
from relay.engine.transfer_engine import TransferEngine
from relay.errors import RelayError, Unsupported
from relay.ledger.deletion_values import RemovalSettings, RemovalState
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import ENDED, MigrationState
from relay.location import Location
from relay.throttle import Throttle

UNTAGGED = frozenset({"sftp"})
"""Stores that never have a strong ETag: they do not show that a copy is still the proved one."""


class MoveEnd(RemovalEnd[MoveResult]):
    """What the deletions of one move came to."""

    kind, side = "move", SOURCE

    def figures(self, found: MoveResult) -> dict[str, Any]:
        """As RemovalEnd.figures."""
        return {
            "deleted": found.deleted,
            "kept": found.kept,
            "waiting": found.waiting,
            "unknown": found.unknown,
            "due": found.due,
        }

    def lines(self) -> Iterator[str]:
        """As RemovalEnd.lines."""
        found = self.result
        if found is None:
            return
        yield f"{found.deleted:,} objects deleted at the source"
        if found.waiting and found.due is not None:
            when = datetime.fromtimestamp(found.due).astimezone().isoformat(" ", "minutes")
            yield f"{found.waiting:,} stay until {when}: run the same command then"
        yield from self.kept_lines(found)


@dataclass(eq=False)
class MoveStep:
    """The deletions of one `relay move`."""

    ledger: Ledger
    engine: TransferEngine
    order: MigrationRequest
    settings: RemovalSettings
    _: KW_ONLY
    places: tuple[Location, Location]
    quiet: bool = False
    _job: MigrationJob | None = field(default=None, init=False)

    def begin(self, migration: Migration) -> None:
        """Record that a migration is a move, before it moves anything."""
        self.ledger.deletions.begin(migration.id, MoveEnd.kind, self.settings.to_json())

    def finish_earlier(self) -> MoveEnd | None:
        """Delete what an earlier run of the same command has left, after a crash. Return the end of
        the command, if that is all it does; None if there is nothing. What a tree's earlier run had
        to leave is listed again; one object may have to wait."""
        spec = self.order.spec_at(*self.places, self.engine.remotes)
        end: MoveEnd | None = None
        for id, state in self.ledger.deletions.find_unfinished(spec):
            if state is RemovalState.OPEN and self.order.recursive:
                continue
            end = self._delete(self.ledger.migration(id))
            if end.result is None:
                return end
            if state is RemovalState.OPEN and end.result.kept:
                end = None  # it is copied again
        return end

    def run(self, migration: Migration) -> MoveEnd:
        """Delete what a migration has proved, unless it was stopped before its end."""
        if migration.state not in ENDED or migration.state == MigrationState.CANCELLED:
            return MoveEnd(None)
        return self._delete(migration)

    def _delete(self, migration: Migration) -> MoveEnd:
        throttle = Throttle()
        throttle.allow(migration.bounds)
        job = MigrationJob.from_request(migration.id, self.order, *self.places)
        removal = SourceRemoval(self.ledger, self.engine, job, self.settings, throttle=throttle)
        ended, code = run_interruptibly(removal.run, removal.stop, SOURCE, self.quiet)
        if isinstance(ended, RelayError):
            return MoveEnd(None, error=ended, code=code)
        return MoveEnd(ended, code=code)


def refuse_unmovable(
    engine: TransferEngine,
    order: MigrationRequest,
    places: tuple[Location, Location],
    settings: RemovalSettings,
) -> None:
    """Raise an error, before the first byte, if the objects of a source can't be deleted, or if one
    object is named in a way for which it is not clear which would be."""
    source, destination = places
    if destination.store in UNTAGGED:
        raise Unsupported(
            f"nothing can be moved to {destination}: its store names a version by size and time"
            " only, so that relay would delete nothing at the source",
            side="destination",
            hint="Use migrate, and `relay verify` before you delete the source yourself.",
        )
    if not order.recursive and destination.path.endswith("/"):
        raise Unsupported(
            f"{destination} is a folder, so that the name of the copy is not known yet",
            side="destination",
            hint="Name the object at the destination, or move a folder with -r.",
        )
    if not order.recursive and source.store == "local":
        # The last name of a destination is located without following a link.
        named = engine.remotes.locate(order.source.text, destination=True)
        if named.path != source.path:
            raise Unsupported(
                f"{named} is a link: moving it would delete the file of another name",
                side="source",
                hint="Name the file itself.",
            )
    require_deleting_source(engine, source, destination, strict=settings.strict)
