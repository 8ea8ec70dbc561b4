"""Lost workers and their claims: leases, processes in other namespaces, listings that kill, and
secrets that are no longer needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import pytest
from sqlalchemy import text, update

from relay.engine.worker.worker import Worker
from relay.errors import IllegalTransition, LeaseLost, LedgerRefused
from relay.ledger import claims, leases, workers
from relay.ledger.claim_values import Settlement
from relay.ledger.claims import SUSPECT
from relay.ledger.endings import KEPT_SECONDS
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.releases import MOST_CRASHES
from relay.ledger.schema import migrations, transfers
from relay.ledger.workers import WorkerId
from relay.process import identities
from relay.process.identities import boot_id, pid_namespace, process_identity
from relay.receipt import Version
from tests.ledgers import TREE, Opened, tree, verified_end
from tests.values import UPLOAD

# -- leases


def test_a_late_renewal_either_holds_or_is_reported(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It renews right after the check for lost workers. It must learn that another worker gets its
    claim."""
    one, two = open_ledger(), open_ledger()
    if two.database.sqlite:
        pytest.skip("its transactions have one lock")
    tree(one, 5)
    (mine,) = one.claims.claim(1)
    one.leases.renew(-1)
    looks = 0
    renewals: list[gevent.Greenlet[..., bool]] = []
    look = leases._is_gone

    def count_look(*args: object) -> bool:
        nonlocal looks
        gone = look(*args)  # type: ignore[arg-type]
        looks += gone
        if looks == 2 and not renewals:  # the first one is made without a lock
            renewals.append(gevent.spawn(one.leases.renew, 30.0))
            renewals[0].join(10)
        return gone

    monkeypatch.setattr(leases, "_is_gone", count_look)
    taken = two.leases.reclaim()
    renewals[0].join(10)
    holds = renewals[0].value
    assert isinstance(holds, bool) and holds == (taken == 0)
    if holds:
        one.claims.check(mine)
    else:
        with pytest.raises(LeaseLost):
            one.claims.check(mine)
        assert len(two.claims.claim(1)) == 1


def test_a_claim_takes_no_more_rows_than_it_names(open_ledger: Opened) -> None:
    """PostgreSQL may run a subquery with a limit again for each row that it compares."""
    ledger = open_ledger()
    if ledger.database.sqlite:
        pytest.skip("SQLite runs it once")
    id = tree(ledger, *[5] * 300)
    plans = [
        f"SET LOCAL enable_{name} = off"
        for name in ("hashjoin", "mergejoin", "hashagg", "material", "sort")
    ]

    def explain_and_claim(connection: object) -> int:
        for plan in plans:
            connection.execute(text(plan))  # type: ignore[attr-defined]
        changes = claims.CounterDelta()
        wanted = claims.ClaimRequest(all=3, large=3, only_large=3)
        found = claims.claim(connection, ledger.worker, wanted, id, changes)  # type: ignore[arg-type]
        changes.write(connection)  # type: ignore[arg-type]
        return len(found)

    assert [ledger.database.run(explain_and_claim) for _ in range(5)] == [3] * 5
    assert ledger.migration(id).count_in("running").objects == 15


