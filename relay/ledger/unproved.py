"""What other migrations left unproved at the same destination: found when an object is first
listed.

Theory of operation. The same locations with other options are another migration. If the earlier
migration was killed or failed, an incomplete or damaged object of ours may be at the destination. A
migration that skips existing or unchanged objects would take it for complete. So a new transfer
adopts the PriorState that earlier migrations recorded for its name, as if it had been started
there. A transfer that exists already and has recorded nothing itself adopts it as well, because two
commands may alternate, or run at the same time.

Decided here: which migrations are asked, and which states are adopted. Never here: what follows
from them (`relay/engine/transfer/precheck.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from math import inf
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    desc,
    exists,
    false,
    func,
    select,
    update,
)

from relay.ledger.claim_values import MARKED, Claim, Settlement
from relay.ledger.identity_hashes import identity_hashes_of
from relay.ledger.migration_values import Spec
from relay.ledger.names import has_name, in_chunks
from relay.ledger.nested import left_near, nested_rows
from relay.ledger.place_forms import is_same_place, names_later
from relay.ledger.prior_state_values import ARRIVED, PriorState
from relay.ledger.schema import LAPSED, RUNNING, events, migrations, transfers
from relay.ledger.states import COMPLETED, PRESENT, MigrationState, TransferState

MAX_KNOWING: Final = 10
"""Number of other migrations that know an object after which no more are asked about it."""
_BEGUN: Final = transfers.c.fence > 0
"""Condition on a transfer: a worker has claimed it."""


def find_unproved(
    connection: Connection,
    id: str,
    if_exists: str,
    names: Sequence[str],
    place: str | None = None,
) -> dict[str, str]:
    """Return the texts of PriorStates that other migrations recorded for the objects with some
    `names`. A migration that overwrites needs none, since it trusts no existing object; unless its
    source may name its single object, since such a name replaces none by default. `place` is the
    location of a single object, once its source has named it.

    If several migrations know an object, the one that had it last counts, whatever its number: two
    may alternate, or run at the same time."""
    return {
        name: left
        for name, (_, left) in _find_with_times(connection, id, if_exists, names, place).items()
    }


def _find_with_times(
    connection: Connection, id: str, if_exists: str, names: Sequence[str], place: str | None
) -> dict[str, tuple[float, str]]:
    """Return as `find_unproved`, each text with the time at which its migration last had the
    object."""
    overwrites = if_exists in ("", "overwrite")
    if overwrites and list(names) != [""]:
        return {}
    mine = _mine(connection, id)
    if overwrites and not names_later(mine):
        return {}
    lefts = _lefts(connection, mine, names, place)
    return {name: (at, _at(place, left)) for name, (at, left) in lefts.items()}


def find_unproved_at(
    connection: Connection, spec: Spec, place: str | None = None
) -> PriorState | None:
    """Return as `find_unproved` the PriorState of the single object of a request that is no
    migration of the ledger."""
    marks = identity_hashes_of(connection, spec)
    mine = SimpleNamespace(
        id="",
        places=marks.places,
        place=marks.place,
        destination=spec.destination,
        options=json.dumps(spec.options),
    )
    _, left = _lefts(connection, mine, [""], place).get("", (0.0, None))
    return PriorState.from_text(left and _at(place, left))


def find_overwritten(connection: Connection, id: str, names: Iterable[str]) -> list[int]:
    """Return the ids of the objects of a migration that had arrived, and that another migration has
    sent since without a proof; of those with some `names`."""
    mine, now, found = _mine(connection, id), time.time(), []
    columns = (transfers.c.id, transfers.c.name, transfers.c.ended)
    arrived = (transfers.c.migration_id == id) & transfers.c.state.in_(COMPLETED)
    for some in in_chunks(sorted(names)):
        lefts = _lefts(connection, mine, some)
        query = select(*columns).where(arrived, has_name(connection, lefts))
        for row in connection.execute(query) if lefts else ():
            # An arrival in the future: the clock was set back since.
            at = row.ended if row.ended is not None and row.ended <= now else 0.0
            if row.name in lefts and lefts[row.name][0] > at:
                found.append(row.id)
    return found


def _lefts(
    connection: Connection, mine: Any, names: Sequence[str], place: str | None = None
) -> dict[str, tuple[float, str]]:
    """Return as `find_unproved`, each with the time at which its migration last had the object."""
    found: dict[str, tuple[float, str]] = {}
    accepted = cache(partial(_accepted_after, connection, mine))
    for name, other, row, left in _recorded_objects(connection, mine, names, place):
        at = _had_last(row, other, left)
        # It has left nothing before it was accepted, even if a slow clock recorded so.
        at = at if left == ARRIVED else max(at, accepted(other.id))
        if at > found.get(name, (-1.0, ""))[0]:
            found[name] = (at, left)
    lefts = {name: one for name, one in found.items() if one[1] != ARRIVED}
    # An object that its source names may have arrived under another name.
    is_one_place = place is None or not names_later(mine)
    for some in in_chunks(sorted(lefts) if is_one_place else ()):
        for row in _arrival_times(connection, mine, some):
            if row.name in lefts and row.ended > lefts[row.name][0]:
                del lefts[row.name]
    return lefts


def _recorded_objects(
    connection: Connection, mine: Any, names: Sequence[str], place: str | None
) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield each migration that knows some of our objects: our name of the object, the migration,
    its transfer, and the text of the state that it left. Those of the same source are asked apart:
    however many know an object, one of another source may have sent it since."""
    others = _others(connection, mine)
    of_one_source = [other for other in others if other.is_same]
    of_other_sources = [other for other in others if not other.is_same]
    for some in in_chunks(names):
        yield from _recorded_by(connection, of_one_source, some)
        yield from _recorded_by(connection, of_other_sources, some)
    for other, ours in nested_rows(connection, mine, names, _query(mine), place):
        for row in _begun_transfers(connection, [other.id], list(ours)):
            left = _text_left(row, other)
            if left is not None and row.name in ours:
                yield ours[row.name], other, row, left


