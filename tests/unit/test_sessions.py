"""Sessions of browsers: sign in, the cookie, the end; and proxies that say where a client is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Response

from relay.api.known_tokens import known_tokens
from relay.api.proxies import ClientView, Proxies, PublicUrl, proxies_of
from relay.api.sessions import Session, Sessions
from relay.errors import ConfigError, Forbidden, TooManyRequests, Unauthorized
from relay.ledger.ledger import Ledger
from relay.ledger.session_rows import IDLE_SECONDS, MOST_SECONDS
from relay.ledger.token_values import Scope, TokenLimits

FILE = "of-a-file-0123456789"
HERE = ClientView(address="127.0.0.1", host="localhost:8080", prefix="")
PUBLIC = PublicUrl(scheme="https", host="relay.example", prefix="/relay")
THERE = ClientView(address="192.0.2.1", host="relay.example", prefix="/relay")


@dataclass
class Clocks:
    """The clocks of a process: of its caches, and seconds since 1970."""

    clock: float = 100.0
    now: float = 1_800_000_000.0

    def advance(self, seconds: float) -> None:
        """Let time pass on both."""
        self.clock += seconds
        self.now += seconds


@pytest.fixture
def clocks() -> Clocks:
    """Return the clocks of every process of the test."""
    return Clocks()


def process(ledger: Ledger, clocks: Clocks, public: PublicUrl | None = None) -> Sessions:
    """Return the sessions as one process sees them."""
    known = known_tokens((FILE,), ledger)
    known._clock = lambda: clocks.clock
    return Sessions(known, ledger, public, lambda: clocks.clock, lambda: clocks.now)


def token(ledger: Ledger, scope: Scope = Scope.SUBMIT) -> str:
    """Create a token."""
    return ledger.tokens.create("ops", tenant="acme", scope=scope, limits=TokenLimits())[1]


def name_of(session: Session | None) -> str | None:
    """Return the name of a session's caller, or None without a session."""
    return None if session is None else session.caller.name


def test_every_process_finds_a_session(ledger: Ledger, clocks: Clocks) -> None:
    here, other = process(ledger, clocks), process(ledger, clocks)
    session = here.start(f" {token(ledger)}\n", HERE)
    found = other.find(session.cookie)
    assert found == session
    assert found is not None
    assert (found.caller.name, found.caller.tenant) == ("ops", "acme")
    assert found.csrf not in session.cookie
    assert here.start(FILE, HERE).cookie != session.cookie
    assert [row.verb for row in ledger.audit.newest(9)] == ["sign in", "sign in"]


@pytest.mark.parametrize("wrong", ["", ".", "x", "x.y", "\u20ac.\u20ac"])
def test_a_cookie_that_no_server_made_is_refused(
    ledger: Ledger, clocks: Clocks, wrong: str
) -> None:
    sessions = process(ledger, clocks)
    cookie = sessions.start(FILE, HERE).cookie
    for text in (wrong, cookie[:-1], cookie + "x", "x" + cookie, cookie.partition(".")[0]):
        assert sessions.find(text) is None


def test_a_session_ends_on_every_process(ledger: Ledger, clocks: Clocks) -> None:
    here, other = process(ledger, clocks), process(ledger, clocks)
    session = here.start(FILE, HERE)
    assert other.find(session.cookie) is not None
    here.end(session, HERE)
    assert here.find(session.cookie) is None
    clocks.advance(5.0)
    assert other.find(session.cookie) is None


def test_a_session_ends_with_its_token(ledger: Ledger, clocks: Clocks) -> None:
    sessions = process(ledger, clocks)
    session = sessions.start(token(ledger), HERE)
    assert name_of(sessions.find(session.cookie)) == "ops"
    ledger.tokens.revoke("ops")
    clocks.advance(5.0)
    assert sessions.find(session.cookie) is None


def test_a_session_ends_with_a_replaced_token(ledger: Ledger, clocks: Clocks) -> None:
    """Whoever has the old token keeps no session beyond the overlap."""
    sessions = process(ledger, clocks)
    session = sessions.start(token(ledger), HERE)
    ledger.tokens.rotate("ops", 0.0)
    clocks.advance(5.0)
    assert sessions.find(session.cookie) is None


