"""Objects of unknown length to S3, through kill -9: nothing is lost, and no upload remains unknown
to the ledger.

From a simulated source that gives no length and no ranges, to SeaweedFS."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators.proxy import Proxy
from simulators.source import Source
from tests.end_to_end.terminal import Terminal
from tests.seaweed import KEY, REGION, SECRET, Seaweed

PART = 5 << 20
SIZE = 2 * PART + 1000
"""The size of three parts."""
LATE = ("after-complete:1", "before-verify:1", "before-settle:1")
"""Places at which the object is complete at the destination."""


@pytest.fixture
def way(seaweed: Seaweed) -> Iterator[Proxy]:
    """Return the route to it, which counts."""
    with Proxy(seaweed.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def terminal(tmp_path: Path, way: Proxy) -> Terminal:
    """Return a terminal that knows the bucket as `far:`, and sends parts of 5 MiB."""
    config = tmp_path / "relay.toml"
    config.write_text(
        f'[remotes.far]\ntype = "s3"\nendpoint = "{way.url()}"\naccess_key_id = "{KEY}"\n'
        f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
    )
    return Terminal(
        tmp_path,
        RELAY_CONFIG=str(config),
        RELAY_EGRESS_ALLOW="127.0.0.1",
        RELAY_PART_BYTES=str(PART),
    )


@pytest.fixture
def source() -> Iterator[Source]:
    """Return a source whose faults are in its URLs."""
    with Source(seed="growing") as server:
        yield server


def words(source: Source, seaweed: Seaweed, home: Path, key: str) -> tuple[str, ...]:
    """Return the command that moves one object of unknown length."""
    faults = "framing(chunked);range(ignore);drop_header(Accept-Ranges);on(HEAD,status(405))"
    (home / "urls.csv").write_text(
        f'name,url\n{key},"{source.url(f"/{key}?size={SIZE}&fault={faults}")}"\n'
    )
    return ("migrate", "-r", f"list+{home}/urls.csv", f"far:{seaweed.bucket}/grown", "--json")


def uploads(seaweed: Seaweed) -> list[dict[str, Any]]:
    """Return the uploads that were started there and neither completed nor aborted."""
    found: list[dict[str, Any]] = (
        seaweed.client().list_multipart_uploads(Bucket=seaweed.bucket).get("Uploads", [])
    )
    return found


@pytest.mark.parametrize(
    "place",
    [
        "before-begin:1",
        "after-begin-sent:1",
        "after-begin:1",
        "after-begin-row:1",
        "after-part:1",
        "after-part:3",
        "before-complete:1",
        "after-complete-sent:1",
        "after-complete:1",
        "before-verify:1",
        "before-settle:1",
    ],
)
def test_f51_f59_a_kill_leaves_no_upload_and_resumes(
    terminal: Terminal, source: Source, seaweed: Seaweed, way: Proxy, tmp_path: Path, place: str
) -> None:
    name = place.replace(":", "-")
    command = words(source, seaweed, tmp_path, name)
    assert terminal.run(*command, RELAY_FAILPOINT=f"{place}:kill9")[0] == -signal.SIGKILL
    left = {upload["UploadId"] for upload in uploads(seaweed)}
    written = terminal.query("SELECT upload_id FROM uploads")
    assert written is not None, "the ledger knows that something may be there"
    assert left <= {written} or written == ""
    before = way.bytes_carried("up")
    code, out, err = terminal.run(*command)
    assert code == 0, out + err
    assert uploads(seaweed) == []
    assert terminal.query("SELECT count(*) FROM uploads") == 0
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key=f"grown/{name}")["Body"].read()
    assert (
        hashlib.sha256(stored).digest()
        == hashlib.sha256(source.content.read(f"/{name}", 0, SIZE)).digest()
    )
    if place in LATE:
        assert way.bytes_carried("up") - before < PART, "what had arrived was sent again"


@pytest.mark.parametrize("place", ["before-abort:1", "after-abort-sent:1", "after-abort:1"])
def test_f59_a_kill_during_an_abort_leaves_no_upload(
    terminal: Terminal, source: Source, seaweed: Seaweed, tmp_path: Path, place: str
) -> None:
    name = place.partition(":")[0]
    command = words(source, seaweed, tmp_path, name)
    for first in ("after-part:1", place):
        assert terminal.run(*command, RELAY_FAILPOINT=f"{first}:kill9")[0] == -signal.SIGKILL
    code, out, err = terminal.run(*command)
    assert code == 0, out + err
    assert uploads(seaweed) == []
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key=f"grown/{name}")["Body"].read()
    assert stored == source.content.read(f"/{name}", 0, SIZE)


def test_f51_a_cancelled_upload_is_aborted_by_the_sweep(
    terminal: Terminal, source: Source, seaweed: Seaweed, tmp_path: Path
) -> None:
    command = words(source, seaweed, tmp_path, "cancelled")
    assert terminal.run(*command, RELAY_FAILPOINT="after-part:2:kill9")[0] == -signal.SIGKILL
    assert len(uploads(seaweed)) == 1
    code, out, err = terminal.run("cancel", "1")
    assert code == 0, out + err
    assert uploads(seaweed) == []


def test_f51_an_upload_is_aborted_where_another_object_came(
    terminal: Terminal, source: Source, seaweed: Seaweed, tmp_path: Path
) -> None:
    command = (*words(source, seaweed, tmp_path, "theirs"), "--if-exists", "skip")
    assert terminal.run(*command, RELAY_FAILPOINT="after-part:2:kill9")[0] == -signal.SIGKILL
    assert len(uploads(seaweed)) == 1
    seaweed.client().put_object(Bucket=seaweed.bucket, Key="grown/theirs", Body=b"somebody else's")
    code, out, err = terminal.run(*command)
    assert code == 0, out + err
    assert uploads(seaweed) == []
    stored = seaweed.client().get_object(Bucket=seaweed.bucket, Key="grown/theirs")["Body"].read()
    assert stored == b"somebody else's"
