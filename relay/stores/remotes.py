"""From what a user writes to a Location: the schemes, and where their endpoints and credentials come from.

`https://…` is what it says. `s3://bucket/key` is a bucket at the endpoint that AWS's own chain names (environment,
profile, container or machine role), so that whoever can use the `aws` command configures nothing here.

Decided here: which store a scheme means. Never here: what a good URL is (`relay/location.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from relay.errors import ConfigError, ForbiddenHeader, InvalidType, InvalidURL, RequestError, UnsafeKey
from relay.location import UNSAFE_CHARACTERS, Location, check_path, parse_location
from relay.stores.s3 import S3Account
from relay.stores.sigv4 import Credentials, Signer, canonical_path

KEY_BYTES = 1024
"""The longest key (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SIGNED = frozenset({"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"})
_VIRTUAL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Buckets that may be a label of a host name under a certificate for `*.s3.…`."""

Given = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class S3Config:
    """An S3 to speak to. `endpoint` is its URL, or None for AWS itself in the signer's region."""

    signer: Signer
    endpoint: str | None = None


def aws_config(profile: str | None = None) -> S3Config:
    """Return what AWS's own chain of settings says, as its SDKs would.

    Raises ConfigError when there are no credentials, or a profile that does not exist. The credentials of roles are
    asked for anew when they are about to expire.
    """
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - takes a tenth of a second
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    from botocore.session import Session  # noqa: PLC0415

    session = Session(profile=profile)
    try:
        found = session.get_credentials()
        region = session.get_config_variable("region") or "us-east-1"
        endpoint = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
    except BotoCoreError as error:
        raise ConfigError(f"AWS's settings: {error}") from None
    if found is None:
        raise ConfigError(
            "there are no credentials for s3://",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws configure`.",
        )

    def credentials() -> Credentials:
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    return S3Config(Signer(credentials, region), endpoint)


class Remotes:
    """Finds the Location that a text means. `s3` gives the S3 of `s3://`, and is asked when one is first named."""

    def __init__(self, s3: Callable[[], S3Config] = aws_config) -> None:
        self._s3 = s3
        self._asked: S3Config | None = None

    def locate(
        self,
        text: str,
        *,
        method: str | None = None,
        headers: Given = (),
        pointer: str | None = None,
        destination: bool = False,
    ) -> Location:
        """Return the Location of a URL, as `parse_location` does, `s3://bucket/key` included.

        Raises a RequestError that carries `pointer`; ConfigError when a store's own settings are at fault.
        """
        if not text.lower().startswith("s3://"):
            return parse_location(text, method=method, headers=headers, pointer=pointer, destination=destination)
        if method == "POST":
            raise InvalidType("S3 takes objects by PUT", hint="Leave the method out.", pointer=pointer)
        try:
            return self._s3_location(text, headers, destination)
        except RequestError as error:
            error.pointer = error.pointer or pointer
            raise

    def _s3_location(self, text: str, headers: Given, destination: bool) -> Location:
        bucket, key = split_s3(text, destination=destination)
        if self._asked is None:
            self._asked = self._s3()
        location = s3_location(self._asked, bucket, key, headers)
        for name, _ in location.headers:
            if name.lower() in _SIGNED:
                raise ForbiddenHeader(f"{name} is part of the signature, which relay makes itself")
        return location


def split_s3(text: str, *, destination: bool) -> tuple[str, str]:
    """Return the bucket and the key of `s3://bucket/key`; the key stands there as it is, not percent-encoded.

    Raises InvalidURL, UnsafeKey. Only a destination may be a folder: a key that is empty or ends in '/'.
    """
    bucket, _, key = text[len("s3://") :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidURL("what follows s3:// is no name of a bucket", hint="Write s3://bucket/key.")
    if len(key.encode(errors="surrogatepass")) > KEY_BYTES:
        raise UnsafeKey(f"the key has more than {KEY_BYTES} bytes")
    if UNSAFE_CHARACTERS.search(key):
        raise UnsafeKey("the key has a control or bidi character in it")
    if not destination and (not key or key.endswith("/")):
        raise InvalidURL("the source names no object: the key is empty, or ends in '/'")
    check_path(f"/{canonical_path(key)}", destination=destination)
    return bucket, key


def s3_location(config: S3Config, bucket: str, key: str, headers: Given = ()) -> Location:
    """Return the Location of a key: by the bucket's own host at AWS, by path at every other endpoint."""
    region = config.signer.region
    if config.endpoint is not None:
        base, prefix = config.endpoint.rstrip("/"), f"/{bucket}"
    else:
        host = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
        virtual = _VIRTUAL.fullmatch(bucket) is not None
        base, prefix = (f"https://{bucket}.{host}", "") if virtual else (f"https://{host}", f"/{bucket}")
    try:
        place = parse_location(base, headers=headers)
    except RequestError as error:
        if error.pointer is not None or isinstance(error, ForbiddenHeader):
            raise
        raise ConfigError(f"the endpoint of S3: {error.message}") from None
    prefix = place.path.rstrip("/") + prefix
    target = f"{prefix}/{canonical_path(key)}"
    return replace(place, target=target, account=S3Account(bucket, prefix, config.signer))
