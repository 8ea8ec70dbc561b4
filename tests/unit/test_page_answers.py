"""The answers of the page: their headers, their links below a prefix, and what it refuses."""

from __future__ import annotations

import gc
import html
import re
import time
from collections.abc import Iterator
from contextlib import closing
from inspect import getgeneratorlocals
from pathlib import Path
from types import GeneratorType
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

from relay.api import app as application
from relay.api.app import create_app
from relay.api.caller import Caller
from relay.api.hub_pauses import HubPauses
from relay.api.ledger_context import ledger_context
from relay.api.token_limits import may_name
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import LedgerBusy, Unauthorized
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.overview_ledger import OverviewLedger
from relay.ledger.token_format import hash_of
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.viewer import Viewer
from relay.ledger.workers import SERVER
from relay.stores.kinds import Remote
from relay.ui import live_values, rendering
from relay.ui.assets import FOLDER, assets
from relay.ui.remote_pages import _endpoint
from relay.ui.rendering import HEADERS
from relay.ui.server_pages import MASK, shown_value
from tests.conftest import LOOPBACK

PAGES = (
    *("/ui/", "/ui/?group=ended&q=x", "/ui/new", "/ui/remotes", "/ui/settings", "/ui/health"),
    "/ui/tokens",
    *("/ui/migrations/1", "/ui/migrations/1/cancel", "/ui/migrations/1/objects"),
)
VERB = "/ui/migrations/1/pause"


@pytest.fixture
def page_app(tmp_path: Path) -> Iterator[Flask]:
    """Return an application whose ledger has one migration."""
    engine = TransferEngine(Settings(ledger=f"sqlite:///{tmp_path}/l.db", streams=2), LOOPBACK)
    with closing(Ledger.connect(engine.settings.ledger_url(), SERVER)) as ledger:
        spec = Spec("https://a/<b>", "https://b/", options=_OPTIONS, secret={})
        ledger.create(spec)
        works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
        app = create_app(engine, (), works)
        app.config["ledger"] = engine.settings.ledger_url()
        yield app
    engine.wire.pool.close()


_OPTIONS = {"recursive": True, "verify": "auto", "if_exists": "changed"}


@pytest.fixture
def client(page_app: Flask) -> FlaskClient:
    """Return a client of it."""
    return page_app.test_client()


