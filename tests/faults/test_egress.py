"""At the dialer: relay never connects to a closed address, whatever a name resolves to, and at any
time.

Most rows use a socket class that records instead of connecting. The last ones use a real resolver
and real sockets in a network namespace that has only loopback, so that a hole would be a failed
test and never traffic."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.config import Settings
from relay.egress import EgressPolicy, parse_allow
from relay.engine.plan import Plan
from relay.engine.transfer_engine import TransferEngine
from relay.errors import ConnectFailed, EgressDenied, RelayError, StoreTimeout
from relay.location import parse_location
from relay.transfer_limits import Limits
from relay.wire.dial import Dialer, Pool
from relay.wire.tls.choice import client_context
from tests.conftest import Engine
from tests.faults.scripted_peers import Cloud, source_script
from tests.scripted import Peer, Talk

PUBLIC = "93.184.216.34"

CLOSED = [
    "127.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "0.0.0.0", "0", "[::]", "[::1]",
    "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "169.254.1.1", "192.0.0.192",
    "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "168.63.129.16",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]", "[::ffff:0:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:1::1]", "[fec0::1]", "[fc00::1]", "[fe80::1]", "[2001:db8::1]", "[ff02::1]", "[5f00::1]", "[3fff::1]",
]  # fmt: skip


def numeric(hosts: Sequence[str]) -> list[str]:
    """Return the addresses of the hosts that are literal addresses."""
    found = []
    for host in hosts:
        try:
            found.append(
                str(socket.getaddrinfo(host.strip("[]"), 80, flags=socket.AI_NUMERICHOST)[0][4][0])
            )
        except socket.gaierror:
            continue
    return sorted(set(found))


class Recorder:
    """Stands in for a socket: records the address that it is to connect to, and refuses."""

    connected: list[str] = []

    def __init__(self, family: int, kind: int) -> None:
        self.family = family

    def setsockopt(self, *_: Any) -> None:
        """Take any option."""

    def settimeout(self, _: float) -> None:
        """Take any time."""

    def connect(self, address: tuple[Any, ...]) -> None:
        """Record."""
        Recorder.connected.append(str(address[0]))
        raise ConnectionRefusedError(111, "recorded")

    def close(self) -> None:
        """Close nothing."""


Answers = dict[str, list[Sequence[str]]]


class Resolver:
    """Gives each name its scripted answers, in order; the last one repeats. Addresses resolve to
    themselves."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.asked = answers, 0

    def __call__(self, host: str, port: int) -> list[tuple[Any, ...]]:
        self.asked += 1
        script = self.answers.get(host)
        if script is None:
            return list(
                socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            )
        now = script.pop(0) if len(script) > 1 else script[0]
        if not now:
            raise socket.gaierror(-2, "Name or service not known")
        families = [(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in now]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in families
        ]


@pytest.fixture
def connected_addresses() -> Iterator[list[str]]:
    """Return the addresses that were connected to in this test."""
    Recorder.connected = []
    yield Recorder.connected


def runner(
    answers: Answers, policy: EgressPolicy | None = None, limits: Limits | None = None
) -> TransferEngine:
    """Return a TransferEngine that records, with a policy that by default allows only public
    addresses."""
    made = TransferEngine(Settings(retry_budget=0), policy or EgressPolicy())
    limits = limits or Limits(connect_seconds=2)
    dialer = Dialer(made.policy, limits, client_context(), Resolver(answers), Recorder)
    made.limits = made.wire.limits = limits
    made.wire.pool = Pool(dialer, limits)
    return made


def migrate(made: TransferEngine, source: str, destination: str) -> None:
    made.run(made.transfer(Plan(parse_location(source), parse_location(destination))))


@pytest.mark.parametrize("host", CLOSED)
def test_b27_to_b33_as_source_and_destination(connected_addresses: list[str], host: str) -> None:
    for scheme in ("http", "https"):
        for source, destination in ((host, "public.example"), ("public.example", host)):
            with pytest.raises(EgressDenied):
                migrate(
                    runner({"public.example": [[PUBLIC]]}),
                    f"{scheme}://{source}/a",
                    f"{scheme}://{destination}/b",
                )
    assert connected_addresses == []


@pytest.mark.parametrize("address", numeric(CLOSED))
def test_b27_to_b33_where_a_name_leads_there(connected_addresses: list[str], address: str) -> None:
    with pytest.raises(EgressDenied) as caught:
        migrate(
            runner({"evil.example": [[address]]}),
            "http://evil.example/a",
            "http://public.example/b",
        )
    assert connected_addresses == []
    assert caught.value.side == "source"
    assert address not in caught.value.message


