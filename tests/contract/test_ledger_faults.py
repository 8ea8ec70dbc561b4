"""The promises of the ledger during failures: clocks, processes, disks and connections, on both
databases."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, delete, make_url, select, text, update

from relay.errors import ConfigError, LeaseLost, LedgerBusy, LedgerFailed
from relay.ledger import database, opening, poll
from relay.ledger.claim_values import Claim, PollResult, Settlement
from relay.ledger.claims import SUSPECT, ClaimRequest
from relay.ledger.database import STEADY_SECONDS, Database
from relay.ledger.distrust import FORGOTTEN
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.releases import MOST_CRASHES
from relay.ledger.schema import keys, migrations, runners, tallies, transfers
from relay.ledger.upload_values import UploadRecord
from relay.ledger.workers import LEASE_SECONDS
from relay.receipt import Version
from tests.ledgers import (
    OBJECT,
    TREE,
    Opened,
    hand_back_suspect,
    learn_empty,
    lossy_ledger,
    states,
    tree,
    verified_end,
)
from tests.postgres import Pooler, Postgres, programs
from tests.values import UPLOAD

T = TypeVar("T")

PINNED_UPLOAD = replace(UPLOAD, pinned=Version(30, '"e"', id="v1"))


def run_at_once(count: int, do: Callable[[int], T]) -> list[T]:
    """Call `do` in `count` threads, all of which start when the last is ready. Raises the exception
    of one of them."""
    barrier, found, failed = threading.Barrier(count), [], []

    def one(index: int) -> None:
        try:
            barrier.wait(30)
            found.append(do(index))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


# -- processes


def test_f68_ten_thousand_lost_rows_are_reclaimed_in_batches(
    open_ledger: Opened,
) -> None:
    watcher = open_ledger()
    ids = [tree(watcher, *[5] * 5000) for _ in range(2)]
    for _ in range(4):
        doomed = open_ledger()
        assert len(doomed.claims.claim(2500)) == 2500
        doomed.leases.renew(-1)
    assert watcher.migration(ids[1]).count_in("running").objects == 5000
    assert watcher.leases.reclaim() == 10_000
    for id in ids:
        assert watcher.migration(id).count_in("queued").objects == 5000
        assert watcher.migration(id).count_in("running").objects == 0
    claims = watcher.claims.claim(16)
    assert (len(claims), {claim.crash_count for claim in claims}) == (16, {1})
    assert [claim.id for claim in claims] == sorted(claim.id for claim in claims)
    assert watcher.leases.reclaim() == 0


@pytest.mark.parametrize("hours", [-1, 1])
def test_f69_a_changed_clock_neither_ends_nor_extends_a_lease(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5, 6)
    (mine,) = one.claims.claim(1)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600 * hours)
    assert two.leases.reclaim() == 0
    assert one.leases.renew()
    assert one.claims.settle([verified_end(mine)]) == []
    assert len(two.claims.claim(1)) == 1
    two.leases.renew(-1)
    assert one.leases.reclaim() == 1
    assert states(one, id) == ["verified", "queued"]


@pytest.mark.parametrize("step", [60.0, -3 * 3600.0])
def test_f69_a_step_of_the_servers_clock_loses_no_worker(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Until each worker that runs has renewed its lease. One that has not is lost then."""
    one, two = open_ledger(), open_ledger()
    if one.database.sqlite:
        pytest.skip("its clock is that of the machine's start")
    tree(one, 5, 6)
    (mine,) = one.claims.claim(1)
    read, boot = Database._server_clock, time.clock_gettime
    monkeypatch.setattr(Database, "_server_clock", lambda self, c: read(self, c) + step)
    assert two.leases.renew()
    assert two.leases.reclaim() == 0
    one.claims.check(mine)
    waited = STEADY_SECONDS + 1
    monkeypatch.setattr(time, "clock_gettime", lambda which: boot(which) + waited)
    monkeypatch.setattr(Database, "_server_clock", lambda self, c: read(self, c) + step + waited)
    assert two.leases.reclaim() == 1


def test_f70_an_object_claimed_concurrently_goes_to_one_worker(address: str) -> None:
    first = Ledger.connect(address)
    try:
        first.leases.renew()
        id = tree(first, 5)

        def claim_some(_: int) -> tuple[Claim, ...]:
            ledger = Ledger.connect(address)
            try:
                ledger.leases.renew()
                return tuple(ledger.claims.claim(5))
            finally:
                ledger.close()

        found = [claim for claims in run_at_once(8, claim_some) for claim in claims]
        assert [(claim.fence, claim.attempts) for claim in found] == [(1, 1)]
        assert states(first, id) == ["running"]
    finally:
        first.close()