@pytest.mark.parametrize("path", [*PAGES, "/ui/nothing", "/ui/migrations/2", "/ui/?x=1"])
def test_every_page_has_its_headers(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.mimetype == "text/html"
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.text.count("<h1") == 1 and "https://a/<b>" not in answer.text
    assert not re.search(r"<[^>]+ (?:style|on\w+)=", answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_names_another_host(client: FlaskClient, path: str) -> None:
    text = client.get(path).text
    assert not re.search(r"(?:href|src|action)=\"(?:https?:)?//", text)


def test_a_page_is_rendered_in_pieces(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(
        rendering, "HubPauses", lambda: HubPauses(0.0, pause=lambda: pauses.append(1))
    )
    assert client.get("/ui/").status_code == 200
    assert len(pauses) > 50


def test_a_stream_keeps_no_migrations_of_its_own(client: FlaskClient) -> None:
    """All streams share those that the watcher has read."""
    with closing(client.get("/ui/stream?list=1", buffered=False)) as answer:
        assert next(iter(answer.iter_encoded()))
        held = [
            value
            for one in gc.get_objects()
            if isinstance(one, GeneratorType) and one.gi_code.co_filename == live_values.__file__
            for value in getgeneratorlocals(one).values()
        ]
    assert held
    kept = [value for value in held if isinstance(value, list | tuple)]
    assert not any(isinstance(one, Migration) for value in kept for one in value)


def test_an_asset_is_kept_for_ever(client: FlaskClient) -> None:
    for asset in assets().values():
        answer = client.get(f"/ui/assets/{asset.name}")
        assert answer.data == asset.content
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/ui/assets/relay.css").status_code == 404


def test_own_files_are_small() -> None:
    assert (FOLDER / "relay.js").stat().st_size <= 12 * 1024
    text = (FOLDER / "relay.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_a_prefix_is_before_every_link(client: FlaskClient) -> None:
    prefixed = {
        "X-Forwarded-Prefix": "/tools/relay/",
        "Authorization": "Bearer planted-token-000000",
    }
    engine = TransferEngine(Settings(trusted_proxies="127.0.0.1"))
    app = create_app(engine, ["planted-token-000000"])
    text = app.test_client().get("/ui/new", headers=prefixed).text
    links = re.findall(r"(?:href|src|action)=\"([^\"#]+)", text)
    assert links and all(link.startswith("/tools/relay/ui/") for link in links)
    home = {**prefixed, "Accept": "text/html"}
    answer = app.test_client().get("/", headers=home)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/tools/relay/ui/")


def test_only_browsers_are_led_to_the_page(client: FlaskClient) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    assert client.get("/", headers={"Accept": browser}).headers["Location"] == "/ui/"
    for accept in ("*/*", "application/json", "", "application/json, text/html;q=0.5"):
        assert client.get("/", headers={"Accept": accept}).json["name"] == "relay"  # type: ignore[index]
    assert client.get("/ui").headers["Location"] == "/ui/"


def test_a_verb_leads_back(client: FlaskClient) -> None:
    answer = client.post(VERB)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/migrations/1")
    assert "Paused. Nothing is under way." in client.get("/ui/migrations/1").text
    refused = client.post("/ui/migrations/1/retry")
    assert refused.status_code == 409 and 'role="alert"' in refused.text
    assert client.post("/ui/migrations/7/pause").status_code == 404


UNSEEN = ' fam-\U0001f468\u200d\U0001f469/a\u202eb\u00ad&"\ufeff '


@pytest.mark.parametrize(
    ("path", "field"), [("/ui/?q={}x", "q"), ("/ui/migrations/1/objects?prefix={}", "prefix")]
)
def test_a_filter_comes_back_exactly(client: FlaskClient, path: str, field: str) -> None:
    found = values_in(client.get(path.format(quote(f"x{UNSEEN}"))).text)
    assert found[field] == f"x{UNSEEN}" + ("x" if field == "q" else "")


def test_a_form_comes_back_exactly(client: FlaskClient) -> None:
    """A button would start another migration else."""
    form = {"do": "plan", "key": "k", "source_path": UNSEEN, "source_remote": "none"}
    answer = client.post("/ui/new", data={**form, "destination_path": f"file:///{UNSEEN}/"})
    found = values_in(answer.text)
    assert answer.status_code == 422 and found["source_path"] == UNSEEN
    assert found["destination_path"] == f"file:///{UNSEEN}/"


def test_each_value_of_a_template_is_exact() -> None:
    for path in sorted(FOLDER.with_name("templates").glob("*.html")):
        for value in re.findall(r'(?<![\w-])value="([^"]*)"', path.read_text(encoding="utf-8")):
            for expression in re.findall(r"{{ (.*?) }}", value):
                assert expression.endswith("|exact") or expression == "live.value", path


def values_in(text: str) -> dict[str, str]:
    """Return the values of the fields of a page's forms."""
    found = re.findall(r'<(?:input|textarea)\b[^>]*? name="(\w+)" value="([^"]*)"', text)
    return {name: html.unescape(value) for name, value in found}


def test_fresh_credentials_leave_the_other_end(page_app: Flask) -> None:
    """With its headers, its signature and its method."""
    client, far = page_app.test_client(), "http://127.0.0.1/b?sig=planted-b"
    order = {
        "source": {
            "url": "http://127.0.0.1/a?sig=planted-a",
            "headers": {"Authorization": "Bearer a"},
        },
        "destination": {"url": far, "headers": {"Authorization": "Bearer b"}, "method": "POST"},
        "paused": True,
    }
    assert client.post("/migrate", json=order).status_code == 202
    path = "/ui/migrations/2/credentials"
    form = values_in(client.get(path).text)
    assert "planted" not in str(form)
    fresh = [
        (
            {"source_headers": "Authorization: c"},
            ("http://127.0.0.1/a?sig=planted-a", [["Authorization", "c"]]),
        ),
        ({"source_url": "http://127.0.0.1/a?sig=c"}, ("http://127.0.0.1/a?sig=c", [])),
    ]
    with closing(Ledger.connect(page_app.config["ledger"], SERVER)) as ledger:
        migration = ledger.overview.migrations_by_name(["2"], Viewer(sees_all=True))[0].id
        for fields, wanted in fresh:
            answer = client.post(path, data=form | fields)
            assert answer.status_code == 303, answer.text
            secret = ledger.secret(migration) or {}
            assert (secret["source"]["text"], secret["source"]["headers"]) == wanted
            kept = {"text": far, "headers": [["Authorization", "Bearer b"]], "method": "POST"}
            assert secret["destination"] == kept
            client.post("/ui/migrations/2/pause")


def test_a_value_is_replaced_once_by_one_form(page_app: Flask) -> None:
    """A reload of the answer would end the value that programs use."""
    with closing(Ledger.connect(page_app.config["ledger"], SERVER)) as ledger:
        made, value = ledger.tokens.create(
            "x", tenant="default", scope=Scope.ADMIN, limits=TokenLimits()
        )
        sent, client = {"Authorization": f"Bearer {value}"}, page_app.test_client()
        path = f"/ui/tokens/{made.id}/rotate"
        form = {"since": values_in(client.get("/ui/tokens", headers=sent).text)["since"]}
        answers = [client.post(path, data=form, headers=sent) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 409]
        assert 'id="value"' in answers[0].text and 'id="value"' not in answers[1].text
        (found,) = ledger.tokens.every()
        assert found.hashes(time.time())[1:] == (hash_of(value),)
        form = {"since": values_in(answers[1].text)["since"]}
        assert client.post(path, data=form, headers=sent).status_code == 200


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        (VERB, {"x": "1"}, 422),
        ("/ui/migrations/1/retry", {"reason": 'a"b'}, 422),
        ("/ui/new", {"do": "start"}, 422),
        ("/ui/new", {"do": "other", "key": "k"}, 422),
        ("/ui/new", {"do": "browse:side:x", "key": "k"}, 422),
        ("/ui/new", {"do": "start", "key": "k", "if_exists": "explode"}, 422),
        ("/ui/remotes/test", {"remote": "none", "kind": "read"}, 422),
        ("/ui/remotes/test", {"remote": "none", "kind": "erase"}, 422),
    ],
)
def test_a_wrong_form_is_refused(
    client: FlaskClient, path: str, form: dict[str, str], status: int
) -> None:
    answer = client.post(path, data=form)
    assert answer.status_code == status and answer.mimetype == "text/html"
    assert client.get("/migrations").json["migrations"][0]["state"] == "running"  # type: ignore[index]


def test_a_nul_reaches_no_ledger(client: FlaskClient) -> None:
    """PostgreSQL refuses it, which looked like a bug."""
    answers = [
        client.get("/ui/migrations/1/objects?prefix=%00"),
        client.post("/ui/remotes/test", data={"remote": "a\0", "kind": "read"}),
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert all("has a NUL" in answer.text for answer in answers)
    retry = client.post("/migrations/1/retry", json={"reason": "a\0"})
    assert retry.status_code == 422 and "has a NUL" in retry.text


def test_a_form_sent_twice_starts_one(client: FlaskClient) -> None:
    form = {
        "do": "start",
        "key": "page-1",
        "source_path": "http://127.0.0.1/a/",
        "destination_path": "http://127.0.0.1/b/",
        "tree": "1",
        "if_exists": "skip",
        "verify": "auto",
        "rate": "20",
    }
    answers = [client.post("/ui/new", data=form) for _ in range(2)]
    assert {answer.headers["Location"] for answer in answers} == {"/ui/migrations/2"}
    made = client.get("/migrations/2").json or {}
    assert made["limits"]["bytes_per_second"] == 20_000_000
    assert made["options"]["if_exists"] == "skip"
    other = {**form, "destination_path": "http://127.0.0.1/c/"}
    again = client.post("/ui/new", data=other)
    assert again.status_code == 422 and "already sent with other values" in again.text
    # The form in this answer has another key.
    key = re.search('name="key" value="([^"]+)"', again.text)
    assert key is not None and key[1] != "page-1"
    answer = client.post("/ui/new", data={**other, "key": key[1]})
    assert answer.headers["Location"] == "/ui/migrations/3"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"reason=a&reason=b", "application/x-www-form-urlencoded", 422),
        (b"x" * 2_000_000, "application/x-www-form-urlencoded", 413),
    ],
)
def test_a_body_that_is_no_form(client: FlaskClient, body: bytes, kind: str, status: int) -> None:
    answer = client.post("/ui/migrations/1/retry", data=body, content_type=kind)
    assert answer.status_code == status


