"""Authentication and authorization of requests.

With tokens, a request must send one of them. Without tokens, only requests from this machine are
answered. That has two checks, because a browser on this machine sends any request that a web page
makes. The connection must come in on loopback, or from the server's own user on a unix socket. And
the Host must name loopback, which prevents DNS rebinding.

With or without tokens, a page of another origin can't change anything. A browser names the origin
of a request (`Origin`, RFC 6454 section 7; `Sec-Fetch-Site`, W3C Fetch Metadata). CORS alone does
not help: a form is sent without a preflight.

Decided here: whether a request is answered. Never here: which operations a token allows; every
token allows all of them."""

from __future__ import annotations

import hmac
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Any

from relay.api.caller import ANONYMOUS, FILE, LOCAL, Caller
from relay.errors import ConfigError, Forbidden, Unauthorized
from relay.hosts import is_loopback
from relay.process.small_files import read_secret

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths of probes, which need no token and may come from any address."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing. Another origin's page can't read their answers either, since relay
does not allow CORS."""

FORWARDED = frozenset(
    {
        "HTTP_FORWARDED",
        "HTTP_VIA",
        "HTTP_X_REAL_IP",
        "HTTP_X_CLIENT_IP",
        "HTTP_X_ENVOY_EXTERNAL_ADDRESS",
        "HTTP_TRUE_CLIENT_IP",
        "HTTP_CF_CONNECTING_IP",
        "HTTP_CDN_LOOP",
    }
)
"""Fields that proxies add, besides X-Forwarded-*. A proxy that adds none of them looks like a local
client."""

PEER = Struct("3i")
"""A peer's credentials (struct ucred): process id, user id, group id."""

_BEARER = re.compile(r"bearer +(\S+) *", re.I)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]+)?", re.I)
_ORIGIN = re.compile(r"https?://([^/@?#,\s]+)", re.I)
_ORIGIN_HINT = (
    "Send it from a program (curl, a script), or from a page that this server itself gave."
)
_TOKENS_HINT = (
    "Set RELAY_TOKENS_FILE and send one of its tokens; without tokens relay answers only requests"
    " from its own machine."
)


def guard(tokens: Iterable[str]) -> Callable[[Mapping[str, Any]], Caller]:
    """Return a function that checks a request's environ and returns its caller; it raises
    Unauthorized or Forbidden."""
    known = tuple(sha256(token.encode()).digest() for token in tokens)

    def check(environ: Mapping[str, Any]) -> Caller:
        if environ.get("PATH_INFO") in OPEN_PATHS:
            return ANONYMOUS
        if known:
            _check_token(environ.get("HTTP_AUTHORIZATION", ""), known)
        else:
            _check_local(environ)
        _check_origin(environ)
        return FILE if known else LOCAL

    return check


def _check_token(header: str, known: tuple[bytes, ...]) -> None:
    given = _BEARER.fullmatch(header)
    if given is None:
        raise Unauthorized("no bearer token was sent")
    # Compare the digests of all tokens in constant time, so that the time of an answer reveals
    # neither a token's length nor its first characters.
    digest = sha256(given[1].encode("latin-1", "replace")).digest()
    if not any([hmac.compare_digest(digest, token) for token in known]):
        raise Unauthorized("the token is not known")


def _check_local(environ: Mapping[str, Any]) -> None:
    # The connection names its own address. For a unix socket gunicorn takes SERVER_NAME from the
    # Host field, which the client chooses. Without gunicorn (a test client) SERVER_NAME is all
    # there is.
    sock = environ.get("gunicorn.socket")
    if sock is not None and not isinstance(sock.getsockname(), tuple):
        _check_peer(sock)
    elif not is_loopback(
        str(environ.get("SERVER_NAME", "") if sock is None else sock.getsockname()[0])
    ):
        raise Forbidden("this server has no tokens and answers only on loopback", hint=_TOKENS_HINT)
    host = _HOST.fullmatch(environ.get("HTTP_HOST", ""))
    if host is None or not is_loopback(host[1]):
        raise Forbidden(
            "this server has no tokens, and the Host does not name loopback", hint=_TOKENS_HINT
        )
    if any(name in FORWARDED or name.startswith("HTTP_X_FORWARDED_") for name in environ):
        raise Forbidden(
            "this server has no tokens, and the request was forwarded by a proxy", hint=_TOKENS_HINT
        )


def _check_origin(environ: Mapping[str, Any]) -> None:
    """Raise Forbidden for a change that a page of another origin requests. Programs send neither
    of the two fields.

    `same-site` is refused too, because all ports of loopback are one site.
    """
    if environ.get("REQUEST_METHOD", "GET") in SAFE_METHODS:
        return
    site = environ.get("HTTP_SEC_FETCH_SITE", "none").strip().lower()
    if site not in ("same-origin", "none"):
        raise Forbidden("a page of another site sent this request", hint=_ORIGIN_HINT)
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return
    # A form of a page without referrers, as relay's own are, names no origin (Fetch, "append a
    # request `Origin` header"). The browser says then that it is ours; a sandboxed frame is not.
    if origin == "null" and site == "same-origin":
        return
    named = _ORIGIN.fullmatch(origin.strip())
    if named is None or named[1].lower() != environ.get("HTTP_HOST", "").strip().lower():
        raise Forbidden("a page of another origin sent this request", hint=_ORIGIN_HINT)


def _check_peer(sock: Any) -> None:
    """Raise Forbidden if the peer of a unix socket is neither this server's own user nor root
    (unix(7), SO_PEERCRED).

    The socket's mode normally ensures that, but a service manager that created the socket (systemd)
    may have set another mode."""
    _, user, _ = PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    if user not in (0, os.geteuid()):
        raise Forbidden(
            "this server has no tokens and answers only its own user", hint=_TOKENS_HINT
        )


def load_tokens(path: Path | None) -> frozenset[str]:
    """Read one token a line; '#' starts a comment. Raises ConfigError for a file that others could
    read or change."""
    if path is None:
        return frozenset()
    lines = read_secret(path, "RELAY_TOKENS_FILE").splitlines()
    tokens = frozenset(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )
    for token in tokens:
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"RELAY_TOKENS_FILE {path}: a token must be 16 or more printable ASCII characters"
            )
    if not tokens:
        raise ConfigError(f"RELAY_TOKENS_FILE {path} has no token", hint="Write one token a line.")
    return tokens
