"""The second half of `relay move`: delete at the source what the first half has proved.

Decided here: when a move is refused before its first byte, and the lines about its deletions.
Never here: which objects may be deleted (`engine/removal/`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from relay.cli.exits import Exit
from relay.cli.removal_run import run_interruptibly
from relay.cli.terminal import confirm, plain, say_error
from relay.engine.migration_request import MigrationJob, MigrationRequest
from relay.engine.removal.source_removal import (
    SOURCE,
    RemovalResult,
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
from relay.views.problems import problem

KIND = "move"
UNTAGGED = frozenset({"sftp"})
"""Stores that never have a strong ETag: they do not show that a copy is still the proved one."""
NAMED = 10
"""Number of kept objects that are printed with their reason."""


@dataclass(frozen=True)
class MoveEnd:
    """What the deletions of one run came to; `error` ended them early, and `code` is that of a
    signal."""

    result: RemovalResult | None
    _: KW_ONLY
    error: RelayError | None = None
    code: Exit | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the end as a member of the command's JSON."""
        if self.result is None:
            return {} if self.error is None else {"error": problem(self.error)}
        found = self.result
        samples = [
            {"name": one.name, "reason": one.reason, "detail": one.detail} for one in found.samples
        ]
        return {
            "deleted": found.deleted,
            "kept": found.kept,
            "waiting": found.waiting,
            "unknown": found.unknown,
            "due": found.due,
            "reasons": found.reasons,
            "samples": samples,
        }

    def lines(self) -> Iterator[str]:
        """Yield the end in lines for a person."""
        if self.result is None:
            return
        found = self.result
        yield f"{found.deleted:,} objects deleted at the source"
        if found.waiting and found.due is not None:
            when = datetime.fromtimestamp(found.due).astimezone().isoformat(" ", "minutes")
            yield f"{found.waiting:,} stay until {when}: run the same command then"
        if found.unknown:
            yield f"{found.unknown:,} may be deleted, the answer was lost: run the same command"
        if found.kept:
            reasons = ", ".join(f"{count:,} {name}" for name, count in found.reasons.items())
            yield f"{found.kept:,} kept at the source: {reasons}"
        for one in found.samples[:NAMED]:
            yield f"  kept {plain(one.name) or 'it'}: {plain(one.detail or '')}"

    def members(self) -> dict[str, Any]:
        """Return the end as members of the command's JSON."""
        return {KIND: self.to_json()}

    def print(self, as_json: bool, quiet: bool) -> None:
        """Print the end as the only result of a command."""
        if as_json:
            confirm(json.dumps(self.members()))
            return
        if not quiet:
            for line in self.lines():
                confirm(line)
        if self.error is not None:
            say_error(self.error)

    def exit_after(self, code: int) -> int:
        """Return the exit code of the command, whose first half has this one."""
        if self.code is not None:
            return self.code
        if self.error is not None:
            return code or Exit.of(self.error)
        found = self.result
        if code or found is None:
            return code
        return Exit.UNVERIFIED if found.kept or found.unknown else code


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
        self.ledger.deletions.begin(migration.id, KIND, self.settings.to_json())

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
