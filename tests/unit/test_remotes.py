"""From a user's text to a Location: buckets, endpoints, keys; and the parts of an object."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from botocore.loaders import Loader
from hypothesis import given
from hypothesis import strategies as st

from relay.engine.multipart.part_sizes import split_into_ranges
from relay.errors import (
    ConfigError,
    ForbiddenHeader,
    InvalidType,
    InvalidURL,
    Leftover,
    Rejected,
    RequestError,
    UnsafeKey,
)
from relay.hosts import aws_domain
from relay.identity import place_in_server, same_object
from relay.location import parse_location
from relay.stores.interfaces import PartLimits
from relay.stores.remotes import Remotes
from relay.stores.s3.account import in_region
from relay.stores.s3.aws_settings import S3Config, s3_location, split_key
from relay.stores.s3.responses import checksums
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.s3.upload_limits import PARTS
from relay.wire.http1 import Head

MIB = 1 << 20


def config(endpoint: str | None = None, region: str = "eu-west-1") -> S3Config:
    return S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), region), endpoint)


BUCKETS = Remotes(aws=lambda profile: config())


def test_a_path_like_a_remote_with_a_slash_is_refused() -> None:
    """AWS allows the name; the object would be written to a local folder."""
    remotes = Remotes({}, {}, profiles=lambda: ["prod/Admin"], folders=None)
    with pytest.raises(InvalidURL, match="'prod/Admin' is a remote"):
        remotes.refuse_like_remote("prod/Admin:bucket/a")
    with pytest.raises(InvalidURL, match="'prod/Admin' is a remote"):
        remotes.locate("prod/Admin:bucket/a")  # as `relay ls` and `relay doctor` do
    for path in ("./prod/Admin:bucket/a", "/prod/Admin:b", "prod/Admin/a", "prod:a", "a/12:30"):
        remotes.refuse_like_remote(path)


def test_a_url_with_a_port_asks_for_no_profile() -> None:
    """AWS's library, which lists them, takes longer to import than all the rest of a command."""

    def no_profiles() -> list[str]:
        raise AssertionError("the profiles are listed")

    remotes = Remotes({}, {}, profiles=no_profiles, folders=None)
    for url in ("http://127.0.0.1:8080/a", "webdav+https://nas.lan:9000/a:b", "S3://bucket/a:b"):
        remotes.refuse_like_remote(url)


@pytest.mark.parametrize(
    ("endpoint", "region", "bucket", "url"),
    [
        (None, "eu-west-1", "photos", "https://photos.s3.eu-west-1.amazonaws.com/a/b%20c.raw"),
        (
            None,
            "eu-west-1",
            "photos.old",
            "https://s3.eu-west-1.amazonaws.com/photos.old/a/b%20c.raw",
        ),
        (None, "cn-north-1", "photos", "https://photos.s3.cn-north-1.amazonaws.com.cn/a/b%20c.raw"),
        (None, "us-isob-east-1", "b-1", "https://b-1.s3.us-isob-east-1.sc2s.sgov.gov/a/b%20c.raw"),
        ("https://s3.example:9000", "x", "photos", "https://s3.example:9000/photos/a/b%20c.raw"),
        ("http://s3.example/base/", "x", "Photos_1", "http://s3.example/base/Photos_1/a/b%20c.raw"),
    ],
)
def test_where_a_bucket_is(endpoint: str | None, region: str, bucket: str, url: str) -> None:
    location = s3_location(config(endpoint, region), bucket, "a/b c.raw")
    assert location.url == url
    assert str(location) == f"s3://{bucket}/a/b c.raw"
    assert location.store == "s3"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("s3://", InvalidURL),
        ("s3:///key", InvalidURL),
        ("s3://b", InvalidURL),
        ("s3://bucket?x/key", InvalidURL),
        ("s3://user@bucket/key", InvalidURL),
        ("s3://bucket", InvalidURL),
        ("s3://bucket/", InvalidURL),
        ("s3://bucket/folder/", InvalidURL),
        ("s3://bucket/a/../b", UnsafeKey),
        ("s3://bucket/a\x00b", UnsafeKey),
        ("s3://bucket/a\u202eb", UnsafeKey),
        (f"s3://bucket/{'ü' * 513}", UnsafeKey),
    ],
)
def test_invalid_objects_of_a_bucket(text: str, error: type[RequestError]) -> None:
    with pytest.raises(error) as caught:
        BUCKETS.locate(text, pointer="/source")
    assert caught.value.pointer == "/source"


@pytest.mark.parametrize("type", ["http", "webdav"])
def test_a_password_in_a_remotes_url_names_the_remote(type: str) -> None:
    url = "https://ann:SECRET@files.example/"
    with pytest.raises(ConfigError, match="remote 'web' of .* user name or a password") as refused:
        Remotes({"web": {"type": type, "url": url}}, {}).locate("web:a", pointer="/source")
    assert "SECRET" not in str(refused.value)
    options = {"type": type, "url": "https://files.example/", "user": "ann"}
    assert Remotes({"web": options}, {}).locate("web:a").headers


