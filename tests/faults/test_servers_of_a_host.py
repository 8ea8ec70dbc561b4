"""Two WebDAV servers behind one host: what the one showed is not believed of the other."""

from __future__ import annotations

from relay.receipt import State
from relay.stores.webdav.account import webdav_location
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf
from tests.faults.test_webdav import Dav, Misnames
from tests.scripted import Peer

DATA = b"the bytes of the object"


class Both(Misnames):
    """Below `/list/` a server like AList, elsewhere one that follows RFC 4918."""

    is_late = False
    """Whether another writer stores an object there right after an upload."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if not path.startswith(b"/list/"):
            return Dav._done(self, method, path, request, body)
        answer = super()._done(method, path, request, body)
        if self.is_late and method == b"PUT" and body == DATA:
            self.objects[b"/list/b/new"] = b"precious"
        return answer


def test_a_copy_is_tried_at_each_server_of_a_host(engine: Engine) -> None:
    dav = Both(
        objects={b"/good/a/x": DATA, b"/list/a/x": DATA, b"/list/b/x": b"precious"},
    )
    with Peer([dav] * 60) as peer:
        for root in ("good", "list"):
            there = webdav_location(peer.url(f"/{root}/b/new"), destination=True)
            outcome = engine.migrate(webdav_location(peer.url(f"/{root}/a/x")), there)
            assert outcome.state is State.VERIFIED
            assert dav.objects[f"/{root}/b/new".encode()] == DATA
    assert dav.objects[b"/list/b/x"] == b"precious"
    assert dav.asked.count(b"COPY") == 1


def test_a_move_is_tried_at_each_server_of_a_host(engine: Engine) -> None:
    dav = Both()
    dav.is_late = True
    states = {}
    with Peer([Shelf({b"/f": DATA})] * 8) as source, Peer([dav] * 60) as peer:
        for root in ("good", "list"):
            there = webdav_location(peer.url(f"/{root}/b/new"), destination=True)
            states[root] = engine.migrate(source.url("/f"), there, if_exists="skip").state
    assert states == {"good": State.VERIFIED, "list": State.SKIPPED}
    assert dav.objects[b"/list/b/new"] == b"precious"
