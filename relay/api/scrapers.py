"""Prometheus as a client: the tokens of RELAY_METRICS_TOKEN_FILE, which allow nothing but to read
the metrics.

Decided here: whether a request is Prometheus'. Never here: the other tokens (`auth.py`)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from relay.api.access import METRICS_PATH
from relay.api.auth import bearer_token
from relay.ledger.token_format import hash_of


class Scrapers:
    """The clients that have one of these tokens."""

    def __init__(self, tokens: Iterable[str]) -> None:
        """Know these tokens; with none, `have_sent` is always False."""
        self._known = tuple(map(hash_of, tokens))

    def have_sent(self, environ: Mapping[str, Any]) -> bool:
        """Return whether one of them asks for the metrics. Another token may be one of the
        server."""
        if not self._known or environ.get("PATH_INFO") != METRICS_PATH:
            return False
        return self.know(bearer_token(environ) or "")

    def know(self, token: str) -> bool:
        """Return whether a token is one of theirs."""
        digest = hash_of(token)
        # All are compared, in constant time, so that the time of an answer reveals nothing.
        return any([hmac.compare_digest(digest, known) for known in self._known])