def test_a_lease_expires_while_the_machine_sleeps() -> None:
    """By the clock that counts that time: another worker has taken over our claims by then."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= Worker.clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of its own for time wants root")
def test_the_clock_of_leases_counts_through_a_suspend() -> None:
    code = "import time; from relay.engine.worker.worker import Worker; print(Worker.clock() - time.monotonic())"
    words = ["unshare", "--time", "--boottime", "100000", "--fork", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert float(done.stdout) > 50_000, done.stderr


# -- processes


OTHERS: dict[str, Callable[[], str]] = {
    "another namespace": lambda: "1.1@pid:[1]",
    "an older relay's": lambda: "1.1",
    "one that /proc hides": lambda: f"{os.getppid()}.1@{pid_namespace()}",
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_invisible_process_is_judged_by_time(
    open_ledger: Opened, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "one that /proc hides":
        monkeypatch.setattr(
            identities.Path,
            "read_text",
            lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()),
        )
        monkeypatch.setattr(workers, "boot_id", lambda: "a boot")
        assert process_identity(os.getpid()) == str(os.getpid())
        assert process_identity(2**22 + 1) is None
        monkeypatch.undo()
        monkeypatch.setattr(leases, "process_identity", lambda pid: str(pid))
    one, two = open_ledger(process=OTHERS[what]()), open_ledger()
    id = tree(one, 5)
    assert len(one.claims.claim(1)) == 1
    assert (two.leases.reclaim(), two.leases.has_worker(id)) == (0, True)
    one.leases.renew(-1)
    assert not two.leases.has_worker(id)
    assert two.leases.reclaim() == 1


def test_a_dead_process_of_this_host_is_noticed_at_once(open_ledger: Opened) -> None:
    two = open_ledger()
    if not two.database.sqlite:
        pytest.skip("only one machine has one list of processes")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = open_ledger(process=process_identity(child.pid))
    id = tree(one, 5)
    one.claims.claim(1)
    assert (two.leases.reclaim(), two.leases.has_worker(id)) == (0, True)
    child.communicate(b"\n")
    assert not two.leases.has_worker(id)
    assert two.leases.reclaim() == 1
    assert WorkerId.of_this_process("x").boot == boot_id()


@pytest.mark.parametrize("held", ["a transfer", "the listing", "a part"])
def test_a_worker_moves_the_migrations_of_its_claims(open_ledger: Opened, held: str) -> None:
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    id = one.create(TREE)[0].id if held == "the listing" else tree(one, 30)
    assert not three.leases.has_worker(id)
    if held == "the listing":
        assert one.listings.claim() is not None
    else:
        (claim,) = one.claims.claim(1)
        one.uploads.record(claim, replace(UPLOAD, pinned=Version(30, '"e"', id="v1")))
    if held == "a part":
        assert two.uploads.join() is not None
        one.leases.leave()
    assert three.leases.has_worker(id)
    (two if held == "a part" else one).leases.leave()
    assert not three.leases.has_worker(id)


# -- listings


def lose_lister(open_ledger: Opened, id: str) -> Ledger:
    """Let a worker claim a listing and be lost."""
    ledger = open_ledger()
    assert ledger.listings.claim(only=id) is not None
    ledger.leases.renew(-1)
    return ledger


def test_a_listing_that_kills_every_runner_is_set_aside(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = watcher.create(TREE)[0].id
    for _ in range(MOST_CRASHES):
        assert watcher.migration(id).listing == "due"
        lose_lister(open_ledger, id)
        watcher.leases.reclaim()
    found = watcher.migration(id)
    assert (found.listing, (found.error or {})["code"]) == ("failed", "quarantined")
    assert watcher.listings.claim() is None
    assert watcher.finish()[0].state == "failed"
    watcher.act(id, "retry")
    assert watcher.listings.claim() is not None


def test_a_listing_that_makes_progress_is_not_suspect(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = watcher.create(TREE)[0].id
    for number in range(2 * MOST_CRASHES):
        ledger = open_ledger()
        listing = ledger.listings.claim()
        assert listing is not None
        ledger.listings.add_page(listing, [ListedObject(f"{number}", size=5)], f"{number}")
        ledger.leases.renew(-1)
        watcher.leases.reclaim()
    assert watcher.migration(id).listing == "due"


def test_a_suspect_listing_goes_to_an_idle_worker(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = watcher.create(TREE)[0].id
    for _ in range(SUSPECT):
        lose_lister(open_ledger, id)
        watcher.leases.reclaim()
    assert watcher.listings.claim(alone=False) is None
    listing = watcher.listings.claim(alone=True)
    assert listing is not None and listing.crash_count == SUSPECT


def test_a_resume_resets_the_crash_count_of_a_listing_too(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = watcher.create(TREE)[0].id
    for _ in range(MOST_CRASHES + 2):
        lose_lister(open_ledger, id)
        watcher.leases.reclaim()
        watcher.reset_crash_counts(id)
    assert watcher.migration(id).listing == "due"


# -- values that the database refuses


def test_a_value_the_database_refuses_is_not_an_outage(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    ledger.act(id, "pause")
    if ledger.database.sqlite:
        wrong = (
            "INSERT INTO transfers (migration_id, name, state) VALUES (NULL, 'secret', 'queued')"
        )
    else:
        wrong = f"UPDATE transfers SET size = 99999999999999999999 WHERE migration_id = '{id}' OR name = 'secret'"
    with pytest.raises(LedgerRefused) as caught:
        ledger.database.run(lambda c: c.exec_driver_sql(wrong))
    assert "secret" not in caught.value.message
    assert not caught.value.retryable


# -- secrets

SECRET = Spec(
    "https://a/x",
    "https://b/x",
    options={},
    secret={"source": {"text": "https://a/x?token=1", "headers": [["A", "b"]]}},
)


def end_as(ledger: Ledger, spec: Spec, verb: str) -> str:
    """Accept and claim an object, and end it with this state; return its migration's id."""
    id = ledger.create(spec)[0].id
    ledger.claims.settle([Settlement(claim, verb) for claim in ledger.claims.claim(1, only=id)])
    ledger.finish()
    return id


