"""The page below a path prefix, through real nginx."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

from loadtests.bench.ports import free_ports
from tests.end_to_end.browser import Visitor, run_chromium, visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger, pause_tree
from tests.end_to_end.test_serve import SERVE, Server, run_server

pytestmark = pytest.mark.nginx

TOKEN = "planted-token-0123456789"
PREFIX = "/tools/relay"
CONFIG = """
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
        location {prefix}/ {{
            proxy_pass http://127.0.0.1:{relay}/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Prefix {prefix};
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@contextmanager
def run_nginx(home: Path, server: Server) -> Iterator[str]:
    """Run nginx in front of a server; yield the address of the page without its last part."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed (Debian: nginx-full)")
    (port,) = free_ports(1)
    (home / "temp").mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    text = CONFIG.format(home=home, user=user, port=port, relay=server.port, prefix=PREFIX)
    (home / "nginx.conf").write_text(text)
    files = ("-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log"))
    process = subprocess.Popen([binary, *files], stderr=subprocess.DEVNULL)
    try:
        until = monotonic() + 10
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


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    """Return a window at a server behind nginx, which has one paused migration."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    home = tmp_path / "home"
    home.mkdir()
    with closing(open_ledger(home)) as ledger:
        pause_tree(ledger, home, "tree", 3)
        ledger.leave()
    settings = {
        "RELAY_LEDGER": ledger_url(home),
        "RELAY_LOCAL_FOLDERS": str(home),
        "RELAY_TOKENS_FILE": str(tokens),
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    with run_chromium() as chromium, run_server(SERVE, **settings) as server:
        with run_nginx(tmp_path, server) as base:
            sent = {"Authorization": f"Bearer {TOKEN}"}
            with visit(chromium, base, extra_http_headers=sent) as made:
                yield made


def test_e16_a_prefix_through_nginx(visitor: Visitor) -> None:
    page = visitor.page
    page.goto(f"{visitor.base}/")
    assert page.url == f"{visitor.base}/ui/"
    page.locator(".row .name").click()
    page.wait_for_url(f"{visitor.base}/ui/migrations/1")
    page.get_by_role("button", name="Resume").click()
    # The live stream passes through nginx, and shows the end.
    page.locator(".badge.succeeded").first.wait_for()
    page.get_by_role("link", name="All objects").click()
    page.wait_for_url(f"{visitor.base}/ui/migrations/1/objects")
    page.get_by_role("link", name="000.bin").click()
    page.wait_for_url(re.compile(re.escape(visitor.base) + r"/ui/migrations/1/objects/\d+$"))
    assert page.locator("h1").inner_text() == "000.bin"
