"""What the page asks of the ledger, on both databases."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from relay.ledger import object_lists
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.object_lists import ObjectSearch
from relay.ledger.overview import Group, MigrationSearch
from relay.ledger.viewer import EVERYTHING, Viewer
from tests.ledgers import TREE, Statement, statements_of, tree, verified_end

DENIED = {"code": "store-permission-denied", "side": "source", "detail": "no", "hint": ""}
LONG = {
    "code": "key-too-long",
    "side": "destination",
    "detail": 'it says "code": "store-permission-denied"',
    "hint": "",
}


def end_some(ledger: Ledger) -> str:
    """Return a migration of six objects: two verified, three denied, one with a long name."""
    id = tree(ledger, *range(1, 7))
    claims = ledger.claims.claim(6)
    errors = [DENIED, DENIED, DENIED, LONG]
    ends = [verified_end(claim) for claim in claims[:2]]
    ends += [
        Settlement(claim, "failed", error=error)
        for claim, error in zip(claims[2:], errors, strict=True)
    ]
    ledger.claims.settle(ends)
    return id


def test_groups_are_found_and_counted(ledger: Ledger) -> None:
    ids = []
    for number in range(4):
        made, _ = ledger.create(replace(TREE, source=f"a:photos_{number}", places=None))
        ids.append(made.id)
    ledger.act(ids[0], "pause")
    ledger.pause_for(ids[1], DENIED)
    ledger.act(ids[2], "cancel")
    groups = ledger.overview.group_counts(EVERYTHING)
    assert groups == {
        Group.ALL: 4,
        Group.RUNNING: 1,
        Group.PAUSED: 1,
        Group.NEEDS_YOU: 1,
        Group.ENDED: 1,
    }
    for group, number in groups.items():
        found = ledger.overview.find_migrations(MigrationSearch(group=group), EVERYTHING)
        assert len(found) == number, group
        assert [one.number for one in found] == sorted((one.number for one in found), reverse=True)


def test_a_search_takes_every_character_as_itself(ledger: Ledger) -> None:
    for name in ("a%b", "axb", "a_b", "A_B"):
        ledger.create(replace(TREE, source=f"old:{name}", places=None))

    def search(text: str) -> list[str]:
        return [
            one.source[4:]
            for one in ledger.overview.find_migrations(MigrationSearch(text=text), EVERYTHING)
        ]

    assert search("a%b") == ["a%b"]
    assert search("a_b") == ["A_B", "a_b"]
    assert search("#2") == ["axb"] and search("2") == ["axb"]
    assert search("\\") == []


def test_pages_of_the_list_do_not_overlap(ledger: Ledger) -> None:
    for number in range(5):
        ledger.create(replace(TREE, source=f"old:{number}", places=None))
    first = ledger.overview.find_migrations(MigrationSearch(limit=3), EVERYTHING)
    rest = ledger.overview.find_migrations(
        MigrationSearch(limit=3, before=first[-1].number), EVERYTHING
    )
    assert [one.number for one in (*first, *rest)] == [5, 4, 3, 2, 1]
    assert [
        one.number for one in ledger.overview.migrations_by_name(["4", "2", "99"], EVERYTHING)
    ] in (
        [4, 2],
        [2, 4],
    )


def test_objects_are_filtered(ledger: Ledger) -> None:
    id = end_some(ledger)

    def names(**filters: str) -> list[str]:
        return [row.name for row in ledger.overview.find_objects(id, ObjectSearch(**filters)).rows]  # type: ignore[arg-type]

    assert names(state="failed") == ["002", "003", "004", "005"]
    assert names(reason="destination:key-too-long") == ["005"]
    assert names(level="whole_digest") == ["000", "001"]
    assert names(prefix="00") == [f"00{n}" for n in range(6)] and names(prefix="003") == ["003"]
    assert names(prefix="%") == []
    first = ledger.overview.find_objects(id, ObjectSearch(limit=4))
    rest = ledger.overview.find_objects(id, ObjectSearch(limit=4, after=first.next or 0))
    assert [row.name for row in (*first.rows, *rest.rows)] == [f"00{n}" for n in range(6)]
    assert rest.next is None
    row = ledger.overview.one_object(id, first.rows[0].id)
    assert row is not None and row.receipt == {"level": "whole_digest"}
    assert ledger.overview.one_object("other", first.rows[0].id) is None


@pytest.mark.parametrize("state", [None, "failed"])
def test_a_filter_looks_at_a_window(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    monkeypatch.setattr(object_lists, "WINDOW", 2)
    id = end_some(ledger)
    found, after, pages = list[str](), 0, 0
    while pages < 10:
        page = ledger.overview.find_objects(
            id, ObjectSearch(state=state, prefix="005", after=after)
        )
        found, pages = [*found, *(row.name for row in page.rows)], pages + 1
        if page.next is None:
            break
        after = page.next
    assert found == ["005"]
    # Six objects, or four that failed: a full window of an index may be the last.
    assert pages == 3


def test_a_page_costs_few_queries(ledger: Ledger) -> None:
    id = end_some(ledger)

    def count_queries(seen: list[Statement]) -> int:
        found = [sql for sql, _ in seen if sql.lstrip().upper().startswith("SELECT")]
        counting = [sql for sql in found if re.search(r"count\(\*\)\s+FROM transfers", sql)]
        assert all("LIMIT" in sql for sql in counting)
        return len(found)

    with statements_of(ledger) as seen:
        ledger.overview.find_migrations(MigrationSearch(limit=51), EVERYTHING)
        ledger.overview.group_counts(EVERYTHING)
    assert count_queries(seen) <= 5
    with statements_of(ledger) as seen:
        ledger.migration(id)
        ledger.reasons(id)
    assert count_queries(seen) <= 8


def test_the_page_of_a_tenant_has_only_its_own(ledger: Ledger) -> None:
    ours, _ = ledger.create(TREE, tenant="acme")
    ledger.create(TREE)
    acme = Viewer(tenant="acme")
    assert [one.id for one in ledger.overview.find_migrations(MigrationSearch(), acme)] == [ours.id]
    names = ["acme:1", "default:1", "2"]
    assert [one.id for one in ledger.overview.migrations_by_name(names, acme)] == [ours.id]
    assert [one.name for one in ledger.overview.migrations_by_name(["1"], EVERYTHING)] == ["1"]
    assert ledger.overview.group_counts(acme)[Group.ALL] == 1
    assert ledger.overview.group_counts(EVERYTHING)[Group.ALL] == 2
