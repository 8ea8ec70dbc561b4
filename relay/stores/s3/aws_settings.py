"""S3 locations: from AWS's chain of settings, a bucket and a key.

Whoever can use the `aws` command configures nothing here: environment, profiles, container and
machine roles, `AWS_ENDPOINT_URL_S3`, all as botocore reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from relay.errors import (
    ConfigError,
    ForbiddenHeader,
    InvalidURL,
    KeyTooLong,
    RequestError,
    UnsafeKey,
)
from relay.headers import parse_headers
from relay.location import UNSAFE_CHARACTERS, Location, check_path, is_base, parse_location
from relay.stores.http_fields import printable
from relay.stores.kinds import Given
from relay.stores.s3.client import KEY_BYTES, S3Account
from relay.stores.s3.sigv4 import AwsCredentials, Signer, canonical_path
from relay.wire.http1 import Fields

_BUCKET = re.compile(r"(?:[A-Za-z0-9_-]*:)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
"""Old names of AWS's have up to 255 characters, capitals and underscores (docs.aws.amazon.com,
"Bucket naming rules"); Ceph's have a tenant before them (docs.ceph.com, "RGW Multi-tenancy")."""
_SIGNED = frozenset({"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"})
"""Fields that relay makes itself."""
_VIRTUAL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Buckets that may be a label of a host name under a certificate for `*.s3.…`."""


@dataclass(frozen=True)
class S3Config:
    """An S3 to speak to. `endpoint` is its URL, or None for AWS itself in the signer's region.

    `virtual` asks for the bucket in the host's name at an endpoint too, as some providers want it.
    """

    signer: Signer
    endpoint: str | None = None
    virtual: bool = False
    owner: str = ""
    """Whose account it is, as far as the settings tell: the profile, and a key that does not
    expire."""
    uploaded: Fields = ()
    """What goes along with each object that is written, ..."""
    asked: Fields = ()
    """... and with every request."""
    signers: dict[str, Signer] = field(default_factory=dict, repr=False, compare=False)

    def signer_of(self, bucket: str) -> Signer:
        """Return what signs for one bucket: each may be in a region of its own."""
        return self.signers.setdefault(bucket, self.signer.in_region(self.signer.region))


_PLAIN: Final = frozenset(
    [
        "ConfigNotFound",
        "ConfigParseError",
        "InfiniteLoopConfigError",
        "InvalidConfigError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
    ]
)
"""Those of botocore's errors whose words are its own. Those of a helper or of a server may be
secrets."""
_LOOK: Final = "See what `aws sts get-caller-identity` says with the same profile and environment."


@contextmanager
def _ours() -> Iterator[None]:
    """Make a ConfigError of whatever botocore raises, without what a helper or a server wrote (law
    2).

    It raises errors of its own, those of its clients, and what its parsers and the system raise.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a foreign library's: any kind
        raise ConfigError(_failed(error), hint=_LOOK) from None


def _failed(error: Exception) -> str:
    name = type(error).__name__
    if name in _PLAIN:
        return f"AWS's settings: {' '.join(str(error).split())[:300]}"
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # a ClientError
        code = printable(str(answer.get("Error", {}).get("Code", "")))
        asked = printable(str(getattr(error, "operation_name", "")))
        return f"AWS's credentials can't be had: {asked} was answered {code}"
    provider = printable(str((getattr(error, "kwargs", None) or {}).get("provider", "")))
    return f"AWS's credentials can't be had{f' from {provider}' if provider else ''}: {name}"


def aws_profiles() -> list[str]:
    """Return the names of the profiles in AWS's own files. Raises ConfigError for files that can't
    be read."""
    with _ours():
        from botocore.session import Session  # noqa: PLC0415 - takes a tenth of a second

        return sorted(Session().available_profiles)


def prepare() -> None:
    """Import what reads AWS's settings, which takes a tenth of a second."""
    import botocore.configprovider  # noqa: PLC0415
    import botocore.session  # noqa: F401, PLC0415


