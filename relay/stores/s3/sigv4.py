"""Signatures of AWS requests, version 4 (docs.aws.amazon.com, "Signature Version 4 signing
process").

Theory of operation. What is signed is the request line, the Host and every `x-amz-` field; never
the payload, which TLS and the checksums protect, and which would have to be read twice. A target
must be in its canonical form already (`canonical_path`, sorted query): then what is signed is what
is sent, byte for byte. The signing key is derived once a day; a signature costs 0.02 ms with it.

Never here: where credentials come from (`stores/remotes.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from relay.errors import ConfigError
from relay.stores.metadata import squeeze_blanks
from relay.wire.http1 import Fields

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SKEW = timedelta(minutes=1)
"""Clocks that are no farther apart are the same."""
RENEW_AFTER = timedelta(minutes=1)
_ALGORITHM = "AWS4-HMAC-SHA256"


_SENT: Final = re.compile(r"[!-~]+")
"""What may stand in a field, as a key's id, a token and a region do: visible ASCII."""
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class AwsCredentials:
    """What AWS calls an access key. All but its id is SECRET. Raises ConfigError for one that can't
    be sent, or that no store gave out: with the end of the line of the file that it was taken
    from."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""

    def __post_init__(self) -> None:
        sent = (("access key's id", self.key_id), ("session token", self.token or "-"))
        wrong = [name for name, value in sent if not _SENT.fullmatch(value)]
        if _UNSEEN.search(self.secret):
            wrong.append("secret access key")
        if wrong:
            raise ConfigError(
                f"the {wrong[0]} of S3 has a character in it that none has",
                hint=(
                    "Is it a blank, or the end of a line? Write it without: with printf, not with"
                    " echo."
                ),
            )


def canonical_path(key: str) -> str:
    """Return a key percent-encoded as S3 wants it signed: all but unreserved characters and '/'."""
    return quote(key, safe="/-_.~")


MOST_REGIONS = 8
"""How often a bucket may be found in another region: one whose answers name two in turn would have
no end."""


class Signer:
    """Signs the requests to one bucket, in the region where it is.

    `credentials` is asked for each request, since temporary ones expire; None asks as nobody.
    `anew` reads the settings again, past all that is at hand, and gives what to ask from then on.
    `clock` gives the time in UTC. Those that were made of it by `in_region` share its credentials
    and its clock, and each has a region of its own."""

    def __init__(
        self,
        credentials: Callable[[], AwsCredentials | None],
        region: str,
        service: str = "s3",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        anew: Callable[[], Callable[[], AwsCredentials | None]] | None = None,
    ) -> None:
        if not _SENT.fullmatch(region):
            raise ConfigError("the region of S3 has a character in it that none has")
        self.region, self._service = region, service
        self._keys = _Keys(credentials, clock, anew)
        self._moves = 0
        self._derived: tuple[tuple[str, str, str], hmac.HMAC] | None = None
        self._stamped: tuple[datetime, str] | None = None

    def in_region(self, region: str) -> Signer:
        """Return one for another bucket, in a region of its own, with the same credentials and
        clock."""
        other = Signer(self.credentials, region, self._service)
        other._keys = self._keys
        return other

    def credentials(self) -> AwsCredentials | None:
        """Return the credentials that there are now."""
        return self._keys.credentials()

    def renew(self, refused: AwsCredentials | None) -> bool:
        """Say if there are others than those that were `refused`; looks for some, once in a minute.

        Waits as reading settings does, which may ask a server or run a helper.
        """
        return self._keys.renew(refused)

    def same_key(self, other: Signer) -> bool:
        """Say if both sign with the same access key, so that what one may read the other may
        copy."""
        try:
            ours, theirs = self.credentials(), other.credentials()
        except ConfigError:
            return False  # whoever asks for the bytes learns why
        return (ours and ours.key_id) == (theirs and theirs.key_id)

    def learn_region(self, region: str, signed: str) -> bool:
        """Say if a request that was `signed` for one region is to be asked again, in the `region`
        that was told.

        The bucket's requests are signed for that from now on. False where it was asked there, or
        moves without an end."""
        if region == signed or (region != self.region and self._moves >= MOST_REGIONS):
            return False
        if region != self.region:
            self.region, self._moves = region, self._moves + 1
        return True

    @property
    def skew(self) -> timedelta:
        """By how much the server's clock is ahead of ours, as far as it was learned."""
        return self._keys.skew

    def learn_time(self, theirs: datetime, signed: timedelta) -> bool:
        """Sign by the server's clock from now on: ours is wrong by more than the 15 minutes that it
        allows. `signed` is the skew of the request that was refused: others may have learned
        another one meanwhile.

        Returns False where that request was signed by the server's clock already, so that it was
        something else."""
        return self._keys.learn_time(theirs, signed)

    def fields(
        self, method: str, host: str, target: str, fields: Fields = (), payload: str = UNSIGNED
    ) -> Fields:
        """Return the fields that sign a request with these `fields`; they are to be sent beside
        them."""
        credentials, now, region = self.credentials(), self._keys.now(), self.region
        if credentials is None:
            return (("x-amz-content-sha256", payload),)
        stamp = self._stamp_of(now)
        own: Fields = (("x-amz-content-sha256", payload), ("x-amz-date", stamp))
        if credentials.token:
            own += (("x-amz-security-token", credentials.token),)
        signed: dict[str, str] = {}
        for name, value in (*fields, *own):
            key = name.lower()
            if key.startswith(
                "x-amz-"
            ):  # of a field that stands twice both values, as a server joins them
                signed[key] = (
                    f"{signed[key]},{squeeze_blanks(value)}"
                    if key in signed
                    else squeeze_blanks(value)
                )
        signed["host"] = host
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
        scope = f"{stamp[:8]}/{region}/{self._service}/aws4_request"
        digest = hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()
        signing = self._keyed(credentials.secret, stamp[:8], region)
        signing.update(f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}".encode())
        signed_by = (
            f"Credential={credentials.key_id}/{scope}, SignedHeaders={names},"
            f" Signature={signing.hexdigest()}"
        )
        return (*own, ("Authorization", f"{_ALGORITHM} {signed_by}"))

    def _stamp_of(self, now: datetime) -> str:
        """Return a time as it is signed. It is written once a second: that costs as much as the
        signature itself."""
        second = now.replace(microsecond=0)
        if self._stamped is None or self._stamped[0] != second:
            self._stamped = (second, second.strftime("%Y%m%dT%H%M%SZ"))
        return self._stamped[1]

    def _keyed(self, secret: str, day: str, region: str) -> hmac.HMAC:
        """Return an HMAC that has the signing key, and no text yet. The key is derived, and put in,
        once a day."""
        if self._derived is None or self._derived[0] != (secret, day, region):
            key = f"AWS4{secret}".encode()
            for step in (day, region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._derived = ((secret, day, region), hmac.new(key, digestmod="sha256"))
        return self._derived[1].copy()


class _Keys:
    """The credentials and the clock that the signers of one remote share."""

    def __init__(
        self,
        credentials: Callable[[], AwsCredentials | None],
        clock: Callable[[], datetime],
        anew: Callable[[], Callable[[], AwsCredentials | None]] | None,
    ) -> None:
        self.credentials, self._clock, self._anew = credentials, clock, anew
        self._renewed = datetime.min.replace(tzinfo=UTC)
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """Return the time by the store's clock."""
        return self._clock() + self.skew

    def renew(self, refused: AwsCredentials | None) -> bool:
        """As Signer.renew."""
        if (
            self.credentials() == refused
            and self._anew
            and self._clock() - self._renewed >= RENEW_AFTER
        ):
            self._renewed = self._clock()
            self.credentials = self._anew()
        return self.credentials() != refused

    def learn_time(self, theirs: datetime, signed: timedelta) -> bool:
        """As Signer.learn_time."""
        self.skew = theirs - self._clock()
        return abs(self.skew - signed) > SKEW
