"""What other migrations left unproved at the same destination: found when an object is first listed.

Theory of operation. The same places with other options are another migration. Where the one before it was killed, or
failed, a piece of ours may lie at an object's place, or a damaged one. Who skips what is there, or what seems to be
unchanged, would take that for whole. So a transfer that is written anew learns what the newest of those migrations
knows of the object of its name; from then on it is as if it had been begun there. So does one that was written before,
and has noted nothing by itself: two commands may take turns.

Decided here: which migrations are asked, and what is taken over. Never here: what follows from it
(`relay/engine/existing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, false, func, literal, select, update

from relay.ledger.names import chunks, named
from relay.ledger.rows import ARRIVED, MARKED, Before
from relay.ledger.schema import LAPSED, RUNNING, events, migrations, transfers

MOST: Final = 10
"""So many migrations are asked."""
_THERE: Final = frozenset({"verified", "skipped"})


def unproved(connection: Connection, id: str, if_exists: str, names: Sequence[str]) -> dict[str, str]:
    """Return, by their names, what is known of the objects of a migration that another may have left: as their rows
    keep it. Nothing for one that overwrites: it believes nothing that is there."""
    others = [] if if_exists in ("", "overwrite") else _others(connection, id)
    found: dict[str, str] = {}
    columns = (transfers.c.name, transfers.c.state, transfers.c.lapses, transfers.c.before)
    for other in others:
        begun = (transfers.c.migration_id == other.id) & (transfers.c.fence > 0)
        for some in chunks(names):
            lefts: dict[str, str] = {}
            for row in connection.execute(select(*columns).where(begun, named(connection, some))).all():
                if row.name not in found and (left := _left(row, other)) is not None:
                    lefts[row.name] = left
            if lefts and other.is_over:
                lefts |= dict.fromkeys(_arrived_since(connection, other, list(lefts)), ARRIVED)
            found |= lefts
    return {name: left for name, left in found.items() if left != ARRIVED}


def _arrived_since(connection: Connection, other: Any, names: Sequence[str]) -> Sequence[str]:
    """Return those of some names that have arrived since with a migration of the same places that succeeded."""
    newer = (migrations.c.places == other.our_places) & (migrations.c.state == "succeeded")
    query = select(transfers.c.name).join(migrations, migrations.c.id == transfers.c.migration_id)
    query = query.where(newer, migrations.c.number > other.number, named(connection, names))
    return connection.execute(query.where(transfers.c.state.in_(_THERE))).scalars().all()


def learn(connection: Connection, id: str) -> None:
    """Take over what another left since the objects of a migration were listed, for those that have not arrived: the
    migration is resumed."""
    options = connection.execute(select(migrations.c.options).where(migrations.c.id == id)).scalar_one()
    if_exists = json.loads(options).get("if_exists", "")
    names: set[str] = set()
    for other in [] if if_exists in ("", "overwrite") else _others(connection, id):
        noted = transfers.c.before.is_not(None) & (transfers.c.before != ARRIVED)
        left = noted | LAPSED | RUNNING
        begun = (transfers.c.migration_id == other.id) & (transfers.c.fence > 0) & transfers.c.state.not_in(_THERE)
        names |= set(connection.execute(select(transfers.c.name).where(begun, left)).scalars())
    for some in chunks(sorted(names)):
        _learn(connection, id, unproved(connection, id, if_exists, some))


def _learn(connection: Connection, id: str, left: Mapping[str, str]) -> None:
    """As `learn`, of some objects of which something may be `left`."""
    ours = (transfers.c.migration_id == id) & transfers.c.state.not_in(_THERE)
    for row in connection.execute(select(transfers).where(ours, named(connection, list(left)))).all():
        kept, new = Before.of(row.before), Before.of(left.get(row.name))
        if new is None or (kept is not None and kept.noted):
            continue
        remains = {**(kept.remains if kept is not None else {}), **new.remains}
        fence = max(1, row.fence)
        twins = fence + 1 if row.twins == MARKED else row.twins
        values = {"before": replace(new, remains=remains).text(), "fence": fence, "twins": twins}
        connection.execute(update(transfers).where(transfers.c.id == row.id).values(**values))


def _others(connection: Connection, id: str) -> Sequence[Any]:
    """Return the migrations to the same destination that did not succeed, the one with the latest news first:
    an older one may have been resumed after a newer one. `is_over` says that one of the same places has succeeded
    since; `is_same` that both places are the same for certain, and do not only print alike; one place may print in
    two ways, as where one of them is given by a remote's name.
    """
    mine = connection.execute(select(migrations).where(migrations.c.id == id)).one()
    succeeded = migrations.c.state == "succeeded"
    places = migrations.c.places == mine.places if mine.places is not None else false()  # an older relay's
    done = connection.execute(
        select(func.max(migrations.c.number), func.max(migrations.c.ended)).where(places, succeeded)
    ).one()
    same = ((migrations.c.destination == mine.destination) | places) & ~succeeded & (migrations.c.id != id)
    if mine.destination.endswith("/") and not json.loads(mine.options).get("recursive"):
        same &= places  # of another source another object goes into that folder
    of = select(events.c.at).where(events.c.migration_id == migrations.c.id)
    last = func.coalesce(of.order_by(events.c.id.desc()).limit(1).scalar_subquery(), migrations.c.created)
    is_over = (migrations.c.number < (done[0] or 0)) & (last <= (done[1] or 0.0))
    columns = (migrations.c.id, migrations.c.number, migrations.c.created, migrations.c.options)
    query = select(*columns, migrations.c.destination_empty, literal(mine.places).label("our_places")).where(same)
    query = query.add_columns(places.label("is_same"), is_over.label("is_over"))
    return connection.execute(query.order_by(last.desc(), migrations.c.number.desc()).limit(MOST)).all()


def _left(row: Any, other: Any) -> str | None:
    """Return what a row of another migration tells of what it may have left: ARRIVED where that is nothing, None where
    it never sent anything, and so hides nothing of what one before it left.

    What was there before, and what it is called, is of the very same places alone: two that print alike may be two, as
    where a remote leads to another endpoint by now.
    """
    kept = Before.of(row.before)
    if row.state in _THERE or (kept is not None and kept.arrived):
        return ARRIVED if other.is_same else None
    if kept is not None and (kept.noted or kept.remains):
        kept = kept if other.is_same else Before(known=False, remains=kept.remains, since=kept.since)
        return replace(kept, noted=True, rid=0, since=None if kept.known else kept.since or other.created).text()
    lost = row.lapses or row.state == "running"
    return Before(known=False, since=other.created).text() if lost and _notes_nothing(other) else None


def _notes_nothing(other: Any) -> bool:
    """Say if bytes may have gone without a note of what was there before: of one that overwrites, or that replaces
    what differs and found nothing at its destination."""
    wish = json.loads(other.options).get("if_exists", "")
    return wish == "overwrite" or (wish == "changed" and bool(other.destination_empty))
