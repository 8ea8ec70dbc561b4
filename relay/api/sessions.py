"""Sessions of browsers: a person signs in with a token, and the browser keeps a cookie.

Theory of operation. The cookie is a random id of 256 bits with its HMAC under a key of the ledger:
a cookie that no server of the ledger made is refused without a look into the ledger. The session is
a row there, found by the id's hash, and lasts no longer than its token. What was found is cached
for CACHE_SECONDS, so a session that ends on one worker ends on all of them within five seconds.

Pages are only reached over HTTPS or on loopback: a cookie in plain text belongs to whoever reads
the network.

Decided here: when a person may sign in, and the cookie. Never here: whether a request with a
session is answered (`auth.py`, `origins.py`)."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic, time
from typing import Any, Final

import gevent
from flask import Response, has_request_context
from werkzeug.http import parse_cookie

from relay.api.caller import Caller, request_id
from relay.api.known_tokens import KnownTokens
from relay.api.proxies import ClientView, PublicUrl, address_group
from relay.errors import Forbidden, LedgerFailed, TooManyRequests, Unauthorized
from relay.hosts import is_loopback
from relay.ledger.audit_log import Actor
from relay.ledger.ledger import Ledger
from relay.ledger.session_rows import (
    MOST_SECONDS,
    SEEN_SECONDS,
    WINDOW_SECONDS,
    SessionRow,
    seconds_to_wait,
)
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

CACHE_SECONDS: Final = 4.0
CACHED: Final = 1000
"""Sessions in the cache of one process."""
UNKNOWN_TOKEN: Final = "This token is not known, has expired or was revoked."  # noqa: S105
NEEDS_HTTPS: Final = "Sign-in needs HTTPS. Put a proxy with TLS in front."


@dataclass(frozen=True, kw_only=True)
class Session:
    """The session of a request."""

    caller: Caller
    csrf: str = field(repr=False)
    """The text that each form of a page has in its field `csrf`, and a script in X-Relay-CSRF."""
    cookie: str = field(repr=False)


class Sessions:
    """The sessions of one ledger, as one process sees them. Every method may be called from any
    greenlet, and raises LedgerFailed if the ledger does not answer."""

    def __init__(
        self,
        known: KnownTokens,
        ledger: Ledger,
        public: PublicUrl | None = None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        """`now` returns seconds since 1970."""
        self._known, self._ledger, self._public = known, ledger, public
        self._clock, self._now = clock, now
        self._found: dict[str, tuple[float, SessionRow | None]] = {}
        self._attempts: list[tuple[str, float]] = []
        self._secret = b""

    @property
    def is_secure(self) -> bool:
        """Whether the cookie is for HTTPS only."""
        return self._public is not None and self._public.scheme == "https"

    @property
    def cookie_name(self) -> str:
        """The name of the cookie. It names the ledger, because all ports of a host share its
        cookies. With the prefix `__Host-`, browsers take it over HTTPS only, and no other host can
        set it (RFC 6265bis section 4.1.3)."""
        ledger = hmac.digest(self._key(), b"name", sha256).hex()[:8]
        return f"__Host-relay-{ledger}" if self.is_secure else f"relay-{ledger}"

    def cookie_in(self, environ: Mapping[str, Any]) -> str | None:
        """Return the value of the session's cookie in a request, or None."""
        text = str(environ.get("HTTP_COOKIE", ""))
        # Other programs' cookies need no look into the ledger, not even for the name of ours.
        return parse_cookie(text).get(self.cookie_name) if "relay-" in text else None

    def start(self, token: str, client: ClientView) -> Session:
        """Begin a session for a person who gave a token. Raises Forbidden on plain HTTP beyond
        loopback, TooManyRequests, and Unauthorized."""
        self._check_transport(client)
        self._count(client.address)
        found = self._known.caller_of(token.strip())
        if found is None:
            raise Unauthorized(UNKNOWN_TOKEN, hint="Create one: `relay token create NAME`.")
        id = secrets.token_urlsafe(32)
        cookie = f"{id}.{self._mac(b'cookie', id)}"
        caller = found.caller
        ledger = self._ledger.by(_actor(caller, client))
        ledger.sessions.start(_hash(id), caller.token_id, found.hash, self._now())
        return self._session(caller, cookie)

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it has ended, with its token or by itself."""
        id, _, given = cookie.partition(".")
        if not hmac.compare_digest(given.encode(), self._mac(b"cookie", id).encode()):
            return None
        row, now = self._row(_hash(id)), self._now()
        if row is None or row.is_over(now):
            return None
        caller = self._known.caller_with(row.token_id, row.token_hash)
        if caller is None:
            return None
        if now - row.seen >= SEEN_SECONDS:
            self._note(_hash(id), row, now)
        return self._session(caller, cookie)

    def end(self, session: Session, client: ClientView) -> None:
        """End a session: at once here, and within five seconds on other workers."""
        hash = _hash(session.cookie.partition(".")[0])
        self._ledger.by(_actor(session.caller, client)).sessions.end(hash)
        self._found[hash] = self._clock(), None

    def set_cookie(self, response: Response, session: Session) -> None:
        """Give the cookie of a new session to the browser."""
        response.set_cookie(
            self.cookie_name,
            session.cookie,
            max_age=int(MOST_SECONDS),
            path="/",
            secure=self.is_secure,
            httponly=True,
            samesite="Lax",
        )

    def clear_cookie(self, response: Response) -> None:
        """Take the cookie away from the browser."""
        response.delete_cookie(
            self.cookie_name, path="/", secure=self.is_secure, httponly=True, samesite="Lax"
        )

    def _session(self, caller: Caller, cookie: str) -> Session:
        return Session(caller=caller, csrf=self._mac(b"csrf", cookie), cookie=cookie)

    def _check_transport(self, client: ClientView) -> None:
        if self._public is not None:
            if client.host != self._public.host:
                raise Forbidden(
                    "the sign-in came under another Host",
                    hint="Open the page at the address that RELAY_PUBLIC_URL names.",
                )
        elif not is_loopback(_without_port(client.host)):
            raise Forbidden(NEEDS_HTTPS, hint="Then name its address in RELAY_PUBLIC_URL.")

    def _count(self, address: str) -> None:
        """Count an attempt. Raises TooManyRequests. This process refuses first, so that a flood
        costs the ledger nothing."""
        group, now = address_group(address), self._now()
        self._attempts = [one for one in self._attempts if abs(now - one[1]) < WINDOW_SECONDS]
        wait = seconds_to_wait(self._attempts, group, now)
        if not wait:
            self._attempts.append((group, now))
            wait = self._ledger.sessions.count_attempt(group, now)
        if wait:
            seconds = max(1, round(wait))
            raise TooManyRequests(
                f"Too many attempts from your address. Try again in {seconds} s.",
                retry_after=wait,
            )

    def _row(self, hash: str) -> SessionRow | None:
        at, row = self._found.get(hash, (None, None))
        now = self._clock()
        if at is not None and now - at < CACHE_SECONDS:
            return row
        row = self._ledger.sessions.look_up(hash)
        if len(self._found) >= CACHED:
            self._found.clear()
        self._found[hash] = now, row
        return row

    def _note(self, hash: str, row: SessionRow, now: float) -> None:
        noted = SessionRow(
            token_id=row.token_id, token_hash=row.token_hash, created=row.created, seen=now
        )
        self._found[hash] = self._found.get(hash, (self._clock(), None))[0], noted
        gevent.spawn(self._write_request, hash, now)

    def _write_request(self, hash: str, at: float) -> None:
        try:
            self._ledger.sessions.note_request(hash, at)
        except LedgerFailed as error:
            emit(LogEvent.SESSION_USE_UNKNOWN, detail=error.message)

    def _key(self) -> bytes:
        self._secret = self._secret or self._ledger.sessions.cookie_key()
        return self._secret

    def _mac(self, purpose: bytes, text: str) -> str:
        made = hmac.digest(self._key(), purpose + b":" + text.encode("utf-8", "replace"), sha256)
        return urlsafe_b64encode(made).decode().rstrip("=")


def _actor(caller: Caller, client: ClientView) -> Actor:
    return Actor(
        name=caller.name,
        token_id=caller.token_id,
        tenant=caller.tenant,
        address=client.address,
        request=request_id() if has_request_context() else None,
    )


def _hash(id: str) -> str:
    return sha256(id.encode("utf-8", "replace")).hexdigest()


def _without_port(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host
