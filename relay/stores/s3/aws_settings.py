"""S3 locations: from AWS's chain of settings, a bucket and a key.

If the `aws` command works, relay needs no configuration: environment, profiles, container and
machine roles, and `AWS_ENDPOINT_URL_S3` are read by botocore."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

from relay.errors import (
    ConfigError,
    ForbiddenHeader,
    InvalidURL,
    KeyTooLong,
    RequestError,
    UnsafeKey,
    Unsupported,
)
from relay.headers import parse_headers
from relay.hosts import aws_domain
from relay.location import Location, check_path, is_base, parse_location
from relay.parsing import UNSAFE_CHARACTERS
from relay.stores.http_fields import printable
from relay.stores.kinds import Given
from relay.stores.s3.account import KEY_BYTES, S3Account
from relay.stores.s3.sigv4 import AwsCredentials, Signer, canonical_path
from relay.wire.http1 import Fields

_BUCKET = re.compile(r"(?:[A-Za-z0-9_-]*:)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
"""Old bucket names at AWS have up to 255 characters, capitals and underscores (docs.aws.amazon.com,
"Bucket naming rules"); at Ceph a tenant may precede the name (docs.ceph.com, "RGW
Multi-tenancy")."""
_SIGNED = frozenset({"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"})
"""Fields of the signature, which relay makes itself."""
_VIRTUAL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Bucket names that can be a label of a host name with a certificate for `*.s3.…`."""


@dataclass(frozen=True)
class S3Config:
    """The settings of an S3 endpoint. `endpoint` is its URL; None is AWS in the signer's region.

    `virtual` puts the bucket into the host name at an endpoint too, as some providers require."""

    signer: Signer
    endpoint: str | None = None
    _: KW_ONLY
    virtual: bool = False
    owner: str = ""
    """The account, as far as the settings name it: the profile, and an access key that does not
    expire."""
    uploaded: Fields = ()
    """Fields of every upload."""
    asked: Fields = ()
    """Fields of every request."""
    unsupported: str = ""
    """The setting that asks for another host of AWS than relay uses."""
    signers: dict[str, Signer] = field(default_factory=dict, repr=False, compare=False)

    def signer_of(self, bucket: str) -> Signer:
        """Return the signer of one bucket, since each may be in a different region."""
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
"""Errors of botocore whose messages are its own. Messages of a helper or a server may contain
secrets."""
_NO_MACHINE: Final = "AWS_EC2_METADATA_DISABLED"
"""The variable that says that no service of the machine has credentials."""
_LOOK: Final = "Run `aws sts get-caller-identity` with the same profile and environment to see why."


@contextmanager
def _ours() -> Iterator[None]:
    """Turn any exception of botocore into a ConfigError, without text from a helper or a server
    (law 2); retryable if another attempt may succeed.

    botocore raises errors of its own, of its clients, of its parsers and of the system."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a foreign library's: any kind
        raise ConfigError(_failure_text(error), hint=_LOOK, retryable=_may_pass(error)) from None


def _may_pass(error: Exception) -> bool:
    """Return whether the same call may succeed in a moment: a helper failed, or the service of a
    role, of a container or of the machine did not answer. At the start of a machine, each may not
    be there yet."""
    if type(error).__name__ in _PLAIN:
        return False
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # a ClientError
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return isinstance(status, int) and (status >= 500 or status == 429)
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - it is imported only if used

    return isinstance(error, BotoCoreError | OSError)


def _failure_text(error: Exception) -> str:
    name = type(error).__name__
    if name in _PLAIN:
        return f"AWS's settings: {' '.join(str(error).split())[:300]}"
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # a ClientError
        code = printable(str(answer.get("Error", {}).get("Code", "")))
        asked = printable(str(getattr(error, "operation_name", "")))
        return f"no AWS credentials: {asked} was answered {code}"
    provider = printable(str((getattr(error, "kwargs", None) or {}).get("provider", "")))
    return f"no AWS credentials{f' from {provider}' if provider else ''}: {name}"


def aws_profiles() -> list[str]:
    """Return the names of the profiles in AWS's own files. Raises ConfigError for files that can't
    be read."""
    with _ours():
        from botocore.session import Session  # noqa: PLC0415 - takes a tenth of a second

        return sorted(Session().available_profiles)


def prepare() -> None:
    """Import the modules that read AWS's settings, which takes a tenth of a second."""
    import botocore.configprovider  # noqa: PLC0415
    import botocore.session  # noqa: F401, PLC0415


def aws_config(profile: str | None = None) -> S3Config:
    """Return the settings of AWS's own chain, as its SDKs would.

    Raises ConfigError if there are no credentials, or if they can't be obtained: a profile that
    does not exist, a denied role, an expired session, a failing helper. Credentials of a role are
    renewed when they are about to expire; then `credentials` raises it."""
    with _ours():
        from botocore.configprovider import (
            ConfiguredEndpointProvider,
        )  # noqa: PLC0415 - takes a tenth of a second
        from botocore.session import Session  # noqa: PLC0415

        session = Session(profile=profile)
        found = session.get_credentials()
        region = session.get_config_variable("region") or "us-east-1"
        configured = ConfiguredEndpointProvider(
            session.full_config, session.get_scoped_config(), "s3"
        )
        # botocore applies this when it makes a client, and relay makes none.
        ignored = session.get_config_variable("ignore_configured_endpoint_urls")
        endpoint = None if ignored else configured.provide()
        nested = (session.get_scoped_config().get("s3") or {}) if found is not None else {}
        unsupported = next((name for name in _HOSTS if _is_set(session, nested, name)), "")
    if found is None:
        raise ConfigError(
            "there are no credentials for s3://",
            hint=(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws"
                " configure`."
            ),
            # botocore gives up after one second if the machine's own service does not answer.
            retryable=os.environ.get(_NO_MACHINE, "").lower() != "true",
        )

    def credentials() -> AwsCredentials:
        with _ours():
            frozen = found.get_frozen_credentials()
            return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    def reread() -> Callable[[], AwsCredentials | None]:
        return aws_config(profile).signer.credentials

    credentials()  # obtain those of a role now, so that a mistake shows before anything starts
    # A role's access key expires, so it does not identify the account.
    lasting = found.method in _LASTING and not found.token
    owner = f"{session.get_config_variable('profile') or ''} {found.access_key if lasting else ''}"
    return S3Config(
        Signer(credentials, region, reread=reread),
        endpoint,
        virtual=nested.get("addressing_style") == "virtual",
        owner=owner,
        unsupported=unsupported,
    )


def _is_set(session: Any, nested: Mapping[str, object], name: str) -> bool:
    """Return whether a yes-or-no setting is on, in the environment or the profile, or in its
    section `s3`."""
    return bool(session.get_config_variable(name)) or str(nested.get(name)).lower() == "true"


_HOSTS: Final = ("use_fips_endpoint", "use_dualstack_endpoint")
"""AWS's settings that choose other hosts (docs.aws.amazon.com, "Dual-stack and FIPS endpoints")."""
_LASTING = frozenset({"env", "shared-credentials-file", "config-file", "boto-config"})
"""botocore's names of the settings that contain an access key itself."""


def split_key(text: str, *, destination: bool, folder: bool = False) -> tuple[str, str]:
    """Return the bucket and the key of `bucket/key`; the key is not percent-encoded.

    Raises InvalidURL, KeyTooLong, UnsafeKey. A key that is empty or ends in '/' needs `destination`
    or `folder`."""
    bucket, _, key = text.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidURL(
            "the bucket's name is missing or invalid",
            hint="Write s3://bucket/key, or remote:bucket/key.",
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
    """Return the Location of a key: with the bucket in the host name at AWS (or if `virtual`), in
    the path at other endpoints.

    Raises ConfigError for an endpoint that is not a URL, ForbiddenHeader for a field of the
    signature."""
    checked = parse_headers(headers)
    for name, _ in checked:
        if name.lower() in _SIGNED:
            raise ForbiddenHeader(f"{name} is part of the signature, which relay makes itself")
    if config.endpoint is None and config.unsupported:
        raise Unsupported(
            f"AWS's settings have {config.unsupported}, which relay does not support",
            hint="Name the host as the endpoint, such as AWS_ENDPOINT_URL_S3; or unset it.",
        )
    try:
        base = parse_location(config.endpoint or _aws_endpoint(config.signer.region))
    except RequestError as error:
        raise ConfigError(f"the endpoint of S3: {error.message}") from None
    if not is_base(config.endpoint or ""):
        raise ConfigError("the endpoint of S3 has a '?' or a '#' in it, so no bucket can follow it")
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
    return f"https://s3.{region}.{aws_domain(region)}"