def test_a_session_ends_when_it_is_idle(ledger: Ledger, clocks: Clocks) -> None:
    sessions = process(ledger, clocks)
    session = sessions.start(FILE, HERE)
    clocks.advance(IDLE_SECONDS)
    assert sessions.find(session.cookie) is None


def test_a_session_lasts_a_week_at_most(ledger: Ledger, clocks: Clocks) -> None:
    sessions = process(ledger, clocks)
    session = sessions.start(FILE, HERE)
    for _ in range(int(MOST_SECONDS / IDLE_SECONDS) * 2 - 1):
        clocks.advance(IDLE_SECONDS / 2)
        assert sessions.find(session.cookie) is not None
        gevent.sleep(0)  # the time of that request is written by another greenlet
    clocks.advance(IDLE_SECONDS / 2)
    assert sessions.find(session.cookie) is None


def test_sign_in_says_why_it_is_refused(ledger: Ledger, clocks: Clocks) -> None:
    sessions = process(ledger, clocks)
    for _ in range(10):
        with pytest.raises(Unauthorized) as unknown:
            sessions.start("guess", HERE)
    assert unknown.value.message == "This token is not known, has expired or was revoked."
    clocks.advance(20.0)
    with pytest.raises(TooManyRequests) as many:
        sessions.start(FILE, HERE)
    assert many.value.message == "Too many attempts from your address. Try again in 40 s."
    assert many.value.retry_after == pytest.approx(40.0)
    with pytest.raises(TooManyRequests):  # another process counts the same attempts
        process(ledger, clocks).start(FILE, HERE)
    clocks.advance(40.0)
    sessions.start(FILE, HERE)


def test_a_clock_that_is_set_back_permits_a_sign_in(ledger: Ledger, clocks: Clocks) -> None:
    sessions = process(ledger, clocks)
    for _ in range(10):
        with pytest.raises(Unauthorized):
            sessions.start("guess", HERE)
    clocks.advance(-6 * 3600.0)
    sessions.start(FILE, HERE)


def test_sign_in_needs_https_beyond_loopback(ledger: Ledger, clocks: Clocks) -> None:
    plain = process(ledger, clocks)
    for host in ("relay.example", "192.0.2.1:8080", "[2001:db8::1]:8080", ""):
        with pytest.raises(Forbidden) as refused:
            plain.start(FILE, ClientView(address="192.0.2.9", host=host, prefix=""))
        assert refused.value.message == "Sign-in needs HTTPS. Put a proxy with TLS in front."
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        plain.start(FILE, ClientView(address="127.0.0.1", host=host, prefix=""))
    public = process(ledger, clocks, PUBLIC)
    assert public.start(FILE, THERE)
    with pytest.raises(Forbidden):
        public.start(FILE, HERE)


@pytest.mark.parametrize("public", [None, PUBLIC])
def test_the_cookie_is_for_this_server_alone(
    ledger: Ledger, clocks: Clocks, public: PublicUrl | None
) -> None:
    sessions = process(ledger, clocks, public)
    response = Response()
    session = sessions.start(FILE, THERE if public else HERE)
    sessions.set_cookie(response, session)
    text = response.headers["Set-Cookie"]
    name, _, rest = text.partition("=")
    assert name.startswith("__Host-relay-" if public else "relay-")
    assert ("; Secure" in rest) == (public is not None)
    for part in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert f"; {part}" in rest
    assert "Domain" not in rest
    environ = {"HTTP_COOKIE": f"a=b; {name}={session.cookie}"}
    assert sessions.cookie_in(environ) == session.cookie
    assert sessions.cookie_in({"HTTP_COOKIE": "a=b"}) is None
    cleared = Response()
    sessions.clear_cookie(cleared)
    assert cleared.headers["Set-Cookie"].startswith(f"{name}=; ")


def test_two_ledgers_on_one_host_have_two_cookies(
    ledger: Ledger, clocks: Clocks, tmp_path: Path
) -> None:
    """All ports of a host share its cookies."""
    second = Ledger.connect(f"sqlite:///{tmp_path}/second.db")
    try:
        names = {process(one, clocks).cookie_name for one in (ledger, second)}
    finally:
        second.close()
    assert len(names) == 2


# -- proxies


def client(proxies: Proxies, peer: str, **fields: str) -> ClientView:
    """Return what is known about the client of a request."""
    named = {f"HTTP_{name}": value for name, value in fields.items()}
    return proxies.client_of({"REMOTE_ADDR": peer, "HTTP_HOST": "inner:8080", **named})


