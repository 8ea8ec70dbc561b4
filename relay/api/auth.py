"""Authentication and authorization of requests.

With tokens, a request must send one of them, or the cookie of a session that began with one.
Without tokens, only requests from this machine are answered. That has two checks, because a browser
on this machine sends any request that a web page makes. The connection must come in on loopback, or
from the server's own user on a unix socket. And the Host must name loopback, which prevents DNS
rebinding.

Decided here: whether a request is answered, and its caller. Never here: which operation needs which
scope (`access.py`), and what a page of another site may cause (`origins.py`)."""

from __future__ import annotations

import hmac
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, Final

from relay.api.access import Access
from relay.api.caller import ANONYMOUS, LOCAL, Caller
from relay.api.known_tokens import KnownTokens
from relay.api.origins import (
    SAFE_METHODS,
    Credential,
    check_body,
    check_origin,
    names_loopback,
)
from relay.api.proxies import CLIENT, DIRECT, Proxies
from relay.api.sessions import Session, Sessions
from relay.api.token_limits import RequestRates
from relay.errors import ConfigError, Forbidden, LedgerFailed, Unauthorized
from relay.hosts import is_loopback
from relay.process.small_files import read_secret

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
_TOKENS_HINT = (
    "Run `relay token create NAME` and send the token; without tokens relay answers only requests"
    " from its own machine."
)
CSRF_HEADER: Final = "HTTP_X_RELAY_CSRF"
CSRF_FIELD: Final = "csrf"
"""Name of the form's field with the session's CSRF token."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A request that may be answered: its caller, and its session if a browser sent its cookie."""

    caller: Caller
    session: Session | None = None
    hash: str = field(default="", repr=False)
    """That of the token that it sent, if it is one of the ledger."""


class Guard:
    """The checks of every request of one process."""

    def __init__(
        self,
        known: KnownTokens,
        proxies: Proxies = DIRECT,
        sessions: Sessions | None = None,
        rates: RequestRates | None = None,
    ) -> None:
        """`sessions` finds the session of a browser; None where the server has no ledger."""
        self._known, self._proxies, self._sessions = known, proxies, sessions
        self._rates = RequestRates() if rates is None else rates

    def identify(self, environ: Mapping[str, Any], access: Access) -> Admission:
        """Return the caller of a request, by its token or its session. Raises Unauthorized,
        Forbidden, and LedgerFailed if the ledger's tokens can't be read."""
        if access.is_probe:
            return Admission(caller=ANONYMOUS)
        needed = self._known.are_needed()
        credential, value = self._credential_in(environ) if needed else (Credential.NONE, "")
        if not needed:
            _check_local(environ)
        client = environ.get(CLIENT) or self._proxies.client_of(environ)
        check_origin(environ, client, self._proxies.public, credential, access)
        admission = self._authenticate(credential, value) if needed else Admission(caller=LOCAL)
        if admission is None and access.scope is not None:
            raise Unauthorized(_REFUSALS[credential] if value else _REFUSALS[Credential.NONE])
        return admission or Admission(caller=ANONYMOUS)

    def authorize(self, environ: Mapping[str, Any], access: Access, admission: Admission) -> None:
        """Check that a caller may ask for an operation. Raises Forbidden, TooManyRequests, and
        UnsupportedMediaType for a body that the API does not take."""
        if access.is_probe:
            return
        if access.scope is not None and access.scope not in admission.caller.scopes:
            raise Forbidden(
                access.refusal or f"the scope of the token does not contain {access.scope.value}",
                hint=f"Use a token with the scope {access.scope.value}: `relay token create`.",
            )
        if access.scope is not None:  # a browser gets several open files for one page
            self._rates.take(admission.caller)
        check_body(environ, access)

    def still_admits(self, admission: Admission) -> bool:
        """Return whether a request that was admitted would be so now: its answer may be a stream
        that outlives its token. While the ledger does not answer, it would."""
        try:
            if admission.session is not None and self._sessions is not None:
                return self._sessions.find(admission.session.cookie) is not None
            id = admission.caller.token_id
            return id is None or self._known.caller_with(id, admission.hash) is not None
        except LedgerFailed:
            return True

    def _credential_in(self, environ: Mapping[str, Any]) -> tuple[Credential, str]:
        """Return what shows who sent a request: a token, else a cookie. The field of another
        scheme, such as Basic, is that of a proxy before the page, which passes it on."""
        token = bearer_token(environ)
        cookie = self._sessions.cookie_in(environ) if self._sessions else None
        if cookie is not None and not _names_bearer(environ):
            return Credential.COOKIE, cookie
        return (Credential.NONE, "") if token is None else (Credential.BEARER, token)

    def _authenticate(self, credential: Credential, value: str) -> Admission | None:
        if credential is Credential.BEARER and value:
            found = self._known.caller_of(value)
            return None if found is None else Admission(caller=found.caller, hash=found.hash)
        if credential is Credential.COOKIE and self._sessions is not None:
            session = self._sessions.find(value)
            return None if session is None else Admission(caller=session.caller, session=session)
        return None


_REFUSALS: Final[Mapping[Credential, str]] = {
    Credential.BEARER: "the token is not known, has expired or was revoked",
    Credential.COOKIE: "the session has ended",
    Credential.NONE: "no bearer token was sent",
}


def bearer_token(environ: Mapping[str, Any]) -> str | None:
    """Return the token that a request sent, '' if its field has none, None without that field."""
    header = environ.get("HTTP_AUTHORIZATION")
    given = None if header is None else _BEARER.fullmatch(header)
    return given[1] if given else (None if header is None else "")


def _names_bearer(environ: Mapping[str, Any]) -> bool:
    """Return whether a request has a token, or a field that was to be one."""
    scheme = str(environ.get("HTTP_AUTHORIZATION", "")).lstrip().partition(" ")[0]
    return scheme.lower() == "bearer"


def check_csrf(environ: Mapping[str, Any], session: Session | None, field: str) -> None:
    """Raise Forbidden for a change by a session without the session's CSRF token, in the header
    X-Relay-CSRF or in the `field` of a form: check 5 of `origins.py`."""
    if session is None or environ.get("REQUEST_METHOD", "GET") in SAFE_METHODS:
        return
    given = str(environ.get(CSRF_HEADER) or field)
    if not hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode()):
        raise Forbidden.cross_site(
            "the request does not have the CSRF token of its session",
            hint="Load the page again, and send the form once more.",
        )


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
    if not names_loopback(environ.get("HTTP_HOST", "")):
        raise Forbidden(
            "this server has no tokens, and the Host does not name loopback", hint=_TOKENS_HINT
        )
    if any(name in FORWARDED or name.startswith("HTTP_X_FORWARDED_") for name in environ):
        raise Forbidden(
            "this server has no tokens, and the request was forwarded by a proxy", hint=_TOKENS_HINT
        )


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


def load_tokens(path: Path | None, name: str = "RELAY_TOKENS_FILE") -> frozenset[str]:
    """Read one token a line of the file that the setting `name` names; '#' starts a comment. Raises
    ConfigError for a file that others could read or change."""
    if path is None:
        return frozenset()
    lines = read_secret(path, name).splitlines()
    tokens = frozenset(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )
    for token in tokens:
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{name} {path}: a token must be 16 or more printable ASCII characters"
            )
    if not tokens:
        raise ConfigError(f"{name} {path} has no token", hint="Write one token a line.")
    return tokens
