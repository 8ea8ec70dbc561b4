"""Secrets of every kind, each with a marker, in runs of a real server and of real commands: none is
in what they print, log, answer, show or keep.

Theory of operation. The stores repeat every request that they refuse, in each part of the answer.
What comes out of relay is collected under a name, and searched for every marker in every form
(`tests/markers.py`). Where a secret has its place (the answer with the cookie, the column of the
URLs), that place alone is left out. The same search finds leaks that are planted into relay."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
import requests
from sqlalchemy import create_engine, inspect

from tests.end_to_end.terminal import ROOT, Terminal
from tests.end_to_end.test_serve import SERVE, Server, environment, run_server
from tests.markers import Markers
from tests.postgres import postgresql, programs

DATA = b"an object of some bytes"
SECRET_TABLES = {"secrets", "plan_secrets"}
SECRET_COLUMNS = {("transfers", "url")}
"""Where the ledger keeps secrets until a migration has succeeded."""


class _Echo(BaseHTTPRequestHandler):
    """Objects below /good/, and below any other path refusals that repeat the whole request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET
    do_PROPFIND = do_MKCOL = do_MOVE = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = self.path.partition("?")[0]
        objects: dict[str, bytes] = self.server.objects  # type: ignore[attr-defined]
        if not path.startswith("/good/"):
            self._refuse()
        elif self.command == "PUT":
            objects[path] = body
            self._send(201, b"")
        elif path in objects:
            self._send(200, objects[path], **{"Accept-Ranges": "bytes", "ETag": '"one"'})
        else:
            self._send(404, b"")

    def _refuse(self) -> None:
        said = " ".join([self.requestline, *map(str, self.headers.values())])
        body = json.dumps({"title": said, "detail": said, "message": said}).encode()
        if "xml" in self.path:
            body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
        kind = "application/xml" if "xml" in self.path else "application/problem+json"
        status = 429 if "busy" in self.path else 403
        self._send(status, body, **{"Content-Type": kind, "X-Echo": said})

    def _send(self, status: int, body: bytes, **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value.replace("\n", " "))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        """Serve a connection, which a client may reset."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def echoing_store() -> Iterator[str]:
    """Run the store; yield its URL. It has /good/a and the list /good/list.csv when that is put."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.objects = {"/good/a": DATA}  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Seen:
    """What came out of relay, by the name of the place."""

    texts: dict[str, str] = field(default_factory=dict)
    without: dict[str, set[str]] = field(default_factory=dict)
    """The kinds of secrets that belong into a place."""

    def add(self, name: str, text: str, *without: str) -> str:
        """Keep a text for the search, and return it."""
        self.texts[name] = self.texts.get(name, "") + text
        self.without.setdefault(name, set()).update(without)
        return text

    def leaks(self, markers: Markers) -> dict[str, list[str]]:
        """Return the places with a marker, each with what was found."""
        found = {
            name: markers.find(text, set(markers.values) - self.without[name])
            for name, text in self.texts.items()
        }
        return {name: kinds for name, kinds in found.items() if kinds}


@dataclass
class Client:
    """A client of a server, whose answers are collected: status, fields and body."""

    server: Server
    seen: Seen
    fields: dict[str, str]

    def ask(
        self, method: str, path: str, body: str | None = None, *, of: str = "", **fields: str
    ) -> tuple[int, str, Mapping[str, str]]:
        """Make one request."""
        sent = {**self.fields, **{name.replace("_", "-"): text for name, text in fields.items()}}
        with closing(self.server.connect()) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            text = answer.read().decode(errors="surrogateescape")
            got = dict(answer.getheaders())
        kept = "".join(f"{name}: {value}\n" for name, value in got.items() if name != "Set-Cookie")
        without = ["csrf"] if "text/html" in got.get("Content-Type", "") else []
        self.seen.add(of or f"answer to {method} {path[:60]}", kept + text, *without)
        return answer.status, text, got

    def order(self, members: Mapping[str, object], **fields: str) -> tuple[int, str]:
        """Post a migration."""
        fields = {"Content_Type": "application/json", **fields}
        return self.ask("POST", "/migrate", json.dumps(members), of="answers to orders", **fields)[
            :2
        ]

    def stream(self, path: str, until: str) -> None:
        """Read a stream until a text comes, or its end."""
        with closing(self.server.connect()) as connection:
            connection.request("GET", path, headers=self.fields)
            answer, text = connection.getresponse(), ""
            with suppress(TimeoutError, socket.timeout):
                while (line := answer.readline().decode()) and until not in text:
                    text += line
            # The pieces of a page have its forms.
            self.seen.add(f"stream {path}", text, *(["csrf"] if path.startswith("/ui/") else []))


