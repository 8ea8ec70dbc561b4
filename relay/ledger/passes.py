"""Passes of standing migrations: begin one, settle it, and change the phase.

Theory of operation. A pass is one listing of the source, which the ledger compares with the rows of
its migration (`entries.py`), and the transfers that follow from it. The migration stays `running`.
Between two passes its listing is done, nothing is queued, and `due` says when the next one begins.
While a pass is under way `due` is null, and one row of `passes` has no end: so there are never two.
Each change compares the phase under the lock of the migration's row. A process that is killed
leaves the pass under way, and the next one continues it.

Decided here: what each event of a pass or a phase changes. Never here: which event a phase allows
(`states.py`), what a pass counts (`pass_counts.py`), and when the next one is due
(`standing_values.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, exists, func, insert, select, update

from relay.errors import DestinationChanged, IllegalTransition
from relay.ledger.entries import begin_again
from relay.ledger.event_log import write_event
from relay.ledger.forecasts import PASSES, Forecast, cutover_forecast, pass_forecast
from relay.ledger.migration_rows import lock_migration, one
from relay.ledger.migration_values import Migration
from relay.ledger.names import has_name, in_chunks
from relay.ledger.schema import events, migrations, reasons, receipts, transfers
from relay.ledger.standing_tables import passes
from relay.ledger.standing_values import Pass, PassTimes, StandingState
from relay.ledger.states import (
    PHASE,
    PRESENT,
    EventKind,
    ListingState,
    MigrationState,
    PassKind,
    Phase,
    PhaseEvent,
    TransferState,
    state_after,
)

MOST_NUMBER: Final = 2**31 - 1
"""The largest number of a pass."""
_PHASES: Final[Mapping[str, str]] = {
    PassKind.DELTA: Phase.STEADY,
    PassKind.REHEARSAL: Phase.REHEARSAL,
    PassKind.FINAL: Phase.FINAL,
}
"""The phase in which a pass of each kind begins."""


def begin_first_pass(connection: Connection, id: str, now: float) -> None:
    """Begin the first pass of a migration that was just accepted."""
    first = {"migration_id": id, "number": 1, "kind": PassKind.FIRST, "begun": now}
    connection.execute(insert(passes), first)


def begin_pass(connection: Connection, id: str, kind: str, now: float) -> bool:
    """Begin the next pass of a migration that is at rest in the phase of that kind; return whether
    it did. Otherwise another process was first, or a person has paused the migration. Raises
    MigrationUnknown, and IllegalTransition for a migration that ends by itself."""
    found = lock_migration(connection, id)
    standing = require_standing(found)
    is_ready = found.state == MigrationState.RUNNING and standing.is_at_rest
    if not is_ready or standing.phase != _PHASES[kind]:
        return False
    newest = select(func.max(passes.c.number)).where(passes.c.migration_id == found.id)
    number = (connection.execute(newest).scalar() or 0) + 1
    expected = pass_forecast(passes_of(connection, found.id, PASSES), now)
    row = {
        "migration_id": found.id,
        "number": number,
        "kind": kind,
        "begun": now,
        "p50": None if expected is None else expected.p50,
        "p90": None if expected is None else expected.p90,
    }
    connection.execute(insert(passes), row)
    values: dict[str, Any] = {
        "listing": ListingState.DUE,
        "listings": migrations.c.listings + 1,
        "cursor": None,
        "excluded": None,
        "listing_lapses": 0,
        "looked": None,
        "error": None,
        "due": None,
    }
    if kind == PassKind.DELTA:
        values["phase"] = PHASE[PhaseEvent.DUE].to
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**values))
    write_event(connection, found.id, EventKind.LIST_AGAIN, {"pass": number})
    return True


def restart_listing(connection: Connection, id: str) -> None:
    """Count the names of a pass under way from 0 again: its listing begins again."""
    fresh = {"listed": 0, "known": 0, "complete": None}
    connection.execute(update(passes).where(_is_open(id)).values(**fresh))


def note_incomplete(connection: Connection, id: str) -> None:
    """Note that the listing of a pass under way could not list a folder."""
    connection.execute(update(passes).where(_is_open(id)).values(complete=False))


def note_listed(connection: Connection, id: str, now: float) -> None:
    """Note that the listing of a pass under way is complete, and how many names it lacks that the
    pass before had."""
    row, before = _open_pass(connection, id), _last_settled(connection, id)
    if row is not None:
        gone = 0 if before is None else before.listed - row.known
        connection.execute(update(passes).where(_is_open(id)).values(listed_at=now, gone=gone))


def lacks_every_name(connection: Connection, id: str) -> bool:
    """Return whether the listing of a pass under way has no name, and that of an earlier pass had
    some."""
    row = _open_pass(connection, id)
    had_some = (passes.c.migration_id == id) & passes.c.ended.is_not(None) & (passes.c.listed > 0)
    if row is None or row.listed:
        return False
    return bool(connection.execute(select(exists().where(had_some))).scalar())


def base_listing(connection: Connection, id: str) -> int | None:
    """Return the number of the listing with which the pass under way is compared, or None for the
    first one."""
    before = _last_settled(connection, id)
    return None if before is None else before.listing


def settle_pass(connection: Connection, found: Migration, now: float) -> None:
    """Settle the pass under way of a standing migration, whose row is locked: its listing has
    ended, and no object is queued or moves."""
    standing = require_standing(found)
    row = _open_pass(connection, found.id)
    begun = now if row is None else row.begun
    if row is not None:
        is_complete = found.listing == ListingState.DONE and row.complete is not False
        values = {
            "ended": now,
            "complete": is_complete,
            "listing": select(migrations.c.listings)
            .where(migrations.c.id == found.id)
            .scalar_subquery(),
            "failed": found.count_in(TransferState.FAILED).objects,
            "refused": _count_refused(connection, found.id),
        }
        connection.execute(update(passes).where(_is_open(found.id)).values(**values))
        members = {"pass": row.number, "complete": is_complete, "copied": row.copied}
        write_event(connection, found.id, EventKind.PASS_SETTLED, members)
    settled = PHASE[PhaseEvent.SETTLE]
    phase = settled.to if standing.phase in settled.origins else standing.phase
    due = standing.times.next_due(begun, now)
    connection.execute(
        update(migrations).where(migrations.c.id == found.id).values(phase=phase, due=due)
    )


def _count_refused(connection: Connection, id: str) -> int:
    query = select(func.sum(reasons.c.objects)).where(_is_of_other_writers(id))
    counted = connection.execute(query).scalar()
    return int(counted or 0)


def change_phase(connection: Connection, id: str, event: str) -> Migration:
    """Change the phase of a standing migration by an event. Idempotent: two that cut over at the
    same moment both find it in its new phase. A pass that is under way goes on. Raises
    MigrationUnknown, and IllegalTransition, which says what the phase is."""
    found = lock_migration(connection, id)
    standing = require_standing(found)
    verb = event.replace("_", " ")
    try:
        phase = state_after(PHASE, event, standing.phase)
    except IllegalTransition:
        raise IllegalTransition(
            f"migration {found.name} can't {verb}: its phase is {standing.phase}",
            hint=_INSTEAD.get(standing.phase, "`relay status` shows its phase."),
        ) from None
    if phase is None:
        return found
    values: dict[str, Any] = {"phase": phase}
    if phase == Phase.FINISHED:
        values["due"] = None
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**values))
    write_event(connection, found.id, EventKind.PHASE, {"phase": phase, "event": event})
    return one(connection, found.id)


def phase_begun(connection: Connection, id: str) -> float:
    """Return when a person last changed the phase of a migration, in seconds since 1970; 0.0 if
    no event tells."""
    mine = (events.c.migration_id == id) & (events.c.kind == EventKind.PHASE)
    return float(connection.execute(select(func.max(events.c.at)).where(mine)).scalar() or 0.0)


_INSTEAD: Final[Mapping[str, str]] = {
    Phase.FIRST: "The first pass is under way: wait until it has settled.",
    Phase.STEADY: "`relay cutover` leads from here to a report, and `relay finish` from there.",
    Phase.DELTA: "A pass is under way: wait until it has settled.",
    Phase.REHEARSAL: "A rehearsal is under way: wait for it, or give it up with `relay abort`.",
    Phase.FINAL: "A cutover is under way: wait for it, or give it up with `relay abort`.",
    Phase.REPORTED: "Its report is signed: `relay finish` ends it, `relay reopen` goes on.",
    Phase.FINISHED: "It is finished. Run `relay follow` again to begin another one.",
}


def change_times(connection: Connection, id: str, times: PassTimes, now: float) -> None:
    """Change when the passes of a standing migration begin, from the next one on. Raises as
    `begin_pass`."""
    found = lock_migration(connection, id)
    standing = require_standing(found)
    if standing.times == times:
        return
    values: dict[str, Any] = {
        "every": times.every,
        "hours": None if times.hours is None else str(times.hours),
    }
    last = _last_settled(connection, found.id)
    if standing.is_at_rest and last is not None:
        values["due"] = times.next_due(last.begun, now)
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**values))


def accept_other_writers(connection: Connection, id: str) -> int:
    """Let the next pass replace the objects that were refused because another writer had changed
    them at the destination; return their number. Raises as `begin_pass`."""
    found = lock_migration(connection, id)
    require_standing(found)
    those = update(transfers).where(_is_refused(found.id))
    return connection.execute(those.values(written="{}")).rowcount


def refused_names(connection: Connection, id: str, names: Sequence[str]) -> set[str]:
    """Return the names among some whose objects were refused, as `accept_other_writers` says."""
    found: set[str] = set()
    for some in in_chunks(names):
        query = select(transfers.c.name).where(_is_refused(id), has_name(connection, some))
        found |= set(connection.execute(query).scalars()) & set(some)
    return found


def _is_of_other_writers(id: str) -> ColumnElement[bool]:
    return (reasons.c.migration_id == id) & (reasons.c.code == DestinationChanged.code)


def _is_refused(id: str) -> ColumnElement[bool]:
    of_code = _is_of_other_writers(id)
    refused = (transfers.c.migration_id == id) & (transfers.c.state == TransferState.FAILED)
    return refused & transfers.c.reason.in_(select(reasons.c.reason).where(of_code))


def note_outcome(connection: Connection, id: str, number: int, outcome: Mapping[str, Any]) -> None:
    """Keep what a rehearsal or an audit found, with the pass before it."""
    one_pass = (passes.c.migration_id == id) & (passes.c.number == number)
    connection.execute(update(passes).where(one_pass).values(outcome=json.dumps(outcome)))


def receipts_of(
    connection: Connection, id: str, names: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the receipts of the verified objects among some names."""
    found: dict[str, Mapping[str, Any]] = {}
    for some in in_chunks(names):
        query = (
            select(transfers.c.name, receipts.c.receipt)
            .join(receipts, receipts.c.transfer_id == transfers.c.id)
            .where(transfers.c.migration_id == id, has_name(connection, some))
            .where(transfers.c.state == TransferState.VERIFIED)
        )
        found |= {name: json.loads(text) for name, text in connection.execute(query)}
    return found


