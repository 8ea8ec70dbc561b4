"""SeaweedFS: a real server that speaks S3, and relay's settings for it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.bench import seaweed
from loadtests.bench.seaweed import KEY, REGION, SECRET, find_weed
from relay.stores.s3.aws_settings import S3Config
from relay.stores.s3.sigv4 import AwsCredentials, Signer

__all__ = ["KEY", "REGION", "SECRET", "Seaweed", "seaweedfs", "find_weed"]


@dataclass(frozen=True)
class Seaweed(seaweed.Seaweed):
    """A running server with one bucket."""

    def with_new_bucket(self) -> Seaweed:
        """Return the server with another bucket, which is new."""
        name = f"relay-tests-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return replace(self, bucket=name)

    @property
    def config(self) -> S3Config:
        """relay's settings to reach it."""
        return S3Config(Signer(lambda: AwsCredentials(KEY, SECRET), REGION), self.endpoint)


@contextmanager
def seaweedfs(home: Path, bucket: str = "relay-tests") -> Iterator[Seaweed]:
    """Run a server for some dozen buckets, for the time of the block. Raises TimeoutError if it
    does not come up."""
    with seaweed.seaweedfs(home, bucket, volumes=1) as server:
        yield Seaweed(server.endpoint, server.bucket)