def aws_config(profile: str | None = None) -> S3Config:
    """Return what AWS's own chain of settings says, as its SDKs would.

    Raises ConfigError when there are no credentials, or they can't be had: a profile that does not
    exist, a role that is denied, a session that has ended, a helper that fails. Those of roles are
    asked for again when they are about to expire; then what `credentials` gives raises it."""
    with _ours():
        from botocore.configprovider import (
            ConfiguredEndpointProvider,
        )  # noqa: PLC0415 - takes a tenth of a second
        from botocore.session import Session  # noqa: PLC0415

        session = Session(profile=profile)
        found = session.get_credentials()
        region = session.get_config_variable("region") or "us-east-1"
        endpoint = ConfiguredEndpointProvider(
            session.full_config, session.get_scoped_config(), "s3"
        ).provide()
        style = ((session.get_scoped_config().get("s3") or {}) if found is not None else {}).get(
            "addressing_style"
        )
    if found is None:
        raise ConfigError(
            "there are no credentials for s3://",
            hint=(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws"
                " configure`."
            ),
        )

    def credentials() -> AwsCredentials:
        with _ours():
            frozen = found.get_frozen_credentials()
            return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    def anew() -> Callable[[], AwsCredentials | None]:
        return aws_config(profile).signer.credentials

    credentials()  # a role's are asked for now, so that a mistake shows before anything begins
    # Whose they are: not by a role's key, which expires and tells nothing.
    lasting = found.method in _LASTING and not found.token
    owner = f"{session.get_config_variable('profile') or ''} {found.access_key if lasting else ''}"
    return S3Config(
        Signer(credentials, region, anew=anew), endpoint, virtual=style == "virtual", owner=owner
    )


_LASTING = frozenset({"env", "shared-credentials-file", "config-file", "boto-config"})
"""botocore's names of the settings in which a key stands itself."""


def split_key(text: str, *, destination: bool, folder: bool = False) -> tuple[str, str]:
    """Return the bucket and the key of `bucket/key`; the key stands there as it is, not
    percent-encoded.

    Raises InvalidURL, UnsafeKey. Only a destination, or what is asked for as one, may be a
    `folder`: a key that is empty or ends in '/'."""
    bucket, _, key = text.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidURL(
            "there is no name of a bucket", hint="Write s3://bucket/key, or remote:bucket/key."
        )
    if len(key.encode(errors="surrogatepass")) > KEY_BYTES:
        raise KeyTooLong(f"the key has more than {KEY_BYTES} bytes")
    if UNSAFE_CHARACTERS.search(key):
        raise UnsafeKey("the key has a control or bidi character in it")
    if not (destination or folder) and (not key or key.endswith("/")):
        raise InvalidURL("the source names no object: the key is empty, or ends in '/'")
    check_path(f"/{canonical_path(key)}", destination=destination, keyed=True)
    return bucket, key


def s3_location(config: S3Config, bucket: str, key: str, headers: Given = ()) -> Location:
    """Return the Location of a key: by the bucket's own host at AWS, by path at every other
    endpoint.

    Raises ConfigError for an endpoint that is no URL, ForbiddenHeader for a field that belongs to
    the signature."""
    checked = parse_headers(headers)
    for name, _ in checked:
        if name.lower() in _SIGNED:
            raise ForbiddenHeader(f"{name} is part of the signature, which relay makes itself")
    try:
        base = parse_location(config.endpoint or _aws_endpoint(config.signer.region))
    except RequestError as error:
        raise ConfigError(f"the endpoint of S3: {error.message}") from None
    if not is_base(config.endpoint or ""):
        raise ConfigError(
            "the endpoint of S3 has a '?' or a '#' in it, behind which no bucket has a name"
        )
    endpoint, virtual = base.url, config.virtual or config.endpoint is None
    if virtual and _VIRTUAL.fullmatch(bucket):
        base, prefix = replace(base, host=f"{bucket}.{base.host}"), base.path.rstrip("/")
    else:
        prefix = f"{base.path.rstrip('/')}/{canonical_path(bucket)}"
    target = f"{prefix}/{canonical_path(key)}"
    account = S3Account(bucket, prefix, config.signer_of(bucket), endpoint, owner=config.owner)
    account = replace(account, uploaded=config.uploaded, asked=config.asked)
    return replace(base, target=target, headers=checked, account=account)


def _aws_endpoint(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
