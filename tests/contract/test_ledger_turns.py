"""One poll of a worker, on both databases: its effects, and the workers that it delays."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from relay.cli import local_ledger
from relay.cli.local_ledger import LocalLedger
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import JOBS
from relay.engine.worker.worker import Worker
from relay.errors import LedgerBusy, LedgerFailed
from relay.ledger import database, poll
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.claims import ClaimRequest
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Count
from relay.ledger.prior_state_values import PriorState
from tests.ledgers import OBJECT, TREE, Opened, lossy_ledger, states, tree, verified_end
from tests.postgres import Postgres
from tests.values import UPLOAD

ALL = ClaimRequest(all=100, large=100, only_large=100)


def test_a_poll_settles_claims_and_reports_the_states(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6, 7)
    other, _ = ledger.create(OBJECT)
    first, second = ledger.claims.settle_and_claim((), ClaimRequest(all=2), id).claims
    ends = [verified_end(first), Settlement(second, "failed", error={"code": "x"})]
    turn = ledger.claims.settle_and_claim(ends, ALL, watched=[id])
    assert [claim.name for claim in turn.claims] == ["002", ""]
    assert turn.lost == ()
    assert {name: standing.state for name, standing in turn.standings.items()} == {
        id: "running",
        other.id: "running",
    }
    assert states(ledger, id) == ["verified", "failed", "running"]
    assert ledger.migration(other.id).tally == {"running": Count(1, 0)}


def test_a_poll_claims_into_the_room_that_it_settles(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6, 7, 8)
    ledger.limit(id, {"slots": 2})
    mine = ledger.claims.settle_and_claim((), ALL).claims
    assert len(mine) == 2
    assert ledger.claims.settle_and_claim((), ALL).claims == ()
    assert len(ledger.claims.settle_and_claim([verified_end(mine[0])], ALL).claims) == 1
    assert states(ledger, id) == ["verified", "running", "running", "queued"]


def test_a_poll_hands_back_and_may_claim_the_same_again(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    (claim,) = ledger.claims.settle_and_claim((), ALL).claims
    (again,) = ledger.claims.settle_and_claim(
        [Settlement(claim, "hand_back", resent=3)], ALL
    ).claims
    assert (again.id, again.fence, again.attempts, again.resent) == (claim.id, 2, 2, 3)
    assert states(ledger, id) == ["running"]


def test_a_lost_claim_is_named_and_the_rest_settled(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5, 6)
    claims = one.claims.settle_and_claim((), ALL).claims
    one.leases.renew(-1)
    two.leases.reclaim()
    (yours,) = two.claims.settle_and_claim((), ClaimRequest(all=1)).claims
    one.leases.renew()
    turn = one.claims.settle_and_claim(
        [verified_end(claim) for claim in claims], ClaimRequest(all=0)
    )
    assert turn.lost == claims
    assert states(two, id) == ["running", "queued"]
    assert two.claims.settle_and_claim([verified_end(yours)], ALL).lost == ()


def test_part_records_end_with_arrival_and_outlive_a_hand_back(
    ledger: Ledger,
) -> None:
    tree(ledger, 30, 31)
    first, second = ledger.claims.settle_and_claim((), ALL).claims
    for claim in (first, second):
        ledger.uploads.record(
            claim, replace(UPLOAD, upload_id="u", checked=False, size=claim.size or 0, total=4)
        )
        assert ledger.uploads.take_part(claim, "u", None) == 1
    again = ledger.claims.settle_and_claim(
        [verified_end(first), Settlement(second, "hand_back")], ALL
    ).claims
    assert [claim.id for claim in again] == [second.id]
    assert ledger.uploads.find(first) is None
    assert ledger.uploads.find(second) is not None
    assert ledger.uploads.outstanding_parts(second) == {1: False}


def test_the_newest_receipt_of_an_object_holds(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle(
        [
            Settlement(
                claim,
                "unverified",
                bytes=5,
                resent=0,
                seconds=0.5,
                level="size",
                receipt={"level": "size"},
            )
        ]
    )
    ledger.finish()
    ledger.act(id, "retry")
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([verified_end(claim)])
    assert [row.receipt for row in ledger.page(id)] == [{"level": "whole_digest"}]


def test_one_tree_worked_on_by_two_runners_is_counted_right(open_ledger: Opened) -> None:
    runners = [open_ledger(), open_ledger()]
    id = tree(runners[0], *range(1, 301))
    moved: list[int] = [0, 0]
    waiting: list[tuple[Settlement, ...]] = [(), ()]
    while any(waiting) or sum(moved) < 300:
        for number, ledger in enumerate(runners):
            turn = ledger.claims.settle_and_claim(waiting[number], ClaimRequest(all=17))
            assert turn.lost == ()
            moved[number] += len(turn.claims)
            waiting[number] = tuple(verified_end(claim, claim.size or 0) for claim in turn.claims)
    assert min(moved) > 0
    assert set(states(runners[0], id)) == {"verified"}
    assert [migration.state for migration in runners[1].finish()] == ["succeeded"]
    assert runners[0].finish() == []
    assert [event["kind"] for event in runners[0].events.all(id)].count("ended") == 1


# -- SQLite's lock


@contextmanager
def block_writers(ledger: Ledger) -> Iterator[None]:
    """Keep every other connection from writing."""
    with closing(sqlite3.connect(str(ledger.database.url.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Ledger]:
    """Return an empty ledger in a file."""
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/relay.db")
    ledger.leases.renew()
    yield ledger
    ledger.close()


NOTHING_TO_DO: dict[str, Callable[[Ledger], Any]] = {
    "turn": lambda ledger: (
        ledger.claims.settle_and_claim((), ALL, watched=[TREE.printed_digest]).claims
    ),
    "finish": lambda ledger: tuple(ledger.finish()),
    "claim_listing": lambda ledger: ledger.listings.claim() or (),
    "reclaim": lambda ledger: ledger.leases.reclaim() or (),
    "join": lambda ledger: ledger.uploads.join() or (),
}


@pytest.mark.parametrize("name", NOTHING_TO_DO)
def test_an_idle_worker_delays_no_other(
    file: Ledger, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    tree(file, 5)
    (claim,) = file.claims.claim(1)
    with block_writers(file):
        assert NOTHING_TO_DO[name](file) == ()
        with pytest.raises(LedgerBusy):
            file.claims.settle_and_claim([verified_end(claim)], ALL)
    assert file.claims.settle_and_claim([verified_end(claim)], ALL).lost == ()


def test_f72_a_locked_ledger_is_polled_until_free(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as one:
        one.execute("PRAGMA journal_mode=WAL")
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as two:
            one.execute("BEGIN IMMEDIATE")
            pauses: list[float] = []

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 20:
                    one.execute("COMMIT")

            database.begin_writing(two, 60.0, pause)
            assert two.in_transaction
            assert len(pauses) == 20
            least, most = database.AGAIN_SECONDS
            assert all(least <= seconds <= most for seconds in pauses)
            assert len(set(pauses)) > 1  # or two waiting ones would ask in step
            assert two.execute("PRAGMA busy_timeout").fetchone() == (
                int(database.BUSY_SECONDS * 1e3),
            )


def test_f72_a_lock_that_stays_leaves_nothing_begun(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as one:
        one.execute("PRAGMA journal_mode=WAL")
        one.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as two:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                database.begin_writing(two, 0.02)
            assert not two.in_transaction
            assert two.execute("PRAGMA busy_timeout").fetchone() == (
                int(database.BUSY_SECONDS * 1e3),
            )


# -- PostgreSQL's rows


@pytest.fixture
def pair(postgres: Postgres) -> Iterator[tuple[Ledger, Ledger, str]]:
    """Return a ledger as two workers see it, and the address for psycopg."""
    address = postgres.database()
    ledgers = Ledger.connect(address), Ledger.connect(address)
    for ledger in ledgers:
        ledger.leases.renew()
    yield *ledgers, postgres.dsn(address.rpartition("/")[2])
    for ledger in ledgers:
        ledger.close()


@contextmanager
def run_beside(do: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run something in a thread; yield the list that has its result at the end of the block."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(do()))
    thread.start()
    try:
        yield found
    finally:
        thread.join(30)


def await_waiting(dsn: str) -> None:
    """Return when a connection waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    pause = threading.Event()
    with psycopg.connect(dsn, autocommit=True) as watcher:
        for _ in range(500):
            if watcher.execute(query).fetchone() != (0,):
                return
            pause.wait(0.02)
    raise AssertionError("nobody waits")


