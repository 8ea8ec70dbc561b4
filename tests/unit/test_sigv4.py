"""Signatures, against AWS's published example and against AWS's own signer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as TheirCredentials

from relay.errors import ConfigError
from relay.stores.s3.sigv4 import AwsCredentials, Signer, canonical_path

NOW = datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC)
HOST = "bucket.s3.eu-central-1.amazonaws.com"


def authorization(fields: tuple[tuple[str, str], ...]) -> str:
    return dict(fields)["Authorization"]


def test_the_example_that_aws_publishes() -> None:
    """docs.aws.amazon.com, "Authenticating Requests: Using the Authorization Header", GET
    object."""
    key = AwsCredentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signer = Signer(lambda: key, "us-east-1", clock=lambda: datetime(2013, 5, 24, tzinfo=UTC))
    # The full example signs Range too; ours signs only Host and x-amz-*. This is the example of GET
    # Bucket lifecycle.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    fields = signer.fields("GET", "examplebucket.s3.amazonaws.com", "/?lifecycle=", payload=empty)
    assert authorization(fields).endswith(
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize(
    "key", ["a", "a b/c+d", "ü/日本", "x~y_z-1.2", "100%", "a=b&c=d;e", "a//b", "/a", "a///"]
)
@pytest.mark.parametrize("query", ["", "partNumber=3&uploadId=abc%2Fdef", "uploads="])
def test_every_signature_is_the_one_of_awss_own_signer(
    monkeypatch: pytest.MonkeyPatch, key: str, query: str, token: str | None
) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None))
    target = f"/{canonical_path(key)}" + (f"?{query}" if query else "")
    more = (("x-amz-meta-Name", "two  words "), ("x-amz-checksum-mode", "ENABLED"))
    theirs = AWSRequest(method="PUT", url=f"https://{HOST}{target}", headers=dict(more))
    theirs.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    S3SigV4Auth(TheirCredentials("KEY", "SECRET", token), "s3", "eu-central-1").add_auth(theirs)
    signer = Signer(
        lambda: AwsCredentials("KEY", "SECRET", token), "eu-central-1", clock=lambda: NOW
    )
    assert (
        authorization(signer.fields("PUT", HOST, target, more)) == theirs.headers["Authorization"]
    )


def test_a_new_day_and_new_credentials_give_a_new_key() -> None:
    now, secret = [NOW], ["one"]
    signer = Signer(lambda: AwsCredentials("KEY", secret[0]), "us-east-1", clock=lambda: now[0])
    seen = {authorization(signer.fields("GET", HOST, "/a"))}
    now[0] += timedelta(days=1)
    seen.add(authorization(signer.fields("GET", HOST, "/a")))
    secret[0] = "two"
    seen.add(authorization(signer.fields("GET", HOST, "/a")))
    assert len(seen) == 3


def test_a_wrong_clock_is_corrected_by_the_servers() -> None:
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1", clock=lambda: NOW)
    signer.learn_time(NOW + timedelta(hours=2), signer.skew)
    assert dict(signer.fields("GET", HOST, "/a"))["x-amz-date"] == "20261123T140005Z"


def test_no_secret_is_printed() -> None:
    assert "SECRET" not in repr(AwsCredentials("KEY", "SECRET", "SECRET-TOKEN"))


def test_a_field_that_stands_twice_is_signed_with_both_values() -> None:
    """A server joins them (RFC 9110 section 5.2), and signs the joined value."""
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1", clock=lambda: NOW)
    twice = (("x-amz-meta-a", "one"), ("X-Amz-Meta-A", "two"))
    joined = (("x-amz-meta-a", "one,two"),)
    assert authorization(signer.fields("PUT", HOST, "/a", twice)) == authorization(
        signer.fields("PUT", HOST, "/a", joined)
    )


@pytest.mark.parametrize("end", ["\n", "\r", " ", "\t", "\r\nX: y", "\u00a0", "\u00e9"])
@pytest.mark.parametrize("place", ["key_id", "token", "region"])
def test_values_with_invalid_characters_are_refused(place: str, end: str) -> None:
    """A variable that was filled from a file ends with a line break. The error contains no part of
    a secret."""
    values = {"key_id": "SECRET", "secret": "SECRET", "token": "SECRET", "region": "SECRET"}
    values[place] += end
    region = values.pop("region")
    with pytest.raises(ConfigError, match="character") as caught:
        Signer(lambda: None, region)
        AwsCredentials(**values)
    assert "SECRET" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("secret", ["a\n", "a\r", "a\tb", "\0"])
def test_no_secret_has_the_end_of_a_line_in_it(secret: str) -> None:
    with pytest.raises(ConfigError, match="secret access key"):
        AwsCredentials("KEY", secret)
    assert AwsCredentials("KEY", "any sign, \u00e9 too").secret  # which is not sent
