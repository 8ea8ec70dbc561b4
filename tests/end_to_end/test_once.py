"""`--once`: each content of a tree is moved once, and every copy has its own metadata and its proof."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from simulators.proxy import Proxy
from tests.end_to_end.terminal import Terminal
from tests.seaweed import Seaweed

SIZE = 100_000
CONTENTS = [os.urandom(SIZE) for _ in range(4)]
NAMES = {f"f{number % 3}/{number:02}": CONTENTS[number % 4] for number in range(10)}
"""Ten objects with four contents: 60 per cent are duplicates."""


@pytest.fixture
def client(seaweed: Seaweed) -> Any:
    return seaweed.client()


@pytest.fixture
def source(clouds: Terminal, seaweed: Seaweed, client: Any) -> str:
    """Put the objects, each with metadata of its own; return their folder."""
    folder = f"{clouds.home.name}/a"
    for name, data in NAMES.items():
        client.put_object(
            Bucket=seaweed.bucket,
            Key=f"{folder}/{name}",
            Body=data,
            ContentType=f"image/x-{name[-2:]}",
            Metadata={"own": name.replace("/", "-")},
        )
    return folder


def test_each_content_is_read_once(
    clouds: Terminal, seaweed: Seaweed, client: Any, source: str, slow_route: Proxy
) -> None:
    there = f"near:{seaweed.bucket}/{clouds.home.name}/b"
    before = slow_route.bytes_carried("down")
    code, summary = clouds.tree(f"far:{seaweed.bucket}/{source}", there, "--once")
    assert code == 0 and summary["objects"]["verified"] == len(NAMES)
    read = slow_route.bytes_carried("down") - before
    assert 4 * SIZE <= read <= 0.41 * len(NAMES) * SIZE + 40_000, read
    for name, data in NAMES.items():
        found = client.get_object(
            Bucket=seaweed.bucket, Key=f"{clouds.home.name}/b/{name}", ChecksumMode="ENABLED"
        )
        assert hashlib.md5(found["Body"].read()).digest() == hashlib.md5(data).digest()
        assert found["ContentType"] == f"image/x-{name[-2:]}"
        assert found["Metadata"]["own"] == name.replace("/", "-")
    code, out, err = clouds.run("verify", "--receipts", "1", "--read", "all")
    assert code == 0, (out, err)
    copied = clouds.query("SELECT count(*) FROM receipts WHERE receipt LIKE '%copied from%'")
    assert copied == 6


def test_without_the_option_all_is_moved(clouds: Terminal, seaweed: Seaweed, source: str) -> None:
    there = f"near:{seaweed.bucket}/{clouds.home.name}/b"
    assert clouds.tree(f"far:{seaweed.bucket}/{source}", there)[0] == 0
    assert not clouds.query("SELECT count(*) FROM receipts WHERE receipt LIKE '%copied from%'")


def test_once_is_for_trees(clouds: Terminal) -> None:
    code, _, err = clouds.run("migrate", f"{clouds.home}/x", f"{clouds.home}/y", "--once")
    assert code == 2 and "once is for a tree" in err