FORWARDED = {
    "X_FORWARDED_FOR": "203.0.113.9, 198.51.100.7, 10.0.0.2",
    "X_FORWARDED_HOST": "Relay.Example",
    "X_FORWARDED_PREFIX": "/relay/",
}


def test_forwarded_fields_count_from_trusted_proxies_only() -> None:
    proxies = proxies_of("10.0.0.0/8, ::1, unix", "")
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "::1", ""):
        found = client(proxies, peer, **FORWARDED)
        assert found == ClientView(address="198.51.100.7", host="relay.example", prefix="/relay"), (
            peer
        )
    for peer in ("192.0.2.1", "127.0.0.1"):
        assert client(proxies, peer, **FORWARDED) == ClientView(
            address=peer, host="inner:8080", prefix=""
        )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.9:51812", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[::ffff:203.0.113.9]:51812", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9:51812, 10.0.0.2:443", "203.0.113.9"),
        ("203.0.113.9:", "10.0.0.1"),
        ("203.0.113.9:80:80", "10.0.0.1"),
        ("[203.0.113.9", "10.0.0.1"),
        ("localhost:80", "10.0.0.1"),
    ],
)
def test_a_forwarded_address_may_have_a_port(text: str, address: str) -> None:
    found = client(proxies_of("10.0.0.0/8", ""), "10.0.0.1", X_FORWARDED_FOR=text)
    assert found.address == address


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"X_FORWARDED_FOR": "garbage"}, ClientView(address="::1", host="inner:8080", prefix="")),
        (
            {"X_FORWARDED_FOR": "10.0.0.2"},
            ClientView(address="10.0.0.2", host="inner:8080", prefix=""),
        ),
        ({"X_FORWARDED_HOST": "a/b"}, ClientView(address="::1", host="", prefix="")),
        ({"X_FORWARDED_HOST": "evil, us"}, ClientView(address="::1", host="us", prefix="")),
        (
            {"X_FORWARDED_PREFIX": "//evil.example"},
            ClientView(address="::1", host="inner:8080", prefix=""),
        ),
    ],
)
def test_a_wrong_forwarded_field_is_ignored(fields: dict[str, str], wanted: ClientView) -> None:
    assert client(proxies_of("10.0.0.0/8,::1", ""), "::1", **fields) == wanted


@pytest.mark.parametrize(
    ("text", "origin", "prefix"),
    [
        ("https://relay.example", "https://relay.example", ""),
        ("https://Relay.Example:443/relay/", "https://relay.example", "/relay"),
        ("https://relay.example:8443", "https://relay.example:8443", ""),
        ("http://localhost:8080", "http://localhost:8080", ""),
    ],
)
def test_the_public_url_has_an_origin(text: str, origin: str, prefix: str) -> None:
    public = proxies_of("", text).public
    assert public is not None
    assert (public.origin, public.prefix) == (origin, prefix)


WRONG: list[dict[str, Any]] = [
    {"public_url": text}
    for text in (
        *("relay.example", "ftp://relay.example", "https://", "https://a@relay.example"),
        *("https://relay.example?x", "https://relay.example#x", "https://relay.example:99999"),
        *("http://relay.example", "https://relay.example//x"),
    )
]
WRONG += [{"trusted": text} for text in ("proxy.example", "10.0.0.1/8", "*")]


@pytest.mark.parametrize("settings", WRONG)
def test_a_wrong_setting_of_proxies_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        proxies_of(**{"trusted": "", "public_url": "", **settings})


@pytest.mark.parametrize(
    ("public_url", "host", "found"),
    [
        ("https://relay.example", "Relay.example:443", "relay.example"),
        ("https://relay.example", "relay.example:80", "relay.example:80"),
        ("https://relay.example:8443", "relay.example:8443", "relay.example:8443"),
        ("http://localhost", "localhost:80", "localhost"),
        ("", "relay.example:443", "relay.example:443"),
    ],
)
def test_the_port_of_the_scheme_is_left_out(public_url: str, host: str, found: str) -> None:
    """A proxy with `Host $host:$server_port` names it, and a browser does not."""
    environ = {"REMOTE_ADDR": "192.0.2.1", "HTTP_HOST": host}
    assert proxies_of("", public_url).client_of(environ).host == found