def age(ledger: Ledger, id: str) -> None:
    ended = {"ended": time.time() - KEPT_SECONDS - 1}
    ledger.database.run(
        lambda c: c.execute(update(migrations).where(migrations.c.id == id).values(**ended))
    )
    ledger.database.run(
        lambda c: c.execute(update(transfers).where(transfers.c.migration_id == id).values(**ended))
    )


def test_credentials_of_a_failed_migration_are_kept_a_day(ledger: Ledger) -> None:
    id = end_as(ledger, SECRET, "failed")
    ledger.finish()
    assert ledger.secret(id) == SECRET.secret
    age(ledger, id)
    ledger.finish()
    assert ledger.secret(id) is None
    with pytest.raises(IllegalTransition, match="forgotten") as caught:
        ledger.act(id, "retry")
    assert "again" in caught.value.hint
    assert ledger.migration(id).state == "failed"
    assert ledger.act(id, "retry", SECRET.secret).state == "running"
    assert ledger.secret(id) == SECRET.secret


def test_a_cancelled_failed_migration_keeps_no_credentials(ledger: Ledger) -> None:
    id = end_as(ledger, SECRET, "failed")
    assert ledger.act(id, "cancel").state == "cancelled"
    ledger.finish()
    assert ledger.secret(id) is None


def test_a_cancelled_migration_keeps_credentials_for_cleanup(
    ledger: Ledger,
) -> None:
    id = ledger.create(SECRET)[0].id
    (claim,) = ledger.claims.claim(1)
    ledger.act(id, "cancel")
    ledger.finish()
    assert ledger.secret(id) is not None
    ledger.claims.settle([Settlement(claim, "hand_back")])
    lapsed = update(transfers).where(transfers.c.id == claim.id)
    ledger.database.run(lambda c: c.execute(lapsed.values(lapses=1)))
    ledger.finish()
    assert ledger.secret(id) is not None
    (orphan,) = ledger.destinations.orphans()
    ledger.destinations.note_removed(orphan)
    ledger.finish()
    assert ledger.secret(id) is None


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_arrived_object_of_a_lost_worker_keeps_no_credentials(
    ledger: Ledger, cancelled: bool
) -> None:
    """Nothing removes leftovers of an object that has arrived."""
    id = end_as(ledger, SECRET, "unverified")
    lapsed = update(transfers).where(transfers.c.migration_id == id)
    ledger.database.run(lambda c: c.execute(lapsed.values(lapses=1)))
    if cancelled:
        ledger.act(id, "cancel")
    else:
        age(ledger, id)
    ledger.finish()
    assert ledger.secret(id) is None


def test_a_spec_without_secrets_is_kept(ledger: Ledger) -> None:
    """A name and a path can be retried at any time."""
    plain = Spec("a:x", "b:x", options={}, secret={"source": {"text": "a:x", "headers": []}})
    id = end_as(ledger, plain, "failed")
    ledger.act(id, "cancel")
    ledger.finish()
    assert ledger.secret(id) is not None
    assert ledger.act(id, "retry").state == "running"


@pytest.mark.parametrize("secret", [SECRET.secret, {"source": {"text": "list+./l"}}])
def test_forgotten_urls_of_a_list_are_read_again(ledger: Ledger, secret: dict[str, Any]) -> None:
    """Also for a list at a path, which has no secret itself: its URLs are signed."""
    spec = Spec("list+https://a/l", "https://b/", options={"recursive": True}, secret=secret)
    id = ledger.create(spec)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    page = [
        ListedObject(name, size=5, url=f"https://a/{name}?token=1", identity=name) for name in "ab"
    ]
    ledger.listings.add_page(listing, page, "b")
    ledger.listings.end(listing)
    first, second = ledger.claims.claim(2)
    ledger.claims.settle([verified_end(first), Settlement(second, "failed")])
    ledger.finish()
    age(ledger, id)
    ledger.finish()
    urls = ledger.database.run(
        lambda c: c.exec_driver_sql("SELECT url FROM transfers").scalars().all()
    )
    assert (ledger.secret(id), set(urls)) == (None, {None})
    ledger.act(id, "retry", secret)
    listing = ledger.listings.claim()
    assert listing is not None and listing.cursor is None
    ledger.listings.add_page(listing, page, "b")
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(5)
    assert (claim.name, claim.url) == ("b", "https://a/b?token=1")
