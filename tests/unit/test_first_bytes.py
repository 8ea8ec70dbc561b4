"""Requests of an address that has sent too many wrong ones are turned away by their first bytes:
those that are surely refused, and no others."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from flask import Flask
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create
from werkzeug.test import run_wsgi_app

from loadtests.bench.attackers import bad_request
from relay.api.app import FIRST_BYTES, create_app
from relay.api.first_bytes import PEEK_BYTES, FirstBytes
from relay.api.known_tokens import CACHE_SECONDS, KnownTokens
from relay.api.refusal_limit import MOST_ADDRESSES, RefusalLimit
from relay.api.serving import gunicorn_settings
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.token_format import hash_of, id_in, new_value
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.tokens import LiveTokens, Token
from relay.tallies import Tallies

OF_FILE = "planted-token-of-the-file"
ADDRESS = "203.0.113.9"
GET = b"GET /migrations HTTP/1.1\r\nHost: a\r\n"
END = b"\r\n"


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


def limit_at(clock: Clock, per_second: int = 1) -> RefusalLimit:
    """Return a limit that ADDRESS is over."""
    limit = RefusalLimit(per_second, clock)
    for _ in range(2 * per_second):
        limit.note(ADDRESS)
    return limit


def first_bytes(clock: Clock, known: KnownTokens, tallies: Tallies | None = None) -> FirstBytes:
    """Return the look at first bytes for an address that is over its limit."""
    limit = limit_at(clock)
    return FirstBytes(limit, known.may_be_valid, tallies or Tallies(), prefix="/mounted")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a connection: the client's end, and the server's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    ("first", "answered"),
    [
        (GET + END, False),
        (GET + b"Authorization: Bearer unknown-token-0123456789\r\n" + END, False),
        (GET + b"authorization:bearer  planted-token-of-the-file \r\n" + END, True),
        (GET + b"AUTHORIZATION: Bearer planted-token-of-the-file\r\n" + END, True),
        (GET + b"Authorization: Basic planted-token-of-the-file\r\n" + END, False),
        (GET + b"X: authorization: bearer planted-token-of-the-file\r\n" + END, False),
        (GET + b"Cookie: a=1; relay-0123=x\r\n" + END, True),
        (GET + b"Cookie: a=1\r\nX: relay-0123=x\r\n" + END, False),
        (GET, True),
        (GET + b"X: " + b"a" * PEEK_BYTES, True),
        (b"GET /migr", True),
        (b"\0\1\2\3\r\n\r\n", False),
        (b"\0\1\2\3 %/ui\r\n", False),
        (b"GET /migrations HTTP/2.0\r\n\r\n", False),
        (b"get /healthz HTTP/1.1\r\n\r\n", False),
        (b"GET /healthz HTTP/1.1\r\n\r\n", True),
        (b"\r\nGET /healthz HTTP/1.1\r\n\r\n", True),
        (b"HEAD /prefix/readyz?a=1 HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET /ui/sign-in HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 8187 + END + END, True),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 8188 + END + END, False),
        (b"\r\nGET / HTTP/1.1\r\n" + b"X: a\r\n" * 100 + END, True),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 101 + END, False),
        (b"GET /" + b"a" * 4094 + b"/ HTTP/1.1\r\n\r\n", False),
        (b"GET /%68ealthz HTTP/1.1\r\n\r\n", True),
        (b"GET http://a/healthz HTTP/1.1\r\n\r\n", True),
        (b"GET /migrations?/healthz HTTP/1.1\r\n\r\n", False),
        (b"GET /mounted HTTP/1.1\r\n\r\n", True),
        (b"GET /mounted/migrations HTTP/1.1\r\n\r\n", False),
        (b"GET /a HTTP/1.1\r\nX-Forwarded-Prefix: /a\r\n\r\n", True),
    ],
)
def test_only_what_is_surely_refused(clock: Clock, first: bytes, answered: bool) -> None:
    known = KnownTokens([OF_FILE])
    assert first_bytes(clock, known).may_be_answered(first) is answered


def test_the_flood_of_the_siege_is_turned_away(clock: Clock) -> None:
    look = first_bytes(clock, KnownTokens([OF_FILE]))
    for number in range(400):
        kind, request = bad_request(number)
        assert not look.may_be_answered(request), kind


METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"get", b"X", b"M-SEARCH", b"\xff\xff\xff")
TARGETS = (
    *(b"/", b"/healthz", b"/readyz?a", b"/ui/", b"/ui", b"/migrations", b"/migrate", b"/mounted"),
    *(b"/mounted/", b"/mounted/healthz", b"/mounted/migrations", b"/%68ealthz", b"http://a"),
    *(b"http://a/readyz", b"*", b"//", b"/openapi.json", b"/metrics", b"a b", b""),
)
VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.7",
    b"HTTP/2.0",
    b"http/1.1",
    b"",
)
HEAD_FIELDS = (
    *(b"Host: localhost", b"host: a", b"X: 1", b"X", b": 1", b"X_Y: 1", b"X: " + b"a" * 8200),
    *(b"Authorization: Bearer planted-token-of-the-file", b"authorization:  BEARER  a-token"),
    *(b"aUTHORIZATION:\tbearer planted-token-of-the-file ", b"Authorization: planted"),
    *(b"Authorization : Bearer planted-token-of-the-file", b" bearer planted-token-of-the-file"),
    *(b"Cookie: relay-1=a", b"Accept: text/html", b"X-Forwarded-Prefix: /a", b"Expect: 1"),
    *(b"X: 1\nAuthorization: Bearer planted-token-of-the-file", b"Sec-Fetch-Site: cross-site"),
)


def random_head(chance: random.Random) -> bytes:
    """Return a head of a request, right or wrong."""
    start = b" ".join((chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS)))
    fields = chance.sample(HEAD_FIELDS, chance.randrange(4))
    return chance.choice((b"", b"", END, END + END)) + END.join((start, *fields, b"", b""))


def status_of(app: Flask, cfg: Config, head: bytes) -> int:
    """Return the status with which gunicorn's parser or the application answers."""
    try:
        request = next(RequestParser(cfg, iter([head]), ("203.0.113.9", 1)))
    except (ParseException, NoMoreData):
        return 400
    _, environ = create(request, None, ("203.0.113.9", 1), ("127.0.0.1", 80), cfg)
    return int(run_wsgi_app(app, {**environ, "gunicorn.socket": None})[1][:3])


