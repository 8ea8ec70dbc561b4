"""Options of a remote that are no part of its address: bucket style, fields that go along.

Decided here: which of rclone's options are heeded, which are refused since they change what is read
or written (rclone.org/s3, rclone.org/webdav, rclone.org/http), and that all others only tune
rclone. Never here: endpoints and credentials (`stores/remotes.py`)."""

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
"""What goes along with each object that is written (docs.aws.amazon.com, "PutObject",
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
    ),
    "webdav": ("bearer_token_command", "unix_socket"),
    "http": ("no_escape",),
}
"""What would make other objects of a remote's, or other bytes, or none, where it is passed over."""
_IN_HOST: Final = frozenset({"Alibaba", "HuaweiOBS", "Netease", "TencentCOS"})
"""Providers that want the bucket in the host's name (rclone's backend/s3, `setQuirks`)."""


def check(remote: Remote) -> None:
    """Raise Unsupported for an option that changes what is read or written, and is not heeded
    here."""
    off = frozenset({"", "false", "0", "no", "off"})
    for name in _REFUSED.get(remote.type, ()):
        if remote.options.get(name, "").lower() not in off:
            raise Unsupported(
                f"the remote {remote.name!a} has {name}, which relay does not heed",
                hint=(
                    "Passed over, it would change what is read or written. Name a remote"
                    " without it."
                ),
            )


def uses_virtual_hosts(options: Options, endpoint: str | None, reported: bool = False) -> bool:
    """Say if the bucket is to stand in the host's name: as the remote says itself, else as its
    provider wants it, else as AWS's own settings have `told`. An endpoint that is an address has no
    names below it."""
    if endpoint is not None and _is_address(urlsplit(endpoint).hostname or ""):
        return False
    style = options.get("force_path_style", "").lower()
    if style:
        return style not in YES
    return reported or options.get("provider", "") in _IN_HOST


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def upload_fields(options: Options) -> Fields:
    """Return the fields that go along with every object that is written to a bucket. Raises
    InvalidHeader for a value that can't be sent."""
    return parse_headers(
        (field, options[name]) for name, field in _UPLOAD.items() if options.get(name)
    )


def request_fields(options: Options) -> Fields:
    """Return the fields that go along with every request to a bucket."""
    return (
        (("x-amz-request-payer", "requester"),)
        if options.get("requester_pays", "").lower() in YES
        else ()
    )


def headers(remote: Remote) -> dict[str, str]:
    """Return the fields that a web server is to get: `headers` is a line of CSV, names and values
    by turns.

    Raises ConfigError for a line that is none.
    """
    text = remote.options.get("headers", "")
    try:
        row = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error:
        row = [""]
    if len(row) % 2:
        raise ConfigError(
            f"the headers of the remote {remote.name!a} are no line of names and values by turns"
        )
    return {name.strip(): value.strip() for name, value in zip(row[::2], row[1::2], strict=True)}
