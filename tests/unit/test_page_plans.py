"""Plans on the page, without a browser: made by a worker, left and found again, started once."""

from __future__ import annotations

import html
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient
from gevent.event import Event
from sqlalchemy import delete, select
from werkzeug.test import TestResponse

from relay.api import planner, serving
from relay.api.app import create_app
from relay.api.ledger_context import LedgerContext, ledger_context
from relay.api.planner import Planner
from relay.config import Settings
from relay.engine.migration_request import MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.plan_ledger import PlanLedger
from relay.ledger.plan_tables import plan_secrets, plans
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.workers import SERVER
from relay.process.native_threads import in_native_thread
from relay.stores.remotes import Remotes
from relay.ui import words
from tests.conftest import LOOPBACK

SECONDS = 20.0


@dataclass(frozen=True)
class Site:
    """An application whose planner runs, and its folder."""

    client: FlaskClient
    works: LedgerContext
    home: Path

    def form(self, **values: str) -> dict[str, str]:
        """Return the fields of a form that plans the tree `from`."""
        return {
            "do": "plan",
            "key": "page-1",
            "source_path": f"file://{self.home}/from/",
            "destination_path": f"file://{self.home}/to/",
            "tree": "1",
            "if_exists": "changed",
            "verify": "auto",
            **values,
        }

    def plan(self, **values: str) -> str:
        """Plan, and return the plan's path."""
        answer = self.client.post("/ui/new", data=self.form(**values))
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    def wait(self, path: str, text: str) -> str:
        """Wait until the page of a plan has a text, and return it."""
        until = time.monotonic() + SECONDS
        while True:
            found = self.client.get(path).text
            if text in found:
                return found
            assert time.monotonic() < until, found
            gevent.sleep(0.02)

    def press(self, path: str, verb: str, **fields: str) -> TestResponse:
        """Press a button of a plan."""
        return self.client.post(f"{path}/{verb}", data=fields)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that makes the application; each has the same ledger."""
    settings = Settings(
        ledger=f"sqlite:///{tmp_path}/l.db",
        local_folders=str(tmp_path),
        remotes={"nas": {"type": "alias", "remote": f"{tmp_path}/all"}},
    )
    made: list[tuple[LedgerContext, gevent.Greenlet, TransferEngine]] = []

    def make(runs: bool = True) -> Site:
        engine = TransferEngine(settings, LOOPBACK)
        ledger = Ledger.connect(engine.settings.ledger_url(), SERVER)
        ledger.leases.renew()
        works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
        running = gevent.spawn(works.planner.run) if runs else gevent.spawn(lambda: None)
        made.append((works, running, engine))
        return Site(create_app(engine, (), works).test_client(), works, tmp_path)

    for number, size in enumerate((5, 7)):
        path = tmp_path / "from" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    yield make
    for works, running, engine in made:
        works.planner.stop()
        running.join(SECONDS)
        engine.wire.pool.close()
        works.ledger.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """Return an application."""
    return make_site()


def test_a_plan_counts_and_starts_one(site: Site) -> None:
    """Though each form is sent twice."""
    path = site.plan()
    assert site.plan() == path
    text = site.wait(path, "Ready")
    assert "2 objects, 12\u00a0B: copy 2" in text
    assert "level to expect: read_back · time unknown until" in text and "requests" not in text
    assert not (site.home / "to").exists()
    answers = [site.press(path, "start") for _ in range(2)]
    assert {answer.headers["Location"] for answer in answers} == {"/ui/migrations/1"}
    assert "#1" in site.wait(path, "It has started")
    found = site.client.get("/migrations").json or {}
    assert [row["state"] for row in found["migrations"]] == ["running"]


def test_a_start_beside_another_one_leads_to_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other request commits before this one reads the secret."""
    path, secret = site.plan(), PlanLedger.secret
    site.wait(path, "Ready")

    def start_first(ledger: PlanLedger, id: str) -> object:
        monkeypatch.setattr(PlanLedger, "secret", secret)
        other = site.client.application.test_client()
        assert other.post(f"{path}/start").status_code == 303
        return ledger.secret(id)

    monkeypatch.setattr(PlanLedger, "secret", start_first)
    answer = site.press(path, "start")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/migrations/1")


