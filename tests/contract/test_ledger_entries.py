"""Every entry of a listing is moved, left unchanged, or reported, and the counts add up."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from relay.engine.cleanup import lost_upload_tokens
from relay.errors import IllegalTransition
from relay.ledger import endings
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.distrust import distrust_recent_commits
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import transfers, uploads
from relay.receipt import Version
from tests.ledgers import TREE, Opened, assert_counted, learn_empty, states, verified_end

NOW = time.time()
SPECS = {
    exists: Spec("a:x", "b:x", options={"recursive": True, "if_exists": exists}, secret={})
    for exists in ("changed", "fail")
}


def listed_object(name: str, size: int | None = 5, **more: Any) -> ListedObject:
    return ListedObject(name, size=size, **more)


def url(name: str, identity: str, **more: Any) -> ListedObject:
    return ListedObject(
        name, size=5, url=f"https://a.example/{identity}", identity=identity, **more
    )


def begin(
    ledger: Ledger, *pages: list[ListedObject], spec: Spec = TREE
) -> tuple[str, ListingClaim]:
    """Accept a tree and list some pages of it."""
    id = ledger.create(spec)[0].id
    return id, go_on(ledger, id, *pages)


def go_on(ledger: Ledger, id: str, *pages: list[ListedObject]) -> ListingClaim:
    listing = ledger.listings.claim(only=id)
    assert listing is not None
    for page in pages:
        ledger.listings.add_page(listing, page, page[-1].name if page else None)
    return listing


def list_again(ledger: Ledger, id: str, *pages: list[ListedObject]) -> None:
    """List it again to its end, as the same command does."""
    ledger.list_again(id)
    ledger.listings.end(go_on(ledger, id, *pages))


def settle_by_name(ledger: Ledger, id: str, **verbs: str) -> str:
    """Settle each claim by its name, the rest as verified; return the migration's state."""
    claims = ledger.claims.claim(100, only=id)
    ledger.claims.settle(
        [settlement_of(claim, verbs.get(claim.name, "verified")) for claim in claims]
    )
    ledger.finish()
    return ledger.migration(id).state


def settlement_of(claim: Claim, verb: str) -> Settlement:
    if verb == "verified":
        return verified_end(claim, claim.size or 5)
    return Settlement(claim, verb, error={"code": "not-found"} if verb == "failed" else None)


def rows(ledger: Ledger, id: str) -> dict[str, str]:
    return {row.name: row.state for row in ledger.page(id)}


