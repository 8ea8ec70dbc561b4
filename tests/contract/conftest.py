"""The real servers that stores are tested on, each started once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.bench.ports import free_port
from relay.ledger.ledger import Ledger
from relay.ledger.opening import open_database
from relay.ledger.workers import WorkerId
from relay.location import Location, parse_location
from relay.stores.interfaces import Store
from relay.stores.kinds import LocateOptions, StoreType
from relay.stores.local_locations import local_location
from relay.stores.provider import Stores
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import s3_location
from relay.stores.sftp.sftp_connections import SftpConnections
from relay.stores.table import KINDS
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.dial import Dialer
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from simulators.spawn import spawn
from tests.conftest import LOOPBACK, Certificates, Engine, trusting
from tests.contract.memory import memory as memory_kind
from tests.ledgers import Opened
from tests.postgres import EmptyLedgers, Postgres, postgresql, programs
from tests.seaweed import Seaweed
from tests.sshd import Sshd, find_sshd, sshd
from tests.swift import Swift, is_installed
from tests.swift import swift as swift_server

FILES = "remote.php/dav/files/ann"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a server that every test shares."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Iterator[EmptyLedgers]:
    """Return databases with the tables of a ledger, of which one test after the other takes one."""
    with closing(EmptyLedgers(postgres)) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty ledger. It has no tables yet if the test opens it itself."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/relay.db"
    elif "open_ledger" in request.fixturenames:
        with request.getfixturevalue("databases").take() as url:
            yield url
    else:
        yield request.getfixturevalue("postgres").database()


@pytest.fixture
def open_ledger(address: str) -> Iterator[Opened]:
    """Return a function that opens the ledger for one more registered worker."""
    made: list[Ledger] = []

    def open_one(process: str | None = None, boot: str | None = None) -> Ledger:
        here = WorkerId.of_this_process(f"runner-{len(made)}")
        worker = WorkerId(
            id=here.id, host=here.host, boot=boot or here.boot, process=process or here.process
        )
        ledger = Ledger(open_database(address), worker)
        made.append(ledger)
        ledger.leases.renew()
        return ledger

    yield open_one
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Opened) -> Ledger:
    """Return the ledger, as one worker sees it."""
    return open_ledger()


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
    with run_server([binary, "-p", str(home), "-c", str(home / "nginx.conf")], port) as url:
        yield url


@pytest.fixture(scope="session")
def wsgidav_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dav")


@pytest.fixture(scope="session")
def wsgidav(wsgidav_root: Path) -> Iterator[str]:
    root, port = wsgidav_root, free_port()
    command = [
        "-m",
        "wsgidav.server.server_cli",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--root",
        str(root),
    ]
    with run_server(
        [sys.executable, *command, "--auth", "anonymous", "--quiet"], port, root
    ) as url:
        yield url


@pytest.fixture(scope="session")
def seaweed(seaweed_server: Seaweed) -> Seaweed:
    return seaweed_server.with_new_bucket()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    if not is_installed():
        pytest.skip("OpenStack Swift is not installed (PyPI: swift)")
    with swift_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if find_sshd() is None:
        pytest.skip("OpenSSH's server is not installed (Debian: openssh-server)")
    with sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@dataclass(frozen=True)
class Nextcloud:
    """A running server and the folder of its files."""

    base: str
    root: Path

    def place(self, name: str, **options: bool) -> Location:
        return Remotes().locate(
            f"webdav+{self.base}/{FILES}/{name}".replace("+http:", ":"), **options
        )

    @property
    def uploads(self) -> list[str]:
        return sorted(path.name for path in (self.root / "remote.php/dav/uploads/ann").iterdir())


@pytest.fixture(scope="session")
def nextcloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nextcloud]:
    root, port = tmp_path_factory.mktemp("nextcloud"), free_port()
    for folder in (FILES, "remote.php/dav/uploads/ann"):
        (root / folder).mkdir(parents=True)
    with run_server(
        [sys.executable, "-m", "tests.contract.nextcloud", str(root), str(port)], port
    ) as url:
        yield Nextcloud(url, root)


@pytest.fixture(scope="session")
def memory() -> StoreType:
    return memory_kind({})


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@contextmanager
def run_server(command: list[str], port: int, folder: Path | None = None) -> Iterator[str]:
    """Run a server for the block, and yield its URL as soon as it listens."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int) -> None:
    """Wait until a server listens."""
    for _ in range(1000):
        with socket.socket() as sock:
            sock.settimeout(0.02)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
            threading.Event().wait(0.01)
    raise TimeoutError(port)