@pytest.mark.parametrize("type", ["http", "webdav", "s3", "alias"])
def test_no_remote_takes_a_nul(type: str) -> None:
    """PostgreSQL can't store it."""
    options = {"type": type, "url": "http://127.0.0.1:9/", "remote": "s3://b/"}
    with pytest.raises(UnsafeKey, match="NUL"):
        Remotes({"web": options}, {}).locate("web:a\x00b", pointer="/source")


def test_a_destination_may_be_a_folder() -> None:
    assert split_key("bucket", destination=True) == ("bucket", "")
    folder = BUCKETS.locate("s3://bucket/a/", destination=True)
    assert str(folder.object_named("b c")) == "s3://bucket/a/b c"


def test_a_key_is_parsed() -> None:
    odd = "100%41?x#y+z&=.raw"
    assert split_key(f"bucket/{odd}", destination=True) == ("bucket", odd)
    assert str(s3_location(config(), "bucket", odd)) == f"s3://bucket/{odd}"


def test_the_same_key_is_the_same_object() -> None:
    one, other = (s3_location(config("https://s3.example"), "bucket", "a") for _ in range(2))
    assert same_object(one, other)


def test_a_caller_cannot_supply_a_signature() -> None:
    with pytest.raises(ForbiddenHeader):
        BUCKETS.locate("s3://bucket/a", headers={"x-amz-date": "20260101T000000Z"})
    with pytest.raises(InvalidType):
        BUCKETS.locate("s3://bucket/a", method="POST", destination=True)


def test_an_endpoint_that_is_not_a_url_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        s3_location(config("s3.example:9000"), "bucket", "a")


def test_settings_are_read_once_and_only_for_s3() -> None:
    asked = []

    def ask(profile: str | None) -> S3Config:
        asked.append(1)
        return config()

    remotes = Remotes(aws=ask)
    remotes.locate("https://example.org/a")
    assert not asked
    remotes.locate("s3://bucket/a")
    remotes.locate("s3://bucket/b")
    assert len(asked) == 1


@given(size=st.integers(1, PARTS.object_bytes), wished=st.integers(5 * MIB, 5 << 30))
def test_every_cut_keeps_to_the_limits(size: int, wished: int) -> None:
    spans = split_into_ranges(size, wished, PARTS)
    assert len(spans) <= PARTS.most
    assert spans[0].first == 0
    assert spans[-1].last == size - 1
    assert all(one.last + 1 == other.first for one, other in zip(spans, spans[1:], strict=False))
    assert all(PARTS.smallest <= span.length <= PARTS.largest for span in spans[:-1])


def test_an_object_that_is_too_large_is_refused_at_once() -> None:
    limits = PartLimits(smallest=5, largest=10, most=3, object_bytes=30)
    with pytest.raises(Rejected, match="31 bytes"):
        split_into_ranges(31, 5, limits)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ((("x-amz-checksum-crc64nvme", "AAAAAAAAAAE="),), {"crc64nvme": bytes(7) + b"\x01"}),
        (
            (("x-amz-checksum-crc32c", "AAAAAQ=="), ("x-amz-checksum-type", "FULL_OBJECT")),
            {"crc32c": b"\0\0\0\x01"},
        ),
        ((("x-amz-checksum-crc32c", "AAAAAQ=="), ("x-amz-checksum-type", "COMPOSITE")), {}),
        ((("x-amz-checksum-crc32c", "AAAAAQ==-3"),), {}),
        ((("x-amz-checksum-crc32c", "AAAA"),), {}),
        ((), {}),
    ],
)
def test_only_digests_of_the_whole_are_digests(
    fields: tuple[tuple[str, str], ...], found: dict[str, bytes]
) -> None:
    assert checksums(Head(200, "OK", "1.1", fields)) == found


def test_awss_domains_are_those_of_its_sdk() -> None:
    for partition in Loader().load_data("partitions")["partitions"]:
        for region in partition["regions"]:
            if not region.startswith("aws-"):  # a partition itself
                assert aws_domain(region) == partition["outputs"]["dnsSuffix"]


@pytest.mark.parametrize(
    ("host", "there"),
    [
        ("s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com"),
        ("photos.s3.us-east-1.amazonaws.com", "photos.s3.eu-west-1.amazonaws.com"),
        ("a.b.s3.cn-north-1.amazonaws.com.cn", "a.b.s3.eu-west-1.amazonaws.com.cn"),
        ("b.s3.eusc-de-east-1.amazonaws.eu", "b.s3.eu-west-1.amazonaws.eu"),
        ("s3.us-east-1.amazonaws.com.evil.example", "s3.us-east-1.amazonaws.com.evil.example"),
        ("s3.example.com", "s3.example.com"),
    ],
)
def test_only_awss_own_host_is_another_in_another_region(host: str, there: str) -> None:
    assert in_region(parse_location(f"https://{host}/key"), "eu-west-1").host == there


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("https://h/a#1.jpg", True),
        ("list+webdav+https://h/a#1", True),
        ("s3://bucket/a#1.jpg", False),
        ("photos#1/a.jpg", False),
        ("https://h/a%231.jpg", False),
    ],
)
def test_a_url_with_a_fragment_is_refused(text: str, refused: bool) -> None:
    """The part after the '#' is never sent: another object, or another tree, would be moved."""
    remotes = Remotes(aws=lambda profile: config(), folders=None)
    with pytest.raises(InvalidURL, match="'#'") if refused else nullcontext():
        assert "%231" in remotes.locate(text, folder=True).path