def test_f62_a_replaced_worker_cannot_publish(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, 5)
    (mine,) = one.claims.claim(1)
    one.claims.check(mine)
    one.leases.renew(-1)
    two.leases.reclaim()
    (yours,) = two.claims.claim(1)
    with pytest.raises(LeaseLost):
        one.claims.check(mine)
    two.claims.check(yours)


def test_f81_an_object_that_kills_workers_fails_alone(open_ledger: Opened) -> None:
    """Object 000 kills every worker that claims it: at first with all claims beside it, then only
    itself."""
    watcher, lives = open_ledger(), []
    id = tree(watcher, 5, 6, 7, 8)
    while claims := (runner := open_ledger()).claims.claim(4):
        names = [claim.name for claim in claims]
        if "000" in names:
            lives.append(names)
            assert runner.claims.claim(4, alone=False) == []
            runner.leases.renew(-1)
            watcher.leases.reclaim()
        else:
            assert len(claims) == 1
            runner.claims.settle([verified_end(claim) for claim in claims])
    assert lives == [["000", "001", "002", "003"]] * SUSPECT + [["000"]] * (MOST_CRASHES - SUSPECT)
    assert states(watcher, id) == ["failed", "verified", "verified", "verified"]
    (row,) = watcher.page(id, ["failed"])
    assert row.error is not None
    assert (row.name, row.error["code"]) == ("000", "quarantined")


def test_f81_a_suspect_is_not_claimed_beside_parts_of_others(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, 5, 30)
    suspect, shared = one.claims.claim(2)
    one.uploads.record(shared, PINNED_UPLOAD)
    share = two.uploads.join()
    assert share is not None
    hand_back_suspect(one, suspect)
    assert two.claims.claim(2) == []
    assert one.claims.claim(2, alone=False) == []
    two.uploads.release_parts(share.claim)
    assert [claim.id for claim in two.claims.claim(2)] == [suspect.id]


def test_f81_a_suspect_does_not_delay_other_workers(open_ledger: Opened) -> None:
    """Nor does each poll look for it with a lock while another transfer runs."""
    one, two = open_ledger(), open_ledger()
    tree(one, 5)
    (suspect,) = one.claims.claim(1)
    hand_back_suspect(one, suspect)

    def peek_at_rows(alone: bool) -> PollResult | None:
        return two.database.run(
            lambda c: poll.peek(
                c, two.worker, ClaimRequest(all=5, large=5, only_large=5, alone=alone)
            ),
            write=False,
        )

    assert peek_at_rows(alone=False) == PollResult((), (), {})
    assert peek_at_rows(alone=True) is None


def test_parts_of_a_failed_object_are_free_on_retry(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30)
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, PINNED_UPLOAD)
    assert one.uploads.take_part(claim, "upload-1", None) == 1
    one.claims.settle([Settlement(claim, "failed", error={"code": "x"})])
    one.finish()
    one.act(id, "retry")
    (again,) = two.claims.claim(1)
    assert two.uploads.outstanding_parts(again) == {1: False}
    assert [two.uploads.take_part(again, "upload-1", None) for _ in range(4)] == [2, 3, 1, None]


def test_f81_claims_of_an_unregistered_worker_are_freed(open_ledger: Opened) -> None:
    """A worker that slept through its lease, claimed again before it noticed, and ended."""
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    one.leases.renew(-1)
    two.leases.reclaim()
    assert len(one.claims.claim(1)) == 1
    assert two.leases.reclaim() == 1
    assert states(two, id) == ["queued"]


# -- keys