def test_a_migration_that_is_listed_again_does_not_end(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process lists it again while its end waits for the row lock."""
    id, listing = begin(ledger, [listed_object("a")])
    ledger.listings.end(listing)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1, only=id)])
    monkeypatch.setattr(endings, "finishable_ids", lambda connection, now: [id])
    ledger.list_again(id, anyway=True)
    assert ledger.finish() == []
    assert ledger.migration(id).state == "running"


@pytest.mark.parametrize("digest", ["aa", "bb"])
def test_a_running_object_with_a_new_listed_digest_moves_again(ledger: Ledger, digest: str) -> None:
    id, listing = begin(ledger, [listed_object("a", digests={"crc32c": "aa"})])
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(1, only=id)
    ledger.list_again(id, anyway=True)
    ledger.listings.end(go_on(ledger, id, [listed_object("a", digests={"crc32c": digest})]))
    ledger.claims.settle([verified_end(claim)])
    assert rows(ledger, id) == {"a": "verified" if digest == "aa" else "queued"}
    assert [again.digests for again in ledger.claims.claim(1, only=id)] == (
        [] if digest == "aa" else [{"crc32c": "bb"}]
    )


@pytest.mark.parametrize("verb", ["verified", "skipped"])
def test_a_proved_object_that_moves_again_is_still_ours(ledger: Ledger, verb: str) -> None:
    """With `fail` and `skip` it would count as existing in its next claim."""
    id, listing = begin(ledger, [listed_object("a", digests={"crc32c": "aa"})])
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(1, only=id)
    ledger.destinations.note_prior_states([(claim, PriorState(known=True))])
    ledger.list_again(id, anyway=True)
    ledger.listings.end(go_on(ledger, id, [listed_object("a", digests={"crc32c": "bb"})]))
    stored = Version(5, '"x"', "Sun, 15 Jun 2025 15:06:40 GMT", id="v1")
    receipt = {"level": "read_back", "destination": stored.to_json()}
    proved = replace(verified_end(claim), receipt=receipt)
    ledger.claims.settle([proved if verb == "verified" else Settlement(claim, "skipped")])
    (again,) = ledger.claims.claim(1, only=id)
    was = again.before
    assert (was and was.sent) == (stored if verb == "verified" else None)


READ = Version(5, '"new"')
"""The version that a transfer read: its object changed after the first listing."""


def read_end(claim: Claim, source: Version = READ) -> Settlement:
    receipt = {"level": "read_back", "source": source.to_json(), "destination": Version().to_json()}
    return replace(verified_end(claim), receipt=receipt)


@pytest.mark.parametrize(
    ("read", "state"),
    [
        (READ, "verified"),
        (Version(5, '"old"'), "queued"),
        (Version(6, '"new"'), "queued"),
        (Version(5, 'W/"new"'), "queued"),
    ],
)
@pytest.mark.parametrize("is_listed_first", [True, False])
def test_a_version_that_was_read_is_not_moved_twice(
    ledger: Ledger, read: Version, state: str, is_listed_first: bool
) -> None:
    """It changed after its listing, and the same command lists it again: before the transfer ends,
    or afterwards. Its transfer has read the changed object already."""
    id, listing = begin(ledger, [listed_object("a", etag='"old"', modified=1.0)])
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(1, only=id)
    ledger.list_again(id, anyway=True)
    page = [listed_object("a", etag=read.etag if read.etag != '"old"' else '"new"', modified=2.0)]
    if is_listed_first:
        ledger.listings.end(go_on(ledger, id, page))
    ledger.claims.settle([read_end(claim, read)])
    if not is_listed_first:
        ledger.listings.end(go_on(ledger, id, page))
    assert rows(ledger, id) == {"a": state}
    assert_counted(ledger, id)
    if state == "verified":
        ledger.list_again(id, anyway=True)
        ledger.listings.end(go_on(ledger, id, page))
        assert rows(ledger, id) == {"a": state}


# -- two entries of one name


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("pages", [1, 2])
def test_a_second_url_of_a_name_fails(ledger: Ledger, arrived: bool, pages: int) -> None:
    one, two = url("n5", "one"), url("n5", "two")
    first = [url("n4", "four"), one] + ([two] if pages == 1 else [])
    id, listing = begin(ledger, first)
    if arrived:
        settle_by_name(ledger, id)
    if pages == 2:
        ledger.listings.add_page(listing, [url("n6", "six"), two], "n6")
    ledger.listings.end(listing)
    found = {row.name: row for row in ledger.page(id)}
    clashes = [row for name, row in found.items() if name.startswith("n5 ~")]
    assert len(clashes) == (2 if pages == 1 else 1)
    assert all(
        row.state == "failed" and "same name" in (row.error or {})["detail"] for row in clashes
    )
    assert ledger.migration(id).entries == len(found) == (3 if pages == 1 else 4)
    assert settle_by_name(ledger, id) == "partial"
    assert_counted(ledger, id)


def test_a_list_that_is_read_again_after_a_crash_is_the_same(ledger: Ledger) -> None:
    """Also if its signatures are fresh by now: identities have none."""
    page = [url("n4", "four"), url("n5", "five")]
    id, listing = begin(ledger, page, [url("n5", "other")])
    settle_by_name(ledger, id)
    before = rows(ledger, id)
    ledger.listings.hand_back(listing)
    fresh = [replace(one, url=f"{one.url}?fresh") for one in page]
    ledger.listings.end(go_on(ledger, id, fresh, [url("n5", "other")]))
    assert rows(ledger, id) == before
    assert ledger.migration(id).entries == 3


def test_an_unusable_entry_hides_no_object_of_its_name(ledger: Ledger) -> None:
    wrong = listed_object("line 7", error={"code": "invalid-url"}, identity="unusable line 7")
    id, _ = begin(
        ledger,
        [wrong, url("line 7", "seven")],
        [listed_object("b", error={"code": "x"}, identity="unusable b")],
    )
    assert len(rows(ledger, id)) == ledger.migration(id).entries == 3
    assert sorted(rows(ledger, id).values()) == ["failed"] * 3


def test_an_entry_that_is_listed_twice_is_one(ledger: Ledger) -> None:
    id, listing = begin(
        ledger,
        [listed_object("a"), listed_object("b"), listed_object("a")],
        [listed_object("b"), listed_object("c")],
    )
    ledger.listings.end(listing)
    assert rows(ledger, id) == {"a": "queued", "b": "queued", "c": "queued"}
    assert ledger.migration(id).entries == 3
    assert settle_by_name(ledger, id) == "succeeded"


# -- names and numbers of any kind


def test_a_name_of_any_length_is_kept(ledger: Ledger) -> None:
    """Longer than PostgreSQL's index accepts, and not compressible: two that differ in their last
    letter."""
    long = "/".join(
        "".join(chr(0x4E00 + (a * 97 + b * 31) % 20_000) for b in range(60)) for a in range(40)
    )
    id, listing = begin(ledger, [listed_object(long + "a"), listed_object(long + "b")])
    assert ledger.listings.add_page(listing, [listed_object(long + "a"), listed_object("c")], "c")
    ledger.listings.end(listing)
    assert set(rows(ledger, id)) == {long + "a", long + "b", "c"}
    assert ledger.listings.unknown_names(id, [long + "a", long + "c", "c"]) == {long + "c"}
    ledger.listings.renew_urls(id, {long + "a": "https://a.example/fresh"})
    assert settle_by_name(ledger, id) == "succeeded"


NUMBERS: dict[str, dict[str, Any]] = {
    "a size beyond 64 bits": {"size": 10**22},
    "a size of 64 bits": {"size": 2**63 - 1},
    "a negative size": {"size": -1},
    "a time that is none": {"modified": float("nan")},
    "a time beyond all": {"modified": float("inf")},
    "a tag with a NUL": {"etag": '"a\0b"'},
}


def test_a_value_no_database_takes_fails_that_entry_alone(ledger: Ledger) -> None:
    """A promise with such a value can never be kept; in any other entry the value is unknown."""
    odd = [replace(listed_object(what), **members) for what, members in NUMBERS.items()]
    promised = [
        replace(one, name=f"promised {one.name}", url=f"https://a/{one.name}", identity=one.name)
        for one in odd
    ]
    id, listing = begin(ledger, [listed_object("a"), *odd, *promised, listed_object("b")])
    ledger.listings.end(listing)
    wrong = {f"promised {what}" for what, members in NUMBERS.items() if "size" in members}
    found = rows(ledger, id)
    assert len(found) == 2 + 2 * len(NUMBERS) == ledger.migration(id).entries
    assert {name for name, state in found.items() if state == "failed"} == wrong


def test_the_sum_of_listed_sizes_may_exceed_64_bits(ledger: Ledger) -> None:
    """2,000 objects of the largest accepted size, as a hostile listing has them."""
    pages = [[listed_object(f"{page} {i}", 2**53) for i in range(1000)] for page in range(2)]
    id, listing = begin(ledger, *pages, [listed_object("more", 2**53)])
    ledger.listings.end(listing)
    assert ledger.migration(id).count_in("queued").objects == 2001
    ledger.act(id, "cancel")
    assert ledger.migration(id).count_in("cancelled").objects == 2001
    ledger.act(id, "retry")
    ledger.claims.settle(
        [Settlement(claim, "failed") for claim in ledger.claims.claim(1000, only=id)]
    )
    assert ledger.migration(id).count_in("failed").objects == 1000


# -- the same command again


def test_the_same_command_lists_again_and_moves_the_differences(
    ledger: Ledger,
) -> None:
    first = [listed_object(name, modified=1.0) for name in ("same", "failed", "changed", "cut")]
    id, listing = begin(ledger, first)
    ledger.listings.end(listing)
    assert settle_by_name(ledger, id, failed="failed", cut="unverified") == "partial"
    second = [
        first[0],
        first[1],
        listed_object("changed", 7, modified=2.0),
        first[3],
        listed_object("new", 3),
    ]
    list_again(ledger, id, second)
    found = {row.name: row for row in ledger.page(id)}
    assert {name: row.state for name, row in found.items()} == {
        "same": "verified",
        "failed": "queued",
        "changed": "queued",
        "cut": "queued",
        "new": "queued",
    }
    assert (found["changed"].attempts, found["changed"].level, found["changed"].receipt) == (
        0,
        None,
        None,
    )
    states(ledger, id)
    assert settle_by_name(ledger, id) == "succeeded"
    assert ledger.migration(id).entries == 5
    states(ledger, id)


def test_any_changed_member_of_an_entry_requeues_the_object(ledger: Ledger) -> None:
    members: list[dict[str, Any]] = [{"size": 6}, {"etag": '"b"'}, {"modified": 2.0}, {}]
    first = [listed_object(f"{i}", etag='"a"', modified=1.0) for i in range(len(members))]
    id, listing = begin(ledger, [*first, listed_object("bad")])
    ledger.listings.end(listing)
    settle_by_name(ledger, id, bad="failed")
    again = [replace(one, **member) for one, member in zip(first, members, strict=True)]
    list_again(ledger, id, [*again, listed_object("bad")])
    assert rows(ledger, id) == {
        "0": "queued",
        "1": "queued",
        "2": "queued",
        "3": "verified",
        "bad": "queued",
    }


@pytest.mark.parametrize(("exists", "state"), [("changed", "queued"), ("fail", "verified")])
def test_a_listing_without_versions_checks_the_destination(
    ledger: Ledger, exists: str, state: str
) -> None:
    """Not under `fail`, where any existing object is an error: it is ours."""
    id, listing = begin(ledger, [ListedObject("a"), ListedObject("bad")], spec=SPECS[exists])
    ledger.listings.end(listing)
    ledger.claims.settle(
        [
            Settlement(claim, "verified" if claim.name == "a" else "failed")
            for claim in ledger.claims.claim(9)
        ]
    )
    ledger.finish()
    list_again(ledger, id, [ListedObject("a"), ListedObject("bad")])
    assert rows(ledger, id) == {"a": state, "bad": "queued"}


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        ({}, {}, "queued"),
        ({"modified": 1.0}, {"modified": 1.0}, "verified"),
        (
            {"modified": NOW},
            {"modified": NOW},
            "queued",
        ),  # it may have changed in the same minute, after it had arrived
        ({"modified": NOW, "etag": '"a"'}, {"modified": NOW, "etag": '"a"'}, "verified"),
        ({"digests": {"md5": "aa"}}, {"digests": {"md5": "aa"}}, "verified"),
        ({"digests": {"md5": "aa"}}, {"digests": {"md5": "bb"}}, "queued"),
        ({"digests": {"md5": "aa"}}, {"digests": {"crc32c": "bb"}}, "queued"),
    ],
)
def test_the_same_size_is_not_the_same_object(
    ledger: Ledger, first: dict[str, Any], second: dict[str, Any], state: str
) -> None:
    id, listing = begin(
        ledger, [listed_object("a", **first), listed_object("bad")], spec=SPECS["changed"]
    )
    ledger.listings.end(listing)
    settle_by_name(ledger, id, bad="failed")
    list_again(ledger, id, [listed_object("a", **second), listed_object("bad")])
    assert rows(ledger, id) == {"a": state, "bad": "queued"}


@pytest.mark.parametrize("exists", SPECS)
@pytest.mark.parametrize("empty", [True, False])
def test_a_destination_that_was_emptied_gets_every_object(
    ledger: Ledger, exists: str, empty: bool
) -> None:
    """The user has emptied the destination since, to start from the beginning."""
    page = [
        listed_object("a", etag="1"),
        listed_object("b", etag="1"),
        listed_object("bad", etag="1"),
    ]
    id, listing = begin(ledger, page, spec=SPECS[exists])
    ledger.listings.end(listing)
    assert settle_by_name(ledger, id, b="skipped", bad="failed") == "partial"
    ledger.list_again(id)
    learn_empty(ledger, id, empty)
    ledger.listings.end(go_on(ledger, id, page))
    assert rows(ledger, id) == (
        {"a": "queued", "b": "queued"} if empty else {"a": "verified", "b": "skipped"}
    ) | {"bad": "queued"}
    states(ledger, id)
    assert settle_by_name(ledger, id) == "succeeded"


def test_an_object_removed_from_its_destination_restarts(ledger: Ledger) -> None:
    page = [
        listed_object("a"),
        listed_object("b"),
        listed_object("kept"),
        listed_object("bad"),
        listed_object("running"),
    ]
    id, listing = begin(ledger, page)
    ledger.listings.end(listing)
    ends = {"a": "verified", "b": "skipped", "kept": "verified", "bad": "failed"}
    ledger.claims.settle(
        [
            settlement_of(claim, ends[claim.name])
            for claim in ledger.claims.claim(9)
            if claim.name in ends
        ]
    )
    gone = [row.id for row in ledger.page(id) if row.name != "kept"]
    for _ in range(2):  # repeated, it has the same effect
        ledger.begin_again(id, gone)
        expected = {
            "a": "queued",
            "b": "queued",
            "kept": "verified",
            "bad": "failed",
            "running": "running",
        }
        assert rows(ledger, id) == expected
    assert ledger.listings.claim(only=id) is None
    states(ledger, id)


@pytest.mark.parametrize("state", ["running", "paused", "partial"])
def test_a_removed_object_of_a_list_is_listed_again(ledger: Ledger, state: str) -> None:
    """Its URL was forgotten when it arrived."""
    page = [
        url("a", "one", modified=1.0),
        url("kept", "two", modified=1.0),
        url("bad", "three", modified=1.0),
    ]
    id, listing = begin(ledger, page)
    ledger.listings.end(listing)
    ends = {"a": "verified", "kept": "verified"} | ({"bad": "failed"} if state == "partial" else {})
    ledger.claims.settle(
        [
            settlement_of(claim, ends[claim.name])
            for claim in ledger.claims.claim(9)
            if claim.name in ends
        ]
    )
    ledger.finish()
    if state == "paused":
        ledger.act(id, "pause")
    assert ledger.migration(id).state == state
    ledger.begin_again(id, [row.id for row in ledger.page(id) if row.name == "a"])
    assert rows(ledger, id)["a"] == "failed"
    assert (ledger.migration(id).state, ledger.migration(id).listing) == ("running", "due")
    ledger.listings.end(go_on(ledger, id, page))
    assert {name: rows(ledger, id)[name] for name in ("a", "kept")} == {
        "a": "queued",
        "kept": "verified",
    }
    assert {claim.name: claim.url for claim in ledger.claims.claim(9)}[
        "a"
    ] == "https://a.example/one"
    states(ledger, id)


def test_an_object_gone_from_the_source_is_forgotten(ledger: Ledger) -> None:
    """Arrived objects stay, and so does a row that has started an upload: it must still be
    aborted."""
    names = ["arrived", "gone", "begun", "lost", "bad"]
    id, listing = begin(ledger, [listed_object(name) for name in names])
    ledger.listings.end(listing)
    settle_by_name(ledger, id, gone="failed", begun="failed", lost="failed", bad="failed")
    ids = {row.name: row.id for row in ledger.page(id)}
    begun = dict(upload_id="u", checked=True, place="p", etag="e", size=5, part_bytes=5, begun=0.0)
    ledger.database.run(
        lambda c: c.execute(uploads.insert().values(transfer_id=ids["begun"], **begun))
    )
    lapsed = update(transfers).where(transfers.c.id == ids["lost"]).values(lapses=1)
    ledger.database.run(lambda c: c.execute(lapsed))
    list_again(ledger, id, [listed_object("bad")])
    assert rows(ledger, id) == {
        "arrived": "verified",
        "begun": "failed",
        "lost": "failed",
        "bad": "queued",
    }
    assert ledger.migration(id).entries == 4
    states(ledger, id)


@pytest.mark.parametrize("folder", ["sub/", "sub"])
def test_an_object_below_an_unlisted_folder_is_not_forgotten(ledger: Ledger, folder: str) -> None:
    """A mount that is away does not show that it is a folder."""
    id, listing = begin(ledger, [listed_object("a"), listed_object("sub/c/b")])
    ledger.listings.end(listing)
    settle_by_name(ledger, id, **{"a": "failed", "sub/c/b": "failed"})
    denied = {"code": "permission-denied", "side": "source", "detail": "403"}
    list_again(ledger, id, [replace(listed_object(folder), error=denied)])
    assert set(rows(ledger, id)) == {"a", folder, "sub/c/b"}
    ledger.finish()
    list_again(ledger, id, [listed_object("a")])
    assert set(rows(ledger, id)) == {"a"}


def test_a_failed_row_with_an_upload_is_not_forgotten(ledger: Ledger) -> None:
    """An object of a list that had arrived and is gone has no end, as an entry that was refused."""
    id, listing = begin(ledger, [listed_object("a"), listed_object("refused", error={"code": "x"})])
    ledger.listings.end(listing)
    settle_by_name(ledger, id)
    (row,) = (row for row in ledger.page(id) if row.name == "a")
    ended = update(transfers).where(transfers.c.id == row.id)
    failed = ended.values(state="failed", ended=None, attempts=0)
    ledger.database.run(lambda c: c.execute(failed))
    begun = dict(upload_id="u", checked=True, place="p", etag="e", size=5, part_bytes=5, begun=0.0)
    ledger.database.run(lambda c: c.execute(uploads.insert().values(transfer_id=row.id, **begun)))
    ledger.finish()
    ledger.act(id, "retry")
    assert [row.name for row in ledger.page(id)] == ["a"]


def test_a_refused_entry_keeps_its_note_over_a_retry(ledger: Ledger) -> None:
    """A link leads nowhere while its log is rotated; an unproved object is at the destination."""
    refusal = {"code": "not-found", "side": "source", "detail": "a link"}
    id, listing = begin(ledger, [listed_object("log"), listed_object("x", error=refusal)])
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(9)
    ledger.claims.settle([Settlement(claim, "unverified", bytes=5, sent=Version(5))])
    ledger.finish()
    list_again(ledger, id, [listed_object("log"), listed_object("y")])
    assert rows(ledger, id)["log"] == "queued"
    ledger.list_again(id, anyway=True)
    page = [listed_object(name, error=refusal) for name in ("log", "x")]
    ledger.listings.end(go_on(ledger, id, page))
    settle_by_name(ledger, id)
    ledger.act(id, "retry")
    assert rows(ledger, id) == {"log": "failed", "y": "verified"}
    ledger.listings.end(go_on(ledger, id, [listed_object("log"), listed_object("y")]))
    assert states(ledger, id) == ["queued", "verified"]
    assert ledger.migration(id).entries == 2
    (claim,) = ledger.claims.claim(9)
    assert claim.before is not None and claim.before.sent == Version(5)


@pytest.mark.parametrize("is_unproved", [True, False])
def test_a_cancelled_object_a_lost_worker_may_have_sent_is_kept(
    open_ledger: Opened, is_unproved: bool
) -> None:
    """The sweep of the cancelled migration found nothing to remove, and left a note."""
    ledger, other = open_ledger(), open_ledger()
    id, listing = begin(ledger, [listed_object("kept"), listed_object("lost")])
    ledger.listings.end(listing)
    kept, _ = ledger.claims.claim(2)
    ledger.claims.settle([verified_end(kept)])
    ledger.leases.renew(-1)
    other.leases.reclaim()
    ledger.act(id, "cancel")
    (orphan,) = other.destinations.orphans(id)
    other.destinations.note_removed(orphan, {}, is_unproved=is_unproved)
    list_again(ledger, id, [listed_object("kept")])
    left = {"lost": "cancelled"} if is_unproved else {}
    assert rows(ledger, id) == {"kept": "verified"} | left


@pytest.mark.parametrize("lost", ["a page", "commits"])
def test_a_doubt_alone_keeps_no_cancelled_object(ledger: Ledger, lost: str) -> None:
    """PostgreSQL restarted during the listing, or a backup was restored. No worker has claimed
    these objects, and they are gone from the source: each repetition would end `partial`."""
    id = ledger.create(TREE)[0].id
    listing = ledger.listings.claim(only=id)
    if lost == "a page":
        ledger.listings.release_unknown(doubted=True)
        listing = ledger.listings.claim(only=id)
    assert listing is not None
    ledger.listings.add_page(listing, [listed_object("kept"), listed_object("rotated")], None)
    ledger.listings.end(listing)
    if lost == "commits":
        ledger.database.run(distrust_recent_commits)
    ledger.act(id, "cancel")
    list_again(ledger, id, [listed_object("kept")])
    assert rows(ledger, id) == {"kept": "queued"}


@pytest.mark.parametrize("is_unproved", [True, False])
def test_a_doubted_object_a_lost_worker_may_have_sent_is_kept(
    open_ledger: Opened, is_unproved: bool
) -> None:
    ledger, other = open_ledger(), open_ledger()
    id, listing = begin(ledger, [listed_object("kept"), listed_object("lost")])
    ledger.listings.end(listing)
    ledger.database.run(distrust_recent_commits)
    ledger.claims.claim(2)
    ledger.leases.renew(-1)
    other.leases.reclaim()
    ledger.act(id, "cancel")
    for orphan in other.destinations.orphans(id):
        other.destinations.note_removed(orphan, {}, is_unproved=is_unproved)
    list_again(ledger, id, [listed_object("kept")])
    left = {"lost": "cancelled"} if is_unproved else {}
    assert rows(ledger, id) == {"kept": "queued"} | left


def test_a_lost_worker_before_an_arrival_is_forgotten(ledger: Ledger) -> None:
    id, listing = begin(ledger, [listed_object("a"), listed_object("b")])
    ledger.listings.end(listing)
    lapsed = update(transfers).where(transfers.c.migration_id == id).values(lapses=1)
    ledger.database.run(lambda c: c.execute(lapsed))
    settle_by_name(ledger, id, b="failed")
    ledger.finish()
    denied = {"code": "permission-denied", "side": "source", "detail": "403"}
    list_again(ledger, id, [ListedObject("a", error=denied), ListedObject("b", error=denied)])
    assert rows(ledger, id) == {"a": "failed", "b": "queued"}
    query = select(transfers.c.name).where(transfers.c.lapses > 0)
    assert list(ledger.database.run(lambda c: c.execute(query).scalars().all())) == ["b"]


def test_an_unproved_object_gone_from_the_source_is_kept(ledger: Ledger) -> None:
    """Otherwise a later migration would mistake its partial upload for an existing object."""
    id, listing = begin(ledger, [listed_object("kept"), listed_object("unproved")])
    ledger.listings.end(listing)
    claims = {claim.name: claim for claim in ledger.claims.claim(2)}
    remains = {"there/unproved": "What was sent may remain."}
    unverified = Settlement(
        claims["unproved"], "unverified", bytes=5, remains=remains, sent=Version(5)
    )
    ledger.claims.settle([verified_end(claims["kept"]), unverified])
    ledger.finish()
    list_again(ledger, id, [listed_object("kept"), listed_object("unproved")])
    ledger.act(id, "cancel")
    assert rows(ledger, id) == {"kept": "verified", "unproved": "cancelled"}
    list_again(ledger, id, [listed_object("kept")])
    assert rows(ledger, id) == {"kept": "verified", "unproved": "cancelled"}
    skips = replace(TREE, options={**TREE.options, "if_exists": "skip"})
    begin(ledger, [listed_object("unproved")], spec=skips)
    (claim,) = ledger.claims.claim(9)
    assert claim.before is not None
    assert claim.before.sent == Version(5)


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_cancelled_sent_object_gone_from_the_source_is_kept(
    ledger: Ledger, is_sent: bool
) -> None:
    """Its command was interrupted before the proof."""
    id, listing = begin(ledger, [listed_object("kept"), listed_object("sent")])
    ledger.listings.end(listing)
    kept, sent = ledger.claims.claim(2)
    prior = PriorState(known=True, sent=Version(5, '"e"') if is_sent else None)
    ledger.destinations.note_prior_states([(sent, prior)])
    ledger.claims.settle([verified_end(kept), Settlement(sent, "hand_back")])
    ledger.act(id, "cancel")
    list_again(ledger, id, [listed_object("kept")])
    assert rows(ledger, id) == {"kept": "verified"} | ({"sent": "cancelled"} if is_sent else {})
    states(ledger, id)


@pytest.mark.parametrize("first", ["the listing", "the transfer"])
def test_an_object_gone_after_a_kill_fails_once(ledger: Ledger, first: str) -> None:
    """Its transfer fails before or after the end of the listing that no longer names it."""
    id, listing = begin(ledger, [listed_object("kept"), listed_object("gone")])
    ledger.listings.end(listing)
    ledger.list_again(id, anyway=True)
    listing = go_on(ledger, id, [listed_object("kept")])
    if first == "the listing":
        ledger.listings.end(listing)
    for claim in ledger.claims.claim(9):
        ledger.claims.settle(
            [
                Settlement(
                    claim, "failed", error={"code": "not-found", "side": "source", "detail": "gone"}
                )
            ]
        )
    if first == "the transfer":
        ledger.listings.end(listing)
    ledger.finish()
    assert (ledger.migration(id).state, rows(ledger, id)) == (
        "failed",
        {"kept": "failed", "gone": "failed"},
    )
    list_again(ledger, id, [listed_object("kept")])
    assert rows(ledger, id) == {"kept": "queued"}
    states(ledger, id)
    assert settle_by_name(ledger, id) == "succeeded"


def test_a_row_with_leftovers_fails_alone_and_names_them(ledger: Ledger) -> None:
    """And not by a listing's entry, which knows nothing of that."""
    id, listing = begin(
        ledger, [listed_object("lost"), listed_object("begun"), listed_object("arrived")]
    )
    ledger.listings.end(listing)
    settle_by_name(ledger, id, lost="failed", begun="failed")
    lapsed = update(transfers).where(transfers.c.name == "lost").values(lapses=1)
    ledger.database.run(lambda c: c.execute(lapsed))
    error = {"code": "store-rejected", "side": "source", "detail": "a loop of links"}
    list_again(
        ledger,
        id,
        [listed_object(name, None, error=error) for name in ("lost", "begun", "arrived")],
    )
    assert rows(ledger, id) == {"lost": "queued", "begun": "failed", "arrived": "failed"}
    states(ledger, id)


@pytest.mark.parametrize("exists", SPECS)
@pytest.mark.parametrize("verb", ["verified", "skipped"])
@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ({}, "failed"),
        ({"size": 7, "modified": 2.0}, "failed"),
        ({"size": 5, "modified": 1.0}, None),
        ({"size": 5, "etag": '"a"'}, None),
    ],
    ids=["unknown", "changed", "the same time", "the same tag"],
)
def test_an_arrived_object_that_cannot_be_judged_fails(
    ledger: Ledger, exists: str, verb: str, seen: dict[str, Any], state: str | None
) -> None:
    """Its older version is at the destination: a link leads to a disk that is not mounted, or a
    filter's request is refused. The next listing that names it well moves it."""
    page = [listed_object(name, etag='"a"', modified=1.0) for name in ("a", "bad")]
    id, listing = begin(ledger, page, spec=SPECS[exists])
    ledger.listings.end(listing)
    settle_by_name(ledger, id, a=verb, bad="failed")
    error = {"code": "permission-denied", "side": "source", "detail": "403"}
    list_again(ledger, id, [ListedObject("a", error=error, **seen), page[1]])
    assert rows(ledger, id) == {"a": state or verb, "bad": "queued"}
    states(ledger, id)
    assert settle_by_name(ledger, id) == ("partial" if state else "succeeded")
    if state is None:
        return
    (failed,) = ledger.page(id, ["failed"])
    assert (failed.error, failed.level, failed.receipt) == (error, None, None)
    list_again(ledger, id, [listed_object("a", 7, etag='"b"'), page[1]])
    (claim,) = ledger.claims.claim(9, only=id)
    ours = PriorState(known=False, doubted=True)
    is_ours = exists == "fail" and verb == "verified"
    assert claim.before == (ours if is_ours else None)
    ledger.claims.settle([verified_end(claim)])
    ledger.finish()
    assert (states(ledger, id), ledger.migration(id).state) == (["verified"] * 2, "succeeded")


