"""A deletion at a WebDAV server behind a cache that answers HEAD, and never PROPFIND."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from relay.errors import PreconditionFailed
from relay.receipt import Version
from relay.stores.interfaces import DeletingSource
from relay.stores.provider import Stores
from relay.stores.webdav.account import webdav_location
from relay.stores.webdav.checked_deletes import is_other
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

OLD, NEW = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
KNOWN = Version(3, '"a"', OLD)
ROW = """<d:multistatus xmlns:d="DAV:"><d:response><d:href>/a</d:href><d:propstat><d:prop>
<d:resourcetype/><d:getcontentlength>{}</d:getcontentlength><d:getlastmodified>{}</d:getlastmodified>
</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"""


@dataclass
class Proxy:
    """A server whose HEAD shows the old object; `row` is the size and date of the present one."""

    url: str
    row: tuple[int, str] = (3, OLD)
    deleted: list[str] = field(default_factory=list)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            for name, value in (("ETag", '"a"'), ("Content-Length", "3"), ("Last-Modified", OLD)):
                self.send_header(name, value)
            self.end_headers()

        def do_PROPFIND(self) -> None:
            body = ROW.format(*found.row).encode()
            self.send_response(207)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_DELETE(self) -> None:
            found.deleted.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Proxy(f"webdav+http://127.0.0.1:{server.server_port}/a")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("row", [(3, NEW), (4, OLD), (3, OLD)])
def test_propfind_shows_a_change(wire: Wire, proxy: Proxy, row: tuple[int, str]) -> None:
    place = webdav_location(proxy.url.removeprefix("webdav+"))
    source = Stores(wire).source(place, Watchdog(Limits()))
    assert isinstance(source, DeletingSource)
    proxy.row = row
    if row == (3, OLD):
        source.delete_version(place, KNOWN)
        assert proxy.deleted == ["/a"]
        return
    with pytest.raises(PreconditionFailed, match="PROPFIND"):
        source.delete_version(place, KNOWN)
    assert not proxy.deleted


def test_rows_with_other_etags_are_compared_by_size_and_date() -> None:
    assert not is_other(Version(3, '"b"', OLD), KNOWN)
    assert is_other(Version(3, '"b"'), KNOWN)
    assert not is_other(Version(), KNOWN)
    assert is_other(Version(3, '"a"', NEW), KNOWN)