def test_a_request_that_is_turned_away_would_be_refused() -> None:
    """By gunicorn's parser, or by the application."""
    cfg = Config()
    settings = Settings(public_url="http://localhost/mounted", trusted_proxies="203.0.113.9")
    for name, value in gunicorn_settings(settings).items():
        cfg.set(name, value)
    app = create_app(TransferEngine(settings), [OF_FILE])
    look: FirstBytes = app.extensions[FIRST_BYTES]
    chance, seen = random.Random(16), Counter[tuple[bool, bool]]()
    for _ in range(1500):
        head = random_head(chance)
        away, status = not look.may_be_answered(head), status_of(app, cfg, head)
        assert not away or 400 <= status < 500, (head, status)
        seen[away, status < 400] += 1
    # More than half of the wrong requests show that they are.
    assert seen[True, False] > seen[False, False]
    assert seen[False, True] > 50


def test_all_may_be_answered_without_tokens(clock: Clock) -> None:
    """But what is not HTTP."""
    look = first_bytes(clock, KnownTokens())
    assert look.may_be_answered(GET + END)
    assert not look.may_be_answered(b"\0\r\n\r\n")


def token(value: str) -> Token:
    """Return a token of the ledger."""
    return Token(
        id=id_in(value) or "",
        hash=hash_of(value),
        name="a",
        tenant="acme",
        scope=Scope.READ,
        limits=TokenLimits(),
        created=0.0,
        expires=None,
        last_used=None,
        revoked=None,
        previous=None,
        previous_until=None,
    )


def test_a_new_token_is_let_through(clock: Clock) -> None:
    """A token that the ledger may have got since it was read: a quarter of a second later if its id
    is new, and once the tokens would be read again anyway."""
    old, new = new_value("old00000"), new_value("new00000")
    known = KnownTokens(
        look=lambda: LiveTokens(tokens=(token(old),), ever=True), clock=clock, now=lambda: 1.0
    )
    assert known.caller_of(old) is not None
    assert known.may_be_valid(old)
    assert not known.may_be_valid(new)
    assert not known.may_be_valid(new_value("old00000"))
    clock.now = 0.3
    assert known.may_be_valid(new)
    assert not known.may_be_valid(new_value("old00000"))
    clock.now = CACHE_SECONDS
    assert known.may_be_valid(new_value("old00000"))


def test_a_turned_away_connection_gets_its_answer(
    clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    tallies = Tallies()
    look = first_bytes(clock, KnownTokens([OF_FILE]), tallies)
    pair[0].sendall(GET + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000)
    assert look.turn_away(pair[1], ADDRESS, 1.0)
    pair[1].close()
    text = b"".join(iter(lambda: pair[0].recv(65536), b""))
    head, _, body = text.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 TOO MANY REQUESTS\r\nConnection: close\r\n")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["type"].endswith("/too-many-requests")
    assert tallies.http_requests["other", "4xx"] == 1
    assert tallies.auth_failures["too-many-requests",] == 1


def test_others_are_not_looked_at(clock: Clock, pair: tuple[socket.socket, socket.socket]) -> None:
    """Nor is the same address a second later; and a request that is let through keeps its bytes."""
    look = first_bytes(clock, KnownTokens([OF_FILE]))
    assert not look.turn_away(pair[1], "203.0.113.8", 1.0)
    assert not look.turn_away(pair[1], "", 1.0)
    pair[0].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert not look.turn_away(pair[1], ADDRESS, 1.0)
    assert pair[1].recv(100) == b"GET /healthz HTTP/1.1\r\n\r\n"
    clock.now = 1.0
    assert not look.turn_away(pair[1], ADDRESS, 1.0)


def test_a_silent_connection_ends(clock: Clock, pair: tuple[socket.socket, socket.socket]) -> None:
    look = first_bytes(clock, KnownTokens([OF_FILE]))
    assert look.turn_away(pair[1], ADDRESS, 0.01)


def test_the_addresses_of_a_household_are_one(clock: Clock) -> None:
    """An IPv6 network of 64 bits; and no flood of addresses fills the memory."""
    limit = RefusalLimit(1, clock)
    for number in range(2):
        limit.note(f"2001:db8::{number}")
    assert limit.is_over("2001:db8::ffff")
    assert not limit.is_over("2001:db8:0:1::1")
    for _ in range(2):
        limit.note("::ffff:203.0.113.7")  # as a socket of both families shows it
    assert limit.is_over("203.0.113.7") and not limit.is_over("::ffff:203.0.113.8")
    for number in range(MOST_ADDRESSES + 10):
        limit.note(f"10.0.{number // 256}.{number % 256}")
    assert not limit.is_over("2001:db8::1")


def test_no_limit(clock: Clock) -> None:
    limit = RefusalLimit(0, clock)
    for _ in range(10_000):
        limit.note(ADDRESS)
    assert not limit.is_over(ADDRESS)