def test_two_claims_never_wait_for_each_other(pair: tuple[Ledger, Ledger, str]) -> None:
    one, two, dsn = pair
    id = tree(one, 5, 6, 7)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT id FROM transfers WHERE name = '000' FOR UPDATE")
        assert [claim.name for claim in two.claims.settle_and_claim((), ALL).claims] == [
            "001",
            "002",
        ]
        other.rollback()
    assert [claim.name for claim in one.claims.settle_and_claim((), ALL).claims] == ["000"]
    assert states(one, id) == ["running"] * 3


def test_f62_a_worker_presumed_dead_while_settling_settles(
    pair: tuple[Ledger, Ledger, str],
) -> None:
    """A worker that presumes it dead reads its rows before they are settled, and writes them after
    it."""
    one, two, dsn = pair
    id = tree(one, 5)
    (claim,) = one.claims.claim(1)
    one.leases.renew(-1)
    with psycopg.connect(dsn) as other:
        other.execute(
            "UPDATE transfers SET state = 'verified', owner = NULL WHERE id = %s", (claim.id,)
        )
        with run_beside(two.leases.reclaim) as found:
            await_waiting(dsn)
            other.commit()
    assert found == [0]
    assert [row.state for row in two.page(id)] == ["verified"]


def test_f62_a_worker_presumed_dead_settles_nothing(
    pair: tuple[Ledger, Ledger, str],
) -> None:
    one, two, dsn = pair
    id = tree(one, 5)
    (claim,) = one.claims.claim(1)
    with psycopg.connect(dsn) as other:
        other.execute(
            "UPDATE transfers SET state = 'queued', owner = NULL WHERE id = %s", (claim.id,)
        )
        other.execute("UPDATE tallies SET objects = 1 - objects, bytes = 5 - bytes")
        with run_beside(lambda: one.claims.settle([verified_end(claim)])) as found:
            await_waiting(dsn)
            other.commit()
    assert found == [[claim]]
    assert states(two, id) == ["queued"]


