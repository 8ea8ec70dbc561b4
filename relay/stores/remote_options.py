"""Options of a remote other than its address: bucket style, and fields of its requests.

Decided here: which of rclone's options are supported, and which are refused since they change what
is read or written (rclone.org/s3, rclone.org/webdav, rclone.org/http, rclone.org/local). All others
only tune rclone, and are ignored. Never here: endpoints and credentials (`stores/remotes.py`)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from relay.errors import ConfigError, Unsupported
from relay.headers import parse_headers
from relay.stores.kinds import Options, Remote
from relay.wire.http1 import Fields

YES: Final = frozenset({"true", "1", "yes", "on"})
_UPLOAD: Final[Mapping[str, str]] = {
    "server_side_encryption": "x-amz-server-side-encryption",
    "sse_kms_key_id": "x-amz-server-side-encryption-aws-kms-key-id",
    "storage_class": "x-amz-storage-class",
    "acl": "x-amz-acl",
}
"""Options that become fields of every upload (docs.aws.amazon.com, "PutObject",
"CreateMultipartUpload")."""
_REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": (
        "sse_customer_algorithm",
        "sse_customer_key",
        "sse_customer_key_base64",
        "v2_auth",
        "use_accelerate_endpoint",
        "use_dual_stack",
        "use_arn_region",
        "versions",
        "version_at",
        "version_deleted",
        "decompress",
        "directory_bucket",
        "role_arn",
        "shared_credentials_file",
        "ibm_api_key",
        "object_lock_mode",
        "object_lock_retain_until_date",
        "object_lock_legal_hold_status",
        "encoding",
    ),
    "webdav": (
        "bearer_token_command",
        "unix_socket",
        "owncloud_exclude_shares",
        "owncloud_exclude_mounts",
        "encoding",
    ),
    "http": ("no_escape", "no_slash"),
    "local": ("links", "one_file_system", "unicode_normalization", "encoding"),
}
"""Options of each type that are refused: ignored, they would lead to other objects, other names,
other bytes, or none."""
_MISNAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {
        "endpoint_url": "endpoint",
        "region_name": "region",
        "access_key": "access_key_id",
        "secret_key": "secret_access_key",
    },
    "webdav": {"username": "user", "password": "pass"},
}
"""Names that other programs have for an option, and its name here: ignored, the remote would lead
elsewhere, or have no credentials."""
_IN_HOST: Final = frozenset({"Alibaba", "HuaweiOBS", "Netease", "TencentCOS"})
"""Providers that require the bucket in the host name (rclone's backend/s3, `setQuirks`)."""


def check(remote: Remote) -> None:
    """Raise Unsupported for an option that changes what is read or written, and that relay does not
    support; ConfigError for one under the name that it has in another program."""
    for name, right in _MISNAMED.get(remote.type, {}).items():
        if name in remote.options:
            raise ConfigError(
                f"the remote {remote.name!a} has {name}, which is not an option of this type",
                hint=f"Name it {right}.",
            )
    off = frozenset({"", "false", "0", "no", "off", "none", "raw"})
    for name in _REFUSED.get(remote.type, ()):
        if remote.options.get(name, "").lower() not in off:
            raise Unsupported(
                f"the remote {remote.name!a} has {name}, which relay does not support",
                hint=(
                    "Without this option, other data would be read or written. Name a remote"
                    " without it."
                ),
            )


def uses_virtual_hosts(options: Options, endpoint: str | None, by_settings: bool = False) -> bool:
    """Return whether the bucket belongs in the host name: by the remote's option, otherwise by
    AWS's settings (`by_settings`) or its provider's rule. Never for an endpoint that is an IP
    address."""
    if endpoint is not None and _is_address(urlsplit(endpoint).hostname or ""):
        return False
    style = options.get("force_path_style", "").lower()
    if style:
        return style not in YES
    return by_settings or options.get("provider", "") in _IN_HOST


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def upload_fields(options: Options) -> Fields:
    """Return the fields of every upload to a bucket. Raises InvalidHeader for a value that can't be
    sent."""
    return parse_headers(
        (field, options[name]) for name, field in _UPLOAD.items() if options.get(name)
    )


def request_fields(options: Options) -> Fields:
    """Return the fields of every request to a bucket."""
    if options.get("requester_pays", "").lower() in YES:
        return (("x-amz-request-payer", "requester"),)
    return ()


def headers(remote: Remote) -> dict[str, str]:
    """Return the fields of every request to a web server. The option `headers` is a line of CSV
    with alternating names and values.

    Raises ConfigError for another format."""
    text = remote.options.get("headers", "")
    try:
        row = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error:
        row = [""]
    if len(row) % 2:
        raise ConfigError(
            f"the headers of the remote {remote.name!a} are not a CSV line of names and values"
        )
    return {name.strip(): value.strip() for name, value in zip(row[::2], row[1::2], strict=True)}