def _recorded_by(
    connection: Connection, others: Sequence[Any], names: Sequence[str]
) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield as `_recorded_objects`. The migrations are asked MAX_KNOWING at a time, in their order,
    until MAX_KNOWING know an object. One that does not know it does not count: many sources may be
    put together in one place."""
    more = dict.fromkeys(names, MAX_KNOWING)
    for asked in in_chunks(others, MAX_KNOWING):
        by_id = {other.id: other for other in asked}
        for row in _begun_transfers(connection, list(by_id), list(more)):
            other = by_id[row.migration_id]
            left = _text_left(row, other)
            if left is not None and row.name in more:
                yield row.name, other, row, left
                more[row.name] -= 1
        more = {name: count for name, count in more.items() if count > 0}


def _begun_transfers(
    connection: Connection, ids: Sequence[str], names: Sequence[str]
) -> Iterator[Any]:
    """Yield the transfers of some migrations with some names that a worker has claimed."""
    columns = (
        transfers.c.migration_id,
        transfers.c.name,
        transfers.c.state,
        transfers.c.lapses,
        transfers.c.before,
        transfers.c.ended,
    )
    begun = transfers.c.migration_id.in_(ids) & _BEGUN
    for some in in_chunks(names):
        yield from connection.execute(
            select(*columns).where(begun, has_name(connection, some))
        ).all()


def _at(place: str | None, left: str) -> str:
    """Return the text of a state with the location that it is about: `place`, unless it has one."""
    kept = PriorState.from_text(left)
    if kept is None or place is None or kept.place is not None:
        return left
    return replace(kept, place=place).to_text()


def _had_last(row: Any, other: Any, left: str) -> float:
    """Return when a migration last had an object (seconds since 1970). An object that arrived and
    was restarted did so at an unrecorded time: 0, and so did one whose arrival is in the future:
    the clock was set back since, perhaps before another migration had the object. If an older relay
    handed it back, the time of the migration's newest event serves."""
    if left == ARRIVED and (row.state not in COMPLETED or (row.ended or 0.0) > time.time()):
        return 0.0
    if row.state == TransferState.RUNNING:
        return inf
    return float(other.last if row.ended is None else row.ended)


def _accepted_after(connection: Connection, mine: Any, other: str) -> float:
    """Return the time of the newest event of the same locations before a migration was accepted:
    it has left nothing earlier, even if the clock was slow then."""
    first = select(func.min(events.c.id)).where(events.c.migration_id == other).scalar_subquery()
    query = select(func.max(events.c.at)).join(migrations, migrations.c.id == events.c.migration_id)
    query = query.where(_same_places(mine), events.c.id < first, events.c.at <= time.time())
    return float(connection.execute(query).scalar() or 0.0)


