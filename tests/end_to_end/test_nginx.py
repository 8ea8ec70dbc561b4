"""Real nginx as both clouds: static files with sendfile to read, its WebDAV module to write, plain
and with TLS.

The destination is judged by the file in nginx's own folder, never by relay's report."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

import gevent
import pytest

from loadtests.bench.ports import free_ports
from relay.engine.outcome import Outcome
from relay.errors import AlreadyExists, KeyCollision, NotFound, Rejected, RelayError
from relay.location import parse_location
from relay.receipt import Level, State
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates, Engine
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer

pytestmark = pytest.mark.nginx

MIB = 1024 * 1024
DATA = random.Random(31).randbytes(300_000)
SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])
ODD_NAMES = [
    "a name with spaces",
    "Grüße aus 東京.txt",
    "100% + half; (a=b)&c,'d'",
    "a?b#c",
    "~tilde:colon@at",
]

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log {home}/access.log;
    client_body_temp_path {home}/temp;
    proxy_temp_path {home}/temp;
    fastcgi_temp_path {home}/temp;
    uwsgi_temp_path {home}/temp;
    scgi_temp_path {home}/temp;
    default_type application/octet-stream;
    sendfile on;
    etag on;
    ssl_certificate {home}/server.pem;
    ssl_certificate_key {home}/server.pem;
    server {{
        listen 127.0.0.1:{source_http};
        listen 127.0.0.1:{source_https} ssl;
        root {home}/source;
    }}
    server {{
        listen 127.0.0.1:{destination_http};
        listen 127.0.0.1:{destination_https} ssl;
        root {home}/destination;
        client_max_body_size 0;
        location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
        location /small/ {{ dav_methods PUT DELETE; client_max_body_size 1m; }}
        location /blind/ {{ dav_methods PUT DELETE; limit_except PUT {{ deny all; }} }}
    }}
    server {{
        listen 127.0.0.1:{front_http};
        location / {{ proxy_pass http://127.0.0.1:{destination_http}$uri; }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx: its folders, and the ports of its servers by side and scheme."""

    home: Path
    ports: dict[str, int]

    def source(self, scheme: str, name: str, data: bytes | None = None) -> str:
        """Return the URL of an object to read, made first if `data` is given."""
        if data is not None:
            (self.home / "source" / name).write_bytes(data)
        return f"{scheme}://127.0.0.1:{self.ports[f'source_{scheme}']}/{quote(name)}"

    def destination(self, scheme: str, name: str) -> str:
        """Return the URL to write an object to."""
        return f"{scheme}://127.0.0.1:{self.ports[f'destination_{scheme}']}/{quote(name)}"

    def front(self, name: str) -> str:
        """Return that URL at a proxy that decodes paths, a frequent mistake."""
        return f"http://127.0.0.1:{self.ports['front_http']}/{quote(name)}"

    def stored_file(self, name: str) -> Path:
        """Return the file of that object's name at the destination."""
        return self.home / "destination" / name

    def requests(self) -> list[str]:
        """Return the lines of the access log so far."""
        return (self.home / "access.log").read_text().splitlines()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Nginx]:
    """Start nginx in a folder of its own; its process is stopped at the end, and its workers with
    it."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed (Debian: nginx-full)")
    home = tmp_path_factory.mktemp("nginx")
    for folder in ("source", "destination/small", "destination/blind", "temp"):
        (home / folder).mkdir(parents=True)
    pair = certificates.authority.issue_cert(
        "127.0.0.1", "localhost"
    ).private_key_and_cert_chain_pem
    pair.write_to_path(str(home / "server.pem"))
    sides = ("source_http", "source_https", "destination_http", "destination_https", "front_http")
    made = Nginx(home, dict(zip(sides, free_ports(len(sides)), strict=True)))
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(CONFIG.format(home=home, user=user, **made.ports))
    command = [
        binary,
        "-p",
        str(home),
        "-c",
        str(home / "nginx.conf"),
        "-e",
        str(home / "error.log"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        await_listening(process, made)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=10)


def await_listening(process: subprocess.Popen[bytes], made: Nginx) -> None:
    """Wait until every port accepts connections: nginx does not report it."""
    until = monotonic() + 10
    for port in made.ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (made.home / "error.log").read_text()
                assert monotonic() < until, "nginx does not listen"
                sleep(0.02)


def proved_level(outcome: Outcome) -> Level:
    """Return the level of a transfer's receipt."""
    assert outcome.receipt is not None
    return outcome.receipt.level


