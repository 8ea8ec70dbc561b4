"""The number of entries that filters leave out: exact, also after a listing was resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.engine.migration_request import Endpoint, MigrationJob, MigrationRequest
from relay.engine.tree_listing import PAGE, write_listing
from relay.filters.filter_set import Filters
from relay.ledger.ledger import Ledger
from relay.stores.interfaces import Entry
from relay.stores.remotes import Remotes
from tests.ledgers import TREE

COUNT = 2 * PAGE + PAGE // 2


def entries(start: int = 0, tokens: bool = True) -> list[Entry]:
    names = [f"{number:05}" for number in range(start, COUNT)]
    # Not each entry has a token, as in a page of a bucket.
    return [Entry(name, 1, after=name if tokens and int(name) % 7 == 0 else None) for name in names]


class EachThird:
    """A filter that chooses each third name, and has left out two folders."""

    folders = 2

    def __call__(self, entry: Entry) -> Entry | None:
        return None if int(entry.name) % 3 else entry


@pytest.mark.parametrize("tokens", [True, False])
def test_a_resumed_listing_counts_each_entry_once(ledger: Ledger, tokens: bool) -> None:
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    stops = iter([True, False])
    rows = iter(entries(tokens=tokens))
    assert not write_listing(ledger, listing, rows, lambda: next(stops), chooses=EachThird())
    assert ledger.migration(migration.id).excluded == (0 if not tokens else 1330)
    again = ledger.listings.claim()
    assert again is not None
    start = int(again.cursor) + 1 if again.cursor else 0
    assert write_listing(ledger, again, iter(entries(start)), lambda: True, chooses=EachThird())
    found = ledger.migration(migration.id)
    chosen = len([number for number in range(COUNT) if number % 3 == 0])
    assert (found.entries, found.excluded) == (chosen, COUNT - chosen + 2)
    ledger.act(migration.id, "cancel")
    ledger.list_again(migration.id)
    assert ledger.migration(migration.id).excluded is None


def test_a_marker_of_a_folder_is_not_counted(ledger: Ledger) -> None:
    """A bucket lists it as an empty object."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    rows = iter([Entry("a/", 0), Entry("1", 1), Entry("3", 1)])
    assert write_listing(ledger, listing, rows, lambda: True, chooses=EachThird())
    found = ledger.migration(migration.id)
    assert (found.entries, found.excluded) == (1, 1 + EachThird.folders)


def test_ages_count_from_the_acceptance(ledger: Ledger) -> None:
    filters = Filters(max_age="1d")
    order = MigrationRequest(
        Endpoint("https://a.example/from/"),
        Endpoint("https://b.example/to/"),
        recursive=True,
        filters=filters,
    )
    remotes = Remotes({}, {}, folders=None)
    migration, _ = ledger.create(order.spec(remotes))
    job, spec = MigrationJob.from_row(migration, ledger.secret(migration.id), remotes)
    assert (job.filters, job.accepted) == (filters, migration.created)
    assert ledger.create(spec, go_on=True) == (migration, False)
    other = replace(order, filters=Filters(max_age="2d"))
    assert ledger.create(other.spec(remotes), go_on=True)[1]


def test_without_filters_nothing_is_counted(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    assert write_listing(ledger, listing, iter(entries()), lambda: True)
    assert ledger.migration(migration.id).excluded is None