def test_an_emptied_destination_keeps_no_object_with_an_error(ledger: Ledger) -> None:
    page = [listed_object(name, etag='"a"') for name in ("a", "bad")]
    id, listing = begin(ledger, page)
    ledger.listings.end(listing)
    settle_by_name(ledger, id, bad="failed")
    ledger.list_again(id)
    learn_empty(ledger, id)
    ledger.listings.end(go_on(ledger, id, [replace(page[0], error={"code": "x"}), page[1]]))
    assert rows(ledger, id) == {"a": "failed", "bad": "queued"}
    states(ledger, id)


def test_the_id_of_a_forgotten_row_is_not_reused(ledger: Ledger) -> None:
    """Temporary names contain it. SQLite by itself assigns the highest one again."""
    id, listing = begin(
        ledger, [listed_object("kept"), listed_object("gone"), listed_object("gone too")]
    )
    ledger.listings.end(listing)
    settle_by_name(ledger, id, **{"gone": "failed", "gone too": "failed"})
    used = {row.id for row in ledger.page(id)}
    for name in ("new", "newer"):
        list_again(
            ledger,
            id,
            [
                listed_object("kept", modified=1.0),
                listed_object(name),
                listed_object(f"{name}, too"),
            ],
        )
        found = {row.id for row in ledger.page(id) if row.name.startswith(name)}
        assert len(found) == 2 and not found & used
        used |= found
        settle_by_name(ledger, id, **{name: "failed", f"{name}, too": "failed"})
        states(ledger, id)
    other = ledger.create(replace(TREE, source="a:other"))[0].id
    ledger.listings.end(go_on(ledger, other, [listed_object(f"{number}") for number in range(5)]))
    assert not used & {row.id for row in ledger.page(other)}