def write_settings(home: Path, store: str, markers: Markers) -> dict[str, str]:
    """Write the files of a server's settings, with secrets in all of them; return its
    environment."""
    (home / "tokens").write_text(f"{markers['tokens file']}\n")
    (home / "metrics").write_text(f"{markers['metrics token']}\n")
    (home / "rclone.conf").write_text(
        f"[dav]\ntype = webdav\nurl = {store}/dav\nvendor = other\nuser = me\n"
        f"bearer_token = {markers['rclone bearer']}\n"
    )
    (home / "relay.toml").write_text(
        f'[remotes.far]\ntype = "s3"\nendpoint = "{store}"\naccess_key_id = "AKIDEXAMPLE"\n'
        f'secret_access_key = "{markers["SigV4 secret"]}"\nregion = "us-east-1"\n'
        f'session_token = "{markers["session token of S3"]}"\n'
    )
    for name in ("tokens", "metrics", "rclone.conf", "relay.toml"):
        (home / name).chmod(0o600)
    return {
        "RELAY_TOKENS_FILE": str(home / "tokens"),
        "RELAY_METRICS_TOKEN_FILE": str(home / "metrics"),
        "RELAY_CONFIG": str(home / "relay.toml"),
        "RCLONE_CONFIG": str(home / "rclone.conf"),
        "RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}",
        "RELAY_LOCAL_FOLDERS": str(home),
        "RELAY_LOG_LEVEL": "debug",
        "RELAY_WORKERS": "1",
        "RELAY_RETRY_BUDGET": "0",
    }


def orders(home: Path, store: str, markers: Markers) -> Iterator[dict[str, object]]:
    """Yield migrations that succeed and that fail, with every kind of secret in them."""
    query = urlencode({"X-Amz-Signature": markers["presigned query"]})
    field = {"Authorization": f"Bearer {markers['bearer']}", "X-Key": markers["other field"]}
    for place in ("good/a", "denied/a", "denied/xml", "busy/a"):
        yield {
            "source": {"url": f"{store}/{place}?{query}", "headers": field},
            "destination": {"url": f"{store}/good/b?{query}", "headers": field},
        }
    yield {
        "source": f"{store}/good/a",
        "destination": {"url": f"{store}/denied/b?{query}", "headers": field},
    }
    yield {
        "source": store.replace("//", f"//me:{markers['userinfo']}@") + "/denied/c",
        "destination": f"{store}/good/c",
    }
    yield {"source": f"{store}/good/a", "destination": "far:bucket/a"}
    yield {"source": "far:bucket/a", "destination": f"{store}/good/d"}
    yield {"source": "dav:a", "destination": f"{store}/good/e"}
    yield {
        "source": {"url": f"{store}/good/a", "headers": {f"X {markers['other field']}": "a"}},
        "destination": f"{store}/good/f",
    }


def put_list(store: str, markers: Markers) -> str:
    """Put a list of URLs into the store, of which one is there, and one is refused; return its
    location."""
    signed = f"?sig={markers['query in a list']}"
    rows = f"url\n{store}/good/a{signed}\n{store}/denied/z{signed}\n"
    requests.put(f"{store}/good/urls.csv", rows.encode(), timeout=10)
    return f"list+{store}/good/urls.csv?sig={markers['query of a list']}"


def dump(url: str) -> str:
    """Return every value of a ledger but those in their places."""
    texts, engine = [], create_engine(url)
    with engine.connect() as connection:
        for table in sorted(set(inspect(engine).get_table_names()) - SECRET_TABLES):
            for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"').mappings():
                texts += [
                    repr(value)
                    for column, value in row.items()
                    if (table, column) not in SECRET_COLUMNS
                ]
    engine.dispose()
    assert len(texts) > 50
    return "\n".join(texts)


