"""Authentication: by token, or for local users alone."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

import pytest

from relay.api.access import Access, access_of
from relay.api.app import create_app
from relay.api.auth import Admission, Guard
from relay.api.known_tokens import KnownTokens
from relay.api.migration_routes import VERBS
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.errors import Forbidden, RelayError, Unauthorized
from relay.ledger.token_values import Scope

TOKENS = ("first-token-0123456789", "second-token-0123456789")


READ = Access(scope=Scope.READ)


def admit(tokens: tuple[str, ...], environ: dict[str, Any]) -> Admission:
    """Check one GET of a server with the tokens of a file."""
    guard = Guard(KnownTokens(tokens))
    admission = guard.identify(environ, READ)
    guard.authorize(environ, READ, admission)
    return admission


class Socket:
    """A WSGI server's connection, with its own addresses."""

    def __init__(self, name: Any, user: int | None = None) -> None:
        self._name, self._user = name, os.geteuid() if user is None else user

    def getsockname(self) -> Any:
        """Return the local address."""
        return self._name

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Return the credentials of the peer, as a unix socket does."""
        assert (level, option, size) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.pack("3i", 1, self._user, 0)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (f"Bearer {TOKENS[0]}", None),
        (f"bearer  {TOKENS[1]}", None),
        (f"BEARER {TOKENS[1]} ", None),
        (None, Unauthorized),
        ("", Unauthorized),
        (f"Basic {TOKENS[0]}", Unauthorized),
        (TOKENS[0], Unauthorized),
        ("Bearer", Unauthorized),
        ("Bearer ", Unauthorized),
        (f"Bearer {TOKENS[0][:-1]}", Unauthorized),
        (f"Bearer {TOKENS[0]}x", Unauthorized),
        (f"Bearer {TOKENS[0]} {TOKENS[1]}", Unauthorized),
        (f"Bearer {TOKENS[0]},{TOKENS[1]}", Unauthorized),
        ("Bearer \u00ff\u20ac", Unauthorized),
    ],
)
def test_tokens(header: str | None, answer: type[RelayError] | None) -> None:
    """One whole token, at any address."""
    environ: dict[str, Any] = {
        "PATH_INFO": "/migrate",
        "gunicorn.socket": Socket(("203.0.113.1", 8080)),
    }
    if header is not None:
        environ["HTTP_AUTHORIZATION"] = header
    if answer is None:
        admit(TOKENS, environ)
    else:
        with pytest.raises(answer):
            admit(TOKENS, environ)


@pytest.mark.parametrize(
    ("local", "host", "allowed"),
    [
        (("127.0.0.1", 8080), "127.0.0.1:8080", True),
        (("127.0.0.1", 8080), "localhost", True),
        (("127.0.0.1", 8080), "LOCALHOST.:8080", True),
        (("127.8.8.8", 8080), "127.8.8.8", True),
        (("::1", 8080, 0, 0), "[::1]:8080", True),
        (("::ffff:127.0.0.1", 8080, 0, 0), "localhost:8080", True),
        ("/run/relay.sock", "localhost", True),
        (b"\0relay", "localhost", True),
        (("127.0.0.1", 8080), "evil.example:8080", False),
        (("127.0.0.1", 8080), "localhost.evil.example", False),
        (("127.0.0.1", 8080), "127.0.0.1.evil.example", False),
        (("127.0.0.1", 8080), "", False),
        (("127.0.0.1", 8080), "localhost:8080@evil.example", False),
        (("127.0.0.1", 8080), "[::1]evil.example", False),
        (("127.0.0.1", 8080), "0.0.0.0:8080", False),
        ("/run/relay.sock", "relay.example", False),
        (("192.168.1.5", 8080), "localhost:8080", False),
        (("::ffff:192.168.1.5", 8080, 0, 0), "localhost", False),
        (("203.0.113.1", 8080), "203.0.113.1:8080", False),
    ],
)
def test_without_tokens(local: Any, host: str, allowed: bool) -> None:
    """Both the connection's own address and the Host must be loopback."""
    environ = {"PATH_INFO": "/migrate", "HTTP_HOST": host, "gunicorn.socket": Socket(local)}
    if allowed:
        admit((), environ)
    else:
        with pytest.raises(Forbidden) as caught:
            admit((), environ)
        assert "relay token create" in caught.value.hint


@pytest.mark.parametrize("user", [1, 65534, os.geteuid() + 1])
def test_without_tokens_other_local_users_are_refused(user: int) -> None:
    """On a unix socket the kernel reports the peer's user; with tokens the token decides."""
    environ = {
        "PATH_INFO": "/",
        "HTTP_HOST": "localhost",
        "gunicorn.socket": Socket("/run/relay.sock", user),
    }
    with pytest.raises(Forbidden):
        admit((), environ)
    admit(TOKENS, environ | {"HTTP_AUTHORIZATION": f"Bearer {TOKENS[0]}"})