def test_a_plan_whose_credentials_are_forgotten(make_site: Callable[..., Site]) -> None:
    site = make_site(runs=False)
    path = site.plan(source_path="http://127.0.0.1:9/a/?sig=planted-0123456789", tree="")
    assert site.press(path, "cancel").status_code == 303
    site.works.ledger.database.run(lambda c: c.execute(delete(plan_secrets)))
    for verb in ("start", "again"):
        answer = site.press(path, verb)
        assert answer.status_code == 409 and "credentials again" in answer.text, verb
    text = site.client.get(f"/ui/new?plan={path.rpartition('/')[2]}").text
    assert "Give the source again" in text


def test_a_plan_leads_where_it_was_accepted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its remote leads elsewhere after a change of the settings: it neither starts nor is made
    again there."""
    path = site.plan(destination_path="nas:")
    site.wait(path, "Ready")
    other = {"nas": {"type": "alias", "remote": f"{site.home}/elsewhere"}}
    engine = site.works.planner.engine
    monkeypatch.setattr(engine, "remotes", Remotes(other, folders=(site.home,)))
    answer = site.press(path, "start")
    assert answer.status_code == 409 and "now leads to another location" in answer.text
    assert (site.client.get("/migrations").json or {})["migrations"] == []
    site.press(path, "again")
    assert "now leads to another location" in site.wait(path, "Failed")


def test_a_plan_in_a_mount_that_hangs_is_left_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is free once it is stopped: as many as there are places leave room for another."""
    monkeypatch.setattr(planner, "KILL_SECONDS", 0.01)
    locate, answers, ended = MigrationRequest.locate, threading.Event(), list[bool]()

    def hang() -> None:
        answers.wait(SECONDS)
        ended.append(True)

    def locate_in_mount(order: MigrationRequest, remotes: Remotes) -> Any:
        in_native_thread(hang, "the mount")
        return locate(order, remotes)

    path = site.plan()
    site.wait(path, "Ready")
    try:
        with monkeypatch.context() as mounted:
            mounted.setattr(MigrationRequest, "locate", locate_in_mount)
            for _ in range(planner.ABREAST):
                site.press(path, "again")
                await_making(site, 1)
                site.press(path, "cancel")
                await_making(site, 0)
        site.press(path, "again")
        assert "copy 2" in site.wait(path, "Ready")
        assert not ended
    finally:
        answers.set()


def test_what_is_there_is_not_copied(site: Site) -> None:
    (site.home / "to").mkdir()
    (site.home / "to/0.bin").write_bytes(b"x" * 5)
    (site.home / "to/1.bin").write_bytes(b"another size")
    text = site.wait(site.plan(), "Ready")
    assert "2 objects, 12\u00a0B: overwrite 1 · there already 1" in text
    path = site.plan(if_exists="fail")
    assert "refused 2" in site.wait(path, "Ready")


def test_a_plan_starts_paused(site: Site) -> None:
    path = site.plan()
    site.wait(path, "Ready")
    assert site.press(path, "start", paused="1").headers["Location"] == "/ui/migrations/1"
    found = site.client.get("/migrations/1").json or {}
    assert (found["state"], found["listing"]) == ("paused", "due")


def test_a_source_that_is_not_there_fails(site: Site) -> None:
    path = site.plan(source_path=f"file://{site.home}/nowhere/")
    text = site.wait(path, "Failed")
    assert 'role="alert"' in text and "Plan again" in text and "Start without a plan" in text
    (site.home / "nowhere").mkdir()
    assert site.press(path, "again").status_code == 303
    assert "Nothing was found in the source" in site.wait(path, "Ready")


def test_a_plan_is_left_stopped_and_deleted(make_site: Callable[..., Site]) -> None:
    """It waits for a server that makes plans."""
    site = make_site(runs=False)
    path = site.plan()
    for _ in range(2):
        assert site.press(path, "cancel").status_code == 303
    assert "Stopped" in site.client.get(path).text
    refused = site.client.post(f"{path}/start", data={"other": "1"})
    assert refused.status_code == 422
    assert site.press(path, "again").status_code == 303
    refused = site.press(path, "start")
    assert refused.status_code == 409 and 'role="alert"' in refused.text
    for page in ("/ui/plans", "/ui/new"):
        assert path in site.client.get(page).text
    again = make_site()
    assert "copy 2" in again.wait(path, "Ready")
    assert site.press(path, "delete").headers["Location"] == "/ui/plans"
    gone = site.client.get(path)
    assert gone.status_code == 404 and "There is no such plan" in gone.text
    assert "No plans." in site.client.get("/ui/plans").text