def _arrival_times(connection: Connection, mine: Any, names: Sequence[str]) -> Sequence[Any]:
    """Return when some objects last arrived in succeeded migrations of the same locations, as far
    as the clock was not set back since."""
    succeeded = (migrations.c.places == mine.places) & (
        migrations.c.state == MigrationState.SUCCEEDED
    )
    query = select(transfers.c.name, func.max(transfers.c.ended).label("ended"))
    query = query.join(migrations, migrations.c.id == transfers.c.migration_id).where(succeeded)
    query = query.where(transfers.c.state.in_(COMPLETED), transfers.c.ended <= time.time())
    query = query.where(has_name(connection, names))
    return connection.execute(query.group_by(transfers.c.name)).all()


def has_arrived_since(connection: Connection, id: str, name: str, since: float) -> bool:
    """Return whether another migration has stored or skipped the object of that name at the same
    place since a time."""
    mine = _mine(connection, id)
    arrived = transfers.c.state.in_(sorted(PRESENT)) & (transfers.c.ended >= since)
    others = select(migrations.c.id).where(_same_destination(mine), migrations.c.id != id)
    same = transfers.c.migration_id.in_(others) & has_name(connection, [name])
    if connection.execute(select(exists().where(arrived, same))).scalar():
        return True
    columns = (
        migrations.c.id,
        migrations.c.destination,
        migrations.c.place,
        migrations.c.options,
    )
    query = select(*columns).where(migrations.c.id != id)
    for other, ours in nested_rows(connection, mine, [name], query):
        nested = (transfers.c.migration_id == other.id) & has_name(connection, list(ours))
        if connection.execute(select(exists().where(arrived, nested))).scalar():
            return True
    return False


def adopt_unproved(connection: Connection, id: str, names: Iterable[str]) -> None:
    """Adopt the states that other migrations recorded since this one listed its objects, for those
    with some `names` that have not arrived: the migration is resumed."""
    if_exists = json.loads(_mine(connection, id).options).get("if_exists", "")
    for some in in_chunks(sorted(names)):
        adopt(connection, id, find_unproved(connection, id, if_exists, some))


def names_left(connection: Connection, id: str) -> set[str]:
    """Return names that include every object of a migration which another migration may have left
    unproved."""
    mine = _mine(connection, id)
    noted = transfers.c.before.is_not(None) & (transfers.c.before != ARRIVED)
    incomplete = transfers.c.state.in_(sorted(set(TransferState) - COMPLETED))
    left = (noted | LAPSED | RUNNING) & _BEGUN & incomplete
    others = select(migrations.c.id).where(_same_destination(mine), _is_other(mine))
    of = select(transfers.c.name).where(transfers.c.migration_id.in_(others), left)
    return left_near(connection, mine, left) | set(connection.execute(of).scalars())


def find_unproved_skips(
    connection: Connection, skipped: Sequence[Settlement]
) -> dict[str, dict[str, str]]:
    """Return the states, by migration and name, that other migrations recorded for skipped objects
    since those were claimed: the object that a skip found may be an unproved one of theirs. A claim
    that knew of an earlier attempt has judged the object by that; unless it knew the version that
    was sent, since another object may be one that another migration sent later."""
    places: dict[str, dict[str, str | None]] = {}
    claims: dict[tuple[str, str], Claim] = {}
    for end in skipped:
        claim = end.claim
        if claim.before is None or claim.before.assumed or claim.before.sent is not None:
            places.setdefault(claim.migration_id, {})[claim.name] = end.place
            claims[claim.migration_id, claim.name] = claim
    found: dict[str, dict[str, str]] = {}
    for id, some in sorted(places.items()):
        unended = (migrations.c.id != id) & (migrations.c.state != MigrationState.SUCCEEDED)
        if connection.execute(select(exists().where(unended))).scalar():
            if_exists = json.loads(_mine(connection, id).options).get("if_exists", "")
            lefts = _find_with_times(connection, id, if_exists, list(some), some.get(""))
            left = {
                name: text
                for name, (at, text) in lefts.items()
                if _is_news(connection, claims[id, name], at, text)
            }
            found |= {id: left} if left else {}
    return found


def _is_news(connection: Connection, claim: Claim, at: float, left: str) -> bool:
    """Return whether a state that another migration left is later than the version that this one
    has sent, if it has sent one."""
    sent = claim.before.sent if claim.before is not None else None
    if sent is None:
        return True
    other = PriorState.from_text(left)
    query = select(transfers.c.ended).where(transfers.c.id == claim.id)
    ended = connection.execute(query).scalar()  # None if the object was restarted since
    # A time in the future: the clock was set back since.
    is_later = ended is None or ended > time.time() or at > ended
    return other is not None and other.sent != sent and is_later