def restart_refuted(connection: Connection, id: str, names: Sequence[str]) -> int:
    """Queue again the arrived objects among some names, which an audit has found to be missing or
    different at the destination; return their number. The next pass moves them."""
    lock_migration(connection, id)
    found: list[int] = []
    for some in in_chunks(names):
        arrived = (transfers.c.migration_id == id) & transfers.c.state.in_(sorted(PRESENT))
        query = select(transfers.c.id, transfers.c.name).where(arrived, has_name(connection, some))
        wanted = set(some)
        found += [row.id for row in connection.execute(query) if row.name in wanted]
    begin_again(connection, id, found, is_refuted=True)
    return len(found)


def moved_since(
    connection: Connection, id: str, since: float, limit: int
) -> list[tuple[str, float | None]]:
    """Return the names of some objects that were sent since a time, the newest first, and when each
    was last changed at the source, as it was listed."""
    sent = (TransferState.VERIFIED, TransferState.UNVERIFIED)
    query = (
        select(transfers.c.name, transfers.c.modified)
        .where(transfers.c.migration_id == id, transfers.c.state.in_(sent))
        .where(transfers.c.ended >= since)
        .order_by(transfers.c.ended.desc())
    )
    return [(row.name, row.modified) for row in connection.execute(query.limit(limit))]


