"""What the page asks of the ledger, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import event

from relay.errors import IllegalTransition
from relay.ledger import overview
from relay.ledger.ledger import Ledger
from relay.ledger.overview import Group, MigrationSearch, ObjectSearch
from relay.ledger.rows import Settlement
from tests.ledgers import TREE, states, tree, verified_end

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
    claims = ledger.claim(6)
    errors = [DENIED, DENIED, DENIED, LONG]
    ends = [verified_end(claim) for claim in claims[:2]]
    ends += [
        Settlement(claim, "failed", error=error)
        for claim, error in zip(claims[2:], errors, strict=True)
    ]
    ledger.settle(ends)
    return id


@pytest.fixture
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """Return the list of the queries that the ledger runs; it grows."""
    found: list[str] = []

    def note(connection: object, cursor: object, text: str, *_: object) -> None:
        found.append(text)

    engine = ledger.database._engine
    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def test_groups_are_found_and_counted(ledger: Ledger) -> None:
    ids = []
    for number in range(4):
        made, _ = ledger.create(replace(TREE, source=f"a:photos_{number}", places=None))
        ids.append(made.id)
    ledger.act(ids[0], "pause")
    ledger.pause_for(ids[1], DENIED)
    ledger.act(ids[2], "cancel")
    groups = ledger.group_counts()
    assert groups == {
        Group.ALL: 4,
        Group.RUNNING: 1,
        Group.PAUSED: 1,
        Group.NEEDS_YOU: 1,
        Group.ENDED: 1,
    }
    for group, number in groups.items():
        found = ledger.find_migrations(MigrationSearch(group=group))
        assert len(found) == number, group
        assert [one.number for one in found] == sorted((one.number for one in found), reverse=True)


def test_a_search_takes_every_character_as_itself(ledger: Ledger) -> None:
    for name in ("a%b", "axb", "a_b", "A_B"):
        ledger.create(replace(TREE, source=f"old:{name}", places=None))

    def search(text: str) -> list[str]:
        return [one.source[4:] for one in ledger.find_migrations(MigrationSearch(text=text))]

    assert search("a%b") == ["a%b"]
    assert search("a_b") == ["A_B", "a_b"]
    assert search("#2") == ["axb"] and search("2") == ["axb"]
    assert search("\\") == []


def test_pages_of_the_list_do_not_overlap(ledger: Ledger) -> None:
    for number in range(5):
        ledger.create(replace(TREE, source=f"old:{number}", places=None))
    first = ledger.find_migrations(MigrationSearch(limit=3))
    rest = ledger.find_migrations(MigrationSearch(limit=3, before=first[-1].number))
    assert [one.number for one in (*first, *rest)] == [5, 4, 3, 2, 1]
    assert [one.number for one in ledger.migrations_by_number([4, 2, 99])] in ([4, 2], [2, 4])


def test_failures_are_counted_by_reason(ledger: Ledger) -> None:
    id = end_some(ledger)
    found = [(one.code, one.side, one.objects, one.sample) for one in ledger.failure_reasons(id)]
    assert found == [
        ("store-permission-denied", "source", 3, "002"),
        ("key-too-long", "destination", 1, "005"),
    ]
    assert ledger.unfinished_uploads(id) == 0


def test_one_reason_is_retried(ledger: Ledger) -> None:
    id = end_some(ledger)
    ledger.finish()
    assert ledger.migration(id).state == "partial"
    again = ledger.retry_reason(id, "store-permission-denied")
    assert again.state == "running"
    assert states(ledger, id) == ["verified", "verified", "queued", "queued", "queued", "failed"]
    with pytest.raises(IllegalTransition):
        ledger.retry_reason(id, "store-permission-denied")
    with pytest.raises(IllegalTransition):
        ledger.retry_reason(id, "store-full")
    assert states(ledger, id).count("failed") == 1


def test_objects_are_filtered(ledger: Ledger) -> None:
    id = end_some(ledger)

    def names(**filters: str) -> list[str]:
        return [row.name for row in ledger.find_objects(id, ObjectSearch(**filters)).rows]  # type: ignore[arg-type]

    assert names(state="failed") == ["002", "003", "004", "005"]
    assert names(code="key-too-long") == ["005"]
    assert names(level="whole_digest") == ["000", "001"]
    assert names(prefix="00") == [f"00{n}" for n in range(6)] and names(prefix="003") == ["003"]
    assert names(prefix="%") == []
    first = ledger.find_objects(id, ObjectSearch(limit=4))
    rest = ledger.find_objects(id, ObjectSearch(limit=4, after=first.next or 0))
    assert [row.name for row in (*first.rows, *rest.rows)] == [f"00{n}" for n in range(6)]
    assert rest.next is None
    row = ledger.one_object(id, first.rows[0].id)
    assert row is not None and row.receipt == {"level": "whole_digest"}
    assert ledger.one_object("other", first.rows[0].id) is None


def test_a_filter_looks_at_a_window(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "WINDOW", 4)
    id = end_some(ledger)
    first = ledger.find_objects(id, ObjectSearch(code="key-too-long"))
    assert first.rows == () and first.next is not None
    rest = ledger.find_objects(id, ObjectSearch(code="key-too-long", after=first.next))
    assert [row.name for row in rest.rows] == ["005"] and rest.next is None


def test_a_page_costs_few_queries(ledger: Ledger, statements: list[str]) -> None:
    id = end_some(ledger)

    def count_queries() -> int:
        found = [text for text in statements if text.lstrip().upper().startswith("SELECT")]
        counting = [text for text in found if "count(*)" in text and "FROM transfers" in text]
        assert all("LIMIT" in text for text in counting)
        statements.clear()
        return len(found)

    statements.clear()
    ledger.find_migrations(MigrationSearch(limit=51))
    ledger.group_counts()
    assert count_queries() <= 5
    ledger.migration(id)
    ledger.failure_reasons(id)
    assert count_queries() <= 8
