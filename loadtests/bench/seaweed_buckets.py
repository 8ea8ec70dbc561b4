"""Two buckets of SeaweedFS, and the remotes by which relay and rclone reach them.

Decided here: the environment of a move from bucket to bucket. Never here: the movers.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.bench.measures import GIB, MIB, BenchError
from loadtests.bench.processes import clean_environment
from loadtests.bench.seaweed import KEY, REGION, SECRET, Seaweed, seaweedfs

ROOM = 8 * GIB
"""Free bytes that the server needs: without them it creates no volume, and lets writers wait."""


@contextmanager
def buckets(home: Path) -> Iterator[Seaweed]:
    """Run the server with two buckets, `from` and `to`. Raises BenchError if the disk has too
    little room."""
    free = shutil.disk_usage(home).free
    if free < ROOM:
        raise BenchError(
            f"{home.parent} has {free // MIB} MiB free and {ROOM // MIB} are needed: clear it, or"
            " --folder"
        )
    (home / "weed").mkdir()
    with seaweedfs(home / "weed", "bench-from") as server:
        server.client().create_bucket(Bucket="bench-to")
        yield server


def remotes(home: Path, ends: dict[str, str]) -> tuple[dict[str, str], Path]:
    """Write the same remotes for both programs; return relay's environment and rclone's file."""
    toml, conf = home / "relay.toml", home / "rclone.conf"
    toml.write_text(
        "".join(
            f'[remotes.{name}]\ntype = "s3"\nendpoint = "{endpoint}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
            for name, endpoint in ends.items()
        )
    )
    conf.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = SeaweedFS\nendpoint = {endpoint}\naccess_key_id ="
            f" {KEY}\nsecret_access_key = {SECRET}\nregion = {REGION}\nlist_version = 2\n\n"
            for name, endpoint in ends.items()
        )
    )
    return clean_environment(home) | {"RELAY_CONFIG": str(toml)}, conf


def fill_bucket(server: Seaweed, count: int, size: int) -> Callable[[str], None]:
    """Put `count` objects of `size` bytes below `small/` of the first bucket; return a function
    that checks that all of them are below a name of the second bucket, and removes them there. It
    raises BenchError if one is missing."""
    client, data = server.client(), random.Random(2).randbytes(size)
    for index in range(count):
        client.put_object(Bucket="bench-from", Key=f"small/{index:06}", Body=data)

    def check(target: str) -> None:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket="bench-to", Prefix=f"{target}/"
        )
        rows = [row for page in pages for row in page.get("Contents", ())]
        if len(rows) != count or {row["Size"] for row in rows} != {size}:
            raise BenchError(
                f"{target}: {len(rows)} of {count} objects arrived, or not all of them whole"
            )
        # DeleteObjects takes at most 1,000 keys.
        for first in range(0, count, 1000):
            keys = [{"Key": row["Key"]} for row in rows[first : first + 1000]]
            client.delete_objects(Bucket="bench-to", Delete={"Objects": keys, "Quiet": True})

    return check