def test_f92_twenty_requests_with_one_key_are_one_migration(address: str) -> None:
    Ledger.connect(address).close()

    def accept_object(index: int) -> tuple[str, bool]:
        ledger = Ledger.connect(address)
        try:
            migration, new = ledger.create(OBJECT, "photos-2026")
            return migration.id, new
        finally:
            ledger.close()

    found = run_at_once(20, accept_object)
    assert len({id for id, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1


def test_f92_concurrent_migrations_have_distinct_numbers(address: str) -> None:
    Ledger.connect(address).close()

    def accept_object(index: int) -> int:
        ledger = Ledger.connect(address)
        try:
            return ledger.create(Spec(f"https://a/{index}", "https://b/x", options={}, secret={}))[
                0
            ].number
        finally:
            ledger.close()

    assert sorted(run_at_once(12, accept_object)) == list(range(1, 13))


# -- an upload that was not recorded


def test_f59_an_upload_is_recorded_before_it_is_created(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, 30)
    (mine,) = one.claims.claim(1)
    before = time.time()
    one.uploads.record(
        mine,
        UploadRecord(
            upload_id="", checked=False, place="s3://b/x", etag='"e"', size=30, part_bytes=10
        ),
    )
    one.leases.renew(-1)
    two.leases.reclaim()
    (yours,) = two.claims.claim(1)
    found = two.uploads.find(yours)
    assert found is not None
    assert (found.upload_id, found.parts) == ("", ())
    assert before <= found.at <= time.time()


def test_only_the_holder_of_a_listing_learns_of_emptiness(
    open_ledger: Opened,
) -> None:
    """An inspection that took longer than its lease says nothing about later uploads of others."""
    one, two = open_ledger(), open_ledger()
    id = one.create(TREE)[0].id
    late = one.listings.claim()
    assert late is not None
    one.leases.renew(-1)
    two.leases.reclaim()
    listing = two.listings.claim()
    assert listing is not None
    with pytest.raises(LeaseLost):
        one.listings.learn_empty(late, True)
    assert not two.migration(id).destination_empty
    two.listings.learn_empty(listing, True)
    assert two.migration(id).destination_empty


# -- commits that the database may have lost


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_f74_a_reboot_forgets_the_state_of_the_destination(open_ledger: Opened, host: str) -> None:
    """Also if the container, or the machine, that opens SQLite's file has another name now."""
    one = open_ledger(boot="earlier")
    if host == "elsewhere":
        if not one.database.sqlite:
            pytest.skip("a machine that is lost elsewhere loses no commit of PostgreSQL")
        one.database.run(lambda c: c.execute(update(runners).values(host=host)))
    id = tree(one, 5)
    learn_empty(one, id, True)
    single, _ = one.create(OBJECT)
    two = open_ledger()
    if not two.database.sqlite:
        one.leases.renew(-1)
    two.leases.reclaim()
    assert not two.migration(id).destination_empty
    (claim,) = two.claims.claim(5, single.id)
    assert claim.attempts == 2  # the worker that claims it first checks whether it was sent


@pytest.mark.parametrize("paused", [False, True])
def test_a_restored_ledger_forgets_the_state_of_the_destination(
    open_ledger: Opened, paused: bool
) -> None:
    """A worker registers in a database that is not where the last one was: a backup, or a replica
    that took over. Objects may have been sent since."""
    one = open_ledger()
    id = tree(one, 5)
    learn_empty(one, id, True)
    open_ledger()
    assert one.migration(id).destination_empty
    moved = update(keys).where(keys.c.name == "storage").values(value="elsewhere")
    assert one.database.run(lambda c: c.execute(moved)).rowcount == 1
    if paused:
        one.act(id, "pause")
    open_ledger()
    assert not one.migration(id).destination_empty
    one.act(id, "resume")
    (claim,) = one.claims.claim(1)
    assert (claim.fence, claim.before is not None) == (FORGOTTEN + 1, True)


def test_a_lease_of_a_clock_that_was_set_back_has_ended(postgres: Postgres) -> None:
    """PostgreSQL's clock was hours ahead when the lease was renewed."""
    address = postgres.database()
    with closing(Ledger.connect(address)) as lost, closing(Ledger.connect(address)) as ledger:
        id = tree(lost, 5)
        lost.leases.renew(3 * 3600)
        lost.claims.claim(1)
        ledger.leases.renew()
        assert ledger.leases.reclaim() == 1
        assert states(ledger, id) == ["queued"]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(postgres: Postgres, encoding: str) -> None:
    """`initdb` under LANG=C makes one. It keeps no name in Cyrillic."""
    template = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with pytest.raises(ConfigError, match=f"has the encoding {encoding}") as caught:
        Ledger.connect(postgres.database(template))
    assert "ENCODING 'UTF8'" in caught.value.hint and not caught.value.retryable


def test_a_listings_fence_stays_within_its_column(open_ledger: Opened) -> None:
    """After thousands of failed polls: a long outage of the database."""
    one = open_ledger()
    one.create(TREE)
    assert one.listings.claim() is not None
    fence = migrations.c.listing_fence
    many = update(migrations).values(listing_fence=2**31 - 10)
    one.database.run(lambda c: c.execute(many))
    one.claims.release_unknown(())
    one.listings.release_unknown(doubted=True)
    assert one.database.run(lambda c: c.execute(select(fence)).scalar()) == 2**31 - 10


@pytest.mark.parametrize("clean", [("--clean", "--if-exists"), ()])
def test_a_dump_restored_into_the_same_database_is_noticed(
    open_ledger: Opened, address: str, tmp_path: Path, clean: tuple[str, ...]
) -> None:
    one = open_ledger()
    if one.database.sqlite:
        pytest.skip("a restored file is another one")
    one.create(OBJECT)
    url = make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)
    copy = str(tmp_path / "copy")
    tools = programs()
    assert tools is not None
    subprocess.run([tools / "pg_dump", "-Fc", "-f", copy, url], check=True)
    one.close()
    if not clean:
        other = open_ledger()
        other.database.run(lambda c: c.execute(text("DROP SCHEMA public CASCADE")))
        other.database.run(lambda c: c.execute(text("CREATE SCHEMA public")))
        other.close()
    subprocess.run([tools / "pg_restore", *clean, "-d", url, copy], check=clean != ())
    (claim,) = open_ledger().claims.claim(5)
    assert claim.attempts == 2


def test_f74_a_listing_after_a_reboot_takes_new_fences(
    open_ledger: Opened,
) -> None:
    """Its rows may be gone with their claims, and their ids may be assigned again."""
    one = open_ledger(boot="earlier")
    one.create(TREE)
    assert one.listings.claim() is not None
    two = open_ledger()
    one.leases.renew(-1)
    two.leases.reclaim()
    listing = two.listings.claim()
    assert listing is not None
    assert two.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    (claim,) = two.claims.claim(5)
    assert (claim.fence, claim.attempts) == (FORGOTTEN + 1, 1)


def test_f74_a_reboot_is_remembered_by_a_later_listing(open_ledger: Opened) -> None:
    """The migration had ended; it may have been listed again, and lost that with its claims."""
    one = open_ledger(boot="earlier")
    id = tree(one, 5)
    (claim,) = one.claims.claim(1)
    one.claims.settle([Settlement(claim, "failed")])
    one.finish()
    two = open_ledger()
    one.leases.renew(-1)
    two.leases.reclaim()
    two.list_again(id)
    listing = two.listings.claim()
    assert listing is not None
    assert two.listings.add_page(
        listing, [ListedObject("000", size=5), ListedObject("a", size=1)], "a"
    )
    claims = two.claims.claim(5)
    assert [claim.fence for claim in claims] == [FORGOTTEN + 2, FORGOTTEN + 1]
    assert all(claim.before is not None and not claim.before.known for claim in claims)


def test_f76_claims_unknown_to_the_worker_are_handed_back(
    open_ledger: Opened,
) -> None:
    ledger = open_ledger()
    id = tree(ledger, 5, 6, 7)
    kept, _ = ledger.claims.claim(2)
    assert ledger.claims.release_unknown([kept]) == 1
    assert states(ledger, id) == ["running", "queued", "queued"]
    assert [claim.crash_count for claim in ledger.claims.claim(5)] == [0, 0]


def test_a_doubt_of_another_worker_ends_known_emptiness(
    open_ledger: Opened,
) -> None:
    """The knowledge of an empty destination is stored with its migration alone, and a doubt deletes
    it."""
    one, other = open_ledger(), open_ledger()
    learn_empty(one, tree(one, 5), True)
    (claim,) = one.claims.claim(1)
    assert (claim.empty, claim.before) == (True, None)
    other.claims.release_unknown(())
    one.claims.settle([Settlement(claim, "hand_back")])
    (again,) = other.claims.claim(1)
    assert again.before is not None


def test_f76_a_listing_claim_without_an_answer_is_repeated(open_ledger: Opened) -> None:
    ledger = open_ledger()
    ledger.create(TREE)
    first = ledger.listings.claim()
    assert first is not None
    assert ledger.listings.claim() is None
    ledger.listings.release_unknown(True)
    second = ledger.listings.claim()
    assert second is not None
    assert second.fence > first.fence
    with pytest.raises(LeaseLost):
        ledger.listings.add_page(first, [ListedObject("a", size=1)], "a")


def test_f76_a_page_that_the_ledger_lost_is_listed_again(open_ledger: Opened) -> None:
    """As after the failover of a database whose copy lacks the newest commits."""
    ledger = open_ledger()
    id = ledger.create(TREE)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=5)], "a")
    columns = (migrations.c.cursor, migrations.c.entries, migrations.c.listing_fence)
    older = ledger.database.run(lambda c: c.execute(select(*columns)).one()._asdict())
    ledger.listings.add_page(listing, [ListedObject("b", size=5)], "b")

    def lose(connection: Connection) -> None:
        connection.execute(delete(transfers).where(transfers.c.name == "b"))
        connection.execute(update(tallies).values(objects=1, bytes=5))
        connection.execute(update(migrations).values(**older))

    ledger.database.run(lose)
    with pytest.raises(LeaseLost):
        ledger.listings.add_page(listing, [ListedObject("c", size=5)], "c")
    with pytest.raises(LeaseLost):
        ledger.listings.end(listing)
    ledger.listings.release_unknown(True)
    again = ledger.listings.claim()
    assert again is not None
    assert again.cursor == "a"
    ledger.listings.add_page(again, [ListedObject("b", size=5), ListedObject("c", size=5)], "c")
    ledger.listings.end(again)
    assert {claim.name: claim.fence for claim in ledger.claims.claim(5)} == {
        "a": 1,
        "b": FORGOTTEN + 1,
        "c": FORGOTTEN + 1,
    }
    assert states(ledger, id) == ["running"] * 3