# -- one suite, every server

CAN: dict[str, frozenset[str]] = {
    "simulator": frozenset({"if-none-match", "if-match", "digest"}),
    "nginx": frozenset({"if-match"}),
    "wsgidav": frozenset(),
    "seaweed": frozenset({"if-none-match", "if-match", "digest"}),
    "swift": frozenset({"if-none-match", "if-match", "digest"}),
    "webdav+nginx": frozenset({"if-match"}),
    "webdav+wsgidav": frozenset(),
    "local": frozenset({"if-none-match", "if-match"}),
    "nextcloud": frozenset(),
    "openssh": frozenset({"if-none-match", "if-match"}),
    "memory": frozenset({"if-none-match", "if-match"}),
}
"""The features of each server: preconditions on uploads, preconditions on reads, digest fields."""

Place = Callable[[str], Location]


@pytest.fixture(params=CAN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest) -> Place:
    """Return the place of this test's objects on this server."""
    return place_of(kind, request)


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    """Return the place of a test's objects on a server: the fixture `kind`, over WebDAV after
    `webdav+`."""
    scheme, _, server = kind.rpartition("+")
    base = request.getfixturevalue(server)
    prefix = f"{abs(hash(request.node.nodeid)) % 10**9}"
    if isinstance(base, StoreType):
        return lambda name: base.schemes["memory"](
            f"memory://{prefix}/{name}", LocateOptions(destination=True)
        )
    if isinstance(base, Nextcloud):
        return lambda name: base.place(f"{prefix}/new/{name}", destination=True)
    if isinstance(base, Sshd):
        return lambda name: base.place(f"{prefix}/new/{name}")
    if isinstance(base, Path):
        return lambda name: local_location(base / prefix / name, destination=True)
    if isinstance(base, Seaweed | Swift):
        return lambda name: s3_location(base.config, base.bucket, f"{prefix}/{name}")
    if scheme:
        return lambda name: webdav_location(f"{base}/{prefix}/new/{name}", destination=True)
    return lambda name: parse_location(f"{base}/{prefix}-{name}", destination=True)


@pytest.fixture(scope="session")
def ssh_sessions(certificates: Certificates) -> Iterator[SftpConnections]:
    """Return sessions of SFTP for all tests of the suite: each login costs as much as a test."""
    dialer = Dialer(LOOPBACK, Limits(), trusting(certificates.ca_file))
    made = SftpConnections(lambda: dialer)
    yield made
    made.close()


@contextmanager
def shared_sessions(wire: Wire, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a wire use the sessions of the suite for the block, in a test of this kind."""
    if "kind" not in request.fixturenames or request.getfixturevalue("kind") != "openssh":
        yield
        return
    wire.kept["sftp"] = request.getfixturevalue("ssh_sessions")
    yield
    del wire.kept["sftp"]


@pytest.fixture
def store(
    wire: Wire, place: Place, memory: StoreType, request: pytest.FixtureRequest
) -> Iterator[Store]:
    with shared_sessions(wire, request):
        yield Stores(wire, (*KINDS, memory)).destination(place("a"), Watchdog(Limits()))


@pytest.fixture
def engine_limits() -> Limits:
    """Return the limits that users have: real servers need a moment after a broken upload."""
    return Limits()


@pytest.fixture
def engine(
    certificates: Certificates,
    engine_limits: Limits,
    memory: StoreType,
    request: pytest.FixtureRequest,
) -> Iterator[Engine]:
    """Return an engine that knows the store in memory too."""
    made = Engine(certificates.ca_file, engine_limits, kinds=(*KINDS, memory))
    with shared_sessions(made.runner.wire, request):
        yield made
    made.assert_nothing_left()