def test_open_files_do_not_count_as_requests(tmp_path: Path) -> None:
    """A page of a token with one request a second has its style, script and icon."""
    settings = Settings(ledger=f"sqlite:///{tmp_path}/l.db")
    engine = TransferEngine(settings, LOOPBACK)
    with closing(Ledger.connect(settings.ledger_url(), SERVER)) as ledger:
        limits = TokenLimits(requests_per_second=1)
        _, value = ledger.tokens.create("x", tenant="default", scope=Scope.READ, limits=limits)
        app = create_app(engine, (), ledger_context(ledger, Worker(ledger, engine, 1), engine))
        client, sent = app.test_client(), {"Authorization": f"Bearer {value}"}
        paths = [f"/ui/assets/{asset.name}" for asset in assets().values()] * 2
        statuses = {client.get(path, headers=sent).status_code for path in paths}
        pages = [client.get("/ui/health", headers=sent).status_code for _ in range(4)]
    engine.wire.pool.close()
    assert statuses == {200}
    assert pages[0] == 200 and 429 in pages


def test_a_report_is_of_the_shown_objects(page_app: Flask) -> None:
    """As many as the page of one reason counts."""
    client = page_app.test_client()
    with closing(Ledger.connect(page_app.config["ledger"], SERVER)) as ledger:
        listing = ledger.listings.claim()
        assert listing is not None
        ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    page = client.get("/ui/migrations/1/objects?state=failed&reason=source:timeout").text
    link = re.search('href="(/ui/migrations/1/report.jsonl[^"]*)"', page)
    assert link is not None and "reason=" in link[1]
    for kind in ("csv", "jsonl", "html"):
        every, some = (
            client.get(f"/ui/migrations/1/report.{kind}{query}").text
            for query in ("", "?reason=source:timeout")
        )
        assert some.count("queued") < every.count("queued")