@pytest.mark.parametrize("verb", ["failed", "hand_back"])
def test_leftovers_of_many_claims_are_looked_for(ledger: Ledger, verb: str) -> None:
    id, listing = begin(ledger, [listed_object("a")])
    ledger.listings.end(listing)
    looked = []
    for number in range(40):
        (claim,) = ledger.claims.claim(1, only=id)
        looked.append(len(lost_upload_tokens(claim, claim.fence)))
        end = verb if number > 30 else "hand_back"
        ledger.claims.settle(
            [
                Settlement(
                    claim, end, rid=number > 30, error={"code": "x"} if end == "failed" else None
                )
            ]
        )
        if end == "failed":
            ledger.finish()
            ledger.act(id, "retry")
    assert looked == [*range(32), *[1] * 8]
    (claim,) = ledger.claims.claim(1, only=id)
    assert claim.before is None


def test_an_empty_listing_forgets_no_row(ledger: Ledger) -> None:
    """Like a source that is not mounted: a failed object must still be moved, and reported."""
    id, listing = begin(ledger, [listed_object("arrived"), listed_object("bad")])
    ledger.listings.end(listing)
    settle_by_name(ledger, id, bad="failed")
    for page in ((), ([],)):
        list_again(ledger, id, *page)
        assert rows(ledger, id) == {"arrived": "verified", "bad": "failed"}
        ledger.finish()
        assert ledger.migration(id).state == "partial"
        states(ledger, id)
    list_again(ledger, id, [listed_object("arrived", modified=1.0)])
    assert rows(ledger, id) == {"arrived": "verified"}


