"""The reasons of failures: counted as objects fail, and retried one by one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection

from relay.cli import local_run, migration_commands
from relay.cli.local_ledger import LocalLedger
from relay.config import Settings
from relay.errors import IllegalTransition
from relay.ledger import reasons
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.pages import page_query, page_values, select_rows
from tests import new_ledger
from tests.ledgers import TREE, Opened, assert_reasons_counted, states, tree, verified_end

DENIED = {"code": "permission-denied", "side": "source", "status": 403, "detail": "no"}
LONG = {"code": "key-too-long", "side": "destination", "detail": "long"}


def fail(ledger: Ledger, *errors: dict[str, Any] | None) -> str:
    """Run a tree whose objects fail with these errors, or arrive; return its id."""
    id = tree(ledger, *range(1, len(errors) + 1))
    ends = [
        verified_end(claim, claim.size or 0)
        if error is None
        else Settlement(claim, "failed", error=error)
        for claim, error in zip(ledger.claims.claim(len(errors)), errors, strict=True)
    ]
    ledger.claims.settle(ends)
    ledger.finish()
    return id


def test_failures_are_counted_by_reason(ledger: Ledger) -> None:
    id = fail(ledger, DENIED, LONG, DENIED, None)
    found = ledger.reasons(id)
    assert [(one.reason, one.objects, one.bytes) for one in found] == [
        ("source:permission-denied:403", 2, 4),
        ("destination:key-too-long", 1, 2),
    ]
    first = found[0]
    assert (first.side, first.code, first.status) == ("source", "permission-denied", 403)
    assert first.sample in ("000", "002")
    assert [row.name for row in ledger.page(id, reason=first.reason)] == ["000", "002"]
    assert_reasons_counted(ledger, id)


def test_the_objects_of_one_reason_are_retried(ledger: Ledger) -> None:
    id = fail(ledger, DENIED, LONG, DENIED, None)
    found = ledger.act(id, "retry", reason="source:permission-denied:403")
    assert (found.state, found.needs_attention) == ("running", False)
    assert states(ledger, id) == ["queued", "failed", "queued", "verified"]
    assert [one.reason for one in ledger.reasons(id)] == ["destination:key-too-long"]
    again = ledger.act(id, "retry", reason="source:permission-denied:403")
    assert again.state == "running"  # a form that is sent twice
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9)])
    ledger.finish()
    assert ledger.migration(id).state == "partial"
    assert ledger.events.all(id)[-2]["kind"] == "retry"


def test_a_command_lists_its_tree_after_a_retry_of_one_reason(ledger: Ledger) -> None:
    """The source may have other objects since, and the command must not end without them."""
    id = fail(ledger, DENIED, LONG)
    found = ledger.act(id, "retry", reason="source:permission-denied:403")
    assert local_run._is_at_rest(ledger, found)


def test_a_retry_that_queues_nothing_says_so(
    address: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one was first, or the reason is mistyped."""
    fail(ledger, DENIED, LONG)
    words = ["1", "--reason", "source:permission-denied:403"]
    known = LocalLedger(Settings(ledger=address))
    monkeypatch.setattr(migration_commands, "migrations_of", lambda *_, **__: known)
    with closing(known._ledger):
        first, second = (CliRunner().invoke(migration_commands.retry, words) for _ in range(2))
    assert (first.exit_code, "nothing was queued" in first.output) == (0, False), first.output
    assert (second.exit_code, "nothing was queued" in second.output) == (0, True), second.output


@pytest.mark.parametrize("reason", ["source:permission-denied:403", "nothing", ""])
def test_a_reason_that_no_object_has_is_refused(ledger: Ledger, reason: str) -> None:
    id = fail(ledger, LONG, None)
    with pytest.raises(IllegalTransition):
        ledger.act(id, "retry", reason=reason)
    assert ledger.migration(id).state == "partial"


