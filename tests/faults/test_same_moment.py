"""The same command twice at one moment: the other process's work is not a failure of this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.cli import single
from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupted
from relay.cli.local_run import accept
from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists
from relay.engine.transfer import finalize
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import State
from relay.throttle import Bounds
from tests.ledgers import verified_end
from tests.pairs import in_pairs
from tests.values import outcome_of


def ledger_of(folder: Path) -> Ledger:
    """Open the ledger in a folder, as a further process does."""
    return Ledger.connect(f"sqlite:///{folder}/ledger.db")


def run_worker(ledger: Ledger, runner: TransferEngine, id: str) -> str:
    """Work on a migration until it has ended; return its state."""
    with gevent.Timeout(30):
        Worker(ledger, runner, 2, id).run()
    return ledger.migration(id).state


@in_pairs(
    recursive={"tree": True, "object": False},
    before=["running", "failed", "paused", "cancelled"],
    step=["renew_secret", "reset_crash_counts", "list_again", "act", "limit"],
)
def test_another_process_ends_the_migration_between_polls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recursive: bool, before: str, step: str
) -> None:
    """Between any two polls of this command the other process may have resumed and ended the
    migration."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path), retry_budget=0))
    ledger, other = ledger_of(tmp_path), ledger_of(tmp_path)
    (tmp_path / "to").mkdir()
    name = "" if recursive else "/a"
    places = Endpoint(f"file://{tmp_path}/from{name}"), Endpoint(f"file://{tmp_path}/to{name}")
    order = MigrationRequest(*places, recursive=recursive, bounds=Bounds(slots=2))
    made, _ = accept(ledger, order, runner, quiet=True)
    if before == "failed":
        assert run_worker(ledger, runner, made.id) == "failed"
    elif before != "running":
        ledger.act(made.id, {"paused": "pause", "cancelled": "cancel"}[before])
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"bytes")
    real, begun = getattr(ledger, step), []

    def after_the_other(*arguments: Any, **named: Any) -> Any:
        if not begun:
            begun.append(step)
            found, _ = accept(other, order, runner, quiet=True)
            assert run_worker(other, runner, found.id) == "succeeded"
        return real(*arguments, **named)

    monkeypatch.setattr(ledger, step, after_the_other)
    found, _ = accept(ledger, order, runner, quiet=True)
    assert run_worker(ledger, runner, found.id) == "succeeded"
    assert (tmp_path / "to" / "a").read_bytes() == b"bytes"
    ledger.close()
    other.close()


@pytest.mark.parametrize("step", ["renew_secret", "reset_crash_counts", "begin_again"])
def test_a_vanished_object_moves_though_another_ends_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No process works on a migration that has succeeded: an object gone from its destination
    belongs to another migration then."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path), retry_budget=0))
    ledger, other = ledger_of(tmp_path), ledger_of(tmp_path)
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).write_bytes(b"bytes")
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to"), recursive=True
    )
    made, _ = accept(other, order, runner, quiet=True)
    listing = other.listings.claim(only=made.id)
    assert listing is not None
    other.listings.add_page(listing, [ListedObject("a", size=5), ListedObject("b", size=5)], "b")
    other.listings.end(listing)
    one, two = other.claims.claim(2, only=made.id)
    other.claims.settle(
        [verified_end(one, 5), Settlement(two, "hand_back")]
    )  # and another writer removes the arrived object
    real, begun = getattr(ledger, step), []

    def after_the_other(*arguments: Any, **named: Any) -> Any:
        if not begun:
            begun.append(step)
            assert run_worker(other, runner, made.id) == "succeeded"
        return real(*arguments, **named)

    monkeypatch.setattr(ledger, step, after_the_other)
    found, _ = accept(ledger, order, runner, quiet=True)
    assert begun and run_worker(ledger, runner, found.id) == "succeeded"
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["a", "b"]
    assert all(ledger.secret(each.id) is None for each in ledger.migrations())
    assert not any(each.count_in("queued").objects for each in ledger.migrations())
    ledger.close()
    other.close()


@pytest.mark.parametrize("recursive", [True, False], ids=["tree", "object"])
@pytest.mark.parametrize(
    "step", ["renew_secret", "reset_crash_counts", "list_again", "act", "limit"]
)
def test_another_process_forgets_a_cancelled_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recursive: bool, step: str
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path), retry_budget=0))
    ledger, other = ledger_of(tmp_path), ledger_of(tmp_path)
    name = "/" if recursive else "/a"
    source = Endpoint(f"https://a.example{name}", headers=(("X-Key", "secret"),))
    order = MigrationRequest(
        source, Endpoint(f"file://{tmp_path}/to{name}"), recursive=recursive, bounds=Bounds(slots=2)
    )
    made, _ = accept(ledger, order, runner, quiet=True)
    ledger.act(made.id, "cancel")
    real = getattr(ledger, step)

    def after_the_other(*arguments: Any, **named: Any) -> Any:
        other.finish()
        return real(*arguments, **named)

    monkeypatch.setattr(ledger, step, after_the_other)
    found, _ = accept(ledger, order, runner, quiet=True)
    assert (found.id, found.state, ledger.secret(found.id)) == (made.id, "running", order.secret())
    ledger.close()
    other.close()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "still listing"])