def adopt(
    connection: Connection, id: str, left: Mapping[str, str], over_sent: bool = False
) -> None:
    """Adopt the states in `left`, by name, except where a transfer has recorded its own; with
    `over_sent` also in place of one with the version that was sent."""
    ours = (transfers.c.migration_id == id) & transfers.c.state.not_in(COMPLETED)
    query = select(transfers).where(ours, has_name(connection, list(left)))
    # The rows are locked before they are read: another worker may claim one in this moment.
    for row in connection.execute(query.order_by(transfers.c.id).with_for_update()).all():
        kept = PriorState.from_text(row.before)
        new = PriorState.from_text(left.get(row.name))
        is_kept = kept is not None and kept.noted and not (over_sent and kept.sent is not None)
        if new is None or is_kept:
            continue
        remains = {**(kept.remains if kept is not None else {}), **new.remains}
        # It counts as claimed and sent once, so that its next claim inspects the destination.
        fence = max(1, row.fence)
        twins = fence + 1 if row.twins == MARKED else row.twins
        values = {"before": replace(new, remains=remains).to_text(), "fence": fence, "twins": twins}
        connection.execute(update(transfers).where(transfers.c.id == row.id).values(**values))


def _mine(connection: Connection, id: str) -> Any:
    return connection.execute(select(migrations).where(migrations.c.id == id)).one()


def _others(connection: Connection, mine: Any) -> Sequence[Any]:
    """Return the migrations to the same destination that have objects, with the columns of
    `_query`, the latest event first."""
    has_objects = exists().where(transfers.c.migration_id == migrations.c.id)
    query = _query(mine).where(_same_destination(mine), has_objects)
    return connection.execute(query.order_by(desc("last"), migrations.c.number.desc())).all()


def _same_destination(mine: Any) -> ColumnElement[bool]:
    """Return the condition for migrations whose objects have the same places as those of `mine`, if
    they have the same names."""
    places = _same_places(mine)
    if names_later(mine):
        return places  # another source would put another object into that folder
    return places | is_same_place(mine)


def _same_places(mine: Any) -> ColumnElement[bool]:
    places: str | None = mine.places
    if places is None:  # accepted by an older relay
        return false()
    return migrations.c.places == places


def _query(mine: Any) -> Select[Any]:
    """Return the query for the other migrations that did not succeed. `is_same` means that both
    locations are certainly the same, and not only printed alike. `last` is the time of the latest
    event."""
    of = select(events.c.at).where(events.c.migration_id == migrations.c.id)
    last = func.coalesce(
        of.order_by(events.c.id.desc()).limit(1).scalar_subquery(), migrations.c.created
    )
    columns = (
        migrations.c.id,
        migrations.c.created,
        migrations.c.options,
        migrations.c.destination,
    )
    query = select(
        *columns,
        migrations.c.destination_empty,
        _same_places(mine).label("is_same"),
        last.label("last"),
    )
    return query.where(_is_other(mine))


def _is_other(mine: Any) -> ColumnElement[bool]:
    unproved = migrations.c.state != MigrationState.SUCCEEDED
    is_mine: ColumnElement[bool] = migrations.c.id == mine.id
    return unproved & ~is_mine


def _text_left(row: Any, other: Any) -> str | None:
    """Return the text of the state that a row of another migration may have left: ARRIVED if it
    left nothing, None if it never sent anything, so that an earlier migration's state counts.

    The recorded versions are valid for the same locations only. Two that are printed alike may
    differ, for example if a remote now leads to another endpoint."""
    kept = PriorState.from_text(row.before)
    arrived = ARRIVED if other.is_same else None
    if row.state in COMPLETED:
        return arrived
    lost = row.lapses or row.state == TransferState.RUNNING
    if kept is not None and not kept.arrived and (kept.noted or kept.remains):
        doubted = kept.doubted and not lost
        if not other.is_same:
            kept = PriorState(known=False, remains=kept.remains, since=kept.since)
        since = None if kept.known else kept.since or other.created
        return replace(kept, noted=True, rid=0, since=since, doubted=doubted).to_text()
    if lost and _notes_nothing(other):  # also of an object that had arrived, and is sent again
        remains = kept.remains if kept is not None else {}
        return PriorState(known=False, remains=remains, since=other.created).to_text()
    return arrived if kept is not None and kept.arrived else None


def _notes_nothing(other: Any) -> bool:
    """Return whether a migration may have sent bytes without a record of the prior state: one that
    overwrites, or one that replaces differing objects and found its destination empty."""
    wish = json.loads(other.options).get("if_exists", "")
    return wish == "overwrite" or (wish == "changed" and bool(other.destination_empty))
