"""A skipped object has the newest receipt of the migrations that moved it to the same place, in both
ledgers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert

from relay.ledger.claim_values import Settlement
from relay.ledger.deletion_tables import deletions
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.names import md5
from tests.ledgers import TREE, Opened

NAMES = ("a", "é/b", "c")


def run(ledger: Ledger, verbs: Sequence[str], spec: Spec = TREE) -> str:
    """Run a migration whose objects end with these verbs; return its id."""
    migration, _ = ledger.create(spec)
    listing = ledger.listings.claim()
    assert listing is not None
    page = [ListedObject(name, size=5, etag='"1"', modified=1.5) for name in NAMES]
    ledger.listings.add_page(listing, page, page[-1].name)
    ledger.listings.end(listing)
    claims = {claim.name: claim for claim in ledger.claims.claim(9)}
    ledger.claims.settle(
        [
            Settlement(
                claims[name],
                verb,
                bytes=5,
                level="whole_digest" if verb == "verified" else None,
                receipt={"level": "whole_digest", "of": migration.number}
                if verb != "failed"
                else None,
                error={"code": "x", "side": "source", "detail": "x"} if verb == "failed" else None,
            )
            for name, verb in zip(NAMES, verbs, strict=True)
        ]
    )
    return migration.id


def test_an_object_that_a_mirror_deleted_does_not_count(open_ledger: Opened) -> None:
    ledger = open_ledger()
    id = run(ledger, ["verified", "verified", "verified"])
    values = {
        "migration_id": id,
        "side": "destination",
        "version": "{}",
        "state": "deleted",
        "at": time.time() + 60,
    }

    def delete_some(connection: Connection) -> None:
        for name, more in (
            ("a", {}),
            ("é/b", {"undone": 1.0}),
            ("c", {"at": 1.0}),  # it was moved again since
        ):
            row = {"name": name, "hash": md5(name), **values, **more}
            connection.execute(insert(deletions).values(**row))

    ledger.database.run(delete_some)
    assert [row.name for row in ledger.reports.with_receipts(id)] == ["é/b", "c"]


def test_a_skipped_object_has_its_earlier_receipt(open_ledger: Opened) -> None:
    ledger = open_ledger()
    first = run(ledger, ["verified", "verified", "failed"])
    run(ledger, ["skipped", "verified", "failed"])
    other = replace(TREE, destination="c:elsewhere")
    run(ledger, ["verified", "verified", "verified"], other)  # another place
    another = replace(TREE, source="c:other")
    run(ledger, ["verified", "verified", "verified"], another)  # another source
    last = run(ledger, ["skipped", "skipped", "skipped"])
    run(ledger, ["verified", "verified", "verified"])  # a later one does not count
    rows = {row.name: row for row in ledger.reports.with_receipts(last)}
    assert {name: row.state for name, row in rows.items()} == {
        "a": "verified",
        "é/b": "verified",
        "c": "skipped",
    }
    number = ledger.migration(first).sequence
    assert [(rows[name].receipt or {})["of"] for name in ("a", "é/b")] == [number, number + 1]
    assert [row.state for row in ledger.reports.with_receipts(first)] == [
        "verified",
        "verified",
        "failed",
    ]
