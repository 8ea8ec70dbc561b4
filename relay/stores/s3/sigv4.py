"""Signatures of AWS requests, version 4 (docs.aws.amazon.com, "Signature Version 4 signing
process").

Theory of operation. The signature covers the request line, the Host and every `x-amz-` field. It
does not cover the payload, which TLS and the checksums protect, and which would have to be read
twice. A target must be in canonical form already (`canonical_path`, sorted query): so the signed
bytes are the sent bytes. The signing key is derived once a day; a signature then costs 0.02 ms.

Never here: where credentials come from (`stores/remotes.py`)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic
from typing import Final
from urllib.parse import quote

from relay.errors import ConfigError
from relay.stores.metadata import squeeze_blanks
from relay.wire.http1 import Fields, lower_names

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SKEW = timedelta(minutes=1)
"""Clocks that differ by no more than this count as the same."""
RENEW_SECONDS: Final = 60.0
"""Time after a renewal in which the settings are not read again."""
_ALGORITHM = "AWS4-HMAC-SHA256"
_SECOND: Final = timedelta(seconds=1)


_SENT: Final = re.compile(r"[!-~]+")
"""Characters of a key's id, a token and a region, which are sent in fields: visible ASCII."""
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class AwsCredentials:
    """An AWS access key. All but its id is SECRET. Raises ConfigError for characters that no access
    key has, such as the line end of the file that it was read from."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """The session token of temporary credentials."""

    def __post_init__(self) -> None:
        sent = (("access key's id", self.key_id), ("session token", self.token or "-"))
        wrong = [name for name, value in sent if not _SENT.fullmatch(value)]
        if _UNSEEN.search(self.secret):
            wrong.append("secret access key")
        if wrong:
            raise ConfigError(
                f"the {wrong[0]} of S3 has an invalid character in it",
                hint=(
                    "Remove blanks and line ends: to write it to a file, use printf instead of"
                    " echo."
                ),
            )


def canonical_path(key: str) -> str:
    """Return a key percent-encoded as S3 signs it: all but unreserved characters and '/'."""
    return quote(key, safe="/-_.~")


MOST_REGIONS = 8
"""Maximum number of changes of a bucket's region: answers that alternate between two regions would
have no end."""


class Signer:
    """Signs the requests to one bucket, in the bucket's region.

    `credentials` is called for each request, since temporary credentials expire; if it returns
    None, requests are anonymous. `reread` reads the settings again, without any cache, and returns
    the function to call from then on. `clock` returns the time in UTC. Signers made by `in_region`
    share the credentials and the clock; each has its own region."""

    def __init__(
        self,
        credentials: Callable[[], AwsCredentials | None],
        region: str,
        service: str = "s3",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        reread: Callable[[], Callable[[], AwsCredentials | None]] | None = None,
    ) -> None:
        if not _SENT.fullmatch(region):
            raise ConfigError("the region of S3 has an invalid character in it")
        self.region, self._service = region, service
        self._keys = _Keys(credentials, clock, reread)
        self._moves = 0
        self._derived: tuple[tuple[str, str, str], bytes] | None = None
        self._stamped: tuple[datetime, str] | None = None

    def in_region(self, region: str) -> Signer:
        """Return a signer for another bucket, with its own region and the same credentials and
        clock."""
        other = Signer(self.credentials, region, self._service)
        other._keys = self._keys
        return other

    def credentials(self) -> AwsCredentials | None:
        """Return the current credentials."""
        return self._keys.credentials()

    def renew(self, refused: AwsCredentials | None) -> bool:
        """Read the settings again, at most once a minute; return whether the credentials now differ
        from those that were `refused`.

        May block, since reading the settings may ask a server or run a helper."""
        return self._keys.renew(refused)

    def same_key(self, other: Signer) -> bool:
        """Return whether both sign with the same access key, so that what one may read the other
        may copy."""
        try:
            ours, theirs = self.credentials(), other.credentials()
        except ConfigError:
            return False  # the next request raises the error
        if ours is None or theirs is None:
            return ours is theirs  # neither has credentials: both read what is public
        return ours.key_id == theirs.key_id

    def learn_region(self, region: str, signed: str) -> bool:
        """Return whether a request that was `signed` for one region should be sent again, signed
        for the `region` that the answer named.

        Later requests to the bucket are signed for that region. False if the request was signed for
        it already, or after MOST_REGIONS changes."""
        if region == signed or (region != self.region and self._moves >= MOST_REGIONS):
            return False
        if region != self.region:
            self.region, self._moves = region, self._moves + 1
        return True

    @property
    def skew(self) -> timedelta:
        """How far the server's clock is ahead of ours, as learned from its answers."""
        return self._keys.skew

    def learn_time(self, theirs: datetime, signed: timedelta) -> bool:
        """Use the server's clock for signatures from now on, after a refusal because ours is wrong
        by more than the allowed 15 minutes. `signed` is the skew of the refused request; another
        transfer may have learned a different one meanwhile.

        Returns False if that request used the server's clock already: then the clock is not the
        cause."""
        return self._keys.learn_time(theirs, signed)

    def fields(
        self, method: str, host: str, target: str, fields: Fields = (), payload: str = UNSIGNED
    ) -> Fields:
        """Return the fields that sign a request with these `fields`; both are sent."""
        return self.fields_by(
            self.credentials(), method, host, target, fields=fields, payload=payload
        )

    def fields_by(
        self,
        credentials: AwsCredentials | None,
        method: str,
        host: str,
        target: str,
        *,
        fields: Fields,
        payload: str,
    ) -> Fields:
        """As `fields`, by the current credentials, which the caller has got."""
        if credentials is None:
            return (("x-amz-content-sha256", payload),)
        stamp, region = self._stamp_of(self._keys.now()), self.region
        own: Fields = (("x-amz-content-sha256", payload), ("x-amz-date", stamp))
        if credentials.token:
            own += (("x-amz-security-token", credentials.token),)
        # Our own fields have lower-case names, and values without blanks.
        given = zip(lower_names(fields), fields, strict=False)
        named = [(key, squeeze_blanks(text)) for key, (_, text) in given if key[:6] == "x-amz-"]
        signed: dict[str, str] = {}
        for key, text in (*named, *own):
            # A repeated field is signed as a server joins it.
            signed[key] = f"{signed[key]},{text}" if key in signed else text
        signed["host"] = host
        # Step 1: the canonical request. An empty line ends its fields.
        pairs = sorted(signed.items())
        names = ";".join([name for name, _ in pairs])
        path, _, query = target.partition("?")
        lines = [
            method,
            path,
            query,
            *[f"{name}:{value}" for name, value in pairs],
            "",
            names,
            payload,
        ]
        # Step 2: the string to sign, and its signature by the key of the day.
        scope = f"{stamp[:8]}/{region}/{self._service}/aws4_request"
        digest = hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()
        signing_key = self._key(credentials.secret, stamp[:8], region)
        signature = hmac.digest(
            signing_key, f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}".encode(), "sha256"
        )
        signed_by = (
            f"Credential={credentials.key_id}/{scope}, SignedHeaders={names},"
            f" Signature={signature.hex()}"
        )
        return (*own, ("Authorization", f"{_ALGORITHM} {signed_by}"))

    def _stamp_of(self, now: datetime) -> str:
        """Return a time in the format of a signature. Cached for a second: formatting costs as much
        as the signature itself."""
        if self._stamped is None or not self._stamped[0] <= now < self._stamped[0] + _SECOND:
            second = now.replace(microsecond=0)
            self._stamped = (second, second.strftime("%Y%m%dT%H%M%SZ"))
        return self._stamped[1]

    def _key(self, secret: str, day: str, region: str) -> bytes:
        """Return the signing key. It is derived once a day."""
        if self._derived is None or self._derived[0] != (secret, day, region):
            key = f"AWS4{secret}".encode()
            for step in (day, region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._derived = ((secret, day, region), key)
        return self._derived[1]


class _Keys:
    """The credentials and the clock that the signers of one remote share."""

    def __init__(
        self,
        credentials: Callable[[], AwsCredentials | None],
        clock: Callable[[], datetime],
        reread: Callable[[], Callable[[], AwsCredentials | None]] | None,
    ) -> None:
        self.credentials, self._clock, self._reread = credentials, clock, reread
        self._renewed = -inf
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """Return the time by the store's clock."""
        return self._clock() + self.skew

    def renew(self, refused: AwsCredentials | None) -> bool:
        """As Signer.renew."""
        if (
            # Another request may have found the new credentials already.
            self.credentials() == refused
            and self._reread
            and monotonic() - self._renewed >= RENEW_SECONDS
        ):
            self._renewed = monotonic()
            self.credentials = self._reread()
        return self.credentials() != refused

    def learn_time(self, theirs: datetime, signed: timedelta) -> bool:
        """As Signer.learn_time."""
        self.skew = theirs - self._clock()
        return abs(self.skew - signed) > SKEW
