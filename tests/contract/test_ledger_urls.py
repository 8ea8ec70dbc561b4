"""The URLs of a list in the ledger: fresh ones by name for pending objects, and the reason of the
last pause."""

from __future__ import annotations

from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from tests.ledgers import OBJECT, TREE, Opened, verified_end


def list_urls(ledger: Ledger, count: int) -> str:
    """Accept a list of `count` URLs, read to its end; return its migration's id."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    page = [ListedObject(f"{i:04}", size=5, url=f"https://a.example/{i}?old") for i in range(count)]
    assert ledger.listings.add_page(listing, page, None)
    ledger.listings.end(listing)
    return migration.id


def test_a_retry_lists_again_after_urls_were_forgotten(ledger: Ledger) -> None:
    """Also after another process has supplied credentials, and before it lists again."""
    secret = {"source": {"text": "a?t"}}
    spec = Spec("list+https://a/l", "https://b/", options={"recursive": True}, secret=secret)
    id = ledger.create(spec)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    page = [ListedObject("a", size=5, url="https://a/a?token=1", identity="a")]
    ledger.listings.add_page(listing, page, "a")
    ledger.listings.end(listing)
    ledger.act(id, "cancel")
    ledger.finish()
    ledger.renew_secret(id, spec.secret)
    assert ledger.act(id, "retry").listing == "due"
    assert ledger.claims.claim(9) == []
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, page, "a")
    ledger.listings.end(listing)
    assert [claim.url for claim in ledger.claims.claim(9)] == ["https://a/a?token=1"]
    assert ledger.migration(id).entries == 1


def test_unknown_names_are_reported_however_many(ledger: Ledger) -> None:
    id = list_urls(ledger, 1200)
    known = [f"{i:04}" for i in range(1200)]
    assert ledger.listings.unknown_names(id, [*known, "x", "0001 ", ""]) == {"x", "0001 ", ""}
    assert ledger.listings.unknown_names(id, []) == set()
    assert ledger.listings.unknown_names("another", ["0000"]) == {"0000"}


def test_fresh_urls_reach_the_next_claim_of_pending_objects(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    id = list_urls(one, 4)
    first, second = one.claims.claim(2)
    one.claims.settle([verified_end(first)])
    two.listings.renew_urls(
        id,
        {
            name: f"https://a.example/{name}?fresh"
            for name in ("0000", "0001", "0002", "unheard of")
        },
    )
    two.listings.renew_urls("another", {"0003": "https://a.example/3?another"})
    two.listings.renew_urls(id, {})
    assert one.database.run(
        lambda c: c.exec_driver_sql("SELECT name, url FROM transfers ORDER BY name").all()
    ) == [
        ("0000", None),
        ("0001", "https://a.example/0001?fresh"),
        ("0002", "https://a.example/0002?fresh"),
        ("0003", "https://a.example/3?old"),
    ]
    assert second.url == "https://a.example/1?old"
    assert [claim.url for claim in two.claims.claim(5)] == [
        "https://a.example/0002?fresh",
        "https://a.example/3?old",
    ]
    assert [row.state for row in one.page(id)] == ["verified", "running", "running", "running"]


def test_the_reason_of_the_last_automatic_pause_is_kept(ledger: Ledger) -> None:
    id = ledger.create(OBJECT)[0].id
    assert ledger.events.last_pause_error(id) is None
    ledger.act(id, "pause")
    ledger.act(id, "resume")
    assert ledger.events.last_pause_error(id) is None, "that was somebody's wish"
    for code in ("store-full", "store-unauthenticated"):
        ledger.pause_for(id, {"code": code, "side": "destination"})
        ledger.act(id, "resume")
        assert ledger.events.last_pause_error(id) == {"code": code, "side": "destination"}
    assert ledger.migration(id).error is None
