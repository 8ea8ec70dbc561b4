"""One bucket at one endpoint, and the locations of requests to it.

Decided here: how a key, a query, a version and a region become part of a Location. Never here:
where the settings come from (`aws_settings.py`), how a request is signed (`signed_requests.py`)."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from relay.errors import KeyTooLong
from relay.hosts import ANY_AWS_DOMAIN
from relay.location import Location
from relay.stores.s3.sigv4 import Signer
from relay.wire.http1 import Fields

KEY_BYTES: Final = 1024
"""Maximum length of a key, in bytes."""
_AWS_HOST: Final = re.compile(
    rf"(?P<bucket>.+\.)?s3\.(?P<region>[a-z0-9-]+)\.(?P<rest>{ANY_AWS_DOMAIN})"
)


@lru_cache(maxsize=256)
def aws_host(host: str) -> re.Match[str] | None:
    """Return the parts of the name of an AWS host, or None for another host. Cached, since each
    object needs it about six times."""
    return _AWS_HOST.fullmatch(host)


def region_of(location: Location) -> str | None:
    """Return the region of a location at AWS, by its host; None for another host."""
    found = aws_host(location.host)
    return None if found is None else found["region"]


@dataclass(frozen=True)
class S3Account:
    """One bucket at one endpoint. `prefix` is the part of a path before the key: '/bucket', or ''
    with a virtual host."""

    bucket: str
    prefix: str
    signer: Signer = field(compare=False, repr=False)
    endpoint: str = ""
    """The endpoint's URL, without the bucket: objects can be copied within one endpoint."""
    _: KW_ONLY
    store: str = "s3"
    owner: str = field(default="", compare=False)
    """The profile of its credentials, and their access key unless it is a temporary one."""
    uploaded: Fields = field(default=(), compare=False)
    """Fields of every upload: encryption, storage class, access control."""
    asked: Fields = field(default=(), compare=False)
    """Fields of every request."""

    def printed_form(self, path: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.bucket}{unquote(path.removeprefix(self.prefix))}"

    @property
    def own_endpoint(self) -> str:
        """The endpoint's URL, or '' at AWS, which every program means by `s3://`."""
        host = self.endpoint.partition("://")[2].rstrip("/")
        return "" if aws_host(host) else self.endpoint.rstrip("/")

    def check(self, path: str) -> None:
        """As Account.check (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
        if len(path) <= KEY_BYTES:
            return  # decoding never makes it longer
        if len(unquote_to_bytes(path.removeprefix(self.prefix).removeprefix("/"))) > KEY_BYTES:
            raise KeyTooLong(f"the key has more than {KEY_BYTES} bytes")


def account_of(location: Location) -> S3Account:
    """Return the account of a location in S3."""
    account: S3Account = location.account  # type: ignore[assignment]
    return account


def key_of(location: Location) -> str:
    """Return the key of an object, or of a folder."""
    return unquote(location.path.removeprefix(account_of(location).prefix).removeprefix("/"))


def in_region(location: Location, region: str) -> Location:
    """Return the location at the AWS host of a region, unchanged if it is not at AWS
    (docs.aws.amazon.com, "Amazon S3 endpoints")."""
    found = aws_host(location.host)
    if found is None or found["region"] == region:
        return location
    return replace(location, host=f"{found['bucket'] or ''}s3.{region}.{found['rest']}")


def at_query(location: Location, query: str) -> Location:
    """Return the object's location with a query, which must be in the order of the signature."""
    return replace(location, target=f"{location.path}?{query}")


def at_bucket(location: Location, query: str) -> Location:
    """Return the location of the object's bucket with a query, which must be in the order of the
    signature."""
    return replace(location, target=f"{account_of(location).prefix}/?{query}")


def at_version(location: Location, id: str) -> Location:
    """Return the location of one version of an object."""
    return at_query(location, f"versionId={quote(id, safe='-_.~')}")


def in_query(text: str) -> str:
    """Percent-encode a peer's text for a query, also with bytes that are not UTF-8, or a lone
    surrogate."""
    try:
        return quote(text, safe="-_.~", errors="surrogateescape")
    except UnicodeEncodeError:
        return quote(text, safe="-_.~", errors="surrogatepass")
