"""One rung on one list of objects: started, measured by the kernel's figures, judged by the
destination's digests."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import monotonic, sleep

from loadtests.bench.measures import GIB, BenchError
from loadtests.bench.processes import (
    clean_environment,
    cpu_seconds,
    last_line,
    memory,
    stop,
    written_bytes,
)
from loadtests.bench.server import Relay
from loadtests.bench.tools import ROOT
from simulators.content import Content
from simulators.spawn import Spawned


@dataclass(frozen=True)
class Rung:
    """One program of the ladder. `workers` is the number of relay's gunicorn workers, or 0 for
    another program."""

    number: str
    module: str
    idea: str
    workers: int = 0


RUNGS = (
    Rung("1", "rung1_naive", "naive: disk, then upload, 1 KiB pieces"),
    Rung("2", "rung2_threads", "eight threads of it"),
    Rung("3", "rung3_asyncio", "asyncio, aiofiles, eight workers, 64 KiB"),
    Rung("4", "rung4_loops", "eight event loops in threads, 64 KiB"),
    Rung("5", "rung5_semaphore", "the same, ten at a time"),
    Rung("6", "rung6_piping", "piping with asyncio, no disk"),
    Rung("7", "rung7_gevent", "piping with gevent and requests, 1 KiB"),
    Rung("8a", "rung8_relay", "relay, one worker", workers=1),
    Rung("8b", "rung8_relay", "relay, two workers", workers=2),
)


@dataclass(frozen=True)
class Objects:
    """The list that every rung moves: names and sizes, the same ones for the same seed."""

    seed: int
    sizes: dict[str, int]

    @classmethod
    def chosen(cls, seed: int, count: int, least: int, most: int) -> Objects:
        """Choose `count` sizes between the two, in bytes."""
        chance = random.Random(seed)
        return cls(
            seed,
            {
                f"photo-{number:03}.raw": chance.randint(least, most)
                for number in range(1, count + 1)
            },
        )

    @property
    def bytes(self) -> int:
        """Number of bytes of all of them."""
        return sum(self.sizes.values())

    def pairs(self, source: Spawned, destination: Spawned) -> list[tuple[str, str]]:
        """Return source and destination address of each."""
        return [
            (source.url(f"/objects/{name}?size={size}"), destination.url(f"/bucket/{name}"))
            for name, size in self.sizes.items()
        ]

    def count_whole(self, received: list[dict[str, object]]) -> int:
        """Count the objects that arrived with their size and digest, by the destination's own
        record."""
        got = {str(entry["path"]): entry for entry in received}
        with Content(self.seed) as content:
            return sum(
                self._is_same(
                    got.get(f"/bucket/{name}", {}),
                    size,
                    content.digest("crc32c", f"/objects/{name}", size),
                )
                for name, size in self.sizes.items()
            )

    @staticmethod
    def _is_same(entry: dict[str, object], size: int, digest: str) -> bool:
        digests = entry.get("digests")
        return (
            entry.get("size") == size
            and isinstance(digests, dict)
            and digests.get("crc32c") == digest
        )


@dataclass(frozen=True)
class Sample:
    """The cost of one run of a rung (seconds, CPU seconds, bytes to the disk, peak resident bytes),
    and the number of whole objects."""

    wall: float
    cpu: float
    disk: int
    peak: int
    whole: int


@dataclass
class Row:
    """All runs of one rung on the list."""

    rung: Rung
    objects: Objects
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    @property
    def rate(self) -> float | None:
        """Median MB/s (10^6 bytes)."""
        return (
            self.objects.bytes / median(s.wall for s in self.samples) / 1e6
            if self.samples
            else None
        )

    @property
    def cpu(self) -> float | None:
        """Median CPU seconds per GiB."""
        return (
            median(s.cpu for s in self.samples) * GIB / self.objects.bytes if self.samples else None
        )

    @property
    def disk(self) -> int:
        """The most bytes that a run wrote to the disk."""
        return max((s.disk for s in self.samples), default=0)

    @property
    def peak(self) -> int:
        """The most resident bytes."""
        return max((s.peak for s in self.samples), default=0)

    @property
    def whole(self) -> int:
        """Minimum number of objects that arrived whole in a run."""
        return min((s.whole for s in self.samples), default=0)


class Watch:
    """Samples the peak memory and the written bytes of processes until the block ends: `with
    Watch(pids) as w: …`."""

    def __init__(self, pids: list[int]) -> None:
        self._pids, self._over, self._thread = pids, Event(), Thread(target=self._run, daemon=True)
        self.peak = self.disk = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            # Read before the figures, so that a last sample follows the end of the block.
            over = self._over.is_set()
            try:
                self.peak = max(self.peak, sum(memory(pid, "VmHWM") for pid in self._pids))
                self.disk = max(self.disk, sum(written_bytes(pid) for pid in self._pids))
            except BenchError:
                return  # the figures of an ended program are lost; those of 20 ms ago count
            if over:
                return
            sleep(0.02)


def run_rung(
    rung: Rung,
    objects: Objects,
    clouds: tuple[Spawned, Spawned],
    relays: dict[int, Relay],
    folder: Path,
    limit: float,
) -> Sample:
    """Run one rung on all objects, within `limit` seconds. Raises BenchError with its last line of
    output."""
    source, destination = clouds
    destination.clear("/_received")
    jobs, log = folder / "jobs.json", folder / "rung.log"
    jobs.write_text(json.dumps(objects.pairs(source, destination)), encoding="utf-8")
    command = [sys.executable, "-m", f"loadtests.ladder.{rung.module}", str(jobs), str(folder)]
    relay = relays.get(rung.workers)
    if relay is not None:
        command.append(f"http://127.0.0.1:{relay.port}")
    try:
        wall, cpu, watch = _run(command, relay.workers if relay else None, log, folder, limit)
    finally:
        for left in folder.glob("*.part"):
            left.unlink()
    return Sample(
        wall, cpu, watch.disk, watch.peak, objects.count_whole(destination.get_json("/_received"))
    )


def _run(
    command: list[str], servers: list[int] | None, log: Path, home: Path, limit: float
) -> tuple[float, float, Watch]:
    """Return wall and CPU seconds: of the servers if there are any, else of the program itself."""
    before = (
        [cpu_seconds(servers), sum(written_bytes(pid) for pid in servers)] if servers else [0.0, 0]
    )
    began = monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(home), stdout=out, stderr=out
        )
    try:
        with Watch(servers or [process.pid]) as watch:
            spent = _await_end(process, limit)
        wall = monotonic() - began
    finally:
        stop(process)
    if process.returncode:
        raise BenchError(f"ended with {process.returncode}: {last_line(log)}")
    # The counters of a server have run since its start.
    if servers:
        spent = cpu_seconds(servers) - before[0]
        watch.disk -= int(before[1])
    return wall, spent, watch


def _await_end(process: subprocess.Popen[bytes], limit: float) -> float:
    """Wait for the program's end and return its CPU seconds; a late one is killed."""
    until = monotonic() + limit
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        if monotonic() > until:
            process.kill()
            process.wait()
            raise BenchError(f"not done within {limit:g} s")
        sleep(0.01)