def test_without_tokens_nothing_that_was_forwarded() -> None:
    """A proxy on this machine would otherwise open the server to every client."""
    proxies = ("FORWARDED", "VIA", "X_REAL_IP", "TRUE_CLIENT_IP", "CF_CONNECTING_IP", "X_CLIENT_IP")
    for name in (
        *proxies,
        "X_FORWARDED_FOR",
        "X_FORWARDED_HOST",
        "X_FORWARDED_PROTO",
        "X_FORWARDED_SERVER",
    ):
        with pytest.raises(Forbidden):
            admit(
                (),
                {
                    "PATH_INFO": "/",
                    "HTTP_HOST": "localhost",
                    "SERVER_NAME": "127.0.0.1",
                    f"HTTP_{name}": "x",
                },
            )


@pytest.mark.parametrize(
    "path", ["/migrate", "/openapi.json", "/", "/nowhere", "/healthz/", "//healthz"]
)
@pytest.mark.parametrize("tokens", [(), TOKENS])
def test_every_path_is_guarded(path: str, tokens: tuple[str, ...]) -> None:
    """Also paths that do not exist: a stranger learns nothing from a 404."""
    client = create_app(TransferEngine(Settings()), tokens).test_client()
    response = client.get(path, headers={"Host": "evil.example"})
    problem = json.loads(response.data)
    assert response.status_code == (401 if tokens else 403)
    assert problem["side"] == "request"
    assert ("WWW-Authenticate" in response.headers) == bool(tokens)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("tokens", [(), TOKENS])
def test_probes_are_open(path: str, tokens: tuple[str, ...]) -> None:
    """A probe has no token, and uses any host name."""
    client = create_app(TransferEngine(Settings()), tokens).test_client()
    assert client.get(path, headers={"Host": "10.1.2.3:8080"}).status_code == 200


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://evil.example:8080"},
    {"Origin": "null"},  # a sandboxed frame, a file, a redirect between two origins
    {"Origin": ""},
    {"Origin": "http://localhost:3000"},  # another program's page on this machine
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:8080.evil.example"},
    {"Origin": "http://localhost:8080@evil.example"},
    {"Origin": "http://localhost:8080, http://evil.example"},
    {"Origin": "http://localhost:8080/evil.example"},
    {"Origin": "chrome-extension://localhost:8080"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "none, cross-site"},
    {"Sec-Fetch-Site": "none", "Origin": "null"},
    {"Sec-Fetch-Site": "same-site", "Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8080"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]
OURS = [
    {},
    {"Origin": "http://localhost:8080"},
    {"Origin": "http://LOCALHOST:8080", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null"},  # a form of relay's own page
]
CHANGES = [
    ("POST", "/migrate"),
    *(("POST", f"/migrations/1/{verb}") for verb in VERBS),
    ("PATCH", "/migrations/1"),
]


@pytest.mark.parametrize(("method", "path"), [*CHANGES, ("DELETE", "/migrations/1")])
@pytest.mark.parametrize("tokens", [(), TOKENS])
def test_no_page_of_another_origin_changes_anything(
    method: str, path: str, tokens: tuple[str, ...]
) -> None:
    """CSRF: each change, with tokens and without, refuses each foreign Origin and Sec-Fetch-Site,
    and accepts ours.

    The application has no ledger here: a request that passes the check gets another answer than
    403."""
    client = create_app(TransferEngine(Settings()), tokens).test_client()
    known = {"Host": "localhost:8080"} | (
        {"Authorization": f"Bearer {TOKENS[0]}"} if tokens else {}
    )
    for fields in FOREIGN:
        refused = client.open(path, method=method, headers=known | fields)
        assert refused.status_code == 403, fields
        assert json.loads(refused.data)["detail"].startswith("a page of another "), fields
        assert "Access-Control-Allow-Origin" not in refused.headers
    for fields in OURS:
        assert client.open(path, method=method, headers=known | fields).status_code != 403, fields


def test_a_page_of_another_origin_reads_nothing() -> None:
    """No answer permits another origin's page to read it, no data leaves for a script or a picture
    of such a page, and no preflight passes."""
    client = create_app(TransferEngine(Settings())).test_client()
    foreign = {
        "Host": "localhost:8080",
        "Origin": "https://evil.example",
        "Sec-Fetch-Site": "cross-site",
    }
    assert client.get("/openapi.json", headers=foreign).status_code == 403
    preflight = client.open("/migrations/1/cancel", method="OPTIONS", headers=foreign)
    assert preflight.status_code == 403
    assert not [name for name, _ in preflight.headers if name.lower().startswith("access-control")]


def test_a_link_of_another_site_opens_a_page_and_no_data() -> None:
    client = create_app(TransferEngine(Settings())).test_client()
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for path, destination, status in (
        ("/", "document", 200),
        ("/", "iframe", 403),
        ("/", "image", 403),
        ("/openapi.json", "document", 403),
    ):
        headers = {"Host": "localhost:8080", **link, "Sec-Fetch-Dest": destination}
        assert client.get(path, headers=headers).status_code == status, (path, destination)


def test_a_path_without_a_row_needs_admin() -> None:
    assert access_of("GET", "/unlisted") == Access(scope=Scope.ADMIN)
    assert access_of("HEAD", "/migrations") == access_of("GET", "/migrations")