def test_a_plan_is_changed_in_the_form(site: Site) -> None:
    rules = "- *.tmp\r\n\r\n+ a <b>\r\n"
    path = site.plan(slots="3", rate="20", if_exists="skip", verify="size", filters=rules)
    text = site.client.get(f"/ui/new?plan={path.rpartition('/')[2]}").text
    assert f'value="file://{site.home}/from/"' in text and 'name="slots" value="3"' in text
    assert 'name="rate" value="20"' in text
    assert ">- *.tmp\n+ a &lt;b&gt;</textarea>" in text
    wrong = site.client.post("/ui/new", data=site.form(filters="*.tmp"))
    assert wrong.status_code == 422 and "begins with neither" in wrong.text
    assert re.search(r'value="skip" checked', text) and re.search(r'value="size" selected', text)
    assert site.client.get("/ui/new?plan=1").status_code == 404


def test_a_changed_plan_names_what_the_form_lacks(make_site: Callable[..., Site]) -> None:
    """Else *Change* and *Start* would move objects in another way than was planned."""
    site = make_site(runs=False)
    there = {"url": "http://127.0.0.1:9/in/", "method": "POST", "headers": {"X-Key": "planted"}}
    limits = {"slots": 2, "connections": 2, "bytes_per_second": 500_000}
    order = {
        "source": f"file://{site.home}/from/0.bin",
        "destination": there,
        **{"metadata": "strict", "server_copy": False, "fail_on_empty": True, "priority": 5},
    }
    filters = {"include": ["[!1].bin"]}
    tree = {"source": f"file://{site.home}/from/", "destination": f"file://{site.home}/to/"}
    plan = (
        site.client.post("/plans", json={**tree, "recursive": True, "filters": filters}).json or {}
    )
    text = site.client.get(f"/ui/new?plan={plan['id']}").text
    assert "leave out or change: filters. POST" in text
    shown = site.client.get(f"/ui/plans/{plan['id']}").text
    assert "<dt>Filters</dt>" in shown and "include [!1].bin" in shown
    assert "does not negate; write [^...]" in shown
    plan = site.client.post("/plans", json={**order, "limits": limits}).json or {}
    text = site.client.get(f"/ui/new?plan={plan['id']}").text
    assert (
        "leave out or change: destination.headers, destination.method, fail_on_empty, if_exists,"
        " limits.bytes_per_second, limits.connections, metadata, priority, server_copy. POST"
    ) in text
    assert "planted" not in text
    shown = site.client.get(f"/ui/plans/{plan['id']}").text
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd><bdi>([^<]*)</bdi></dd>", shown))
    assert facts == {
        **{"If it exists": "overwrite always", "Proof": "auto", "Metadata": words.STRICT},
        **{"Copies": words.NO_SERVER_COPY, "Empty source": "a failure", "Priority": "5"},
        **{"Slots": "2", "Connections": "2", "Bandwidth": "500\u00a0kB/s"},
    }
    form = {"source_path": f"file://{site.home}/from/0.bin", "tree": "", "if_exists": "overwrite"}
    other = {"destination_remote": "nas", "destination_path": "", "rate": "1000000"}
    for number, values in enumerate((form, other)):
        path = site.plan(**values, key=f"page-{number}")
        text = site.client.get(f"/ui/new?plan={path.rpartition('/')[2]}").text
        assert "leave out or change" not in text and "again: its address" not in text


NAMES = (" Archive", "Archive", "fam-\U0001f468\u200d\U0001f469", "My%20Files", "My Files", "a?b")