@pytest.mark.parametrize("query", ["?level=size", "?prefix=a", "?state=failed&prefix=a"])
def test_a_report_of_more_than_the_shown_objects_says_so(client: FlaskClient, query: str) -> None:
    page = "/ui/migrations/1/objects"
    assert "not filtered by proof and name" in client.get(page + query).text
    assert "not filtered by" not in client.get(f"{page}?state=failed&reason=a").text


@pytest.mark.parametrize("kind", ["csv", "jsonl", "html"])
def test_a_report_is_cut_off_with_its_token(page_app: Flask, kind: str) -> None:
    """By an error: a whole answer would look as if it had all objects."""
    before_view = page_app.before_request_funcs[None]

    def end_admission() -> None:
        g.still_admitted = lambda: False

    before_view.append(end_admission)
    with closing(Ledger.connect(page_app.config["ledger"], SERVER)) as ledger:
        listing = ledger.listings.claim()
        assert listing is not None
        ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    with pytest.raises(Unauthorized):
        page_app.test_client().get(f"/ui/migrations/1/report.{kind}").get_data()


@pytest.mark.parametrize(("length", "status"), [(2_000, 303), (9_000, 413)])
def test_a_form_of_strangers_is_short(length: int, status: int) -> None:
    """Many at a time are held in memory, before any check of a token."""
    app = create_app(TransferEngine(Settings()), ["planted-token-000000"])
    answer = app.test_client().post("/ui/sign-in", data={"token": "x" * length})
    assert answer.status_code == status


