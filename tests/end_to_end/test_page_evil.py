"""A page of another origin, in the browser of a person who is signed in: it changes and reads
nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.browser import visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger, pause_tree
from tests.end_to_end.test_serve import SERVE, run_server

TOKEN = "planted-token-0123456789"
READS = (
    ("fetch", "fetch(`${relay}/migrations`, {credentials: 'include'}).then((a) => a.text())"),
    ("values", "fetch(`${relay}/ui/values?m=1`, {credentials: 'include'}).then((a) => a.text())"),
    (
        "opaque",
        "fetch(`${relay}/ui/`, {mode: 'no-cors', credentials: 'include'}).then((a) => a.text())",
    ),
    (
        "stream",
        "new Promise((yes) => { const s = new EventSource(`${relay}/ui/stream?m=1`,"
        " {withCredentials: true}); s.onerror = () => yes(''); s.addEventListener('set', () =>"
        " yes('read')); })",
    ),
    (
        "script",
        "new Promise((yes) => { const s = document.createElement('script');"
        " s.src = `${relay}/ui/migrations/1/report.jsonl`; s.onload = () => yes('read');"
        " s.onerror = () => yes(''); document.body.append(s); })",
    ),
)
"""What the page tries to read: each gives an empty text, or fails."""
WRITES = (
    "fetch(`${relay}/ui/migrations/1/resume`, {method: 'POST', mode: 'no-cors',"
    " credentials: 'include', body: new URLSearchParams()})",
    "fetch(`${relay}/migrations/1/resume`, {method: 'POST', mode: 'no-cors',"
    " credentials: 'include'})",
    "fetch(`${relay}/migrate`, {method: 'POST', mode: 'no-cors', credentials: 'include', body:"
    " JSON.stringify({source: 'http://127.0.0.1:9/a', destination: 'http://127.0.0.1:9/b'})})",
    "fetch(`${relay}/migrations/1/resume`, {method: 'POST', credentials: 'include', headers:"
    " {'Content-Type': 'application/json', 'X-Relay-CSRF': 'x'}, body: '{}'})",
    "navigator.sendBeacon(`${relay}/ui/migrations/1/resume`, new URLSearchParams())",
)


class _Empty(BaseHTTPRequestHandler):
    """Answers every request with an empty page."""

    def do_GET(self) -> None:
        """Answer a GET."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serve_evil() -> Iterator[int]:
    """Serve an empty page on a port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def call(page: Any, relay: str, code: str) -> str:
    """Run code of the foreign page; return the text that it got, '' if it failed."""
    whole = f"(relay) => Promise.resolve({code}).then((found) => `${{found || ''}}`, () => '')"
    return str(page.evaluate(whole, relay))


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="same site"),
        pytest.param("localhost", id="another site", marks=pytest.mark.campaign),
    ],
)
def test_e22_an_evil_page_does_nothing(tmp_path: Path, chromium: Any, host: str) -> None:
    """On another port of the same host, to which a browser sends the cookie, and on another
    host."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    with closing(open_ledger(tmp_path)) as ledger:
        pause_tree(ledger, tmp_path, "tree", 2)
        ledger.leases.leave()
    settings = {
        "RELAY_LEDGER": ledger_url(tmp_path),
        "RELAY_LOCAL_FOLDERS": str(tmp_path),
        "RELAY_TOKENS_FILE": str(tokens),
    }
    with run_server(SERVE, **settings) as server:
        relay = f"http://127.0.0.1:{server.port}"
        with serve_evil() as port, visit(chromium, relay) as visitor:
            mine = visitor.open("sign-in")
            mine.get_by_label("Token").fill(TOKEN)
            mine.get_by_role("button", name="Sign in").click()
            mine.wait_for_url("**/ui/")
            evil = mine.context.new_page()
            evil.goto(f"http://{host}:{port}/")
            for code in WRITES:
                call(evil, relay, code)
            for name, code in READS:
                assert call(evil, relay, code) == "", name
            # A form, as a click on a link or an advertisement sends it.
            with evil.expect_navigation() as answer:
                evil.evaluate(
                    "(relay) => { const form = document.createElement('form'); form.method ="
                    " 'post'; form.action = `${relay}/ui/migrations/1/resume`;"
                    " document.body.append(form); form.submit(); }",
                    relay,
                )
            assert answer.value.status == 403
            # A frame over which it would lay its own buttons.
            evil.goto(f"http://{host}:{port}/")
            evil.evaluate(
                "(relay) => new Promise((done) => { const frame = document.createElement('iframe');"
                " frame.src = `${relay}/ui/`; frame.onload = done; document.body.append(frame); })",
                relay,
            )
            assert [frame.url for frame in evil.frames[1:]] != [f"{relay}/ui/"]
            mine.reload()
            assert "Paused" in mine.locator(".row").inner_text()
            assert mine.locator(".row").count() == 1
            # The same form of relay's own page passes.
            mine.get_by_role("button", name="Resume").click()
            mine.locator(".badge.succeeded").first.wait_for()
            evil.close()