def test_f76_a_settled_poll_without_an_answer_happens_once(postgres: Postgres) -> None:
    with lossy_ledger(postgres) as (far, lose_next, near):
        id = tree(near, 5, 6)
        (claim,) = far.claims.settle_and_claim((), ClaimRequest(all=1)).claims
        lose_next()
        with pytest.raises(LedgerFailed):
            far.claims.settle_and_claim([verified_end(claim)], ALL)
        assert states(near, id) == ["verified", "running"]
        assert far.claims.release_unknown([claim]) == 1
        turn = far.claims.settle_and_claim([verified_end(claim)], ALL)
        assert turn.lost == (claim,)
        assert [(one.name, one.crash_count) for one in turn.claims] == [("001", 0)]
        assert states(near, id) == ["verified", "running"]


def test_a_claim_during_a_cancel_is_counted_once(
    pair: tuple[Ledger, Ledger, str],
) -> None:
    one, two, dsn = pair
    id = tree(one, 5, 6, 7)

    def claim_while_waiting(connection: Connection) -> list[Claim]:
        claims = poll.settle_and_claim(
            connection, one.worker, (), ClaimRequest(all=1), only=id
        ).claims
        thread.start()
        await_waiting(dsn)
        return list(claims)

    thread = threading.Thread(target=lambda: two.act(id, "cancel"))
    (claim,) = one.database.run(claim_while_waiting)
    thread.join(30)
    assert states(one, id) == ["running", "cancelled", "cancelled"]
    one.claims.settle([Settlement(claim, "hand_back")])
    two.act(id, "retry")
    assert states(one, id) == ["queued"] * 3
    one.claims.settle([verified_end(claim) for claim in one.claims.claim(3)])
    assert [migration.state for migration in one.finish()] == ["succeeded"]


def test_a_claim_handed_back_during_a_cancel_is_cancelled(
    pair: tuple[Ledger, Ledger, str],
) -> None:
    """Its multipart upload would stay at the destination forever."""
    one, two, _ = pair
    id = tree(one, 5)
    (claim,) = one.claims.claim(1)

    def hand_back(connection: Connection) -> None:
        back = [Settlement(claim, "hand_back")]
        poll.settle_and_claim(connection, one.worker, back, ClaimRequest(all=0), only=id)
        with run_beside(lambda: two.act(id, "cancel")) as found:
            pass
        assert [migration.state for migration in found] == ["cancelled"]

    one.database.run(hand_back)
    one.finish()
    assert states(one, id) == ["cancelled"]