def test_a_form_starts_a_paused_migration(client: FlaskClient) -> None:
    form = {
        "do": "start-paused",
        "key": "page-1",
        "source_path": "http://127.0.0.1/a/",
        "destination_path": "http://127.0.0.1/b/",
        "tree": "1",
        "if_exists": "skip",
        "verify": "auto",
    }
    assert client.post("/ui/new", data=form).headers["Location"] == "/ui/migrations/2"
    assert "Paused. Nothing is under way." in client.get("/ui/migrations/2").text


@pytest.mark.parametrize("recursive", [True, False])
def test_an_order_is_accepted_as_paused(client: FlaskClient, recursive: bool) -> None:
    order = {
        "source": "http://127.0.0.1/a/b",
        "destination": "http://127.0.0.1/b/b",
        "recursive": recursive,
        "paused": True,
    }
    answer = client.post("/migrate", json=order)
    assert (answer.status_code, (answer.json or {})["state"]) == (202, "paused")
    assert client.post("/migrations/2/resume").json["state"] == "running"  # type: ignore[index]


def test_a_page_takes_a_place_among_the_streams(client: FlaskClient) -> None:
    """Of the same ones as the API's streams; it is free once the page is closed."""
    opened = [client.get("/ui/stream?m=1") for _ in range(2)]
    assert {answer.status_code for answer in opened} == {200}
    for path in ("/ui/stream?list=1", "/migrations/1/events"):
        refused = client.get(path)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert refused.mimetype == "application/problem+json"
    opened[0].close()
    with client.get("/migrations/1/events") as again:
        assert again.status_code == 200
    opened[1].close()


def test_only_an_ended_migration_is_acknowledged(client: FlaskClient) -> None:
    refused = client.post("/ui/migrations/1/acknowledge")
    assert refused.status_code == 409 and 'role="alert"' in refused.text
    assert client.post("/ui/migrations/7/acknowledge").status_code == 404
    assert "Acknowledge" not in client.get("/ui/migrations/1").text


def test_another_origin_changes_nothing(client: FlaskClient) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.post(VERB, headers=headers).status_code == 403
    assert client.get("/migrations/1").json["state"] == "running"  # type: ignore[index]


def test_live_values_have_every_text(client: FlaskClient) -> None:
    found: dict[str, Any] = client.get("/ui/values?m=1").json  # type: ignore[assignment]
    page = client.get("/ui/migrations/1").text
    names = set(re.findall(r'data-live="([^"]+)"', page))
    assert names <= set(found["texts"])
    assert f'data-shape="{found["shape"]}"' in page
    listed: dict[str, Any] = client.get("/ui/values?list=1").json  # type: ignore[assignment]
    page = client.get("/ui/").text
    assert set(re.findall(r'data-live="([^"]+)"', page)) <= set(listed["texts"])
    assert f'data-shape="{listed["shape"]}"' in page
    for query in ("", "?m=1&list=1", "?m=0", "?m=x", "?list=1,x"):
        assert client.get(f"/ui/values{query}").status_code == 422


def test_a_page_without_a_ledger_says_so() -> None:
    client = create_app(TransferEngine(Settings())).test_client()
    answer = client.get("/ui/")
    assert answer.status_code == 503 and "this server has no ledger" in answer.text
    health = client.get("/ui/health")
    assert health.status_code == 200 and "this server has no ledger" in health.text
    assert "Something needs a look" in health.text and "The ledger answers" not in health.text


def test_a_bug_is_a_page(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OverviewLedger, "find_migrations", lambda *_: 1 / 0)
    answer = client.get("/ui/")
    assert answer.status_code == 500 and 'role="alert"' in answer.text
    assert "ZeroDivisionError" in answer.text and "division by zero" not in answer.text


def test_a_setting_hides_its_secret() -> None:
    for password in (
        "planted",
        "a/planted+w==",
        "a@planted",
        "planted?a",
        "a:planted",
        "\nplanted",
    ):
        for user in ("relay", "relay@corp"):
            url = f"postgresql+psycopg://{user}:{password}@db/relay?password=planted"
            assert "planted" not in shown_value("ledger", url) and MASK in shown_value(
                "ledger", url
            )
    assert shown_value("ledger", "postgresql+psycopg://relay@db:5432/a").endswith("@db:5432/a")
    assert shown_value("token", "planted") == MASK
    assert shown_value("remotes", {"b": {"pass": "planted"}, "a": {}}) == "a, b"
    assert shown_value("tls", Settings().tls) == "auto"
    assert application.HTML == "text/html"