def forecast_of(connection: Connection, id: str, now: float) -> Forecast | None:
    """Return the time of a cutover that begins now, or None before the first pass has ended."""
    audited = (passes.c.migration_id == id) & passes.c.outcome.contains('"audit_seconds"')
    query = select(passes.c.outcome).where(audited).order_by(passes.c.number.desc()).limit(1)
    outcome = connection.execute(query).scalar()
    seconds = None if outcome is None else float(json.loads(outcome)["audit_seconds"])
    return cutover_forecast(passes_of(connection, id, PASSES), now, seconds)


def passes_of(connection: Connection, id: str, limit: int, before: int | None = None) -> list[Pass]:
    """Return the newest passes of a migration, the newest first; with `before` only older ones."""
    query = select(passes).where(passes.c.migration_id == id).order_by(passes.c.number.desc())
    if before is not None:
        # The column has 32 bits in PostgreSQL, which refuses a larger number.
        query = query.where(passes.c.number < min(before, MOST_NUMBER))
    return [_pass_of(row) for row in connection.execute(query.limit(limit))]


def require_standing(found: Migration) -> StandingState:
    """Return what makes a migration a standing one. Raises IllegalTransition if it is not."""
    if found.standing is None:
        raise IllegalTransition(
            f"migration {found.name} is not a standing one: it ends by itself",
            hint="`relay follow` begins a standing migration.",
        )
    return found.standing


def _is_open(id: str) -> Any:
    return (passes.c.migration_id == id) & passes.c.ended.is_(None)


def _open_pass(connection: Connection, id: str) -> Any:
    return connection.execute(select(passes).where(_is_open(id))).first()


def _last_settled(connection: Connection, id: str) -> Any:
    settled = (passes.c.migration_id == id) & passes.c.ended.is_not(None)
    query = select(passes).where(settled).order_by(passes.c.number.desc()).limit(1)
    return connection.execute(query).first()


def _pass_of(row: Any) -> Pass:
    return Pass(
        number=row.number,
        kind=row.kind,
        begun=row.begun,
        listed_at=row.listed_at,
        ended=row.ended,
        complete=row.complete,
        listed=row.listed,
        changed=row.changed,
        gone=row.gone,
        copied=row.copied,
        bytes=row.bytes,
        deleted=row.deleted,
        refused=row.refused,
        failed=row.failed,
        p50=row.p50,
        p90=row.p90,
        outcome=None if row.outcome is None else json.loads(row.outcome),
    )
