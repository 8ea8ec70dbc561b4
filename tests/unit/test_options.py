"""The options of a remote: applied, or refused if they would change the read or written object."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from relay.errors import ConfigError, InvalidURL, LocalDenied, RelayError, Unsupported
from relay.stores.remotes import Remotes
from relay.stores.s3.account import S3Account, key_of
from relay.stores.s3.aws_settings import S3Config, split_key
from relay.stores.s3.sigv4 import AwsCredentials, Signer


def remotes(
    type: str, aws: S3Config | None = None, folders: tuple[Path, ...] | None = None, **options: str
) -> Remotes:
    found = aws or S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"))
    keys = (
        {"access_key_id": "k", "secret_access_key": "s"}
        if type == "s3" and "env_auth" not in options
        else {}
    )
    return Remotes(
        {"r": {"type": type, **(keys | options)}},
        {},
        Path("/nowhere"),
        aws=lambda _: found,
        profiles=list,
        folders=folders,
    )


ENDPOINT = "https://oss.example.com"


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({"provider": "Alibaba"}, "bkt.oss.example.com"),
        ({"provider": "TencentCOS"}, "bkt.oss.example.com"),
        ({"provider": "Alibaba", "force_path_style": "true"}, "oss.example.com"),
        ({"provider": "Minio"}, "oss.example.com"),
        ({"provider": "Other", "force_path_style": "false"}, "bkt.oss.example.com"),
        ({}, "oss.example.com"),
    ],
)
def test_where_a_bucket_stands(options: dict[str, str], host: str) -> None:
    assert remotes("s3", endpoint=ENDPOINT, **options).locate("r:bkt/a").host == host


def test_an_address_has_no_names_below_it() -> None:
    found = remotes("s3", endpoint="http://127.0.0.1:9000", provider="Alibaba").locate("r:bkt/a")
    assert (found.host, found.path) == ("127.0.0.1", "/bkt/a")


def test_the_addressing_style_of_aws_settings_is_used() -> None:
    aws = S3Config(Signer(lambda: None, "us-east-1"), ENDPOINT, virtual=True)
    assert remotes("s3", aws, env_auth="true").locate("r:bkt/a").host == "bkt.oss.example.com"
    assert remotes("s3", aws).locate("s3://bkt/a").host == "bkt.oss.example.com"


@pytest.mark.parametrize("options", [{"env_auth": "true"}, {"profile": "other"}])
def test_a_remotes_own_key_comes_before_those_of_the_environment(options: dict[str, str]) -> None:
    """As in rclone ("Only applies if access_key_id and secret_access_key is blank"): another key is
    another account."""
    keys = {"access_key_id": "OWN", "secret_access_key": "s"}
    account = cast(
        S3Account, remotes("s3", endpoint=ENDPOINT, **keys, **options).locate("r:bkt/a").account
    )
    credentials = account.signer.credentials()
    assert credentials is not None
    assert credentials.key_id == "OWN"


def test_fields_of_options_for_each_object() -> None:
    found = remotes(
        "s3",
        endpoint=ENDPOINT,
        server_side_encryption="aws:kms",
        sse_kms_key_id="key",
        storage_class="STANDARD_IA",
        acl="private",
        requester_pays="true",
    ).locate("r:bkt/a", destination=True)
    account = cast(S3Account, found.account)
    assert dict(account.uploaded) == {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-acl": "private",
    }
    assert account.asked == (("x-amz-request-payer", "requester"),)


@pytest.mark.parametrize(
    ("type", "option"),
    [
        ("s3", "sse_customer_key"),
        ("s3", "versions"),
        ("s3", "version_at"),
        ("s3", "v2_auth"),
        ("s3", "role_arn"),
        ("s3", "encoding"),
        ("webdav", "bearer_token_command"),
        ("webdav", "owncloud_exclude_shares"),
        ("webdav", "encoding"),
        ("http", "no_slash"),
        ("local", "unicode_normalization"),
        ("local", "links"),
        ("local", "encoding"),
    ],
)
def test_an_option_that_cannot_be_applied_is_refused(type: str, option: str) -> None:
    more = {"endpoint": ENDPOINT} if type == "s3" else {"url": ENDPOINT}
    with pytest.raises(Unsupported, match=option):
        remotes(type, **more, **{option: "true"}).locate("r:bkt/a")
    remotes(type, **more, **{option: "None" if option == "encoding" else "false"}).locate("r:bkt/a")


@pytest.mark.parametrize("type", ["http", "webdav"])
def test_headers_go_along(type: str) -> None:
    found = remotes(type, url="https://h/", headers='X-Key,abc,"Accept-Language","a, b"').locate(
        "r:f"
    )
    assert {("X-Key", "abc"), ("Accept-Language", "a, b")} <= set(found.headers)


@pytest.mark.parametrize("line", ["X-Key", "a,b,c", '"unclosed', "a b,c"])
def test_invalid_headers_are_reported(line: str) -> None:
    with pytest.raises(RelayError):
        remotes("http", url="https://h/", headers=line).locate("r:f")


def test_an_alias_of_a_path_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    found = remotes("alias", remote=str(tmp_path)).locate("r:in/a.txt")
    assert found.path == f"{tmp_path}/in/a.txt"
    with pytest.raises((LocalDenied, InvalidURL, ConfigError)):
        remotes("alias", folders=(tmp_path / "in",), remote="/etc").locate("r:passwd")


@pytest.mark.parametrize(
    "bucket", ["tenant:bkt", ":bkt", "Old_Name", "UPPER.case", "a", "_x", "b" * 255]
)
def test_account_names_of_a_store_are_accepted(bucket: str) -> None:
    found = remotes("s3", endpoint=ENDPOINT).locate(f"r:{bucket}/a b")
    assert found.path == f"/{bucket.replace(':', '%3A')}/a%20b"
    assert key_of(found) == "a b"
    assert str(found) == f"s3://{bucket}/a b"
    assert split_key(f"{bucket}/k", destination=False) == (bucket, "k")


@pytest.mark.parametrize("bucket", ["", ".", "..", "a:b:c", "b" * 256, "a b", "a%2Fb"])
def test_an_invalid_bucket_is_refused(bucket: str) -> None:
    with pytest.raises(InvalidURL):
        split_key(f"{bucket}/k", destination=False)


@pytest.mark.parametrize(
    "name", ["storage_class", "acl", "server_side_encryption", "sse_kms_key_id"]
)
def test_fields_of_an_upload_can_be_sent(name: str) -> None:
    with pytest.raises(RelayError, match="cannot be sent"):
        remotes("s3", endpoint=ENDPOINT, **{name: "A\r\nX-Planted: yes"}).locate(
            "r:bkt/a", destination=True
        )