def test_f76_an_acceptance_without_an_answer_is_found_by_key(
    postgres: Postgres,
) -> None:
    with lossy_ledger(postgres) as (far, lose, near):
        lose()
        with pytest.raises(LedgerFailed):
            far.create(OBJECT, "key-1")
        migration, new = far.create(OBJECT, "key-1")
        assert not new
        assert [one.id for one in near.migrations()] == [migration.id]


def test_f76_a_claim_or_an_end_without_an_answer_happens_once(postgres: Postgres) -> None:
    with lossy_ledger(postgres) as (far, lose, near):
        id = tree(near, 5)
        lose()
        with pytest.raises(LedgerFailed):
            far.claims.claim(5)
        assert states(near, id) == ["running"]
        assert far.claims.claim(5) == []
        assert far.claims.release_unknown([]) == 1
        (claim,) = far.claims.claim(5)
        assert (claim.fence, claim.crash_count) == (2, 0)
        lose()
        with pytest.raises(LedgerFailed):
            far.claims.settle([verified_end(claim)])
        assert far.claims.settle([verified_end(claim)]) == [claim]
        assert states(near, id) == ["verified"]
        assert near.finish()[0].state == "succeeded"


def test_f76_a_restart_of_postgresql_is_outlived(postgres: Postgres) -> None:
    ledger = Ledger.connect(postgres.database())
    try:
        ledger.leases.renew()
        id = tree(ledger, 5)
        (claim,) = ledger.claims.claim(1)
        postgres.control("restart", "-m", "immediate")
        assert ledger.claims.settle([verified_end(claim)]) == []
        assert states(ledger, id) == ["verified"]
    finally:
        ledger.close()