def test_a_half_listed_cancelled_tree_is_retried_whole(ledger: Ledger) -> None:
    """A worker would list the rest of the source, and move it."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=1), ListedObject("b", size=1)], "b")
    denied, _ = ledger.claims.claim(2)
    ledger.claims.settle([Settlement(denied, "failed", error=DENIED)])
    ledger.act(migration.id, "cancel")
    with pytest.raises(IllegalTransition):
        ledger.act(migration.id, "retry", reason="source:permission-denied:403")
    assert ledger.migration(migration.id).state == "cancelled"
    assert ledger.act(migration.id, "retry").state == "running"
    assert ledger.act(migration.id, "retry", reason="nothing").state == "running"


def test_a_retry_of_all_forgets_every_reason(ledger: Ledger) -> None:
    id = fail(ledger, DENIED, LONG, None)
    ledger.act(id, "retry")
    assert ledger.reasons(id) == []
    states(ledger, id)


def test_entries_that_a_listing_refuses_have_a_reason(ledger: Ledger) -> None:
    """They are retried only with the others: a new listing names all."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject("a", size=1, error=LONG), ListedObject("b")], "b"
    )
    ledger.listings.end(listing)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9)])
    ledger.finish()
    id = migration.id
    assert [(one.reason, one.sample) for one in ledger.reasons(id)] == [
        ("destination:key-too-long", "a")
    ]
    with pytest.raises(IllegalTransition, match="alone"):
        ledger.act(id, "retry", reason="destination:key-too-long")
    ledger.act(id, "retry")
    assert ledger.reasons(id) == []
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject("a", size=1, error=LONG), ListedObject("b")], "b"
    )
    assert_reasons_counted(ledger, id)


def test_a_failed_listing_stays_failed_after_a_retry(ledger: Ledger) -> None:
    """Otherwise nothing would say that objects are missing."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a")], "a")
    ledger.listings.end(listing, {"code": "store-error", "side": "source"})
    ledger.claims.settle(
        [Settlement(claim, "failed", error=DENIED) for claim in ledger.claims.claim(9)]
    )
    ledger.finish()
    ledger.act(migration.id, "retry", reason="source:permission-denied:403")
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9)])
    ledger.finish()
    found = ledger.migration(migration.id)
    assert (found.state, found.listing) == ("partial", "failed")
    assert found.error is not None and found.error["code"] == "store-error"


def test_a_quarantined_object_has_a_reason(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 1)
    for _ in range(5):
        one.leases.renew()
        one.claims.claim(1)
        one.leases.renew(-1)
        two.leases.reclaim()
    assert [found.reason for found in two.reasons(id)] == ["relay:quarantined"]
    states(two, id)


def test_reasons_beyond_the_limit_count_as_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasons, "MOST", 3)
    errors = [{"code": f"c{number}", "side": "source"} for number in range(5)]
    id = fail(ledger, *errors, errors[0])
    found = {one.reason: one.objects for one in ledger.reasons(id)}
    assert found == {"source:c0": 2, "source:c1": 1, "other": 3}
    ledger.act(id, "retry", reason="other")
    assert states(ledger, id).count("queued") == 3


def test_the_failures_of_an_older_ledger_get_reasons(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(new_ledger.script(tmp_path / "made", "0015"))
        old.execute("PRAGMA application_id = 1380273241")
        old.execute("INSERT INTO keys VALUES ('identity', '00')")
        old.execute(
            "INSERT INTO migrations (id, number, state, source, destination, options, spec,"
            " listing, created) VALUES ('a', 1, 'partial', 's', 'd', '{}', '', 'done', 0)"
        )
        rows = [(name, 7, json.dumps(error)) for name, error in (("x", LONG), ("y", LONG))]
        rows.append(("z", 5, ""))
        old.executemany(
            "INSERT INTO transfers (migration_id, name, size, error, state) VALUES"
            " ('a', ?, ?, ?, 'failed')",
            rows,
        )
        old.commit()
    ledger = Ledger.connect(f"sqlite:///{path}")
    try:
        found = [(one.reason, one.objects, one.bytes) for one in ledger.reasons("a")]
        assert found == [("destination:key-too-long", 2, 14), ("relay:", 1, 5)]
        assert_reasons_counted(ledger, "a")
    finally:
        ledger.close()


def test_an_index_serves_the_objects_of_a_reason(ledger: Ledger) -> None:
    id = fail(ledger, DENIED, LONG, None)
    sqlite = ledger.database.sqlite
    values = page_values(id, (), 0, "source:permission-denied:403") | {"limit": 100}
    query = page_query(frozenset(), has_reason=True, rows=select_rows(), sqlite=sqlite)

    def explain(connection: Connection) -> str:
        if not sqlite:  # a scan is the quickest for a few rows
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_sort = off")
        text = str(query.params(values).compile(connection, compile_kwargs={"literal_binds": True}))
        plan = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        return str(connection.exec_driver_sql(plan + text).all())

    plan = ledger.database.run(explain, write=False)
    assert "transfers_failed" in plan and "B-TREE" not in plan and "Sort" not in plan, plan