@pytest.mark.parametrize("is_remote", [True, False])
def test_a_folder_is_opened_and_planned_exactly(site: Site, is_remote: bool) -> None:
    """Though another one has nearly the same name."""
    for number, name in enumerate(NAMES):
        (site.home / "all" / name).mkdir(parents=True)
        (site.home / "all" / name / f"file-{number}").write_bytes(b"x" * (number + 1))
    (site.home / "all" / "line\nbreak").mkdir()
    top = {"source_remote": "nas", "source_path": ""} if is_remote else {}
    form = {"source_path": f"file://{site.home}/all/", **top}

    def browse(button: str) -> str:
        return site.client.post("/ui/new", data=site.form(**form, do=button)).text

    text = browse("browse:source:")
    buttons = re.findall(r'value="(browse:source:[^"]+)">(?!\.\.)', text)
    assert len(buttons) == len(NAMES) + (0 if is_remote else 1)
    assert ("no form can send" in text) == is_remote
    opened = [browse(html.unescape(button)) for button in buttons]
    files = [re.findall(r"file-\d", one) for one in opened]
    assert sorted(files) == [[]] * (not is_remote) + [[f"file-{number}"] for number in range(6)]
    for number, one in enumerate(opened):
        (path,) = re.findall(r'name="source_path" value="([^"]*)"', one)
        order = {**form, "source_path": html.unescape(path), "key": f"page-{number}"}
        size = int(files[number][0][-1]) + 1 if files[number] else 0
        found = f"1 object, {size}\u00a0B" if size else "Nothing was found"
        assert found in site.wait(site.plan(**order), "Ready")


def test_a_signature_is_on_no_page(site: Site) -> None:
    path = site.plan(source_path="http://127.0.0.1:9/a/?sig=planted-0123456789", tree="")
    id = path.rpartition("/")[2]
    pages = (path, f"/ui/new?plan={id}", "/ui/new", "/ui/plans", f"/ui/values/plans/{id}")
    for page in pages:
        assert "planted" not in site.client.get(page).text, page
    assert "Give the source again" in site.client.get(f"/ui/new?plan={id}").text


def test_the_live_values_of_a_plan(site: Site) -> None:
    path = site.plan()
    site.wait(path, "Ready")
    id = path.rpartition("/")[2]
    found = site.client.get(f"/ui/values/plans/{id}").json or {}
    assert found["shape"] == "ready" and found["texts"]["found"].endswith("copy 2")
    text = site.client.get(f"/ui/stream/plans/{id}").text
    assert text.count("event: set") == 1 and text.endswith("event: end\ndata: {}\n\n")
    for name in ("values", "stream"):
        assert site.client.get(f"/ui/{name}/plans/1").status_code == 404


def test_a_foreign_plan_is_an_unknown_one(site: Site) -> None:
    """For each button and each page; and a token that may only read has no button."""
    limits = TokenLimits(local=True, requests_per_second=1000)
    tokens = {
        name: site.works.ledger.tokens.create(
            name, tenant=name.partition("-")[0], scope=scope, limits=limits
        )[1]
        for name, scope in (
            ("acme-submit", Scope.SUBMIT),
            ("acme-read", Scope.READ),
            ("other-submit", Scope.SUBMIT),
        )
    }

    def ask(name: str, method: str, path: str) -> tuple[int, str]:
        sent = {"Authorization": f"Bearer {tokens[name]}"}
        answer = site.client.open(path, method=method, headers=sent)
        return answer.status_code, re.sub(r"urn:uuid:[0-9a-f-]+|[0-9a-f-]{36}", "", answer.text)

    sent = {"Authorization": f"Bearer {tokens['acme-submit']}"}
    path = site.client.post("/ui/new", data=site.form(), headers=sent).headers["Location"]
    unknown = f"/ui/plans/{'0' * 36}"
    id, no_id = path.rpartition("/")[2], unknown.rpartition("/")[2]
    rows = [
        ("GET", "/ui/plans/{}"),
        ("GET", "/ui/new?plan={}"),
        ("GET", "/ui/values/plans/{}"),
        ("GET", "/ui/stream/plans/{}"),
        *(("POST", f"/ui/plans/{{}}/{verb}") for verb in ("cancel", "again", "start", "delete")),
    ]
    for method, rule in rows:
        theirs = ask("other-submit", method, rule.format(id))
        assert theirs == ask("other-submit", method, rule.format(no_id)), rule
        assert theirs[0] == 404, rule
    listed = [ask(name, "GET", "/ui/plans")[1] for name in ("acme-read", "other-submit")]
    assert [f"{site.home}/from/" in text for text in listed] == [True, False]
    status, text = ask("acme-read", "GET", path)
    assert status == 200 and 'method="post"' not in text
    assert ask("acme-read", "POST", f"{path}/delete")[0] == 403


