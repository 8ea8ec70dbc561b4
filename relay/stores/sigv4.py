"""Signatures of AWS requests, version 4 (docs.aws.amazon.com, "Signature Version 4 signing process").

Theory of operation. What is signed is the request line, the Host and every `x-amz-` field; never the payload, which
TLS and the checksums protect, and which would have to be read twice. A target must be in its canonical form already
(`canonical_path`, sorted query): then what is signed is what is sent, byte for byte. The signing key is derived once
a day; a signature costs 0.02 ms with it.

Never here: where credentials come from (`stores/remotes.py`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from relay.stores.metadata import squeezed
from relay.wire.http1 import Fields

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SKEW = timedelta(minutes=1)
"""Clocks that are no farther apart are the same."""
RENEW_AFTER = timedelta(minutes=1)
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Credentials:
    """What AWS calls an access key. All but its id is SECRET."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""


def canonical_path(key: str) -> str:
    """Return a key percent-encoded as S3 wants it signed: all but unreserved characters and '/'."""
    return quote(key, safe="/-_.~")


class Signer:
    """Signs the requests of one region of one service.

    `credentials` is asked for each request, since temporary ones expire; None asks as nobody. `anew` reads the settings
    again, past all that is at hand, and gives what to ask from then on. `clock` gives the time in UTC.
    """

    def __init__(
        self,
        credentials: Callable[[], Credentials | None],
        region: str,
        service: str = "s3",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        anew: Callable[[], Callable[[], Credentials | None]] | None = None,
    ) -> None:
        self.credentials, self.region, self._service, self._clock = credentials, region, service, clock
        self._anew, self._renewed = anew, datetime.min.replace(tzinfo=UTC)
        self._skew = timedelta(0)
        self._derived: tuple[tuple[str, str], bytes] | None = None

    def in_region(self, region: str) -> Signer:
        """Return one that signs for another region with the same credentials."""
        return Signer(self.credentials, region, self._service, self._clock, self._anew)

    def renew(self, refused: Credentials | None) -> bool:
        """Say if there are others than those that were `refused`; looks for some, once in a minute.

        May block, as reading settings does.
        """
        if self.credentials() == refused and self._anew and self._clock() - self._renewed >= RENEW_AFTER:
            self._renewed = self._clock()
            self.credentials, self._derived = self._anew(), None
        return self.credentials() != refused

    def same_key(self, other: Signer) -> bool:
        """Say if both sign with the same access key, so that what one may read the other may copy."""
        ours, theirs = self.credentials(), other.credentials()
        return (ours and ours.key_id) == (theirs and theirs.key_id)

    def learn_region(self, region: str) -> None:
        """Sign for this region from now on: the bucket is there."""
        self.region, self._derived = region, None

    def learn_time(self, theirs: datetime) -> bool:
        """Sign by the server's clock from now on: ours is wrong by more than the 15 minutes that it allows.

        Returns False where that is what was done already, so that it was something else.
        """
        skew, before = theirs - self._clock(), self._skew
        self._skew = skew
        return abs(skew - before) > SKEW

    def fields(self, method: str, host: str, target: str, fields: Fields = (), payload: str = UNSIGNED) -> Fields:
        """Return the fields that sign a request with these `fields`; they are to be sent beside them."""
        credentials, now = self.credentials(), self._clock() + self._skew
        if credentials is None:
            return (("x-amz-content-sha256", payload),)
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        own: Fields = (("x-amz-content-sha256", payload), ("x-amz-date", stamp))
        if credentials.token:
            own += (("x-amz-security-token", credentials.token),)
        every = [(name.lower(), value) for name, value in (*fields, *own)]
        signed = {name: squeezed(value) for name, value in every if name.startswith("x-amz-")}
        signed["host"] = host
        pairs = sorted(signed.items())
        names = ";".join([name for name, _ in pairs])
        path, _, query = target.partition("?")
        lines = [method, path, query, *[f"{name}:{value}" for name, value in pairs], "", names, payload]
        scope = f"{stamp[:8]}/{self.region}/{self._service}/aws4_request"
        digest = hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._key(credentials.secret, stamp[:8]), text.encode(), "sha256").hex()
        value = f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        return (*own, ("Authorization", value))

    def _key(self, secret: str, day: str) -> bytes:
        if self._derived is None or self._derived[0] != (secret, day):
            key = f"AWS4{secret}".encode()
            for step in (day, self.region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._derived = ((secret, day), key)
        return self._derived[1]
