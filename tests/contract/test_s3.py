"""S3 on a real server (SeaweedFS): objects in one request and in parts, with their metadata, and
without leftovers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from loadtests.bench.server import Relay
from relay.engine.outcome import Outcome
from relay.errors import (
    AlreadyExists,
    NotFound,
    RelayError,
    SourceChanged,
    SourceTruncated,
    Unauthenticated,
)
from relay.location import Location
from relay.receipt import Level, Receipt, State
from relay.stores.interfaces import ObjectInfo
from relay.stores.local_locations import local_location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.s3.store import S3Store
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from simulators.content import Content
from simulators.spawn import Spawned
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer
from tests.seaweed import KEY, REGION, SECRET, Seaweed

MIB = 1 << 20
PART = 5 * MIB
SIZE = 2 * PART + 12_345
"""The size of three parts, the last a short one."""
SMALL = 100_000
_numbers = itertools.count()


@pytest.fixture
def engine(certificates: Certificates) -> Iterator[Engine]:
    """Return an engine that moves objects of 5 MiB and more in parts, and retries a part for some
    seconds."""
    made = Engine(certificates.ca_file, Limits(parted_bytes=PART, part_bytes=PART), retry_budget=5)
    yield made
    made.assert_nothing_left()


@pytest.fixture
def key() -> str:
    return f"objects/{next(_numbers)}.bin"


@pytest.fixture
def place(seaweed: Seaweed, key: str) -> Location:
    return s3_location(seaweed.config, seaweed.bucket, key)


@pytest.fixture
def client(seaweed: Seaweed) -> Any:
    return seaweed.client()


def retry_nothing(engine: Engine) -> None:
    """Retry nothing."""
    engine.runner.settings = replace(engine.runner.settings, retry_budget=0)


def receipt_of(outcome: Outcome) -> Receipt:
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    return outcome.receipt


@dataclass(frozen=True)
class Target:
    """The state of the destination's object, as AWS's own client sees it."""

    client: Any
    bucket: str
    key: str

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_object(Bucket=self.bucket, Key=self.key)
        return found

    def read(self) -> bytes:
        data: bytes = self.get()["Body"].read()
        return data

    def is_there(self) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
            return False
        return True

    def unfinished_uploads(self) -> list[Any]:
        """Return the unfinished uploads of the whole bucket."""
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


@pytest.fixture
def target(client: Any, seaweed: Seaweed, key: str) -> Target:
    return Target(client, seaweed.bucket, key)


@pytest.mark.parametrize("size", [0, 1, SMALL, PART - 1, PART, PART + 1, SIZE])
def test_an_object_arrives_with_the_digest_of_the_server(
    engine: Engine,
    source: Spawned,
    contents: Content,
    place: Location,
    target: Target,
    size: int,
) -> None:
    receipt = receipt_of(engine.migrate(source.url(f"/objects/a?size={size}"), place))
    assert receipt.level is Level.WHOLE_DIGEST
    assert receipt.bytes == size
    assert receipt.digests["crc64nvme"].hex() == contents.digest("crc64nvme", "/objects/a", size)
    theirs = target.get()
    assert theirs["Body"].read() == contents.read("/objects/a", 0, size)
    assert "aws-chunked" not in theirs.get("ContentEncoding", "")
    assert not target.unfinished_uploads()


@pytest.mark.parametrize("server_copy", [True, False])
@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_metadata_moves_from_bucket_to_bucket(
    engine: Engine, client: Any, seaweed: Seaweed, key: str, size: int, server_copy: bool
) -> None:
    data = os.urandom(size)
    fields = {
        "ContentType": "image/x-raw",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a b.raw"',
        "Metadata": {"camera": "one", "mtime": "1700000000.25"},
    }
    client.put_object(Bucket=seaweed.bucket, Key=f"{key} old +ü", Body=data, **fields)
    old, new = (
        s3_location(seaweed.config, seaweed.bucket, name)
        for name in (f"{key} old +ü", f"{key} new")
    )
    receipt = receipt_of(engine.migrate(old, new, server_copy=server_copy))
    # SeaweedFS computes no CRC64NVME on a copy of an object that was uploaded without one.
    assert receipt.level is (Level.READ_BACK if server_copy else Level.WHOLE_DIGEST)
    assert any("server-side copy" in note for note in receipt.notes) is server_copy
    theirs = client.get_object(Bucket=seaweed.bucket, Key=f"{key} new")
    assert theirs["Body"].read() == data
    assert {name: theirs[name] for name in fields} == fields


@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_tags_go_with_the_object(
    engine: Engine, client: Any, seaweed: Seaweed, key: str, size: int
) -> None:
    client.put_object(
        Bucket=seaweed.bucket, Key=f"{key} old", Body=os.urandom(size), Tagging="a%20b=c%26d&e="
    )
    old, new = (
        s3_location(seaweed.config, seaweed.bucket, f"{key} {name}") for name in ("old", "new")
    )
    receipt_of(engine.migrate(old, new, server_copy=False))
    tags = client.get_object_tagging(Bucket=seaweed.bucket, Key=f"{key} new")["TagSet"]
    assert sorted((tag["Key"], tag["Value"]) for tag in tags) == [("a b", "c&d"), ("e", "")]


def test_the_modification_time_survives_a_bucket(
    engine: Engine, client: Any, seaweed: Seaweed, place: Location, key: str, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"bytes")
    os.utime(tmp_path / "old", ns=(0, 1_600_000_000_123_456_789))
    engine.migrate(local_location(tmp_path / "old", destination=False), place)
    head = client.head_object(Bucket=seaweed.bucket, Key=key)
    assert head["Metadata"] == {"mtime": "1600000000.123456789"}
    engine.migrate(place, local_location(tmp_path / "new", destination=True))
    assert (tmp_path / "new").stat().st_mtime_ns == 1_600_000_000_123_456_789


@pytest.fixture(scope="module")
def versioned_bucket(seaweed: Seaweed) -> str:
    """Return a bucket that keeps every version."""
    client = seaweed.client()
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    return "versioned"


@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_the_listed_version_is_read_even_if_a_newer_exists(
    engine: Engine,
    client: Any,
    seaweed: Seaweed,
    wire: Wire,
    versioned_bucket: str,
    key: str,
    size: int,
) -> None:
    data = os.urandom(size)
    first = client.put_object(Bucket=versioned_bucket, Key=key, Body=data)["VersionId"]
    old, new = (s3_location(seaweed.config, versioned_bucket, name) for name in (key, f"{key} new"))
    store = S3Store(wire, "source", Watchdog(Limits()))
    found = store.head(old)
    assert isinstance(found, ObjectInfo)
    assert found.version.id == first
    client.put_object(Bucket=versioned_bucket, Key=key, Body=b"newer")
    body = store.get(old, found.version).body
    assert body is not None
    assert body.read() == data
    body.close()
    receipt = receipt_of(engine.migrate(old, new, server_copy=False))
    kept = client.list_object_versions(Bucket=versioned_bucket, Prefix=f"{key} new")["Versions"]
    assert [receipt.destination.id] == [row["VersionId"] for row in kept]
    assert receipt.bytes == 5


def test_only_our_own_version_is_removed(
    engine: Engine,
    client: Any,
    seaweed: Seaweed,
    wire: Wire,
    versioned_bucket: str,
    source: Spawned,
    key: str,
) -> None:
    """As after a failed verification, if another writer has written meanwhile."""
    theirs = client.put_object(Bucket=versioned_bucket, Key=key, Body=b"theirs")["VersionId"]
    place = s3_location(seaweed.config, versioned_bucket, key)
    ours = receipt_of(engine.migrate(source.url(f"/objects/a?size={SMALL}"), place)).destination
    assert ours.id not in (None, theirs)
    last = client.put_object(Bucket=versioned_bucket, Key=key, Body=b"last")["VersionId"]
    S3Store(wire, "destination", Watchdog(Limits())).delete(place, ours)
    listed = client.list_object_versions(Bucket=versioned_bucket, Prefix=key)
    assert {row["VersionId"] for row in listed["Versions"]} == {theirs, last}
    assert client.get_object(Bucket=versioned_bucket, Key=key)["Body"].read() == b"last"


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("size", [0, 1, SMALL, PART - 1, PART, PART + 1, SIZE])
def test_an_object_of_unknown_length_goes_in_parts_that_are_held(
    engine: Engine,
    source: Spawned,
    contents: Content,
    place: Location,
    target: Target,
    size: int,
    verify: str,
) -> None:
    fault = "framing(chunked);drop_header(Accept-Ranges);on(HEAD,status(405))"
    outcome = engine.migrate(
        source.url(f"/objects/grows?size={size}&fault={fault}"), place, verify=verify
    )
    assert outcome.receipt is not None
    assert outcome.receipt.level is (Level.WHOLE_DIGEST if verify == "auto" else Level.SIZE)
    theirs = target.read()
    assert theirs == contents.read("/objects/grows", 0, size)
    assert not target.unfinished_uploads()


@pytest.mark.parametrize("cut", [0, PART - 1, PART, PART + 1, SIZE - 1])
def test_a_truncated_object_of_unknown_length_leaves_nothing(
    engine: Engine,
    source: Spawned,
    place: Location,
    target: Target,
    key: str,
    cut: int,
) -> None:
    retry_nothing(engine)
    fault = f"framing(chunked);on(HEAD,status(405));close_after({cut})"
    with pytest.raises(SourceTruncated):
        engine.migrate(source.url(f"/objects/{key}?size={SIZE}&fault={fault}"), place)
    assert not target.is_there()
    assert not target.unfinished_uploads()


def test_level_size_is_requested_and_reported(
    engine: Engine, source: Spawned, place: Location
) -> None:
    outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place, verify="size")
    assert outcome.state is State.UNVERIFIED
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.SIZE


@pytest.mark.parametrize("cut", [0, 1, SMALL // 2, SMALL - 1])
def test_a_small_source_that_ends_early_leaves_nothing(
    engine: Engine, place: Location, target: Target, cut: int
) -> None:
    retry_nothing(engine)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SMALL
    with (
        Peer(source_script(Cloud(), fixed_answer(head, bytes(cut)))) as peer,
        pytest.raises(SourceTruncated),
    ):
        engine.migrate(peer.url(), place)
    assert not target.is_there()


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, -1])
def test_a_part_that_ends_early_is_resent_alone(
    engine: Engine, source: Spawned, contents: Content, place: Location, part: int, after: int
) -> None:
    """Cut once, at every border of a part and one byte beside it."""
    fault = f"at({part * PART},on(GET,first(1,close_after({after}))))"
    receipt = receipt_of(
        engine.migrate(source.url(f"/objects/cut{part}{after}?size={SIZE}&fault={fault}"), place)
    )
    assert receipt.level is Level.WHOLE_DIGEST
    assert receipt.digests["crc64nvme"].hex() == contents.digest(
        "crc64nvme", f"/objects/cut{part}{after}", SIZE
    )
    assert receipt.attempts == 1
    assert receipt.bytes_resent <= PART


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_part_that_always_ends_early_leaves_nothing(
    engine: Engine,
    source: Spawned,
    place: Location,
    target: Target,
    part: int,
) -> None:
    retry_nothing(engine)
    fault = f"at({part * PART},on(GET,close_after(-1)))"
    with pytest.raises(SourceTruncated):
        engine.migrate(source.url(f"/objects/never{part}?size={SIZE}&fault={fault}"), place)
    assert not target.is_there()
    assert not target.unfinished_uploads()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("on(GET,after(2,status(412)))", SourceChanged),
        ("on(GET,after(2,header(ETag,%22other%22)))", SourceChanged),
        ("on(GET,after(2,status(416)))", SourceChanged),
        ("on(GET,range(total))", SourceChanged),
        ("on(GET,status(404))", NotFound),
    ],
)
def test_a_source_that_changes_midway_is_not_mixed(
    engine: Engine,
    source: Spawned,
    place: Location,
    target: Target,
    key: str,
    fault: str,
    error: type[RelayError],
) -> None:
    retry_nothing(engine)
    with pytest.raises(error):
        engine.migrate(source.url(f"/objects/{key}?size={SIZE}&fault={fault}"), place)
    assert not target.is_there()
    assert not target.unfinished_uploads()


@pytest.mark.parametrize(
    "flaw",
    ["ignore", "shift", "short", "star", "multipart", "unit", "backwards", "no_content_range"],
)
def test_a_source_of_wrong_ranges_is_moved_whole_or_refused(
    engine: Engine, source: Spawned, contents: Content, place: Location, flaw: str
) -> None:
    name = f"/objects/range-{flaw}"
    receipt = receipt_of(
        engine.migrate(source.url(f"{name}?size={SIZE}&fault=range({flaw})"), place)
    )
    assert receipt.digests["crc64nvme"].hex() == contents.digest("crc64nvme", name, SIZE)


@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_an_existing_object_is_left_alone_on_request(
    engine: Engine,
    source: Spawned,
    place: Location,
    target: Target,
    size: int,
) -> None:
    target.client.put_object(Bucket=target.bucket, Key=target.key, Body=b"old")
    with pytest.raises(AlreadyExists):
        engine.migrate(source.url(f"/objects/a?size={size}"), place, if_exists="fail")
    assert (
        engine.migrate(source.url(f"/objects/a?size={size}"), place, if_exists="skip").state
        is State.SKIPPED
    )
    assert target.read() == b"old"
    assert not target.unfinished_uploads()


def test_a_folder_takes_the_sources_name(
    engine: Engine, source: Spawned, seaweed: Seaweed, target: Target, key: str
) -> None:
    folder = s3_location(seaweed.config, seaweed.bucket, f"{key}/")
    outcome = engine.migrate(source.url(f"/objects/photo.raw?size={SMALL}"), folder)
    assert str(outcome.destination).startswith(f"s3://{seaweed.bucket}/{key}/")
    name = str(outcome.destination).partition(f"{seaweed.bucket}/")[2]
    assert replace(target, key=name).is_there()


@pytest.mark.parametrize(
    ("key_id", "secret", "bucket", "error", "cause"),
    [
        ("unknown", "wrong", None, Unauthenticated, "InvalidAccessKeyId"),
        (None, "wrong", None, Unauthenticated, "SignatureDoesNotMatch"),
    ],
)
def test_refusals_name_the_cause(
    engine: Engine,
    source: Spawned,
    seaweed: Seaweed,
    key: str,
    key_id: str | None,
    secret: str | None,
    bucket: str | None,
    error: type[RelayError],
    cause: str,
) -> None:
    right = seaweed.environment
    wrong = AwsCredentials(
        key_id or right["AWS_ACCESS_KEY_ID"], secret or right["AWS_SECRET_ACCESS_KEY"]
    )
    config = S3Config(Signer(lambda: wrong, REGION), seaweed.endpoint)
    with pytest.raises(error, match=cause) as caught:
        engine.migrate(
            source.url(f"/objects/a?size={SMALL}"),
            s3_location(config, bucket or seaweed.bucket, key),
        )
    assert caught.value.side == "destination"
    assert wrong.secret not in f"{caught.value.message}{caught.value.hint}"


def test_the_terminal_moves_to_a_bucket_by_awss_own_settings(
    source: Spawned, seaweed: Seaweed, target: Target, key: str
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RELAY_"))
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "relay", "migrate", "--json"),
            source.url(f"/objects/a?size={SMALL}"),
            f"s3://{seaweed.bucket}/{key}",
        ],
        env=environment | seaweed.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["destination"] == f"s3://{seaweed.bucket}/{key}"
    assert target.is_there()


@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_a_server_moves_between_the_remotes_of_its_settings(
    source: Spawned, seaweed: Seaweed, client: Any, key: str, tmp_path: Path, size: int
) -> None:
    keys = f'access_key_id = "{KEY}"\nsecret_access_key = "{SECRET}"'
    settings = tmp_path / "relay.toml"
    settings.write_text(
        f"part_bytes = {PART}\nparted_bytes = {PART}\n"
        f'[remotes.cloud]\ntype = "s3"\nendpoint = "{seaweed.endpoint}"\n{keys}\n'
        f'[remotes.short]\ntype = "alias"\nremote = "cloud:{seaweed.bucket}/copies"\n'
    )
    with closing(Relay(tmp_path, None, 60, {"RELAY_CONFIG": str(settings)})) as relay:
        relay.migrate(
            source.url(f"/objects/a?size={size}"), f"cloud:{seaweed.bucket}/{key}", "auto"
        )
        relay.migrate(f"cloud:{seaweed.bucket}/{key}", f"short:{key}", "auto")
        status, text = relay.ask(
            "POST", "/migrate", {"source": f"nobody:{key}", "destination": f"short:{key}"}
        )
    assert (status, json.loads(text)["side"]) == (422, "request")
    assert SECRET not in text.decode()
    one, other = (
        client.head_object(Bucket=seaweed.bucket, Key=name) for name in (key, f"copies/{key}")
    )
    assert one["ContentLength"] == other["ContentLength"] == size


def test_the_terminal_names_the_missing_bucket_settings(tmp_path: Any) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RELAY_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "relay", "migrate", "http://127.0.0.1:9/a", "s3://some-bucket/a"],
        env=environment | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_f59_a_lost_upload_is_known_by_key_and_time(
    wire: Wire, place: Location, client: Any, seaweed: Seaweed, key: str
) -> None:
    before = time.time()
    ours = client.create_multipart_upload(Bucket=seaweed.bucket, Key=key)["UploadId"]
    others = [
        client.create_multipart_upload(Bucket=seaweed.bucket, Key=f"{key}{more}")
        for more in ("x", " +%/y")
    ]
    store = S3Store(wire, "destination", Watchdog(wire.limits))
    try:
        found = store.lost_uploads(place, before - 5, before + 60)
        assert [(upload.location, upload.id) for upload in found] == [(place, ours)]
        assert store.lost_uploads(place, before + 10, before + 60) == ()
        assert store.lost_uploads(place, before - 60, before - 10) == ()
        strange = s3_location(seaweed.config, seaweed.bucket, f"{key} +%/y")
        assert [upload.id for upload in store.lost_uploads(strange, before - 5, before + 60)] == [
            others[1]["UploadId"]
        ]
    finally:
        client.abort_multipart_upload(Bucket=seaweed.bucket, Key=key, UploadId=ours)
        for other in others:
            client.abort_multipart_upload(
                Bucket=seaweed.bucket, Key=other["Key"], UploadId=other["UploadId"]
            )
