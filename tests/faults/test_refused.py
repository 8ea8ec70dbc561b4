"""One 401 concerns one object; withdrawn credentials concern all; and a location that cannot be
found waits, and never fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from sqlalchemy import update

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists
from relay.engine.transfer import precheck
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.refusals import PATIENCE, RefusalJudge, Verdict
from relay.engine.worker.worker import Worker
from relay.errors import LedgerRefused, Unauthenticated
from relay.ledger.claim_ledger import ClaimLedger
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.schema import migrations
from relay.ledger.workers import SERVER
from relay.location import Location
from relay.stores.local import LocalStore
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.test_claims import accept_tree
from tests.scripted import Peer, Talk, length_of

COUNT = 30


@dataclass
class Web:
    """A web server that permits some readers some objects."""

    refused: Callable[[str, str | None], bool] = lambda path, given: False
    """Whether a request for a path, with an Authorization, is answered 401."""
    port: int = 0
    asked: list[str] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    """The answer for paths without an object."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            refused = made.refused(self.path, self.headers.get("Authorization"))
            if self.command == "GET":
                made.asked.append(self.path)
            body = b"" if refused else made.bodies.get(self.path, f"object {self.path}".encode())
            self.send_response(401 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        yield made
        server.shutdown()


def runner_of(folder: Path, **settings: Any) -> TransferEngine:
    return TransferEngine(
        Settings(local_folders=str(folder), egress_allow="127.0.0.1", retry_budget=0.0, **settings)
    )


def list_request(folder: Path, web: Web, private: range) -> MigrationRequest:
    """Return the request for a list of URLs, some of which are private."""
    lines = [web.url(f"/{'private' if n in private else 'open'}/{n}") for n in range(COUNT)]
    (folder / "urls.txt").write_text("\n".join(lines))
    return MigrationRequest(
        Endpoint(f"list+file://{folder}/urls.txt"), Endpoint(f"file://{folder}/to"), recursive=True
    )


def run_worker(ledger: Ledger, runner: TransferEngine, id: str, slots: int = 1) -> dict[str, int]:
    """Work on a migration until it rests; return the number of its objects in each state."""
    with gevent.Timeout(60):
        Worker(ledger, runner, slots, id).run()
    return {state: counted.objects for state, counted in ledger.migration(id).tally.items()}


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("private", [range(0, 1), range(COUNT - 1, COUNT), range(10, 13)], ids=str)
def test_a_private_object_of_a_list_stops_no_other(
    ledger: Ledger, tmp_path: Path, web: Web, private: range, slots: int
) -> None:
    web.refused = lambda path, _: path.startswith("/private")
    runner = runner_of(tmp_path)
    id = ledger.create(list_request(tmp_path, web, private).spec(runner.remotes))[0].id
    found = run_worker(ledger, runner, id, slots)
    last = private[-1] == COUNT - 1
    if (
        last and ledger.migration(id).state == "paused"
    ):  # no other object was left to decide it: it is resumed once
        ledger.act(id, "resume")
        found = run_worker(ledger, runner, id, slots)
    assert found == {"failed": len(private), "verified": COUNT - len(private)}
    assert ledger.migration(id).state == "partial"
    errors = {(row.error or {})["code"] for row in ledger.page(id, ["failed"])}
    assert errors == {"store-unauthenticated"}


def test_a_refused_look_among_skips_stops_no_other(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store answers 401 to the HEAD of one object, as an S3 server may."""
    look = precheck.inspect_prior_state

    def inspect(destination: Any, place: Location, needed: bool) -> Any:
        if place.path == "/to/05":
            raise Unauthenticated("no", side="destination")
        return look(destination, place, needed)

    monkeypatch.setattr(precheck, "inspect_prior_state", inspect)
    files = {f"{number:02}": b"text" for number in range(COUNT)}
    shelf = Shelf({f"/to/{name}".encode(): data for name, data in files.items()})
    with Peer(shelf) as there:
        found = run_to(there, ledger, tmp_path, files, slots=1, if_exists=IfExists.SKIP)
    assert found == ({"failed": 1, "skipped": COUNT - 1}, "partial")


class Quota(Shelf):
    """A server whose free space one object exceeds."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        self.refused = {b"PUT": empty_answer(507)} if path == b"/to/05" else {}
        return super()._put(talk, path, request)


def test_an_object_that_does_not_fit_stops_no_other(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for number in range(COUNT):
        (tmp_path / "from" / f"{number:02}").write_text("text")
    runner = runner_of(tmp_path)
    with Peer(Quota()) as there:
        order = MigrationRequest(
            Endpoint(f"file://{tmp_path}/from/"), Endpoint(there.url("/to/")), recursive=True
        )
        id = ledger.create(order.spec(runner.remotes))[0].id
        found = run_worker(ledger, runner, id)
    assert found == {"failed": 1, "verified": COUNT - 1}
    assert [(row.error or {})["code"] for row in ledger.page(id, ["failed"])] == ["store-full"]


@dataclass
class Full(Shelf):
    """A server without space for objects that are not empty. It takes one named `fits` once it has
    refused others twice, and refuses each while another upload runs, if one comes within
    seconds."""

    fits: bytes | None = None
    refusals: int = 0
    running: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        with self.changed:
            self.running += 1
            self.changed.notify_all()
            if path == self.fits:
                self.changed.wait_for(lambda: self.refusals >= 2, 30)
            elif self.fits is None and length_of(request):
                self.changed.wait_for(lambda: self.running > 1, 3)
        is_taken = path == self.fits or not length_of(request)
        if is_taken:
            goes_on = super()._put(talk, path, request)
        else:
            if b"100-continue" in request:
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            goes_on = len(talk.body(length_of(request))) == length_of(request)
            talk.send(empty_answer(507))
        with self.changed:
            self.running -= 1
            self.refusals += not is_taken
            self.changed.notify_all()
        return goes_on


def run_to(
    there: Peer, ledger: Ledger, tmp_path: Path, files: dict[str, bytes], *, slots: int, **more: Any
) -> tuple[dict[str, int], str]:
    """Move a folder of these files to a server; return the number of objects in each state, and the
    state of the migration."""
    (tmp_path / "from").mkdir()
    for name, data in files.items():
        (tmp_path / "from" / name).write_bytes(data)
    runner = runner_of(tmp_path)
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from/"), Endpoint(there.url("/to/")), recursive=True, **more
    )
    id = ledger.create(order.spec(runner.remotes))[0].id
    return run_worker(ledger, runner, id, slots), ledger.migration(id).state


def test_objects_of_a_full_store_are_sent_a_few_times(ledger: Ledger, tmp_path: Path) -> None:
    """One of them always runs when another is refused."""
    full, count = Full(), 5
    with Peer(full) as there:
        files = {f"{number}": b"large" for number in range(count)}
        found = run_to(there, ledger, tmp_path, files, slots=count)
    assert found == ({"queued": count}, "paused")
    assert full.refusals <= 3 * count


def test_an_object_that_fits_outlasts_refusals(ledger: Ledger, tmp_path: Path) -> None:
    """It began before them."""
    full = Full(fits=b"/to/a")
    with Peer(full) as there:
        files = {"a": b"fits", "b": b"too large"}
        found = run_to(there, ledger, tmp_path, files, slots=2)
    assert found == ({"queued": 1, "verified": 1}, "paused")
    assert full.objects == {b"/to/a": b"fits"}


@pytest.mark.parametrize("others", ["empty", "skipped"])
def test_a_full_store_fails_no_object_beside_free_ones(
    ledger: Ledger, tmp_path: Path, others: str
) -> None:
    free = b"" if others == "empty" else b"text"
    files = {f"{number:02}": b"text" if number % 2 else free for number in range(COUNT)}
    full = Full(fits=b"none", refusals=2)
    if others == "skipped":
        full.objects = {f"/to/{number:02}".encode(): b"text" for number in range(0, COUNT, 2)}
    with Peer(full) as there:
        found, state = run_to(there, ledger, tmp_path, files, slots=1, if_exists=IfExists.SKIP)
    assert (state, found.get("failed")) == ("paused", None)


def test_a_list_with_many_denied_objects_ends(ledger: Ledger, tmp_path: Path, web: Web) -> None:
    """A resume resets the count, as long as others arrive: a later denial is final."""
    web.refused = lambda path, _: path.startswith("/private")
    runner = runner_of(tmp_path)
    private = range(2 * PATIENCE)
    id = ledger.create(list_request(tmp_path, web, private).spec(runner.remotes))[0].id
    assert "failed" not in run_worker(ledger, runner, id)
    assert ledger.migration(id).state == "paused"
    for _ in range(3):
        if ledger.migration(id).state == "paused":
            ledger.act(id, "resume")
            found = run_worker(ledger, runner, id)
    assert found == {"failed": len(private), "verified": COUNT - len(private)}


def test_a_denial_after_a_pause_is_not_final(ledger: Ledger, tmp_path: Path, web: Web) -> None:
    """Transfers that were claimed before the pause go on, and are denied after it."""
    runner = runner_of(tmp_path)
    id = ledger.create(list_request(tmp_path, web, range(1)).spec(runner.remotes))[0].id
    jobs, denied = MigrationCache(ledger, runner), Unauthenticated("no", side="source")
    listing = ledger.listings.claim(id)
    assert listing is not None
    page = [ListedObject(f"{n}", size=4, url=web.url(f"/{n}")) for n in range(3 * PATIENCE)]
    ledger.listings.add_page(listing, page, "last")
    claims = ledger.claims.claim(len(page))
    judge = RefusalJudge(jobs, monotonic, {})
    verdicts = [judge.judge(claim, denied)[0] for claim in claims[:PATIENCE]]
    assert verdicts[-1] is Verdict.ALL
    jobs.pause(claims[PATIENCE - 1], denied)
    assert Verdict.OWN not in [judge.judge(claim, denied)[0] for claim in claims[PATIENCE:]]


def test_a_migration_that_is_denied_everything_waits(
    ledger: Ledger, tmp_path: Path, web: Web
) -> None:
    web.refused = lambda path, _: True
    runner = runner_of(tmp_path)
    id = ledger.create(list_request(tmp_path, web, range(0)).spec(runner.remotes))[0].id
    assert run_worker(ledger, runner, id) == {"queued": COUNT}
    found = ledger.migration(id)
    assert (found.state, (found.error or {})["side"]) == ("paused", "source")
    assert len(web.asked) <= 2 * PATIENCE


def test_withdrawn_credentials_fail_no_object(ledger: Ledger, tmp_path: Path, web: Web) -> None:
    """The credentials of a list, which go to its own origin: after ten objects the old token is
    refused."""
    web.bodies["/list.txt"] = "\n".join(web.url(f"/open/{n}") for n in range(COUNT)).encode()
    let_in: set[str] = set()

    def is_refused(path: str, given: str | None) -> bool:
        good = (
            "Bearer one"
            if len(let_in) < 10 or path in let_in and len(let_in) == 10
            else "Bearer two"
        )
        if given == good:
            let_in.add(path)
        return given != good and path != "/list.txt"

    web.refused = is_refused
    runner = runner_of(tmp_path)

    def order(token: str) -> MigrationRequest:
        source = Endpoint(
            f"list+{web.url('/list.txt')}", headers=(("Authorization", f"Bearer {token}"),)
        )
        return MigrationRequest(source, Endpoint(f"file://{tmp_path}/to"), recursive=True)

    id = ledger.create(order("one").spec(runner.remotes))[0].id
    found = run_worker(ledger, runner, id)
    assert "failed" not in found and found["verified"] >= 9
    assert ledger.migration(id).state == "paused"
    ledger.act(id, "resume", order("two").spec(runner.remotes))
    assert run_worker(ledger, runner, id) == {"verified": COUNT}


# -- places that cannot be located


def of_kind(ledger: Ledger, id: str, runner: str | None) -> None:
    values = {"runner": runner}
    ledger.database.run(
        lambda c: c.execute(update(migrations).where(migrations.c.id == id).values(**values))
    )


OTHERS: dict[str, dict[str, Any]] = {
    "its folders are not allowed": {"local_folders": "/usr"},
    "its remote is not there": {},
    "its remote leads elsewhere": {
        "remotes": {"far": {"type": "http", "url": "http://127.0.0.1:2"}}
    },
}


@pytest.mark.parametrize("kind", [SERVER, None])
@pytest.mark.parametrize("what", OTHERS)
def test_an_unknown_location_waits_and_never_fails(
    ledger: Ledger, tmp_path: Path, web: Web, what: str, kind: str | None
) -> None:
    """Accepted with one remote and one folder, and run by a process with others."""
    far = {"far": {"type": "http", "url": web.url("")}}
    first = runner_of(tmp_path, remotes=far)
    id = ledger.create(
        MigrationRequest(Endpoint("far:open/1"), Endpoint(f"file://{tmp_path}/to")).spec(
            first.remotes
        )
    )[0].id
    of_kind(ledger, id, kind)
    folders = (
        {"local_folders": str(tmp_path), "remotes": far}
        if "folders" in what
        else {"local_folders": str(tmp_path)}
    )
    other = TransferEngine(Settings(**{**folders, "egress_allow": "127.0.0.1", **OTHERS[what]}))
    worker = Worker(ledger, other, 1, id)
    job = gevent.spawn(worker.run)
    with gevent.Timeout(30):
        while (row := ledger.page(id)[0]).attempts == 0 or row.state != "queued":
            gevent.sleep(0.01)
        if kind is None:  # a worker with other settings polls
            worker.stop()
        job.join()
    found = ledger.migration(id)
    assert {state for state in found.tally} == {"queued"}
    assert found.state == ("running" if kind is None else "paused")
    if kind is not None:
        assert found.error is not None and "http://" not in found.error["detail"]
        ledger.act(id, "resume")
    else:
        ledger.database.run(lambda c: c.exec_driver_sql("UPDATE transfers SET not_before = 0"))
    assert run_worker(ledger, first, id) == {"verified": 1}


def test_a_tree_that_can_not_be_located_waits_too(ledger: Ledger, tmp_path: Path) -> None:
    first = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, first, 3)
    of_kind(ledger, id, SERVER)
    assert run_worker(ledger, TransferEngine(Settings(local_folders="/usr")), id) == {}
    assert (ledger.migration(id).state, ledger.migration(id).listing) == ("paused", "due")
    ledger.act(id, "resume")
    assert run_worker(ledger, first, id) == {"verified": 3}


# -- values that the ledger refuses, and unexpected errors


def test_an_end_the_ledger_refuses_fails_that_object_alone(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 10)
    for name in ("settle_and_claim", "settle"):
        real = getattr(ClaimLedger, name)

        def picky(self: ClaimLedger, ends: Any, *args: Any, real: Any = real, **more: Any) -> Any:
            if any(end.claim.name == "003" and end.verb == "verified" for end in ends):
                raise LedgerRefused("it does not take 003")
            return real(self, ends, *args, **more)

        monkeypatch.setattr(ClaimLedger, name, picky)
    assert run_worker(ledger, runner, id) == {"failed": 1, "verified": 9}
    (row,) = ledger.page(id, ["failed"])
    assert (row.name, (row.error or {})["code"]) == ("003", "ledger-refused")


def test_an_unexpected_error_keeps_its_type_alone(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its text may be a URL, which may contain a password, or the output of a helper."""

    def explode(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("https://a.example/?token=" + "neddih"[::-1])

    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 1)
    monkeypatch.setattr(LocalStore, "put", explode)
    assert run_worker(ledger, runner, id) == {"failed": 1}
    monkeypatch.setattr(LocalStore, "list", explode)
    other = ledger.create(
        MigrationRequest(
            Endpoint(f"file://{tmp_path}/tree"), Endpoint(f"file://{tmp_path}/new"), recursive=True
        ).spec(runner.remotes)
    )[0].id
    run_worker(ledger, runner, other)
    kept = "".join(str(row.error) for row in ledger.page(id)) + str(ledger.migration(other).error)
    kept += str(ledger.events.all(id)) + str(ledger.events.all(other)) + caplog.text
    assert "ZeroDivisionError" in kept and "hidden" not in kept
