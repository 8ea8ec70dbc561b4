"""The simulated bucket, as AWS's own client sees it, and as relay lists it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session

from relay.errors import ConnectionLost
from relay.location import Location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.listing import SLOW_SECONDS
from relay.stores.s3.responses import parse_document
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.s3.store import S3Store
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from simulators.bucket import Bucket, Keys, etag_of, size_of
from simulators.spawn import spawn

COUNT = 4321


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """Return a bucket of a few thousand objects."""
    with Bucket(COUNT) as server:
        yield server


@pytest.fixture
def client(bucket: Bucket) -> Any:
    """Return AWS's own client for it."""
    return Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=bucket.url(),
        aws_access_key_id="any",
        aws_secret_access_key="thing",
        config=Config(s3={"addressing_style": "path"}),
    )


def test_the_keys_are_in_the_order_of_their_bytes() -> None:
    keys = [key.encode() for key in Keys(COUNT)]
    assert keys == sorted(set(keys))


def test_every_object_is_listed_once_page_by_page(client: Any) -> None:
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket="any"))
    found = [(row["Key"], row["Size"], row["ETag"]) for page in pages for row in page["Contents"]]
    assert len(pages) == 5
    assert found == [(key, size_of(i), f'"{etag_of(i)}"') for i, key in enumerate(Keys(COUNT))]


def test_prefix_delimiter_start_and_page_size(client: Any) -> None:
    folders = client.list_objects_v2(Bucket="any", Prefix="photos/", Delimiter="/")
    assert [row["Prefix"] for row in folders["CommonPrefixes"]] == [
        f"photos/{i:06}/" for i in range(5)
    ]
    inside = client.list_objects_v2(Bucket="any", Prefix="photos/000004/", MaxKeys=7)
    assert (inside["KeyCount"], inside["IsTruncated"]) == (7, True)
    last = client.list_objects_v2(Bucket="any", StartAfter=Keys(COUNT)[COUNT - 3])
    assert [row["Key"] for row in last["Contents"]] == [
        Keys(COUNT)[COUNT - 2],
        Keys(COUNT)[COUNT - 1],
    ]
    assert client.list_objects_v2(Bucket="any", Prefix="nothing/")["KeyCount"] == 0


def test_it_runs_in_a_process_of_its_own() -> None:
    with spawn("bucket", "--objects", "3") as server:
        status, text = server.request("GET", "/any?list-type=2")
        assert status == 200
        assert text.count(b"<Contents>") == 3


# -- relay's listing of it


def place(bucket: Bucket, key: str = "") -> Location:
    """Return a folder of it."""
    config = S3Config(Signer(lambda: AwsCredentials("any", "thing"), "us-east-1"), bucket.url())
    return s3_location(config, "bucket", key)


def test_relay_lists_every_object_and_resumes_after_any(wire: Wire, bucket: Bucket) -> None:
    store = S3Store(wire, "source", Watchdog(wire.limits))
    found = [
        (entry.name, entry.size, entry.etag) for entry in store.list(place(bucket), recursive=True)
    ]
    assert found == [(key, size_of(i), f'"{etag_of(i)}"') for i, key in enumerate(Keys(COUNT))]
    rest = store.list(
        place(bucket, "photos/"), recursive=True, after=found[2500][0].removeprefix("photos/")
    )
    assert [f"photos/{entry.name}" for entry in rest] == [name for name, _, _ in found[2501:]]
    folders = [entry.name for entry in store.list(place(bucket, "photos/"))]
    assert folders == [f"{i:06}/" for i in range(5)]


def test_a_listing_that_is_left_early_leaves_no_connection_open(wire: Wire, bucket: Bucket) -> None:
    listing = S3Store(wire, "source", Watchdog(wire.limits)).list(place(bucket), recursive=True)
    assert next(listing).name == Keys(COUNT)[0]
    listing.close()  # type: ignore[attr-defined]


@pytest.fixture
def slow_bucket() -> Iterator[Bucket]:
    """Return a bucket of which each page takes longer than its parsing."""
    with Bucket(16 * 1000 + 7, page_seconds=SLOW_SECONDS) as bucket:
        yield bucket


def test_slow_pages_are_listed_by_several_cursors(wire: Wire, slow_bucket: Bucket) -> None:
    listing = S3Store(wire, "source", Watchdog(wire.limits)).list(place(slow_bucket), True)
    before = wire.pool.open
    entries = [next(listing) for _ in range(8_000)]
    assert wire.pool.open > before + 2
    entries += list(listing)
    assert [entry.name for entry in entries] == list(slow_bucket.keys)
    middle = entries[9_345]
    rest = S3Store(wire, "source", Watchdog(wire.limits)).list(
        place(slow_bucket), True, middle.after
    )
    assert [entry.name for entry in rest] == list(slow_bucket.keys)[9_346:]


def test_a_slow_listing_that_is_left_early_leaves_no_request(
    wire: Wire, slow_bucket: Bucket
) -> None:
    listing = S3Store(wire, "source", Watchdog(wire.limits)).list(place(slow_bucket), True)
    for _ in range(8_000):
        next(listing)
    listing.close()  # type: ignore[attr-defined]
    wire.pool.close()  # closes the idle connections
    assert wire.pool.open == 0


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        "<a>",
        "",
        "no XML",
        "<a>&undefined;</a>",
    ],
)
def test_a_document_with_a_doctype_or_damage_is_refused(text: str) -> None:
    assert parse_document(text) is None


def test_a_document_with_its_declaration_is_read() -> None:
    root = parse_document('\n<?xml version="1.0" encoding="UTF-8"?><a><b>ü</b></a>')
    assert root is not None
    assert root.findtext("b") == "ü"


def test_an_error_of_a_page_is_raised_where_it_is_read(wire: Wire) -> None:
    with Bucket(5) as server:
        there = place(server)
    with pytest.raises(Exception, match="connection") as caught:
        list(S3Store(wire, "source", Watchdog(wire.limits)).list(there))
    assert not isinstance(caught.value, ConnectionLost | OSError)