def test_a_later_list_may_have_another_url_for_a_name(ledger: Ledger) -> None:
    id, listing = begin(ledger, [url("a", "one"), url("b", "two"), url("c", "three")])
    ledger.listings.end(listing)
    assert settle_by_name(ledger, id, b="failed") == "partial"
    list_again(ledger, id, [url("a", "one"), url("b", "fresh"), url("c", "other")])
    assert rows(ledger, id) == {"a": "verified", "b": "queued", "c": "queued"}
    assert {claim.name: claim.url for claim in ledger.claims.claim(9)} == {
        "b": "https://a.example/fresh",
        "c": "https://a.example/other",
    }


def test_the_end_of_an_old_url_does_not_settle_the_new_one(ledger: Ledger) -> None:
    """A list was edited while the object of an earlier URL was still being moved."""
    id, listing = begin(ledger, [url("a", "one"), url("b", "two")])
    ledger.listings.end(listing)
    running = ledger.claims.claim(9)
    ledger.act(id, "cancel")
    page = [url("a", "one"), url("b", "fresh")]
    list_again(ledger, id, page)
    ledger.claims.settle([verified_end(claim) for claim in running])
    ledger.finish()
    assert ledger.migration(id).state == "partial"
    assert sorted(states(ledger, id)) == ["failed", "verified", "verified"]
    list_again(ledger, id, page)
    assert rows(ledger, id) == {"a": "verified", "b": "queued"}
    assert settle_by_name(ledger, id) == "succeeded"


