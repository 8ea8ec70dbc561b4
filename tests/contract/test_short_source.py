"""A source that ends early, at every byte that could matter, over every real destination.

Never a success, never an object left that looks whole, nothing unfinished left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from relay.engine.inspection import inspect_object
from relay.errors import NotFound, RelayError
from relay.location import Location, parse_location
from relay.stores.interfaces import Store
from relay.stores.s3.aws_settings import s3_location
from relay.stores.table import STORES
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.faults.test_cuts import check_at_once
from tests.seaweed import Seaweed

SMALL = bytes(range(40))
PART = 5 << 20
LARGE = 2 * PART + 4321
BORDERS = [0, 1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1, LARGE - 1]


class Cut:
    """A source of objects of `size` bytes with ranges, by length or chunked; the name of each is
    the number of the byte from which on it never sends one."""

    def __init__(self) -> None:
        self.size, self.chunked = len(SMALL), False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def location(self, at: int) -> Location:
        """Return the location of the object that ends at a byte."""
        return parse_location(f"http://127.0.0.1:{self._server.server_address[1]}/{at}")

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


def _answering(cut: Cut) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:  # noqa: N802 - the name that the library asks for
            self._head(200, cut.size)

        def do_GET(self) -> None:  # noqa: N802 - the name that the library asks for
            first, last = 0, cut.size - 1
            if (asked := self.headers.get("Range")) and not cut.chunked:
                first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
                self._head(206, last - first + 1, f"bytes {first}-{last}/{cut.size}")
            else:
                self._head(200, cut.size)
            end = min(last + 1, int(self.path[1:]))
            data = (
                bytes(i % 251 for i in range(first, min(end, first + 1000))) if end > first else b""
            )
            data += bytes(max(0, end - first - len(data)))
            with suppress(OSError):
                if cut.chunked:
                    self.wfile.write(b"%x\r\n" % cut.size + data)
                else:
                    self.wfile.write(data)
            self.close_connection = True

        def _head(self, status: int, length: int, span: str | None = None) -> None:
            self.send_response(status)
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            if span:
                self.send_header("Content-Range", span)
            if cut.chunked and self.command == "GET":
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    return Answer


@pytest.fixture(scope="module")
def cut() -> Iterator[Cut]:
    """Return the source."""
    made = Cut()
    yield made
    made.stop()


@pytest.fixture(params=["nginx", "webdav+nginx", "wsgidav", "webdav+wsgidav", "seaweed", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the name of the server."""
    return str(request.param)


@pytest.fixture
def engine_limits() -> Limits:
    """Return limits under which objects of 6 MiB go in parts of 5."""
    return replace(Limits(), parted_bytes=6 << 20, part_bytes=PART, parts_in_flight=2)


def there(wire: Wire, location: Location) -> bool:
    """Return whether an object exists at a place."""
    store: Store = STORES[location.store](wire, "destination", Watchdog(Limits()))
    with suppress(NotFound):
        inspect_object(store, location)
        return True
    return False


def assert_gone(wire: Wire, location: Location, kind: str, error: RelayError, at: int) -> None:
    """Assert that nothing is left, or that the error reports it: WsgiDAV makes an empty file of the
    name and writes to it a moment later, and an empty file may be another writer's."""
    assert not there(wire, location) or (kind == "wsgidav" and "may remain" in error.hint), at


def neighbours_of(wire: Wire, location: Location) -> list[str]:
    """Return the other entries of the folder, if the server lists them."""
    folder = location.with_target(location.path.rpartition("/")[0] + "/")
    store: Store = STORES[location.store](wire, "destination", Watchdog(Limits()))
    try:
        return [entry.name for entry in store.list(folder) if entry.name.startswith(".relay-")]
    except RelayError:
        return []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
def test_a_small_object_that_ends_at_any_byte(
    wire: Wire, engine: Engine, cut: Cut, kind: str, place: Place, chunked: bool
) -> None:
    cut.size, cut.chunked = len(SMALL), chunked
    # Where a broken upload may become visible, relay inspects it repeatedly for a second: fewer
    # cuts there.
    atomic = STORES[place("x").store](wire, "destination", Watchdog(Limits())).publishes_atomically(
        digested=True
    )

    def check(at: int) -> None:
        with pytest.raises(RelayError) as caught:
            engine.migrate(cut.location(at), place(f"{at}"))
        assert caught.value.side == "source", (at, caught.value)
        assert_gone(wire, place(f"{at}"), kind, caught.value, at)

    check_at_once(check, range(0, len(SMALL), (5 if chunked else 1) if atomic else 9))
    assert neighbours_of(wire, place("x")) == []


@pytest.mark.timeout(120)
def test_a_large_object_that_ends_at_every_border(
    wire: Wire, engine: Engine, cut: Cut, kind: str, place: Place
) -> None:
    cut.size, cut.chunked = LARGE, False

    def check(at: int) -> None:
        with pytest.raises(RelayError) as caught:
            engine.migrate(cut.location(at), place(f"large-{at}"))
        assert caught.value.side == "source", (at, caught.value)
        assert_gone(wire, place(f"large-{at}"), kind, caught.value, at)

    check_at_once(check, BORDERS)
    assert neighbours_of(wire, place("x")) == []


def test_no_upload_is_left_unfinished(engine: Engine, cut: Cut, seaweed: Seaweed) -> None:
    cut.size, cut.chunked = LARGE, False
    for at in BORDERS:
        with pytest.raises(RelayError):
            engine.migrate(
                cut.location(at), s3_location(seaweed.config, seaweed.bucket, f"unfinished/{at}")
            )
    assert "Uploads" not in seaweed.client().list_multipart_uploads(Bucket=seaweed.bucket)