@pytest.mark.parametrize("pooled", [True, False])
def test_no_statement_is_prepared_behind_a_pooler(postgres: Postgres, pooled: bool) -> None:
    """PgBouncer may send each transaction to another connection of the server, on which another
    client has prepared other statements under the same names."""
    address, pooler = postgres.database(), Pooler(postgres.port)
    port = pooler.port if pooled else postgres.port
    with (
        closing(pooler),
        closing(Ledger.connect(address.replace(f":{postgres.port}/", f":{port}/"))) as ledger,
    ):
        threshold = ledger.database.run(
            lambda c: c.connection.driver_connection.prepare_threshold,  # type: ignore[union-attr]
            write=False,
        )
    assert (threshold is None) is pooled


# -- SQLite's file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a ledger's file."""
    return tmp_path / "relay.db"


def test_f72_a_locked_file_is_reported_and_nothing_half_done(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    ledger = Ledger.connect(f"sqlite:///{file}")
    try:
        ledger.leases.renew()
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerBusy) as caught:
                ledger.create(OBJECT)
            assert (caught.value.status, caught.value.retryable) == (503, True)
            assert caught.value.retry_after
            assert ledger.migrations() == []  # a reader waits for no writer
        assert ledger.create(OBJECT)[1]
    finally:
        ledger.close()