def command_lines(server: Server) -> str:
    """Return the command lines of a server and its workers."""
    master = psutil.Process(server.process.pid)
    return "\n".join(" ".join(one.cmdline()) for one in (master, *master.children()))


def plan_on_page(browser: Client, csrf: str, listed: str) -> None:
    """Plan a migration of a list in the form, and look at the plan until it is made."""
    store = listed.removeprefix("list+").partition("/good/")[0]
    form = {
        "csrf": csrf,
        "key": f"page-{uuid.uuid4()}",
        "tree": "1",
        "source_path": listed,
        "destination_path": f"{store}/good/",
        "do": "plan",
    }
    status, text, got = browser.ask("POST", "/ui/new", urlencode(form))
    assert status in (302, 303), text
    place = got["Location"].removeprefix("..").lstrip("./")
    place = f"/ui/{place.removeprefix('/ui/').removeprefix('ui/')}"
    until = time.monotonic() + 30
    while "Start paused" not in (page := browser.ask("GET", place)[1]):
        assert time.monotonic() < until, page
    for path in ("/ui/plans", f"/ui/new?plan={place.rpartition('/')[2]}"):
        assert browser.ask("GET", path)[0] == 200


def visit_page(client: Client, token: str, number: int, listed: str, markers: Markers) -> None:
    """Sign in as a browser does, open every screen, and sign out."""
    base = {"Origin": f"http://{client.server.host}:{client.server.port}"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    browser = Client(client.server, client.seen, {**base, **form, "Accept": "text/html"})
    wrong = urlencode({"token": markers["wrong token"], "next": ""})
    assert browser.ask("POST", "/ui/sign-in", wrong)[0] == 401
    status, _, got = browser.ask("POST", "/ui/sign-in", urlencode({"token": token, "next": ""}))
    assert status in (302, 303)
    name, _, cookie = got["Set-Cookie"].partition(";")[0].partition("=")
    markers.learn("session cookie", cookie)
    browser.fields["Cookie"] = f"{name}={cookie}"
    _, page, _ = browser.ask("GET", "/ui/tokens")
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    csrf = markers.learn("csrf", found[1])
    for path in (
        *("", "new", "remotes", "tokens", "settings", "health", "no-such-page"),
        *(f"migrations/{number}{rest}" for rest in ("", "/cancel", "/credentials", "/objects")),
        *(f"migrations/{number}/report.{kind}" for kind in ("csv", "jsonl", "html")),
        f"values?m={number}",
    ):
        assert browser.ask("GET", f"/ui/{path}")[0] == (404 if path == "no-such-page" else 200)
    browser.stream(f"/ui/stream?m={number}", "\n\n")
    plan_on_page(browser, csrf, listed)
    assert browser.ask("POST", "/ui/tokens", urlencode({"csrf": markers["wrong csrf"]}))[0] == 403
    browser.ask("POST", "/ui/remotes/test", urlencode({"csrf": csrf, "remote": "far"}))
    assert browser.ask("POST", "/ui/sign-out", urlencode({"csrf": csrf}))[0] in (302, 303)


def send_mistakes(client: Client, markers: Markers) -> None:
    """Send requests that relay refuses, each with a secret."""
    stranger = Client(client.server, client.seen, {"Authorization": f"Bearer {markers['guess']}"})
    assert stranger.ask("GET", "/migrations")[0] == 401
    for text in (
        f"{{{markers['body']}",
        json.dumps({"source": {"url": "https://a.invalid/", "headers": {"A": markers["body"]}}}),
    ):
        assert 400 <= client.ask("POST", "/migrate", text, Content_Type="application/json")[0] < 500
    for head in (
        f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {markers['raw field']}\r\n\r\n",
        f"GET / HTTP/9.9\r\nX: {markers['raw field']}\r\n\r\n",
        f"{markers['raw field']} \0 / HTTP/1.1\r\n\r\n",
    ):
        client.seen.add("answers to raw requests", client.server.raw(head.encode()).decode())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.campaign)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty ledger."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server.database()