@pytest.mark.parametrize("verb", ["verified", "skipped"])
@pytest.mark.parametrize(
    ("member", "state"),
    [({"size": 7}, "queued"), ({"etag": "2"}, "queued"), ({"modified": 2.0}, "queued"), ({}, None)],
)
def test_an_older_version_settles_no_version_listed_meanwhile(
    ledger: Ledger, verb: str, member: dict[str, Any], state: str | None
) -> None:
    """The object was past its commit point when its migration was cancelled. Then it changed at the
    source, and the same command was given again."""
    first = listed_object("a", etag="1", modified=1.0)
    id, listing = begin(ledger, [first])
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(9)
    ledger.act(id, "cancel")
    list_again(ledger, id, [replace(first, **member)])
    assert rows(ledger, id) == {"a": "running"}
    states(ledger, id)
    assert not ledger.claims.settle([settlement_of(claim, verb)])
    assert rows(ledger, id) == {"a": state or verb}
    states(ledger, id)
    if state is not None:
        assert settle_by_name(ledger, id) == "succeeded"
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"
    states(ledger, id)


def test_a_cancelled_tree_is_listed_again(ledger: Ledger) -> None:
    id, listing = begin(ledger, [listed_object("a"), listed_object("b")])
    ledger.claims.settle([verified_end(ledger.claims.claim(1)[0])])
    ledger.act(id, "cancel")
    list_again(ledger, id, [listed_object("a"), listed_object("b"), listed_object("c")])
    assert rows(ledger, id) == {"a": "verified", "b": "queued", "c": "queued"}
    assert settle_by_name(ledger, id) == "succeeded"