@SCHEMES
@pytest.mark.parametrize(
    ("verify", "level", "state"),
    [
        (
            "auto",
            Level.READ_BACK,
            State.VERIFIED,
        ),  # nginx knows no digests: auto can only read back
        ("read_back", Level.READ_BACK, State.VERIFIED),
        ("size", Level.SIZE, State.UNVERIFIED),
    ],
)
@pytest.mark.parametrize(
    "size", [0, 1, len(DATA), 64 * MIB], ids=["empty", "one byte", "300 kB", "64 MiB"]
)
def test_an_object_goes_from_nginx_to_nginx(
    engine: Engine, nginx: Nginx, scheme: str, verify: str, level: Level, state: State, size: int
) -> None:
    data = DATA * (size // len(DATA)) + DATA[: size % len(DATA)]
    there = nginx.stored_file("moved")
    outcome = engine.migrate(
        nginx.source(scheme, "moving", data), nginx.destination(scheme, "moved"), verify=verify
    )
    same = there.read_bytes() == data
    there.unlink()
    assert same
    assert (outcome.state, proved_level(outcome), outcome.bytes) == (state, level, size)
    assert outcome.receipt is not None
    assert outcome.receipt.source.etag  # nginx computes one from time and size
    assert outcome.receipt.destination.size == size


@pytest.mark.parametrize(("here", "there"), [("http", "https"), ("https", "http")])
def test_between_plain_and_tls(engine: Engine, nginx: Nginx, here: str, there: str) -> None:
    outcome = engine.migrate(nginx.source(here, "a", DATA), nginx.destination(there, "mixed"))
    assert proved_level(outcome) is Level.READ_BACK
    assert nginx.stored_file("mixed").read_bytes() == DATA


@SCHEMES
@pytest.mark.parametrize(
    ("if_exists", "state"), [("overwrite", State.VERIFIED), ("skip", State.SKIPPED), ("fail", None)]
)
def test_an_existing_object(
    engine: Engine, nginx: Nginx, scheme: str, if_exists: str, state: State | None
) -> None:
    there = nginx.stored_file("taken")
    there.write_bytes(b"what was there before, of another length")
    urls = nginx.source(scheme, "a", DATA), nginx.destination(scheme, "taken")
    if state is None:
        with pytest.raises(AlreadyExists):
            engine.migrate(*urls, if_exists=if_exists)
    else:
        assert engine.migrate(*urls, if_exists=if_exists).state is state
    assert there.read_bytes() == (
        DATA if state is State.VERIFIED else b"what was there before, of another length"
    )


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_skip_and_fail_write_an_absent_object(engine: Engine, nginx: Nginx, if_exists: str) -> None:
    there = nginx.stored_file(f"fresh-{if_exists}")
    outcome = engine.migrate(
        nginx.source("http", "a", DATA), nginx.destination("http", there.name), if_exists=if_exists
    )
    assert outcome.state is State.VERIFIED
    assert there.read_bytes() == DATA


@SCHEMES
@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("asks", [True, False], ids=["asks first", "just sends"])
@pytest.mark.parametrize("size", [MIB + 1, 8 * MIB], ids=["a byte too much", "8 MiB"])
def test_f31_a_too_large_upload_is_reported_as_413(
    certificates: Certificates, nginx: Nginx, scheme: str, verify: str, asks: bool, size: int
) -> None:
    """Without `Expect: 100-continue` nginx answers, closes and resets while we send: the 413 is
    what counts."""
    engine = Engine(certificates.ca_file, QUICK if asks else replace(QUICK, expect_bytes=2**40))
    data = DATA * (size // len(DATA)) + DATA[: size % len(DATA)]
    with pytest.raises(Rejected) as caught:
        engine.migrate(
            nginx.source(scheme, "large", data),
            nginx.destination(scheme, "small/large"),
            verify=verify,
        )
    assert (caught.value.side, caught.value.store_status, caught.value.retryable) == (
        "destination",
        413,
        False,
    )
    assert not nginx.stored_file("small/large").exists()
    engine.assert_nothing_left()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_f31_an_upload_of_unknown_length_is_refused_midway(
    engine: Engine, nginx: Nginx, scheme: str
) -> None:
    # nginx sends 100, counts the chunks, and notices only after a megabyte.
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % len(DATA) + DATA + b"\r\n"
    with (
        Peer(source_script(Cloud(), fixed_answer(head, *[chunk] * 30, b"0\r\n\r\n"))) as source,
        pytest.raises(Rejected) as caught,
    ):
        engine.migrate(source.url(), nginx.destination(scheme, "small/unknown"))
    assert (caught.value.side, caught.value.store_status) == ("destination", 413)
    assert not nginx.stored_file("small/unknown").exists()


def test_an_upload_of_unknown_length_that_fits_is_accepted(engine: Engine, nginx: Nginx) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    coded = b"%x\r\n" % len(DATA) + DATA + b"\r\n0\r\n\r\n"
    with Peer(source_script(Cloud(), fixed_answer(head, coded))) as source:
        assert (
            proved_level(engine.migrate(source.url(), nginx.destination("http", "small/short")))
            is Level.READ_BACK
        )
    assert nginx.stored_file("small/short").read_bytes() == DATA


def test_f31_an_upload_at_the_limit_is_accepted(engine: Engine, nginx: Nginx) -> None:
    # The other side of the limit, so that the test above cannot pass for another reason.
    data = DATA * 3 + DATA[: MIB - 3 * len(DATA)]
    engine.migrate(nginx.source("http", "fits", data), nginx.destination("http", "small/fits"))
    assert nginx.stored_file("small/fits").read_bytes() == data


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_needs_percent_encoding(engine: Engine, nginx: Nginx, name: str) -> None:
    outcome = engine.migrate(nginx.source("http", name, DATA), nginx.destination("http", name))
    assert proved_level(outcome) is Level.READ_BACK
    assert nginx.stored_file(name).read_bytes() == DATA


CUT = pytest.mark.parametrize("name", ["cut?id=1", "cut#1.jpg", "cut?/folder"])
"""Names that a proxy with `proxy_pass http://backend$uri` cuts."""


@CUT
@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
@pytest.mark.parametrize("there", [None, DATA, b"another"])
def test_a_proxy_that_cuts_names_overwrites_nothing(
    engine: Engine, nginx: Nginx, name: str, if_exists: str, there: bytes | None
) -> None:
    """The object of the cut name stays as it was. If there is none, none is left."""
    other = nginx.stored_file("cut")
    other.unlink(missing_ok=True)
    if there is not None:
        other.write_bytes(there)
    for _ in range(2):
        with pytest.raises(KeyCollision, match="cuts the name") as caught:
            engine.migrate(nginx.source("http", "a", DATA), nginx.front(name), if_exists=if_exists)
        assert "may remain" not in caught.value.hint
        assert (other.read_bytes() if other.exists() else None) == there
    assert [path.name for path in other.parent.glob("cut*")] == (["cut"] if there else [])


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
def test_a_proxy_that_decodes_names_twice_overwrites_nothing(
    engine: Engine, nginx: Nginx, if_exists: str
) -> None:
    other = nginx.stored_file("caf(e)")
    other.write_bytes(DATA[::-1])
    with pytest.raises(KeyCollision, match="twice"):
        engine.migrate(
            nginx.source("http", "a", DATA), nginx.front("caf%28e%29"), if_exists=if_exists
        )
    assert other.read_bytes() == DATA[::-1]
    other.unlink()


@CUT
def test_a_proxy_that_cuts_names_is_no_source(engine: Engine, nginx: Nginx, name: str) -> None:
    nginx.stored_file("cut").write_bytes(DATA)
    there = nginx.stored_file("not moved")
    with pytest.raises(Rejected, match="cuts the name") as caught:
        engine.migrate(nginx.front(name), nginx.destination("http", there.name))
    assert caught.value.side == "source"
    assert not there.exists()


def test_names_are_whole_behind_a_proxy_that_keeps_them(engine: Engine, nginx: Nginx) -> None:
    """Although objects of the cut names, with the same bytes, are there on both sides."""
    for name in ("whole", "whole?a", "whole#a", "whole&a", "whole;a", "whole;b/c", "whole?"):
        nginx.stored_file(name).parent.mkdir(exist_ok=True)
        (nginx.home / "source" / name).parent.mkdir(exist_ok=True)
        outcome = engine.migrate(
            nginx.source("http", name, DATA), nginx.destination("http", name), if_exists="changed"
        )
        assert outcome.state is State.VERIFIED
        assert nginx.stored_file(name).read_bytes() == DATA


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_takes_the_name_of_its_source(engine: Engine, nginx: Nginx, name: str) -> None:
    outcome = engine.migrate(nginx.source("http", name, DATA), nginx.destination("http", "folder/"))
    assert outcome.state is State.VERIFIED
    (only,) = nginx.stored_file("folder").iterdir()
    assert only.read_bytes() == DATA
    assert str(outcome.destination).endswith("/folder/" + quote(only.name))
    only.unlink()


def test_an_unreadable_destination_is_unverified(engine: Engine, nginx: Nginx) -> None:
    outcome = engine.migrate(nginx.source("http", "a", DATA), nginx.destination("http", "blind/a"))
    assert (outcome.state, proved_level(outcome)) == (State.UNVERIFIED, Level.SIZE)
    assert nginx.stored_file("blind/a").read_bytes() == DATA


def test_an_object_absent_at_the_source_leaves_nothing(engine: Engine, nginx: Nginx) -> None:
    with pytest.raises(NotFound) as caught:
        engine.migrate(nginx.source("http", "nowhere"), nginx.destination("http", "nothing"))
    assert caught.value.side == "source"
    assert not nginx.stored_file("nothing").exists()


def test_the_source_is_pinned_by_its_entity_tag(engine: Engine, nginx: Nginx) -> None:
    # nginx supports If-Match on static files: the pinned version is read, or the transfer fails.
    place = parse_location(nginx.source("http", "pinned", DATA))
    source = engine.runner.stores.source(place, Watchdog(QUICK))
    found = source.head(place)
    assert found is not None and found.version.strong_etag
    nginx.source("http", "pinned", DATA + b"longer")
    with pytest.raises(RelayError) as caught:
        source.get(place, found.version)
    assert caught.value.code == "source-changed"


def test_a_transfer_costs_few_requests(engine: Engine, nginx: Nginx) -> None:
    engine.migrate(
        nginx.source("http", "counted", DATA), nginx.destination("http", "counted"), verify="size"
    )

    def methods() -> list[str]:
        asked = [line.split('"')[1].split(" ") for line in nginx.requests()]
        return sorted(method for method, path, _ in asked if path.endswith("/counted"))

    with gevent.Timeout(10, False):  # a line is written when its answer has gone
        while len(methods()) < 5:
            gevent.sleep(0.02)
    assert methods() == ["GET", "HEAD", "HEAD", "HEAD", "PUT"]