def damaged_ledger(file: Path, table: str | None) -> bytearray:
    """Make a ledger with a damaged page: its first, or the first of a table (SQLite keeps no
    digests: only a damaged tree shows). Return its bytes."""
    ledger = Ledger.connect(f"sqlite:///{file}")
    ledger.leases.renew()
    tree(ledger, *[5] * 300)
    ledger.close()
    with closing(sqlite3.connect(file)) as other:
        (size,) = other.execute("PRAGMA page_size").fetchone()
        found = other.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    place = size * (found[0] - 1) if found else 0
    data = bytearray(file.read_bytes())
    data[place : place + 64] = bytes(byte ^ 0xFF for byte in data[place : place + 64])
    file.write_bytes(data)
    return data


@pytest.mark.parametrize("table", [None, "transfers", "migrations", "uploads"])
def test_f75_a_damaged_file_is_refused_and_left_as_it_is(file: Path, table: str | None) -> None:
    data = damaged_ledger(file, table)
    with pytest.raises(ConfigError) as caught:
        Ledger.connect(f"sqlite:///{file}")
    assert str(file) in caught.value.message
    assert caught.value.hint
    assert file.read_bytes() == data


def test_f75_a_long_file_is_not_scanned_and_damage_is_reported(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan takes minutes, and each command and each worker would make it."""
    monkeypatch.setattr(opening, "SCANNED_BYTES", 0)
    damaged_ledger(file, "transfers")
    ledger = Ledger.connect(f"sqlite:///{file}")
    try:
        (found,) = ledger.migrations()
        with pytest.raises(LedgerFailed) as caught:
            ledger.page(found.id)
        assert caught.value.hint == database.KEEP_HINT
    finally:
        ledger.close()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_f75_a_removed_file_accepts_nothing(file: Path, tmp_path: Path, replaced: bool) -> None:
    ledger = Ledger.connect(f"sqlite:///{file}")
    try:
        ledger.leases.renew()
        ledger.create(OBJECT)
        file.unlink()
        if replaced:
            Ledger.connect(f"sqlite:///{tmp_path}/other.db").close()
            (tmp_path / "other.db").rename(file)
        for do in (lambda: ledger.create(OBJECT), ledger.leases.renew):
            with pytest.raises(LedgerFailed, match="removed or replaced"):
                do()
    finally:
        ledger.close()


def test_f75_a_log_without_its_file_is_refused(file: Path) -> None:
    log = file.with_name("relay.db-wal")
    log.write_bytes(b"what was committed last")
    with pytest.raises(ConfigError, match="removed"):
        Ledger.connect(f"sqlite:///{file}")
    assert not file.exists()
    assert log.read_bytes() == b"what was committed last"


@pytest.mark.parametrize("hours", [0.5, 24.0])
def test_a_delayed_row_is_claimed_after_the_clock_is_set_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """A machine with a wrong clock at its start, until it was synchronised."""
    tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    with monkeypatch.context() as patched:
        early = time.time()
        patched.setattr(time, "time", lambda: early + hours * 3600)
        ledger.claims.settle([Settlement(claim, "hand_back", wait=60.0)])
        assert ledger.claims.claim(1) == []
    assert [again.id for again in ledger.claims.claim(1)] == [claim.id]


def test_a_listing_that_ends_keeps_the_reason_of_a_pause(ledger: Ledger) -> None:
    id = ledger.create(TREE)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    ledger.pause_for(
        id, {"code": "store-unauthenticated", "side": "destination", "detail": "", "hint": ""}
    )
    ledger.listings.end(listing)
    error = ledger.migration(id).error
    assert error is not None and error["code"] == "store-unauthenticated"
    assert ledger.act(id, "resume").error is None


def test_a_silent_database_is_noticed_within_the_lease(
    postgres: Postgres,
) -> None:
    """Its host lost power, or its address went to another: no packet ever ends the connection."""
    with closing(Ledger.connect(postgres.database())) as ledger:

        def connection_parameters(connection: Connection) -> dict[str, str]:
            found: dict[str, str] = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
            return found

        settings = ledger.database.run(connection_parameters, write=False)
    idle, interval, count, unanswered = (int(settings[name]) for name in opening.ALIVE)
    assert idle + interval * count < LEASE_SECONDS
    assert unanswered / 1000 < LEASE_SECONDS