@pytest.mark.timeout(120)
def test_no_secret_leaves_a_server(tmp_path: Path, database: str) -> None:
    markers, seen = Markers(), Seen()
    with echoing_store() as store:
        settings = write_settings(tmp_path, store, markers) | {"RELAY_LEDGER": database}
        terminal = Terminal(tmp_path, **settings)
        token = _made_token(terminal, markers)
        listed = put_list(store, markers)
        with run_server(SERVE, True, **settings) as server:
            client = Client(server, seen, {"Authorization": f"Bearer {token}"})
            for members in orders(tmp_path, store, markers):
                client.order(members)
                client.order(members, Accept="application/x-ndjson")
            status, text = client.order(
                {"source": listed, "destination": f"{store}/good/", "recursive": True}
            )
            assert status == 202, text
            id, number = (json.loads(text)[name] for name in ("id", "number"))
            client.stream(f"/migrations/{id}/events", "event: ended")
            for path in ("", "/reasons", "/transfers", "/transfers?state=failed"):
                client.ask("GET", f"/migrations/{id}{path}")
            for kind in ("text/csv", "application/x-ndjson"):
                client.ask("GET", f"/migrations/{id}/transfers", Accept=kind)
            for path in ("/migrations", "/readyz", "/openapi.json", "/metrics", "/no/such"):
                client.ask("GET", path)
            assert json.loads(client.ask("GET", f"/migrations/{id}")[1])["state"] == "partial"
            send_mistakes(client, markers)
            visit_page(client, token, number, listed, markers)
            seen.add("command lines", command_lines(server))
            seen.add("ledger", dump(database))
            assert server.stop() == 0
            seen.add("log", server.stderr)
    assert len(markers.values) >= 16
    assert seen.leaks(markers) == {}
    events = {json.loads(line)["event"] for line in server.stderr.splitlines() if line[:1] == "{"}
    assert {"server.started", "migration.accepted", "transfer.failed", "migration.ended"} <= events
    assert {"request.refused", "session.started", "transfer.settled"} <= events


def _made_token(terminal: Terminal, markers: Markers) -> str:
    code, out, _ = terminal.run("token", "create", "ops", "--scope", "admin")
    assert code == 0
    found = re.search(r"relay_\S+", out)
    assert found is not None
    markers.learn("relay token", found[0][15:58])  # relay_<8>_<43>_<6>
    return found[0]


