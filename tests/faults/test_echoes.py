"""A store that repeats what it was sent: no message repeats a secret from any part of its
answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.errors import RelayError
from relay.location import Location, parse_location
from relay.stores.error_messages import hide_secrets, secrets_of
from relay.stores.table import STORES
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.faults.scripted_s3 import document, place, reply
from tests.scripted import Peer, answer

TOKEN, SIGNATURE, PASSWORD = "s3cr3t-t0ken", "s1gn+4ture/", "p4ss:w0rd"
FIELDS = (
    ("Authorization", "Basic Ym9iOnA0c3M6dzByZA=="),
    ("X-Token", TOKEN),
    ("X-Session", f"id={TOKEN}; more"),
)
TEXTS = [
    f"the token {TOKEN} is not known",
    "Authorization: Basic Ym9iOnA0c3M6dzByZA== is wrong",
    f"wrong password {PASSWORD}",
    f"no {SIGNATURE}",
    "no s1gn%2B4ture%2F",
    "GET /a?sig=s1gn%2B4ture%2F is denied",
    f"{'x ' * 58}{TOKEN} at the end of the excerpt",
    f"{'x ' * 95}{TOKEN} at the end of the excerpt",
]


def echo_answers(text: str) -> list[bytes]:
    """Return answers that repeat this text in every part of a response."""
    error = document("Error", ("Code", "AccessDenied"), ("Message", text))
    return [
        reply(403, text.encode(), "Content-Type: text/plain"),
        reply(403, error, "Content-Type: application/xml"),
        reply(403, error.replace(b"AccessDenied", b"Odd"), "Content-Type: application/xml"),
        reply(
            403,
            b'{"title": "no", "detail": "%s"}' % text.encode(),
            "Content-Type: application/problem+json",
        ),
        f"HTTP/1.1 403 {text}\r\nContent-Length: 0\r\n\r\n".encode(),
    ]


def location_at(peer: Peer, kind: str) -> Location:
    url = peer.url("/bucket/a?sig=s1gn%2B4ture%2F")
    if kind == "s3":
        return replace(place(peer), headers=FIELDS, target="/bucket/a?sig=s1gn%2B4ture%2F")
    return parse_location(url, headers=FIELDS) if kind == "http" else webdav_location(url, FIELDS)


@pytest.mark.parametrize("kind", ["http", "webdav", "s3"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_message_repeats_secrets_that_a_store_echoes(wire: Wire, text: str, kind: str) -> None:
    for echo in echo_answers(text):
        with Peer([answer(echo)] * 4) as peer:
            store = STORES[kind](wire, "source", Watchdog(Limits()))
            with pytest.raises(RelayError) as caught:
                store.get(location_at(peer, kind))
        shown = f"{caught.value.message} {caught.value.hint}"
        assert not any(one in shown for one in (TOKEN[:6], "s1gn", PASSWORD[:4], "Ym9i")), shown
        assert "403" in shown


def test_short_words_are_not_secrets() -> None:
    assert secrets_of((("A", "on"), ("B", "abcdef")), "x=1&y=abcd") == ("abcdef", "abcd")
    assert hide_secrets("abcdef abcd on", ("abcdef", "abcd")) == "\u2026 \u2026 on"
    assert secrets_of((("Authorization", "Basic !!!"),), "") == ("Basic !!!",)