# -- the counts add up


def test_an_unaccounted_listed_object_is_reported(ledger: Ledger) -> None:
    """As if any part of relay had lost an entry."""
    id, listing = begin(ledger, [listed_object("a"), listed_object("b")])
    ledger.listings.end(listing)
    (claim, lost) = ledger.claims.claim(2)
    ledger.claims.settle([verified_end(claim)])
    ledger.database.run(lambda c: c.execute(delete(transfers).where(transfers.c.id == lost.id)))
    ledger.database.run(lambda c: c.exec_driver_sql("DELETE FROM tallies WHERE state = 'running'"))
    ledger.finish()
    found = ledger.migration(id)
    assert (found.state, (found.error or {})["code"]) == ("partial", "listing-unaccounted")
    assert "2 objects, and 1 are accounted for" in (found.error or {})["detail"]


def test_a_succeeded_migration_does_not_restart(ledger: Ledger) -> None:
    """No worker would run it: an object that is found missing needs another migration."""
    id, listing = begin(ledger, [listed_object("a")])
    ledger.listings.end(listing)
    assert settle_by_name(ledger, id) == "succeeded"
    (row,) = ledger.page(id)
    with pytest.raises(IllegalTransition):
        ledger.begin_again(id, [row.id])
    with pytest.raises(IllegalTransition):
        ledger.renew_secret(id, {"source": "fresh"})
    assert rows(ledger, id) == {"a": "verified"}
    assert ledger.secret(id) is None
    assert_counted(ledger, id)