@pytest.mark.timeout(120)
def test_no_secret_leaves_a_command(tmp_path: Path) -> None:
    markers, seen = Markers(), Seen()
    with echoing_store() as store:
        settings = write_settings(tmp_path, store, markers)
        (tmp_path / "aws").write_text(
            "[default]\nregion = us-east-1\ncredential_process = sh -c"
            f" 'echo {markers['credential_process']} >&2; exit 1'\n"
        )
        (tmp_path / "colon.conf").write_text(
            f"[far]\ntype = s3\nsecret_access_key: {markers['line with a colon']}\n"
        )
        (tmp_path / "quote.csv").write_text(
            f'url,name\n{store}/good/a?sig={markers["row with a quote"]}","b\n'
            f'"{store}/good/a?sig={markers["row with a quote"]},b\n'
        )
        listed = put_list(store, markers)
        terminal = Terminal(tmp_path, **settings)
        aws = {"AWS_CONFIG_FILE": str(tmp_path / "aws"), "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
        _made_token(terminal, markers)
        query = f"?sig={markers['presigned query']}"
        bearer = ("--source-header", f"Authorization: Bearer {markers['bearer']}")
        runs: list[tuple[tuple[str, ...], dict[str, str]]] = [
            (("migrate", f"{store}/good/a{query}", f"{store}/good/b{query}", *bearer), {}),
            (("migrate", f"{store}/denied/a{query}", f"{store}/good/b", *bearer, "--json"), {}),
            (("migrate", f"{store}/busy/a{query}", f"{store}/good/b", *bearer), {}),
            (("migrate", "far:bucket/a", f"{store}/good/c"), {}),
            (("migrate", "-r", listed, f"{store}/good/"), {}),
            (("migrate", "-r", f"list+{tmp_path}/quote.csv", f"{store}/good/"), {}),
            (("migrate", "far:bucket/a", "x"), {"RCLONE_CONFIG": str(tmp_path / "colon.conf")}),
            (("migrate", "s3://bucket/a", "x"), aws),
            (("plan", "-r", listed, f"{store}/good/"), {}),
            (("verify", listed, f"{tmp_path}/", "--read", "all", "--format", "jsonl"), {}),
            (("ls", f"{store}/denied/{query}"), {}),
            (("doctor", "far:bucket"), {}),
            (("remotes",), {}),
            (("remotes", "--json"), {}),
            (("status",), {}),
            (("status", "--json"), {}),
            *(
                (("report", "2", "--format", kind), {})
                for kind in ("table", "jsonl", "csv", "html")
            ),
            (("audit", "log", "--json"), {}),
            (("token", "list", "--json"), {}),
            (("migrate", f"{store}/good/a", f"--token={markers['flag']}"), {}),
            (("status",), {"RELAY_URL": store, "RELAY_TOKEN": markers["token of a command"]}),
            (("serve",), {"RELAY_LEDGER": _database(markers), "RELAY_LOG_FORMAT": "text"}),
            (("status",), {"RELAY_LEDGER": _database(markers)}),
        ]
        for words, more in runs:
            code, out, err = terminal.run(*words, **more)
            seen.add(f"relay {' '.join(words[:2])}", f"{code}\n{out}\n{err}")
        key = {"XDG_DATA_HOME": str(tmp_path / "data")}
        seen.add("relay keys", "".join(terminal.run("keys", "new", **key)[1:]))
        for number in "12345":
            words = ("report", number, "--sign", "--output", f"{tmp_path}/signed-{number}")
            assert terminal.run(*words, **key)[0] == 0
            for path in (tmp_path / f"signed-{number}").iterdir():
                seen.add("signed reports", path.read_text(encoding="utf-8"))
        seen.add("ledger", dump(settings["RELAY_LEDGER"]))
    assert len(markers.values) >= 14
    assert seen.leaks(markers) == {}


def _database(markers: Markers) -> str:
    """Return the URL of a database that nobody serves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return f"postgresql+psycopg://me:{markers['database password']}@127.0.0.1:{port}/db"


LEAKS = {
    "a store's words are shown": (
        "import relay.stores.error_messages as m; m.hide_secrets = lambda text, secrets: text"
    ),
    "a location prints its query": (
        "import relay.location as m; m.Location.__str__ = lambda self: self.target"
    ),
}
"""Changes of relay that leak, as programs that run before it."""


def leaking(leak: str, *words: str) -> tuple[str, ...]:
    """Return a command of a relay with a leak."""
    program = f"{LEAKS[leak]}\nfrom relay.cli.__main__ import run; run()"
    return (sys.executable, "-c", program, *words)


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.timeout(60)
def test_a_planted_leak_is_found(leak: str, tmp_path: Path) -> None:
    """In the output of a command."""
    markers, seen = Markers(), Seen()
    with echoing_store() as store:
        query = f"?sig={markers['presigned query']}"
        field = f"Authorization: Bearer {markers['bearer']}"
        words = ("migrate", f"{store}/denied/a{query}", f"{store}/good/b", "--source-header", field)
        done = subprocess.run(
            leaking(leak, *words),
            cwd=ROOT,
            env=environment(RELAY_LEDGER=f"sqlite:///{tmp_path}/ledger.db"),
            capture_output=True,
            text=True,
            timeout=50,
        )
    seen.add("command", done.stdout + done.stderr)
    assert seen.leaks(markers), done.stderr


@pytest.mark.campaign
@pytest.mark.timeout(60)
def test_a_leak_is_found_in_log_answer_and_ledger(tmp_path: Path) -> None:
    """One that is planted into a server."""
    markers, seen = Markers(), Seen()
    with echoing_store() as store:
        settings = write_settings(tmp_path, store, markers)
        command = leaking("a location prints its query", "serve")
        with run_server(command, **settings) as server:
            fields = {"Authorization": f"Bearer {markers['tokens file']}"}
            client = Client(server, seen, fields)
            members = next(orders(tmp_path, store, markers))
            client.order(members)
            assert client.order(members, Prefer="respond-async")[0] == 202
            seen.add("ledger", dump(settings["RELAY_LEDGER"]))
            assert server.stop() == 0
            seen.add("log", server.stderr)
    assert set(seen.leaks(markers)) == {"answers to orders", "ledger", "log"}