def test_an_object_written_between_two_commands_is_kept(tmp_path: Path, listed: bool) -> None:
    """The first command found the destination empty, and was stopped. For the second command that
    proves nothing about the destination."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    for folder in ("from", "to"):
        (tmp_path / folder).mkdir()
    (tmp_path / "from" / "a").write_bytes(b"older")
    places = Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to")
    order = MigrationRequest(*places, recursive=True)
    ledger = ledger_of(tmp_path)
    made, _ = accept(ledger, order, runner, quiet=True)
    listing = ledger.listings.claim(made.id)
    assert listing is not None
    ledger.listings.learn_empty(listing, True)
    ledger.listings.add_page(listing, [ListedObject("a", size=5)], "a")
    (ledger.listings.end if listed else ledger.listings.hand_back)(listing)
    (tmp_path / "to" / "a").write_bytes(b"newer")
    again, new = accept(ledger, order, runner, quiet=True)
    assert (again.id, new) == (made.id, False)
    (claim,) = ledger.claims.claim(1)
    assert not claim.empty
    ledger.claims.settle([Settlement(claim, "hand_back", untouched=True)])
    assert run_worker(ledger, runner, made.id) == "succeeded"
    assert (tmp_path / "to" / "a").read_bytes() == b"newer"
    ledger.close()


@pytest.mark.parametrize("theirs", [b"ours", b"older one"], ids=["the same", "another"])
def test_an_object_that_another_command_stored_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    """Two commands for one tree, and no retries."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path), retry_budget=0))
    for folder in ("from", "to"):
        (tmp_path / folder).mkdir()
    (tmp_path / "from" / "a").write_bytes(b"ours")
    there = tmp_path / "to" / "a"

    def store_theirs(name: str) -> None:
        if name == "before-publish" and not there.exists():
            there.write_bytes(theirs)

    monkeypatch.setattr(finalize, "reach", store_theirs)
    places = Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to")
    ledger = ledger_of(tmp_path)
    made, _ = accept(ledger, MigrationRequest(*places, recursive=True), runner, quiet=True)
    assert run_worker(ledger, runner, made.id) == "succeeded"
    (row,) = ledger.page(made.id)
    assert (row.state, there.read_bytes()) == (
        "skipped" if theirs == b"ours" else "verified",
        b"ours",
    )
    ledger.close()


@pytest.mark.parametrize("lives", [True, False])
def test_a_killed_tree_of_another_container_is_listed_again(tmp_path: Path, lives: bool) -> None:
    """A process that was killed there looks alive until its lease ends."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    (tmp_path / "from").mkdir()
    places = Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to")
    order = MigrationRequest(*places, recursive=True)
    ledger, opened = ledger_of(tmp_path), ledger_of(tmp_path)
    other = Ledger(opened.database, replace(opened.worker, process="1.1@pid:[1]"))
    other.leases.renew()
    made, _ = accept(other, order, runner, quiet=True)
    listing = other.listings.claim(made.id)
    assert listing is not None
    other.listings.add_page(listing, [ListedObject("a", size=5)], "a")
    other.listings.end(listing)
    assert other.claims.claim(1, made.id)
    other.leases.renew(0.5)
    job = gevent.spawn(accept, ledger, order, runner, quiet=True)
    while lives and not job.ready():
        other.leases.renew()
        gevent.sleep(0.01)
    found, new = job.get(timeout=30)
    assert (found.id, found.listing, new) == (made.id, "done" if lives else "due", False)
    ledger.close()
    other.close()


@pytest.mark.parametrize("verb", [None, "pause", "cancel"])
def test_a_skip_that_was_handed_back_is_not_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str | None
) -> None:
    """Another command sends the object that the skip found, and this one is stopped before it
    inspects it again."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/a"), Endpoint(f"file://{tmp_path}/b"), if_exists=IfExists.SKIP
    )
    ledger = ledger_of(tmp_path)

    def stop_worker(worker: Worker, look: object, seconds: float) -> Exit:
        assert worker.only is not None
        found = Location("memory", "", 0, "/a")
        skip = outcome_of(State.SKIPPED, found, found, bytes=0)
        (claim,) = ledger.claims.claim(1, worker.only)
        worker.ended(claim, skip)
        ledger.claims.settle([Settlement(claim, "hand_back")])
        if verb is not None:
            ledger.act(worker.only, verb)
        return Exit.INTERRUPTED

    monkeypatch.setattr(single, "work", stop_worker)
    with pytest.raises(Interrupted):
        single.migrate_object(ledger, order, runner, quiet=True, as_json=False)
    ledger.close()
