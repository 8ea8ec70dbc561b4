"""The moments from which the ages in filters count: a later listing leaves out nothing for its age
that an earlier one chose, and each time lies in the past."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from relay.filters.filter_set import Filters
from relay.filters.selection import Selection
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import AgeOrigins
from relay.ledger.schema import events, migrations
from tests.ledgers import TREE

DAY = 86400.0


def shift(ledger: Ledger, seconds: float, created: float | None = None) -> None:
    """Let all events have happened `seconds` later, and all migrations, unless one was `created` at
    a corrected time."""
    later = migrations.c.created + seconds if created is None else created
    ledger.database.run(lambda c: c.execute(update(events).values(at=events.c.at + seconds)))
    ledger.database.run(lambda c: c.execute(update(migrations).values(created=later)))


def origins(ledger: Ledger, id: str) -> AgeOrigins:
    """Return the moments as the days before now, rounded."""
    found, now = ledger.listings.age_origins(id), time.time()
    assert max(found.earliest, found.latest) <= now
    return AgeOrigins(
        earliest=round((now - found.earliest) / DAY), latest=round((now - found.latest) / DAY)
    )


def test_the_newest_listing_has_the_latest_time(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    shift(ledger, -2 * DAY)
    assert origins(ledger, migration.id) == AgeOrigins(earliest=2, latest=2)
    ledger.act(migration.id, "cancel")
    assert origins(ledger, migration.id) == AgeOrigins(earliest=2, latest=2)
    ledger.list_again(migration.id)
    assert origins(ledger, migration.id) == AgeOrigins(earliest=2, latest=0)


@pytest.mark.parametrize("corrected", [0.0, time.time() - 30 * DAY])
def test_a_clock_that_was_ahead_gives_the_present(ledger: Ledger, corrected: float) -> None:
    """The acceptance was dated back, to any time before."""
    migration, _ = ledger.create(TREE)
    shift(ledger, 3 * DAY, created=corrected)
    assert origins(ledger, migration.id) == AgeOrigins(earliest=0, latest=0)
    shift(ledger, -4 * DAY, created=corrected)
    ledger.act(migration.id, "cancel")
    assert origins(ledger, migration.id) == AgeOrigins(earliest=1, latest=1)


def test_a_slow_clock_leaves_the_acceptance(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    shift(ledger, -30 * DAY, created=time.time() - 2 * DAY)
    assert origins(ledger, migration.id).earliest == 2


def test_each_time_has_a_moment_of_its_own() -> None:
    accepted, listed = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC)
    filters = Filters(min_age="1d", max_age="2d").until(listed)
    chosen = Selection(filters, now=accepted, seed="")
    days = [day for day in range(1, 12) if chosen.has_object("a", 1, listed.replace(day=day))]
    assert days == list(range(1, 9))
    assert Filters(max_age="2d").until(listed) == Filters(max_age="2d")
    date = Filters(min_age="2025-12-31T00:00:00+00:00")
    assert date.until(listed).period(accepted) == date.period(accepted)