def test_a_cancel_names_transfers_that_have_not_stopped(
    address: str, open_ledger: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed in another container looks alive until its lease ends."""
    ledger, command = open_ledger(process="7.1@pid:[1]"), LocalLedger(Settings(ledger=address))
    try:
        id = tree(ledger, 5)
        ledger.claims.claim(1)
        command.control(id, "cancel")
        monkeypatch.setattr(local_ledger, "LEASE_SECONDS", 0.2)
        ((line, remains),) = command.sweep(id)
        assert line.startswith("relay: 1 transfer has not stopped yet.")
        assert remains
        ledger.leases.renew(1)
        monkeypatch.setattr(local_ledger, "LEASE_SECONDS", 30.0)
        monkeypatch.setattr("relay.cli.sweep.sweep", lambda *_: iter([("swept", False)]))
        assert list(command.sweep(id)) == [("swept", False)]
        assert states(ledger, id) == ["cancelled"]
    finally:
        command._ledger.close()


@pytest.mark.parametrize("stops", [True, False])
def test_a_cancel_waits_for_a_process_that_runs(
    address: str, open_ledger: Opened, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """Only then its unfinished upload is an orphan."""
    ledger, command = open_ledger(), LocalLedger(Settings(ledger=address))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if stops:
            ledger.claims.settle([Settlement(claim, "hand_back")])

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(local_ledger, "time", clock)
    monkeypatch.setattr("relay.cli.sweep.sweep", lambda *_: iter([("swept", False)]))
    try:
        id = tree(ledger, 5)
        (claim,) = ledger.claims.claim(1)
        ledger.uploads.record(claim, UPLOAD)
        command.control(id, "cancel")
        ((line, remains),) = command.sweep(id)
        assert (line == "swept", remains) == (stops, not stops)
    finally:
        command._ledger.close()


def test_a_claim_during_a_resume_stays_valid(pair: tuple[Ledger, Ledger, str]) -> None:
    """The resumed migration adopts a state for an object that another worker claims meanwhile."""
    one, two, dsn = pair
    ids = []
    for if_exists in ("skip", "changed"):
        spec = replace(TREE, options={"recursive": True, "if_exists": if_exists})
        ids.append(one.create(spec)[0].id)
        listing = one.listings.claim()
        assert listing is not None
        one.listings.add_page(listing, [ListedObject("x", size=5)], "x")
        one.listings.end(listing)
    (claim,) = one.claims.claim(1, only=ids[0])
    one.claims.settle([Settlement(claim, "hand_back")])
    one.act(ids[0], "pause")
    (claim,) = one.claims.claim(1, only=ids[1])
    one.destinations.note_prior_states([(claim, PriorState(known=True))])
    one.claims.settle([Settlement(claim, "failed")])
    with psycopg.connect(dsn) as other:
        claimed = "UPDATE transfers SET state = 'running', owner = %s, fence = fence + 1"
        other.execute(f"{claimed} WHERE migration_id = %s", (two.worker.id, ids[0]))
        with run_beside(lambda: one.act(ids[0], "resume")) as found:
            await_waiting(dsn)
            other.commit()
    assert [migration.state for migration in found] == ["running"]
    (row,) = two.page(ids[0])
    two.claims.check(replace(claim, id=row.id, migration_id=ids[0], fence=2))


def test_a_deadlock_is_a_busy_ledger(pair: tuple[Ledger, Ledger, str]) -> None:
    """A poll locks its claims and then a bounded migration; a resume locks them the other way
    round. The transaction that PostgreSQL ends has changed nothing, and is tried again."""
    one, _, dsn = pair
    id = tree(one, 5, 6)
    one.limit(id, {"slots": 1})
    ends = [Settlement(claim, "hand_back") for claim in one.claims.claim(1)]

    def poll() -> LedgerFailed | None:
        try:
            one.claims.settle_and_claim(ends, ALL)
        except LedgerFailed as error:
            return error
        return None

    with psycopg.connect(dsn) as other:
        other.execute("SET deadlock_timeout = '20s'")
        other.execute("SELECT id FROM migrations FOR NO KEY UPDATE")
        with run_beside(poll) as found:
            await_waiting(dsn)
            other.execute("SELECT id FROM transfers FOR UPDATE")
            other.commit()
    assert [type(error) for error in found] == [LedgerBusy]
    assert not one.claims.settle_and_claim(ends, ALL).lost


def test_a_retry_keeps_credentials_about_to_expire(
    pair: tuple[Ledger, Ledger, str],
) -> None:
    one, two, dsn = pair
    id = one.create(OBJECT)[0].id
    one.act(id, "cancel")
    with psycopg.connect(dsn) as other:
        other.execute("UPDATE migrations SET state = 'running'")
        with run_beside(two.finish):
            await_waiting(dsn)
            other.commit()
    assert one.secret(id) == OBJECT.secret


def test_a_worker_keeps_the_limits_of_its_migrations(ledger: Ledger) -> None:
    """A server sees many migrations, and forgets the limits of those that it does not work on."""
    id, worker = tree(ledger, 5), Worker(ledger, TransferEngine(Settings()), 1)
    worker._settle_and_claim()
    kept = worker._jobs.throttle(id)
    for number in range(JOBS + 1):
        worker._jobs.throttle(str(number))
    assert worker._jobs.throttle(id) is kept
