"""The tokens that one process knows: those of the ledger, and those of RELAY_TOKENS_FILE.

Theory of operation. All live tokens of the ledger are read together, when a request needs them and
they were read more than CACHE_SECONDS ago. So a flood of unknown tokens costs the ledger nothing,
an idle server reads nothing, and a revoked token is refused within CACHE_SECONDS in every process.
A token that is not among them may be a new one: then they are read again, at most once in
AGAIN_SECONDS.

A server that once had a token in its ledger always needs one: with its last token expired, it would
otherwise be open to every program of its machine.

Decided here: which token belongs to which caller. Never here: what a caller may do (`auth.py`)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from relay.api.caller import FILE, Caller
from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.token_format import hash_of, id_in
from relay.ledger.tokens import LiveTokens, Token
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

CACHE_SECONDS: Final = 4.0
"""Seconds after which the tokens are read again: less than the five within which a revocation takes
effect, by the time that reading them may take."""
AGAIN_SECONDS: Final = 0.25
"""Least seconds between two readings because of unknown tokens."""
PATIENCE_SECONDS: Final = 1.0
"""Longest wait of a request for tokens on a server that had none."""
USE_SECONDS: Final = 60.0
"""Resolution of the time at which a token was used last: the ledger is written that seldom."""
_NO_HASH: Final = "0" * 64
"""Compared in place of the hash of an unknown token, so that its answer takes as long."""


@dataclass(frozen=True, kw_only=True)
class KnownCaller:
    """A caller, and the hash of the token that it sent."""

    caller: Caller
    hash: str


class KnownTokens:
    """The tokens of one process. Every method may be called from any greenlet."""

    def __init__(
        self,
        of_file: Iterable[str] = (),
        look: Callable[[], LiveTokens] | None = None,
        note_use: Callable[[str, float], None] = lambda id, at: None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        """`of_file` are the tokens of RELAY_TOKENS_FILE, `look` reads those of the ledger, and
        `note_use` notes there when one was used. `now` returns seconds since 1970."""
        self._file = tuple(hash_of(value) for value in of_file)
        self._look, self._note_use = look, note_use
        self._clock, self._now = clock, now
        self._turn = BoundedSemaphore()
        self._live: dict[str, Token] = {}
        self._ever = False
        self._read_at: float | None = None
        self._failure: tuple[float, LedgerFailed | None] = (0.0, None)
        self._tried_at = float("-inf")
        self._used: dict[str, float] = {}

    def are_needed(self) -> bool:
        """Return whether a request must send a token.

        Raises LedgerFailed if the ledger could not be read even once. If it can't be read later, or
        not within PATIENCE_SECONDS, the last knowledge counts: a server without tokens moves single
        objects without its ledger."""
        if self._file:
            return True
        if self._read_at is None:
            self._refresh(CACHE_SECONDS)
        elif not self._is_fresh(CACHE_SECONDS):
            self._try_refresh()
        return self._ever

    def caller_of(self, value: str) -> KnownCaller | None:
        """Return the caller that a token belongs to, or None. Raises LedgerFailed if the ledger
        can't be read: a token may have been revoked."""
        digest = hash_of(value)
        # All are compared, in constant time, so that the time of an answer reveals nothing.
        if any([hmac.compare_digest(digest, known) for known in self._file]):
            return KnownCaller(caller=FILE, hash=digest)
        id = id_in(value)
        return None if id is None else self._caller_with(id, digest)

    def may_be_valid(self, value: str | None) -> bool:
        """Return whether a request with a token, or with None, may be admitted. It does not look
        into the ledger, and so is True for a token for which `caller_of` would."""
        if not (self._file or self._ever):
            return True
        if value is None:
            return False
        digest = hash_of(value)
        if any([hmac.compare_digest(digest, known) for known in self._file]):
            return True
        id = id_in(value)
        if id is None or self._look is None:
            return False
        found = self._live.get(id)
        if not self._is_fresh(AGAIN_SECONDS if found is None else CACHE_SECONDS):
            return True
        hashes = () if found is None else found.hashes(self._now())
        return any([hmac.compare_digest(digest, known) for known in hashes])

    def caller_with(self, id: str | None, digest: str) -> Caller | None:
        """Return the caller of a session that began with the token of this id and hash, or None if
        that token is not valid any longer. Without an id it is a token of the file. Raises as
        `caller_of`."""
        if id is None:
            return FILE if digest in self._file else None
        found = self._caller_with(id, digest)
        return None if found is None else found.caller

    def _caller_with(self, id: str, digest: str) -> KnownCaller | None:
        self._refresh(CACHE_SECONDS)
        if id not in self._live:
            self._refresh(AGAIN_SECONDS)
        found, now = self._live.get(id), self._now()
        hashes = (_NO_HASH,) if found is None else found.hashes(now)
        equal = [hmac.compare_digest(digest, known) for known in (*hashes, _NO_HASH)[:2]]
        if found is None or not any(equal):
            return None
        if not found.is_live(now):
            return None
        self._note(found, now)
        caller = Caller(
            token_id=found.id,
            name=found.name,
            tenant=found.tenant,
            scopes=found.scope.with_smaller,
            limits=found.limits,
        )
        return KnownCaller(caller=caller, hash=digest)

    def _refresh(self, seconds: float) -> None:
        """Read the tokens again if they were read more than `seconds` ago. Raises LedgerFailed."""
        if self._look is None or self._is_fresh(seconds):
            return
        asked = self._clock()
        with self._turn:
            if self._is_fresh(seconds):  # another greenlet has read them meanwhile
                return
            # Or it has tried: a database that is away takes seconds to say so, each time.
            failed_at, failure = self._failure
            if failure is not None and failed_at > asked:
                raise failure
            begun = self._clock()
            try:
                found = self._look()
            except LedgerFailed as error:
                self._failure = self._clock(), error
                raise
            self._live = {token.id: token for token in found.tokens}
            self._ever, self._read_at, self._failure = found.ever, begun, (0.0, None)

    def _try_refresh(self) -> None:
        """Read the tokens again, but wait for that no longer than PATIENCE_SECONDS, and only once
        within that time."""
        if self._clock() - self._tried_at >= PATIENCE_SECONDS:
            self._tried_at = self._clock()
            gevent.spawn(self._refresh_quietly).join(PATIENCE_SECONDS)

    def _refresh_quietly(self) -> None:
        with suppress(LedgerFailed):
            self._refresh(CACHE_SECONDS)

    def _is_fresh(self, seconds: float) -> bool:
        return self._read_at is not None and self._clock() - self._read_at < seconds

    def _note(self, token: Token, now: float) -> None:
        """Note the use of a token in the ledger, without waiting for it."""
        if now - max(self._used.get(token.id, 0.0), token.last_used or 0.0) < USE_SECONDS:
            return
        self._used[token.id] = now
        gevent.spawn(self._write_use, token.id, now)

    def _write_use(self, id: str, at: float) -> None:
        try:
            self._note_use(id, at)
        except LedgerFailed as error:
            emit(LogEvent.TOKEN_USE_UNKNOWN, detail=error.message, token=id)


def known_tokens(of_file: Iterable[str], ledger: Ledger | None) -> KnownTokens:
    """Return the tokens of this process, with those of its ledger if it has one."""
    if ledger is None:
        return KnownTokens(of_file)
    return KnownTokens(of_file, ledger.tokens.live, ledger.tokens.note_use)