def test_a_token_plans_only_what_it_may_name(site: Site) -> None:
    _, value = site.works.ledger.tokens.create(
        "narrow", tenant="acme", scope=Scope.SUBMIT, limits=TokenLimits()
    )
    sent = {"Authorization": f"Bearer {value}"}
    answer = site.client.post("/ui/new", data=site.form(), headers=sent)
    assert answer.status_code == 403 and "may not name folders" in answer.text


@pytest.fixture
def silent_store() -> Iterator[str]:
    """Return the URL of a folder on a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/from/"


def await_making(site: Site, count: int) -> None:
    """Wait until the planner makes this number of plans."""
    until = time.monotonic() + SECONDS
    while site.works.planner.making != count:
        assert time.monotonic() < until
        gevent.sleep(0.02)


def test_a_stopped_plan_frees_its_place(site: Site, silent_store: str) -> None:
    path = site.plan(source_path=silent_store)
    await_making(site, 1)
    assert site.press(path, "cancel").status_code == 303
    await_making(site, 0)
    path = site.plan(source_path=silent_store, key="page-2")
    await_making(site, 1)
    assert site.press(path, "delete").status_code == 303
    await_making(site, 0)


def test_a_server_that_stops_hands_its_plan_back(
    make_site: Callable[..., Site], silent_store: str
) -> None:
    """It does not count as a process that was lost with the plan."""
    site = make_site()
    site.plan(source_path=silent_store)
    await_making(site, 1)
    site.works.planner.stop()
    assert site.works.planner.making == 0
    columns = select(plans.c.state, plans.c.owner, plans.c.lapses)
    row = site.works.ledger.database.run(lambda c: c.execute(columns).one(), write=False)
    assert tuple(row) == ("planning", None, 0)


def test_a_listing_that_is_retried_says_why(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"http://127.0.0.1:{server.getsockname()[1]}/from/"
    path = site.plan(source_path=place)  # nothing listens there any longer
    text = site.wait(path, "The listing is retried: no connection to")
    assert "Planning" in text and 'http-equiv="refresh"' in text


def test_a_restarted_server_finds_its_plans(make_site: Callable[..., Site]) -> None:
    """Also the one that the server of before was making."""
    site = make_site(runs=False)
    path = site.plan()
    assert site.works.ledger.plans.claim() is not None
    site.works.ledger.leases.leave()
    assert "copy 2" in make_site().wait(path, "Ready")
    with closing(Ledger.connect(f"sqlite:///{site.home}/l.db", SERVER)) as ledger:
        assert ledger.plans.claim() is None


def test_an_idle_planner_looks_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a plan of a process that is gone, which wakes no other one."""
    monkeypatch.setattr(planner, "IDLE_SECONDS", 0.001)
    looks, looked = list[bool](), Event()

    def claim() -> None:
        looks.append(True)
        if len(looks) > 2:
            looked.set()

    ledger: Any = SimpleNamespace(plans=SimpleNamespace(claim=claim, is_unmade=lambda: False))
    engine: Any = None
    idle = Planner(ledger, engine)
    running = gevent.spawn(idle.run)
    assert looked.wait(SECONDS)
    idle.stop()
    running.get(timeout=SECONDS)


def test_a_drain_does_not_wait_for_the_planner() -> None:
    order, over = list[str](), Event()

    def stop() -> None:
        over.wait(SECONDS)
        order.append("planner")

    works: Any = SimpleNamespace(
        worker=SimpleNamespace(stop=lambda: order.append("worker")),
        planner=SimpleNamespace(stop=stop),
    )
    engine: Any = SimpleNamespace(drain=lambda _: order.append("drain"))
    serving._watch(SimpleNamespace(alive=False), engine, 1.0, works)
    assert order == ["worker", "drain"]
    over.set()
