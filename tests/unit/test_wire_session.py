"""The fields that follow a redirect in a `requests.Session` over the wire: nothing that may be a
credential, and no body."""

from __future__ import annotations

import gevent
import pytest
import requests

from relay.errors import RedirectRefused, TooManyRedirects
from relay.wire.adapter import wire_session
from relay.wire.exchange import Wire
from tests.conftest import Certificates
from tests.scripted import Peer, Script, Talk, answer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = {
    "Authorization": "Bearer A",
    "Cookie": "session=A",
    "X-Auth-Token": "A",
    "X-Api-Key": "A",
    "X-Amz-Security-Token": "A",
    "Private-Token": "A",
    "X-Whatever": "A",
}
PLAIN = {"Range": "bytes=0-1", "If-Match": '"v"', "Accept": "text/plain"}


def to(target: str, body: bytes = b"", keep: bool = False) -> bytes:
    end = b"" if keep else b"Connection: close\r\n"
    head = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (target.encode("latin-1"), len(body), end) + body


def noting(heads: list[bytes], *replies: bytes) -> Script:
    def script(talk: Talk) -> None:
        for reply in replies:
            heads.append(talk.head())
            talk.send(reply)

    return script


def names(head: bytes) -> set[str]:
    return {line.partition(b":")[0].decode().lower() for line in head.split(b"\r\n")[1:]}


def test_no_credential_crosses_origins(wire: Wire) -> None:
    heads: list[bytes] = []
    with Peer(noting(heads, OK)) as other, Peer(answer(to(other.url("/x")))) as first:
        got = wire_session(wire).get(
            first.url(), headers={**SECRET, **PLAIN}, cookies={"a": "b"}, auth=("user", "A")
        )
    assert got.content == b"ok"
    assert [old.status_code for old in got.history] == [302]
    assert not names(heads[0]) & {name.lower() for name in SECRET}
    assert {name.lower() for name in PLAIN} <= names(heads[0])


def test_fields_that_did_not_cross_do_not_come_back(wire: Wire) -> None:
    heads: list[bytes] = []
    with Peer([noting(heads, b"")] * 2) as back, Peer(answer(to(back.url("/y")))) as middle:
        back._scripts = [noting(heads, to(middle.url("/x"))), noting(heads, OK)]
        assert wire_session(wire).get(back.url(), headers=SECRET).content == b"ok"
    assert "x-auth-token" in names(heads[0])
    assert "x-auth-token" not in names(heads[1])


def test_the_same_origin_is_shown_all_of_it(wire: Wire) -> None:
    heads: list[bytes] = []
    with Peer(noting(heads, to("/there", keep=True), OK)) as peer:
        assert wire_session(wire).get(peer.url(), headers=SECRET).content == b"ok"
    assert {name.lower() for name in SECRET} <= names(heads[1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_body_of_a_redirect_is_not_read(wire: Wire, stream: bool) -> None:
    """An endless body would use all memory, or all time."""

    def endless(talk: Talk) -> None:
        talk.head()
        talk.send(
            to(other.url("/x"))[:-2].replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            + b"\r\n"
        )
        while talk.sock.send(b"100000\r\n" + bytes(1 << 20) + b"\r\n"):
            pass

    with Peer([answer(OK)]) as other, Peer(endless) as first, gevent.Timeout(10):
        got = wire_session(wire).get(first.url(), stream=stream)
        assert got.content == b"ok"
        assert got.history[0].content == b""


def test_redirects_end(wire: Wire) -> None:
    with Peer(answer(to("/again", keep=True), keep=True)) as peer:
        with pytest.raises(TooManyRedirects):
            wire_session(wire).get(peer.url())
        wire.pool.close()


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/x", "ftp://127.0.0.1/x", "http://user:pw@127.0.0.1/", "/a\\b"]
)
def test_a_redirect_that_leads_nowhere_good_is_refused(
    wire: Wire, certificates: Certificates, target: str
) -> None:
    with Peer(answer(to(target)), certificates.server) as peer:
        with pytest.raises(RedirectRefused):
            wire_session(wire).get(peer.url())
        kept = wire_session(wire).get(peer.url(), allow_redirects=False)
        assert kept.status_code == 302


def test_an_unfollowed_redirect_is_returned_whole(wire: Wire) -> None:
    with Peer([answer(to("/x", b"gone elsewhere"))]) as peer:
        got = wire_session(wire).get(peer.url(), allow_redirects=False)
    assert (got.status_code, got.content) == (302, b"gone elsewhere")
    assert isinstance(got.next, requests.PreparedRequest)
    assert got.next.url == peer.url("/x")


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/a b", b"/a%20b"),
        ("/caf\xc3\xa9", b"/caf%C3%A9"),
        ("/caf\xe9", b"/caf%E9"),
        ("/a%20b?q=x y", b"/a%20b?q=x%20y"),
    ],
)
def test_a_location_that_is_not_encoded_is(wire: Wire, target: str, asked: bytes) -> None:
    heads: list[bytes] = []
    with Peer(noting(heads, to(target, keep=True), OK)) as peer:
        assert wire_session(wire).get(peer.url()).content == b"ok"
    assert heads[1].split(b" ")[1] == asked