def test_only_an_administrator_sees_the_address(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ledger, as of every setting."""
    assert "<dt>Address</dt>" in client.get("/ui/health").text
    reader = Caller(name="reader", tenant="default", scopes=frozenset({Scope.READ}))
    monkeypatch.setattr("relay.ui.server_pages.current_caller", lambda: reader)
    text = client.get("/ui/health").text
    assert "<dt>Schema</dt>" in text and "Address" not in text


REMOTES = {
    "new": {"type": "http", "url": "http://127.0.0.1:1/new"},
    "other": {"type": "http", "url": "http://planted.example/"},
}


def test_a_token_sees_the_remotes_that_it_may_name(tmp_path: Path) -> None:
    """The page and the test of a remote show nothing of another, nor whether it exists."""
    settings = Settings(ledger=f"sqlite:///{tmp_path}/l.db", remotes=REMOTES)
    engine = TransferEngine(settings, LOOPBACK)
    with closing(Ledger.connect(settings.ledger_url(), SERVER)) as ledger:
        limits = TokenLimits(remotes=("new:*",))
        _, value = ledger.tokens.create("x", tenant="default", scope=Scope.SUBMIT, limits=limits)
        app = create_app(engine, (), ledger_context(ledger, Worker(ledger, engine, 1), engine))
        client = app.test_client()
        sent = {"Authorization": f"Bearer {value}"}
        for path in ("/ui/remotes", "/ui/new"):
            text = client.get(path, headers=sent).text
            assert "new" in text and "other" not in text and "planted" not in text
        for name in ("other", "nosuch"):
            form = {"remote": name, "path": "", "kind": "read"}
            answer = client.post("/ui/remotes/test", data=form, headers=sent)
            assert answer.status_code == 403
            assert f"may not name the remote {name}: with this path" in answer.text
    engine.wire.pool.close()


@pytest.mark.parametrize(
    ("type", "options", "shown"),
    [
        ("http", {"url": "https://joe:planted@a.example/x?planted"}, "https://a.example/x"),
        ("http", {"url": "http://[::1/planted"}, "an invalid URL"),
        ("alias", {"remote": "old:photos"}, "old:photos"),
        ("alias", {"remote": ":s3,secret_access_key=planted:bucket"}, ":s3,…"),
        ("crypt", {"remote": "old,pass=planted:x"}, "old,…"),
        ("crypt", {"remote": ":webdav,url='https://a.example',pass=planted:x"}, ":webdav,…"),
    ],
)
def test_an_address_of_a_remote_has_no_secret(
    type: str, options: dict[str, str], shown: str
) -> None:
    assert _endpoint(Remote("x", type, "rclone.conf", options)) == shown


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (None, ["nas", "new"]),
        (("new:*",), ["new"]),
        (("new:photos/*", "other:*"), ["new"]),
        (("n*",), ["nas", "new"]),
        (("ne*:x",), ["new"]),
        (("ne:*", "n"), []),
        ((), []),
    ],
)
def test_a_pattern_names_remotes(patterns: tuple[str, ...] | None, names: list[str]) -> None:
    limits = TokenLimits(remotes=patterns)
    assert [name for name in ("nas", "new") if may_name(limits, name)] == names


def test_a_ledger_that_is_away(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LedgerBusy("locked")

    monkeypatch.setattr(OverviewLedger, "find_migrations", fail)
    answer = client.get("/ui/")
    assert answer.status_code == 503
    said = r"The ledger does not answer since \d\d:\d\d UTC \(ledger-busy\)\. Transfers under way go on"
    assert re.search(said, answer.text)
    # A page that polls gets the same sentence.
    monkeypatch.setattr(Ledger, "migration", fail)
    polled: dict[str, Any] = client.get("/ui/values?m=1").json  # type: ignore[assignment]
    assert re.match(said, polled["trouble"])