@pytest.mark.parametrize(
    ("endpoint", "where"),
    [
        (None, "s3://photos/a b"),
        ("https://s3.eu-west-1.amazonaws.com", "s3://photos/a b"),
        ("https://s3.new.example:9000/", "s3://photos/a b at https://s3.new.example:9000"),
    ],
)
def test_a_leftover_is_named_with_its_endpoint(endpoint: str | None, where: str) -> None:
    """`aws s3 rm` of the bucket's name alone would delete AWS's object, perhaps the source."""
    error = RequestError("no", hint="Try again.")
    error.leave(Leftover.SENT, s3_location(config(endpoint), "photos", "a b"), "unproved")
    sentence = f"What was sent may remain at {where} (unproved); check, and delete it."
    assert error.remains == {"s3://photos/a b": sentence}
    assert error.hint == f"Try again. {sentence}"


PLACES = {
    "web": {"type": "http", "url": "https://h/base"},
    "dav": {"type": "webdav", "url": "https://h/base/", "vendor": "other"},
    "al": {"type": "alias", "remote": "web:d"},
    "old": {"type": "s3", "endpoint": "https://s3.old.example", "region": "x", "env_auth": "true"},
    "new": {"type": "s3", "endpoint": "https://s3.new.example", "region": "x", "env_auth": "true"},
    "one": {"type": "s3", "endpoint": "s3.eu-west-1.amazonaws.com", "env_auth": "true"},
}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("web:d/x y", "web:/d/x y", True),
        ("web:d/x y", "https://h/base/%64/x%20y", True),
        ("web:d/x y", "dav:d/x y", True),
        ("web:d/x y", "al:x y", True),
        ("s3://photos/x", "one:photos/x", True),
        ("s3://photos/x", "old:photos/x", False),
        ("old:photos/x", "new:photos/x", False),
        ("old:photos/x", "old:/photos/x", True),
    ],
)
def test_a_place_has_one_identity_however_it_is_written(one: str, other: str, same: bool) -> None:
    remotes = Remotes(PLACES, {}, profiles=list, aws=lambda profile: config(), folders=None)
    places = [place_in_server(remotes.locate(text, destination=True)) for text in (one, other)]
    assert (places[0] == places[1]) is same


@pytest.mark.parametrize("odd", ["?token=SECRET", "#part", "/x?", "/x#"])
@pytest.mark.parametrize("type", ["http", "webdav", "s3"])
def test_names_are_joined_to_a_path_alone(type: str, odd: str) -> None:
    """Behind a query or a fragment every name would be the same object."""
    address = "endpoint" if type == "s3" else "url"
    remotes = Remotes({"x": {"type": type, address: f"https://h/base{odd}"}}, {}, profiles=list)
    for destination in (False, True):
        with pytest.raises(ConfigError, match=r"'\?' or a '#'") as caught:
            remotes.locate("x:bucket/a.jpg", destination=destination)
        assert "SECRET" not in caught.value.message


@pytest.mark.parametrize(
    ("vendor", "store"), [("nextcloud", "nextcloud"), ("infinitescale", "webdav")]
)
def test_infinite_scale_has_no_chunked_uploads(vendor: str, store: str) -> None:
    options = {"type": "webdav", "url": "https://h/remote.php/dav/files/me", "vendor": vendor}
    assert Remotes({"x": options}, {}, profiles=list).locate("x:a").store == store


@pytest.mark.parametrize("path", ["me", "me/", "me/a"])
def test_nextcloud_is_known_by_the_folder_of_a_user(path: str) -> None:
    url = f"webdav+https://h/remote.php/dav/files/{path}"
    assert Remotes({}, {}, profiles=list).locate(url).store == "nextcloud"


@pytest.mark.parametrize(
    ("type", "wrong", "right"),
    [
        ("s3", "endpoint_url", "endpoint"),
        ("s3", "secret_key", "secret_access_key"),
        ("webdav", "password", "pass"),
    ],
)
def test_another_programs_name_of_an_option_is_refused(type: str, wrong: str, right: str) -> None:
    """Ignored, it would lead to another place: to AWS without `endpoint`."""
    options = {"type": type, "url": "https://h/", wrong: "planted"}
    with pytest.raises(ConfigError, match=wrong) as caught:
        Remotes({"x": options}, {}, profiles=list).locate("x:bucket/a")
    assert right in caught.value.hint
    assert "planted" not in f"{caught.value.message}{caught.value.hint}"