@pytest.mark.parametrize("verb", ["failed", "hand_back"])
@pytest.mark.parametrize("cancels", ["before", "after"])
def test_a_row_is_kept_until_its_leftovers_are_checked(
    ledger: Ledger, verb: str, cancels: str
) -> None:
    """After any end of its claim: the source may have lost it, and the migration may be cancelled
    meanwhile."""
    id, listing = begin(ledger, [listed_object("a"), listed_object("b")])
    ledger.listings.end(listing)
    a, b = ledger.claims.claim(2)
    if cancels == "before":
        ledger.act(id, "cancel")
    error = {"code": "unavailable"} if verb == "failed" else None
    ledger.claims.settle(
        [
            verified_end(a),
            Settlement(b, verb, error=error, remains={"https://b/x": "it may remain"}),
        ]
    )
    ledger.act(id, "cancel")
    (orphan,) = ledger.destinations.orphans()
    assert (orphan.claim.id, orphan.claim.fence) == (b.id, b.fence)
    list_again(ledger, id, [listed_object("a")])
    assert rows(ledger, id).keys() == {"a", "b"}
    ledger.finish()
    assert ledger.migration(id).state == "partial"
    ledger.destinations.note_removed(orphan)
    list_again(ledger, id, [listed_object("a")])
    assert rows(ledger, id) == {"a": "verified"}
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"
    assert_counted(ledger, id)


@pytest.mark.parametrize("verb", ["verified", "unverified", "skipped"])
def test_the_next_claim_knows_a_leftover_elsewhere(ledger: Ledger, verb: str) -> None:
    """Its receipt named it, and the next object replaces that one; a prior object is another
    matter."""
    id, listing = begin(ledger, [listed_object("a", etag="1"), listed_object("b")])
    ledger.listings.end(listing)

    def claim_first() -> Claim:
        claims = {claim.name: claim for claim in ledger.claims.claim(2)}
        ledger.claims.settle(
            [settlement_of(claims["b"], "failed")]
        )  # a succeeded migration is a new one next time
        return claims["a"]

    left, claim = {"https://b/a, upload 7": "An unfinished upload may remain"}, claim_first()
    ledger.destinations.note_prior_states([(claim, PriorState(known=True))])
    ledger.claims.settle([replace(verified_end(claim), verb=verb, remains=left)])
    ledger.finish()
    if verb == "unverified":
        ledger.act(id, "retry")
    else:
        list_again(ledger, id, [listed_object("a", 6, etag="2"), listed_object("b")])
    again = claim_first()
    assert again.remains == left
    assert (again.before is None) is (verb != "unverified")
    ledger.claims.settle([verified_end(again)])
    ledger.finish()
    list_again(ledger, id, [listed_object("a", 7, etag="3"), listed_object("b")])
    last = claim_first()
    assert (last.remains, last.before) == ({}, None)


def test_a_retry_lists_a_page_that_came_after_a_cancel(ledger: Ledger) -> None:
    """A cancelled migration has no waiting rows: a row that it forgets at its end would be missing
    later."""
    id, listing = begin(ledger, [url("a", "one")])
    ledger.act(id, "cancel")
    assert not ledger.listings.add_page(listing, [url("b", "two")], "b")
    ledger.listings.hand_back(listing)
    assert states(ledger, id) == ["cancelled"]
    ledger.act(id, "retry")
    again = ledger.listings.claim(only=id)
    assert again is not None and again.cursor != "b"
    assert ledger.listings.add_page(again, [url("b", "two")], "b")
    ledger.listings.end(again)
    assert settle_by_name(ledger, id) == "succeeded"