@pytest.mark.parametrize("host", CLOSED)
def test_b37_as_the_target_of_a_redirect(engine: Engine, host: str) -> None:
    # The first hop is open on its own port only; the rest of loopback stays closed.
    def redirect(talk: Talk, _: bytes) -> None:
        talk.send(
            b"HTTP/1.1 302 Found\r\nLocation: http://%s/x\r\nContent-Length: 0\r\n\r\n"
            % host.encode()
        )

    with Peer(source_script(Cloud(), redirect)) as here:
        engine.runner.wire.pool = Pool(
            Dialer(
                EgressPolicy(allow=parse_allow(f"127.0.0.1:{here.port}")),
                engine.runner.limits,
                client_context(),
            ),
            engine.runner.limits,
        )
        with pytest.raises(RelayError) as caught:
            engine.migrate(here.url("/a"), here.url("/b"))
    assert isinstance(caught.value, EgressDenied), caught.value


@pytest.mark.parametrize("order", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"]])
def test_b34_one_closed_address_among_open_ones_is_enough(
    connected_addresses: list[str], order: list[str]
) -> None:
    with pytest.raises(EgressDenied):
        migrate(
            runner({"mixed.example": [order]}), "http://mixed.example/a", "http://public.example/b"
        )
    assert connected_addresses == []


def test_b35_an_answer_that_changes_is_checked_each_time(connected_addresses: list[str]) -> None:
    made = runner({"rebind.example": [[PUBLIC], ["127.0.0.1"]], "public.example": [[PUBLIC]]})
    with pytest.raises(ConnectFailed):
        migrate(made, "http://rebind.example/a", "http://public.example/b")
    with pytest.raises(EgressDenied):
        migrate(made, "http://rebind.example/a", "http://public.example/b")
    assert connected_addresses == [PUBLIC]


def test_f91_the_next_address_is_tried_and_each_was_checked(connected_addresses: list[str]) -> None:
    made = runner({"both.example": [["2606:2800:220:1::1", PUBLIC]]})
    with pytest.raises(ConnectFailed):
        migrate(made, "http://both.example/a", "http://public.example/b")
    assert connected_addresses == ["2606:2800:220:1::1", PUBLIC]


def test_f30_no_such_name_and_too_many_addresses(connected_addresses: list[str]) -> None:
    with pytest.raises(ConnectFailed):
        migrate(runner({"none.example": [[]]}), "http://none.example/a", "http://public.example/b")
    many = [f"93.184.{i // 250}.{i % 250 + 1}" for i in range(300)]
    with pytest.raises(ConnectFailed):
        migrate(
            runner({"many.example": [many]}), "http://many.example/a", "http://public.example/b"
        )
    assert len(connected_addresses) == Limits().addresses


def test_f30_a_slow_resolver_is_a_timeout(connected_addresses: list[str]) -> None:
    import gevent

    made = runner({})
    limits = Limits(connect_seconds=0.2)
    slow = Dialer(
        made.policy, limits, client_context(), lambda *_: gevent.sleep(30) or [], Recorder
    )
    made.wire.pool = Pool(slow, limits)
    with pytest.raises(StoreTimeout):
        migrate(made, "http://slow.example/a", "http://public.example/b")
    assert connected_addresses == []


@pytest.mark.netns
def test_real_names_in_a_namespace_without_a_way_out(tmp_path: Path) -> None:
    """A real DNS server that changes its answers, real sockets: the listener inside never gets a
    connection, except where the operator allowed it (so the test can fail)."""
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run(
            [unshare, "-n", "-m", "true"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a network namespace is not permitted here")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    root = Path(__file__).resolve().parents[2]
    inside = f"""
        ip link set lo up && mount --bind {tmp_path}/resolv.conf /etc/resolv.conf &&
        exec {sys.executable} -m tests.faults.inside_netns
    """
    done = subprocess.run(
        [unshare, "-n", "-m", "sh", "-c", inside],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["closed"] == {
        "rebind.test.": "egress-denied",
        "mixed.test.": "egress-denied",
        "inner.test.": "egress-denied",
    }
    assert report["connections_closed"] == 0
    assert report["allowed"] == "not-found"
    assert report["connections_allowed"] > 0
